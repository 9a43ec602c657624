//! Globs over whole names: `*` is anything, `?` one character, `[a-z]` one of these and `[!a-z]` one of the others.
//!
//! A glob is cut at its stars. What is between two of them has a fixed number of characters, and the first place that it
//! fits is as good as any later one; so matching never goes back over a star.

/// See the file's head.
pub struct Glob {
    /// What is between the stars: the first part is where names begin, the last one where they end.
    parts: Vec<Vec<Piece>>,
}

enum Piece {
    Text(String),
    One,
    Of { negated: bool, ranges: Vec<(char, char)> },
}

/// Whether a text means more than itself.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

impl Glob {
    /// Of its text. A bracket that is not closed, or has nothing in it, means itself.
    pub fn new(pattern: &str) -> Glob {
        let (mut parts, mut part) = (Vec::new(), Vec::new());
        let mut rest = pattern;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            match character {
                '*' => parts.push(std::mem::take(&mut part)),
                '?' => part.push(Piece::One),
                '[' => match rest.split_once(']').filter(|(class, _)| !class.is_empty()) {
                    Some((class, behind)) => {
                        part.push(class_of(class));
                        rest = behind;
                    }
                    None => push_text('[', &mut part),
                },
                other => push_text(other, &mut part),
            }
        }
        parts.push(part);
        Glob { parts }
    }

    /// Whether a whole text is like it.
    pub fn is_match(&self, text: &str) -> bool {
        let Some((last, before)) = self.parts.split_last() else { return false };
        let Some((first, between)) = before.split_first() else {
            return fits(last, text).is_some_and(str::is_empty);
        };
        let Some(mut rest) = fits(first, text) else { return false };
        for part in between {
            let Some(behind) = find(part, rest) else { return false };
            rest = behind;
        }
        ending(last, rest).and_then(|ending| fits(last, ending)).is_some()
    }

    /// What stands in each text that is like it.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flatten().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::One | Piece::Of { .. } => None,
        })
    }
}

fn push_text(character: char, part: &mut Vec<Piece>) {
    match part.last_mut() {
        Some(Piece::Text(text)) => text.push(character),
        _ => part.push(Piece::Text(character.to_string())),
    }
}

/// `a-z`, `!abc` or `^abc`; nothing in it means anything else.
fn class_of(class: &str) -> Piece {
    let without = class.strip_prefix(['!', '^']).filter(|rest| !rest.is_empty());
    let characters: Vec<char> = without.unwrap_or(class).chars().collect();
    let (mut ranges, mut rest) = (Vec::new(), &characters[..]);
    while let Some((from, behind)) = rest.split_first() {
        match behind {
            ['-', to, behind @ ..] => {
                ranges.push((*from, *to));
                rest = behind;
            }
            _ => {
                ranges.push((*from, *from));
                rest = behind;
            }
        }
    }
    Piece::Of { negated: without.is_some(), ranges }
}

/// What is left of a text behind a part that it begins with.
fn fits<'a>(part: &[Piece], text: &'a str) -> Option<&'a str> {
    let mut rest = text;
    for piece in part {
        rest = match piece {
            Piece::Text(text) => rest.strip_prefix(text.as_str())?,
            Piece::One => behind_one(rest, |_| true)?,
            Piece::Of { negated, ranges } => behind_one(rest, |have| {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&have)) != *negated
            })?,
        };
    }
    Some(rest)
}

fn behind_one(text: &str, is_meant: impl Fn(char) -> bool) -> Option<&str> {
    let character = text.chars().next().filter(|character| is_meant(*character))?;
    Some(&text[character.len_utf8()..])
}

/// What is left behind the first place that has a part.
fn find<'a>(part: &[Piece], text: &'a str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        if let Some(Piece::Text(first)) = part.first() {
            rest = &rest[rest.find(first.as_str())?..];
        }
        if let Some(behind) = fits(part, rest) {
            return Some(behind);
        }
        rest = behind_one(rest, |_| true)?;
    }
}

/// The end of a text that has as many characters as a part.
fn ending<'a>(part: &[Piece], text: &'a str) -> Option<&'a str> {
    let characters: usize = part
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.chars().count(),
            Piece::One | Piece::Of { .. } => 1,
        })
        .sum();
    match characters {
        0 => Some(""),
        more => text.char_indices().rev().nth(more - 1).map(|(at, _)| &text[at..]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Straight from the definition, for patterns of `a`, `b`, `*`, `?`, `[ab]` and `[!a]`.
    fn naive(pattern: &str, text: &str) -> bool {
        let behind =
            |text: &str| text.chars().next().map(|first| (first, text[first.len_utf8()..].to_string()));
        if let Some(rest) = pattern.strip_prefix('*') {
            return naive(rest, text) || behind(text).is_some_and(|(_, text)| naive(pattern, &text));
        }
        let Some((first, text)) = behind(text) else { return pattern.is_empty() };
        if let Some(rest) = pattern.strip_prefix("[ab]") {
            return matches!(first, 'a' | 'b') && naive(rest, &text);
        }
        if let Some(rest) = pattern.strip_prefix("[!a]") {
            return first != 'a' && naive(rest, &text);
        }
        match behind(pattern) {
            Some(('?', rest)) => naive(&rest, &text),
            Some((wanted, rest)) => wanted == first && naive(&rest, &text),
            None => false,
        }
    }

    proptest! {
        #[test]
        fn globs_are_as_their_definition(
            pattern in "([abß]|\\*|\\?|\\[ab\\]|\\[!a\\]){0,8}",
            text in "[abcß]{0,10}",
        ) {
            prop_assert_eq!(Glob::new(&pattern).is_match(&text), naive(&pattern, &text));
        }
    }

    #[test]
    fn brackets_without_an_end_mean_themselves() {
        for (pattern, text, expected) in [
            ("[ab", "[ab", true),
            ("a[]", "a[]", true),
            ("[x-a]", "x", false),
            ("[a-]", "-", true),
            ("[!]", "!", true),
            ("[^]x]", "^x]", true),
            ("[0-9a-f]", "c", true),
            ("[0-9a-f]", "g", false),
        ] {
            assert_eq!(Glob::new(pattern).is_match(text), expected, "{pattern} {text}");
        }
        assert_eq!(Glob::new("*/img_0??-*[0-9].jpg").texts().collect::<Vec<_>>(), ["/img_0", "-", ".jpg"]);
    }
}
