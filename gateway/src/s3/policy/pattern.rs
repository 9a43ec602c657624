//! Texts with wildcards and variables.
//!
//! `*` is any text, `/` included, and `?` any one character. The value of a variable stands for itself: a user who is
//! called `*` matches only what is called so.

use std::borrow::Cow;

use super::{Judging, Malformed, Version, names};

/// Whether `*` and `?` mean more than themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcards {
    /// They stand for other text.
    Special,
    /// They are characters like others.
    Literal,
}

/// A pattern as its parts between the `*`: the first stands at the beginning of what matches, the last at its end, the
/// others in this order between them.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    segments: Vec<Vec<Piece>>,
    variables: Vec<Variable>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    /// Any one character.
    One,
    /// The variable at this place of the pattern's list.
    Variable(usize),
}

/// `${key}` or `${key, 'default'}`.
#[derive(Debug, Clone)]
struct Variable {
    /// Lower-cased.
    key: String,
    default: Option<String>,
}

/// What a pattern is written in.
#[derive(Debug, Clone)]
enum Token {
    Text(String),
    One,
    Many,
    Variable(Variable),
}

impl Pattern {
    /// Reads a pattern.
    pub(super) fn parse(text: &str, wildcards: Wildcards, version: Version) -> Result<Pattern, Malformed> {
        Ok(Pattern::of(tokens(text, wildcards, version)?))
    }

    fn of(tokens: Vec<Token>) -> Pattern {
        let (mut segments, mut variables) = (vec![Vec::new()], Vec::new());
        for token in tokens {
            let piece = match token {
                Token::Text(text) => Piece::Text(text),
                Token::One => Piece::One,
                Token::Variable(variable) => {
                    variables.push(variable);
                    Piece::Variable(variables.len() - 1)
                }
                Token::Many => {
                    segments.push(Vec::new());
                    continue;
                }
            };
            if let Some(segment) = segments.last_mut() {
                segment.push(piece);
            }
        }
        Pattern { segments, variables }
    }

    /// Whether it matches one text only, whatever the request.
    pub(super) fn is_fixed(&self) -> bool {
        let wild = |piece: &Piece| !matches!(piece, Piece::Text(_));
        self.segments.len() == 1 && !self.segments.iter().flatten().any(wild)
    }

    /// Whether every variable in it has a value.
    pub(super) fn is_resolved<'a>(&'a self, judging: &Judging<'a>) -> bool {
        self.resolve(judging).is_some()
    }

    /// Whether the whole text matches. A pattern with a variable that has no value matches nothing.
    pub(super) fn matches<'a>(&'a self, text: &str, judging: &Judging<'a>) -> bool {
        let Some(values) = self.resolve(judging) else {
            return false;
        };
        let (first, between, last) = match self.segments.as_slice() {
            [] => return false,
            [only] => return after_prefix(only, text, &values) == Some(""),
            [first, between @ .., last] => (first, between, last),
        };
        let Some(mut rest) = after_prefix(first, text, &values) else {
            return false;
        };
        // The leftmost place is always right: a segment matches the same number of characters wherever it does.
        for segment in between {
            match after_first(segment, rest, &values, judging) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        is_suffix(last, rest, &values)
    }

    /// Whether the whole text is this pattern's, whose wildcards are literal, but for the case of letters.
    pub(super) fn equals_ignoring_case<'a>(&'a self, text: &str, judging: &Judging<'a>) -> bool {
        let Some(values) = self.resolve(judging) else {
            return false;
        };
        let pieces = self.segments.iter().flatten();
        let own = pieces.flat_map(|piece| piece_text(piece, &values).unwrap_or("").chars());
        own.flat_map(char::to_lowercase).eq(text.chars().flat_map(char::to_lowercase))
    }

    /// The values of the variables. A key of several values is no value.
    fn resolve<'a>(&'a self, judging: &Judging<'a>) -> Option<Vec<Cow<'a, str>>> {
        let value = |variable: &'a Variable| match judging.values(&variable.key).as_slice() {
            [value] => Some(value.clone()),
            _ => variable.default.as_deref().map(Cow::Borrowed),
        };
        self.variables.iter().map(value).collect()
    }
}

/// The text that a piece stands for; none for any character.
fn piece_text<'a>(piece: &'a Piece, values: &'a [Cow<'_, str>]) -> Option<&'a str> {
    match piece {
        Piece::Text(text) => Some(text),
        Piece::One => None,
        Piece::Variable(at) => values.get(*at).map(|value| &**value),
    }
}

/// What follows the segment at the beginning of the text.
fn after_prefix<'t>(segment: &[Piece], text: &'t str, values: &[Cow<'_, str>]) -> Option<&'t str> {
    segment.iter().try_fold(text, |rest, piece| match piece_text(piece, values) {
        Some(text) => rest.strip_prefix(text),
        None => after_char(rest),
    })
}

/// What follows the first place where the segment is in the text.
fn after_first<'t>(
    segment: &[Piece],
    text: &'t str,
    values: &[Cow<'_, str>],
    judging: &Judging<'_>,
) -> Option<&'t str> {
    let Some(first) = segment.first() else {
        return Some(text);
    };
    let first = piece_text(first, values).unwrap_or("");
    // What one attempt compares at most, in bytes; a step from piece to piece is as dear as four.
    let attempt: usize = segment.iter().map(|piece| 4 + piece_text(piece, values).map_or(0, str::len)).sum();
    let mut rest = text;
    loop {
        let at = rest.find(first)?;
        if !judging.spend(at + 4 * attempt) {
            return None;
        }
        rest = &rest[at..];
        if let Some(after) = after_prefix(segment, rest, values) {
            return Some(after);
        }
        rest = after_char(rest)?;
    }
}

fn is_suffix(segment: &[Piece], text: &str, values: &[Cow<'_, str>]) -> bool {
    let before = segment.iter().rev().try_fold(text, |rest, piece| match piece_text(piece, values) {
        Some(text) => rest.strip_suffix(text),
        None => {
            let mut chars = rest.chars();
            chars.next_back()?;
            Some(chars.as_str())
        }
    });
    before.is_some()
}

fn after_char(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    chars.next()?;
    Some(chars.as_str())
}

/// A pattern of ARNs: the six parts between the colons match each for itself.
#[derive(Debug, Clone)]
pub(super) struct ArnPattern(Vec<Pattern>);

/// Parts of an ARN. The last may contain colons.
const ARN_PARTS: usize = 6;

impl ArnPattern {
    /// Reads a pattern of ARNs, or `*` for any of them.
    pub(super) fn parse(text: &str, version: Version) -> Result<ArnPattern, Malformed> {
        let written = if text == "*" { "*:*:*:*:*:*" } else { text };
        let mut parts = vec![Vec::new()];
        for token in tokens(written, Wildcards::Special, version)? {
            let Token::Text(text) = token else {
                parts.last_mut().expect("there is a first part").push(token);
                continue;
            };
            let more = ARN_PARTS - parts.len();
            for (at, piece) in text.splitn(more + 1, ':').enumerate() {
                if 0 < at {
                    parts.push(Vec::new());
                }
                if let (Some(part), false) = (parts.last_mut(), piece.is_empty()) {
                    part.push(Token::Text(piece.to_string()));
                }
            }
        }
        if parts.len() != ARN_PARTS {
            return Err(Malformed::new(format!("{text:.200} is not an ARN.")));
        }
        Ok(ArnPattern(parts.into_iter().map(Pattern::of).collect()))
    }

    /// Whether it matches one ARN only, whatever the request.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.iter().all(Pattern::is_fixed)
    }

    /// Whether the text is an ARN that matches.
    pub(super) fn matches<'a>(&'a self, text: &str, judging: &Judging<'a>) -> bool {
        let mut parts = text.splitn(ARN_PARTS, ':');
        self.0.iter().all(|one| parts.next().is_some_and(|part| one.matches(part, judging)))
    }
}

/// Cuts a text into what means something.
fn tokens(text: &str, wildcards: Wildcards, version: Version) -> Result<Vec<Token>, Malformed> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (token, after) = match next {
            '*' if wildcards == Wildcards::Special => (Token::Many, &rest[1..]),
            '?' if wildcards == Wildcards::Special => (Token::One, &rest[1..]),
            '$' if version == Version::Current && rest.starts_with("${") => variable(&rest[2..])?,
            _ => {
                let end = next.len_utf8();
                let special = |one: char| matches!(one, '*' | '?' | '$');
                let end = rest[end..].find(special).map_or(rest.len(), |more| end + more);
                (Token::Text(rest[..end].to_string()), &rest[end..])
            }
        };
        rest = after;
        match (tokens.last_mut(), token) {
            (Some(Token::Text(before)), Token::Text(more)) => before.push_str(&more),
            (_, token) => tokens.push(token),
        }
    }
    Ok(tokens)
}

/// Reads what stands behind `${`, and gives what follows its `}`.
fn variable(text: &str) -> Result<(Token, &str), Malformed> {
    let wrong = || {
        Malformed::new(format!("The policy has an invalid variable: ${{{}.", text.get(..60).unwrap_or(text)))
    };
    if let Some(special) = ["*}", "?}", "$}"].iter().find(|special| text.starts_with(**special)) {
        return Ok((Token::Text(special[..1].to_string()), &text[2..]));
    }
    let end = text.find([',', '}']).ok_or_else(wrong)?;
    let key = text[..end].to_ascii_lowercase();
    if !names::is_key(&key) {
        return Err(wrong());
    }
    if let Some(after) = text[end..].strip_prefix('}') {
        return Ok((Token::Variable(Variable { key, default: None }), after));
    }
    let quoted = text[end + 1..].trim_start_matches(' ').strip_prefix('\'').ok_or_else(wrong)?;
    let (default, after) = quoted.split_once('\'').ok_or_else(wrong)?;
    let after = after.trim_start_matches(' ').strip_prefix('}').ok_or_else(wrong)?;
    Ok((Token::Variable(Variable { key, default: Some(default.to_string()) }), after))
}
