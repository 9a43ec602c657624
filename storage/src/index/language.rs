//! The language of searches: read to the last word or refused, with the place of the first thing that is wrong.
//!
//! A query is words that must all hold. What a word may be is in `integration/docs/search.md`. Nothing here knows of the
//! index: [`super::matcher`] makes something of the words.

use std::fmt;
use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use super::glob::{Glob, is_glob};
use super::times;

/// Bytes of a query.
pub const QUERY_BYTES_MAX: usize = 1024;
/// Words of a query.
pub const WORDS_MAX: usize = 16;

/// A query, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// What must hold, all of it.
    pub words: Vec<Word>,
}

/// One thing that must hold, or must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Whether it must not hold.
    pub excluded: bool,
    /// Where it begins, in characters from 1.
    pub position: usize,
    /// What it looks at.
    pub field: Field,
}

/// What a word looks at and for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The name of the object.
    Name(Name),
    /// A tag of it, with its value where one is asked for.
    Tag(String, Option<String>),
    /// The same of user metadata.
    Meta(String, Option<String>),
    /// The content type: one, or a glob.
    Type(String),
    /// Its bytes.
    Size(Range<u64>),
    /// When it was stored, in milliseconds since 1970.
    Modified(Range<u64>),
    /// Who owns its bucket.
    Owner(String),
    /// Its bucket: a name, or a glob.
    Bucket(String),
}

/// How a name is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// It contains this, in whatever case.
    Contains(String),
    /// It begins with this, as it is.
    Prefix(String),
    /// All of it is this, in whatever case, where `*` is anything, `?` one character and `[a-z]` one of them.
    Glob(String),
    /// This is found in it.
    Regex(String),
    /// One of its words is this one, but for a letter or two.
    Fuzzy(String),
}

/// Why a query is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (at character {position})")]
pub struct SyntaxError {
    /// What is wrong, for a person.
    pub what: String,
    /// Where, in characters from 1.
    pub position: usize,
}

impl SyntaxError {
    /// An error at a place.
    pub fn at(position: usize, what: impl Into<String>) -> SyntaxError {
        SyntaxError { what: what.into(), position }
    }
}

impl Search {
    /// Reads a query.
    pub fn parse(text: &str) -> Result<Search, SyntaxError> {
        if QUERY_BYTES_MAX < text.len() {
            let what = format!("the query has {} bytes; {QUERY_BYTES_MAX} are allowed", text.len());
            return Err(SyntaxError::at(1, what));
        }
        let mut words = Vec::new();
        let mut tokens = Tokens::new(text);
        while let Some(token) = tokens.next()? {
            if WORDS_MAX <= words.len() {
                let what = format!("the query has more than {WORDS_MAX} words");
                return Err(SyntaxError::at(token.position, what));
            }
            words.push(token.word()?);
        }
        if words.is_empty() {
            return Err(SyntaxError::at(1, "the query is empty"));
        }
        Ok(Search { words })
    }

    /// Whether objects of this bucket can be meant.
    pub fn wants_bucket(&self, name: &str, owner: &str) -> bool {
        self.words.iter().all(|word| match &word.field {
            Field::Bucket(pattern) => Glob::new(pattern).is_match(name) != word.excluded,
            Field::Owner(wanted) => (wanted == owner) != word.excluded,
            _ => true,
        })
    }
}

/// A word as it is written.
struct Token {
    position: usize,
    excluded: bool,
    /// With the place of its value.
    field: Option<(String, usize)>,
    value: Value,
}

/// What a token says, and in which quotes.
enum Value {
    Plain(String),
    Quoted(String),
    Regex(String),
}

impl Value {
    fn text(&self) -> &str {
        match self {
            Value::Plain(text) | Value::Quoted(text) | Value::Regex(text) => text,
        }
    }
}

struct Tokens<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    /// Characters taken so far.
    taken: usize,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Tokens<'a> {
        Tokens { text, rest: text.char_indices().peekable(), taken: 0 }
    }

    fn take(&mut self) -> Option<char> {
        let (_, character) = self.rest.next()?;
        self.taken += 1;
        Some(character)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, character)| *character)
    }

    /// The place of the next character, from 1.
    fn position(&self) -> usize {
        self.taken + 1
    }

    fn next(&mut self) -> Result<Option<Token>, SyntaxError> {
        while self.peek().is_some_and(char::is_whitespace) {
            self.take();
        }
        let position = self.position();
        let excluded = self.peek() == Some('-');
        if excluded {
            self.take();
        }
        if self.peek().is_none() && !excluded {
            return Ok(None);
        }
        let field = self.field();
        let name = field.as_ref().map(|(name, _)| name.as_str());
        let value = match self.peek() {
            Some('/') if name == Some("name") => self.regex()?,
            // Behind a quoted key there may be a value.
            Some('"') if !matches!(name, Some("tag" | "meta")) => self.whole_quoted()?,
            _ => Value::Plain(self.plain()?),
        };
        if value.text().is_empty() {
            let what = match (&field, excluded) {
                (Some((name, _)), _) => format!("`{name}:` lacks what to look for"),
                (None, true) => "`-` lacks what to exclude".to_string(),
                (None, false) => "the quotes are empty".to_string(),
            };
            return Err(SyntaxError::at(position, what));
        }
        Ok(Some(Token { position, excluded, field, value }))
    }

    /// The name in front of a colon, if there is one.
    fn field(&mut self) -> Option<(String, usize)> {
        let begin = self.rest.peek()?.0;
        let rest = &self.text[begin..];
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        if length == 0 || rest.as_bytes().get(length) != Some(&b':') {
            return None;
        }
        let name = rest[..length].to_ascii_lowercase();
        for _ in 0..=length {
            self.take();
        }
        Some((name, self.position()))
    }

    /// Up to the slash that ends it: the last one of the word.
    fn regex(&mut self) -> Result<Value, SyntaxError> {
        let begin = self.position();
        self.take();
        let mut pattern = String::new();
        while let Some(character) = self.take() {
            if character == '/' && self.peek().is_none_or(char::is_whitespace) {
                return Ok(Value::Regex(pattern));
            }
            pattern.push(character);
            if character == '\\'
                && let Some(escaped) = self.take()
            {
                pattern.push(escaped);
            }
        }
        let what =
            "the regular expression has no `/` at its end; put a name with a slash in front into quotes";
        Err(SyntaxError::at(begin, what))
    }

    fn whole_quoted(&mut self) -> Result<Value, SyntaxError> {
        let text = self.quoted()?;
        match self.peek() {
            Some(next) if !next.is_whitespace() => {
                Err(SyntaxError::at(self.position(), "a space is missing behind the quotes"))
            }
            _ => Ok(Value::Quoted(text)),
        }
    }

    /// What is between quotes; `\"` is a quote and `\\` a backslash.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let begin = self.position();
        self.take();
        let mut text = String::new();
        while let Some(character) = self.take() {
            match character {
                '"' => return Ok(text),
                '\\' if matches!(self.peek(), Some('"' | '\\')) => text.extend(self.take()),
                other => text.push(other),
            }
        }
        Err(SyntaxError::at(begin, "the quotes are not closed"))
    }

    /// Up to the next space; what is in quotes may have some.
    fn plain(&mut self) -> Result<String, SyntaxError> {
        let mut text = String::new();
        while let Some(character) = self.peek() {
            match character {
                '"' => text.push_str(&self.quoted()?),
                space if space.is_whitespace() => break,
                other => {
                    self.take();
                    text.push(other);
                }
            }
        }
        Ok(text)
    }
}

impl Token {
    fn word(self) -> Result<Word, SyntaxError> {
        let Token { position, excluded, field, value } = self;
        let field = match field {
            None => Field::Name(Name::Contains(value.text().to_string())),
            Some((name, at)) => field_of(&name, &value, at)
                .map_err(|error| error.unwrap_or_else(|| unknown(&name, position)))?,
        };
        Ok(Word { excluded, position, field })
    }
}

fn unknown(name: &str, position: usize) -> SyntaxError {
    let known = "name, tag, meta, type, size, modified, owner, bucket";
    SyntaxError::at(
        position,
        format!("there is no field `{name}`; there are {known}; put a word with a colon into quotes"),
    )
}

/// The field by its name; an error of `None`: there is no such field.
fn field_of(name: &str, value: &Value, at: usize) -> Result<Field, Option<SyntaxError>> {
    let text = value.text().to_string();
    let wrong = |what: String| Some(SyntaxError::at(at, what));
    Ok(match name {
        "name" => Field::Name(name_of(value, at)?),
        "tag" => pair(&text, at).map(|(key, value)| Field::Tag(key, value))?,
        "meta" => pair(&text, at).map(|(key, value)| Field::Meta(key.to_lowercase(), value))?,
        "type" => Field::Type(text.to_lowercase()),
        "size" => Field::Size(range(&text, size).map_err(wrong)?),
        "modified" => Field::Modified(range(&text, times::instant).map_err(wrong)?),
        "owner" => Field::Owner(text),
        "bucket" => Field::Bucket(text),
        _ => return Err(None),
    })
}

fn name_of(value: &Value, at: usize) -> Result<Name, SyntaxError> {
    let text = match value {
        Value::Regex(pattern) => return Ok(Name::Regex(pattern.clone())),
        Value::Quoted(text) => return Ok(Name::Contains(text.clone())),
        Value::Plain(text) => text,
    };
    let rest = |rest: &str, what: &str| match rest.is_empty() {
        true => Err(SyntaxError::at(at, format!("`{text}` lacks {what}"))),
        false => Ok(rest.to_string()),
    };
    if let Some(prefix) = text.strip_prefix('^') {
        return Ok(Name::Prefix(rest(prefix, "the beginning of a name")?));
    }
    if let Some(word) = text.strip_prefix('~') {
        return Ok(Name::Fuzzy(rest(word, "a word")?));
    }
    Ok(if is_glob(text) { Name::Glob(text.clone()) } else { Name::Contains(text.clone()) })
}

/// `key` or `key=value`.
fn pair(text: &str, at: usize) -> Result<(String, Option<String>), SyntaxError> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_string())),
        None => (text, None),
    };
    match key.is_empty() {
        true => Err(SyntaxError::at(at, "the name in front of `=` is missing")),
        false => Ok((key.to_string(), value)),
    }
}

/// `>A`, `>=A`, `<A`, `<=A`, `A..B`, `A..`, `..B` or `A`, where a value that is said roughly, such as a day, is a range
/// itself.
fn range(text: &str, read: impl Fn(&str) -> Result<Range<u64>, String>) -> Result<Range<u64>, String> {
    let ranged = if let Some(value) = text.strip_prefix(">=") {
        read(value)?.start..u64::MAX
    } else if let Some(value) = text.strip_prefix('>') {
        read(value)?.end..u64::MAX
    } else if let Some(value) = text.strip_prefix("<=") {
        0..read(value)?.end
    } else if let Some(value) = text.strip_prefix('<') {
        0..read(value)?.start
    } else if let Some((from, to)) = text.split_once("..") {
        let from = if from.is_empty() { 0 } else { read(from)?.start };
        let to = if to.is_empty() { u64::MAX } else { read(to)?.end };
        if to <= from {
            return Err(format!("`{text}` ends before it begins"));
        }
        from..to
    } else {
        read(text)?
    };
    Ok(ranged)
}

/// Bytes: a number, perhaps with a fraction, and a unit.
fn size(text: &str) -> Result<Range<u64>, String> {
    let split = text.find(|character: char| character != '.' && !character.is_ascii_digit());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let wrong = || format!("`{text}` is no size; sizes look like 4096, 10KB, 1.5MiB or 2GB");
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || 15 < whole.len() || 9 < fraction.len() || fraction.contains('.') {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let tenths: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let part = u128::from(tenths) * u128::from(unit) / 10_u128.pow(fraction.len() as u32);
    let bytes = u128::from(whole) * u128::from(unit) + part;
    match u64::try_from(bytes) {
        Ok(bytes) if bytes < u64::MAX => Ok(bytes..bytes + 1),
        _ => Err(wrong()),
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Contains(text) => write!(f, "{text:?}"),
            Name::Prefix(text) => write!(f, "^{text}"),
            Name::Glob(text) => f.write_str(text),
            Name::Regex(text) => write!(f, "/{text}/"),
            Name::Fuzzy(text) => write!(f, "~{text}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(text: &str) -> Vec<(bool, Field)> {
        Search::parse(text).unwrap().words.into_iter().map(|word| (word.excluded, word.field)).collect()
    }

    fn contains(text: &str) -> Field {
        Field::Name(Name::Contains(text.to_string()))
    }

    #[test]
    fn queries_are_read() {
        assert_eq!(fields("cat  dog"), [(false, contains("cat")), (false, contains("dog"))]);
        assert_eq!(fields("\"a b\" -c"), [(false, contains("a b")), (true, contains("c"))]);
        assert_eq!(fields(r#""say \"x\" \\""#), [(false, contains(r#"say "x" \"#))]);
        assert_eq!(fields("name:cat NAME:\"*\""), [(false, contains("cat")), (false, contains("*"))]);
        let name = |name: Name| vec![(false, Field::Name(name))];
        assert_eq!(fields("name:^a/b"), name(Name::Prefix("a/b".to_string())));
        assert_eq!(fields("name:*.jpg"), name(Name::Glob("*.jpg".to_string())));
        assert_eq!(fields("name:/a b/c\\/d/"), name(Name::Regex("a b/c\\/d".to_string())));
        assert_eq!(fields("name:~kitten"), name(Name::Fuzzy("kitten".to_string())));
        let (key, value) = ("k y".to_string(), Some("v=w".to_string()));
        assert_eq!(fields("tag:\"k y\"=v=w"), [(false, Field::Tag(key, value))]);
        assert_eq!(fields("-meta:Key"), [(true, Field::Meta("key".to_string(), None))]);
        assert_eq!(fields("type:Image/*"), [(false, Field::Type("image/*".to_string()))]);
        assert_eq!(fields("c++ a.b"), [(false, contains("c++")), (false, contains("a.b"))]);
        assert_eq!(fields("1:2"), [(false, contains("1:2"))]);
    }

    #[test]
    fn sizes_and_times_are_ranges() {
        for (text, expected) in [
            ("size:7", 7..8),
            ("size:>1MB", 1_000_001..u64::MAX),
            ("size:>=1KiB", 1024..u64::MAX),
            ("size:<1.5k", 0..1500),
            ("size:<=2", 0..3),
            ("size:10KB..2MB", 10_000..2_000_001),
            ("size:..5", 0..6),
        ] {
            assert_eq!(fields(text), [(false, Field::Size(expected))], "{text}");
        }
        let day = 24 * 60 * 60 * 1000;
        for (text, expected) in [
            ("modified:1970-01-02", day..2 * day),
            ("modified:>1970-01-02", 2 * day..u64::MAX),
            ("modified:>=1970-01-02T00:00:01Z", day + 1000..u64::MAX),
            ("modified:1970-01-01..1970-01-02", 0..2 * day),
        ] {
            assert_eq!(fields(text), [(false, Field::Modified(expected))], "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, position) in [
            ("", 1),
            ("   ", 1),
            ("a colour:red", 3),
            ("a \"b", 3),
            ("\"\"", 1),
            ("ü -", 3),
            ("name:", 1),
            ("name:^", 6),
            ("name:/abc", 6),
            ("tag:=x", 5),
            ("x size:1XB", 8),
            ("size:2..1", 6),
            ("size:1.2.3", 6),
            ("size:99999999999999999TB", 6),
            ("modified:2026-13-01", 10),
            ("\"a\"b", 4),
        ] {
            assert_eq!(Search::parse(text).unwrap_err().position, position, "{text}");
        }
        assert!(Search::parse(&"a".repeat(1 << 20)).is_err());
        assert_eq!(Search::parse(&"a ".repeat(17)).unwrap_err().position, 33);
    }

    #[test]
    fn buckets_are_chosen() {
        let wants = |text: &str| Search::parse(text).unwrap().wants_bucket("photos-1", "anna");
        assert!(wants("x") && wants("bucket:photos-1 x") && wants("bucket:photos* owner:anna"));
        assert!(!wants("bucket:photos x") && !wants("-bucket:p*1") && !wants("owner:bert"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            if let Err(error) = Search::parse(&text) {
                prop_assert!(1 <= error.position && error.position <= text.chars().count() + 1);
            }
        }
    }
}
