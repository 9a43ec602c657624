//! A query, ready to be compared with objects; and which terms an object must have to be worth a look.
//!
//! Matching takes time in proportion to the name, and at most to the query: regular expressions are automata of bounded
//! size, and neither they nor globs go back.

use std::ops::Range;

use consensus::meta::model::{Attributes, Object};
use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::glob::{Glob, is_glob};
use super::language::{Field, Name, Search, SyntaxError, Word};
use super::terms;

/// Bytes of a compiled regular expression.
const REGEX_BYTES_MAX: usize = 128 << 10;
/// Nesting of a regular expression.
const REGEX_DEPTH_MAX: u32 = 32;
/// Terms of one part of a plan; more make nothing faster.
const TERMS_MAX: usize = 24;
/// Alternatives of one part of a plan.
const ALTERNATIVES_MAX: usize = 16;
/// Letters of a word that is looked for with mistakes, and from which on there may be two.
const FUZZY_LETTERS: std::ops::RangeInclusive<usize> = 4..=64;
const TWO_EDITS_FROM: usize = 9;

/// Where to look for what a query means: all that it means is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Anywhere.
    Everything,
    /// What has the term.
    Term(u32),
    /// What is in all of them.
    All(Vec<Plan>),
    /// What is in one of them.
    Any(Vec<Plan>),
}

/// See the file's head.
pub struct Matcher {
    names: Vec<(bool, NameTest)>,
    rows: Vec<(bool, RowTest)>,
    plan: Plan,
    prefix: String,
}

enum NameTest {
    /// Folded.
    Contains(String),
    Prefix(String),
    /// Of the folded name.
    Glob(Glob),
    Regex(Regex),
    Fuzzy {
        word: Vec<char>,
        edits: usize,
    },
}

enum RowTest {
    Tag(String, Option<String>),
    Meta(String, Option<String>),
    Type(Glob),
    Size(Range<u64>),
    Modified(Range<u64>),
}

impl Matcher {
    /// Prepares a query. What it says of buckets is for those who choose them.
    pub fn new(search: &Search) -> Result<Matcher, SyntaxError> {
        let mut matcher =
            Matcher { names: Vec::new(), rows: Vec::new(), plan: Plan::Everything, prefix: String::new() };
        let mut plans = Vec::new();
        for word in &search.words {
            let plan = matcher.add(word)?;
            if !word.excluded {
                plans.push(plan);
            }
        }
        matcher.plan = all(plans);
        Ok(matcher)
    }

    /// Which terms it takes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What all names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn add(&mut self, word: &Word) -> Result<Plan, SyntaxError> {
        let excluded = word.excluded;
        let (row, plan) = match &word.field {
            Field::Name(name) => {
                let (test, plan) = NameTest::new(name, word.position)?;
                if let (NameTest::Prefix(prefix), false) = (&test, excluded)
                    && self.prefix.len() < prefix.len()
                {
                    self.prefix.clone_from(prefix);
                }
                self.names.push((excluded, test));
                return Ok(plan);
            }
            Field::Tag(key, value) => {
                let term =
                    value.as_ref().map_or_else(|| terms::tag(key), |value| terms::tag_value(key, value));
                (RowTest::Tag(key.clone(), value.clone()), Plan::Term(term))
            }
            Field::Meta(key, value) => {
                let term =
                    value.as_ref().map_or_else(|| terms::meta(key), |value| terms::meta_value(key, value));
                (RowTest::Meta(key.clone(), value.clone()), Plan::Term(term))
            }
            Field::Type(pattern) => (RowTest::Type(Glob::new(pattern)), type_plan(pattern)),
            Field::Size(range) => (RowTest::Size(range.clone()), Plan::Everything),
            Field::Modified(range) => (RowTest::Modified(range.clone()), Plan::Everything),
            Field::Owner(_) | Field::Bucket(_) => return Ok(Plan::Everything),
        };
        self.rows.push((excluded, row));
        Ok(plan)
    }

    /// Whether an object of this name can be meant; `folded` is a buffer.
    pub fn matches_name(&self, key: &str, folded: &mut String) -> bool {
        folded.clear();
        terms::fold_into(key, folded);
        self.names.iter().all(|(excluded, test)| test.holds(key, folded) != *excluded)
    }

    /// Whether the rest holds, too.
    pub fn matches_object(&self, object: &Object) -> bool {
        self.rows.iter().all(|(excluded, test)| test.holds(object) != *excluded)
    }
}

impl NameTest {
    fn new(name: &Name, position: usize) -> Result<(NameTest, Plan), SyntaxError> {
        Ok(match name {
            Name::Contains(text) => {
                let folded = terms::fold(text);
                let plan = literal(&folded);
                (NameTest::Contains(folded), plan)
            }
            Name::Prefix(text) => (NameTest::Prefix(text.clone()), Plan::Everything),
            Name::Glob(pattern) => {
                let glob = Glob::new(&terms::fold(pattern));
                let plan = all(glob.texts().map(literal).collect());
                (NameTest::Glob(glob), plan)
            }
            Name::Regex(pattern) => {
                let (test, plan) = compiled(pattern, position)?;
                (NameTest::Regex(test), plan)
            }
            Name::Fuzzy(text) => fuzzy(text, position)?,
        })
    }

    fn holds(&self, key: &str, folded: &str) -> bool {
        match self {
            NameTest::Contains(text) => folded.contains(text.as_str()),
            NameTest::Prefix(prefix) => key.starts_with(prefix.as_str()),
            NameTest::Glob(glob) => glob.is_match(folded),
            NameTest::Regex(regex) => regex.is_match(key),
            NameTest::Fuzzy { word, edits } => folded
                .split(|character: char| !character.is_alphanumeric())
                .any(|have| is_near(word, have, *edits)),
        }
    }
}

impl RowTest {
    fn holds(&self, object: &Object) -> bool {
        let Object { bytes, modified, attributes, .. } = object;
        let is = |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|wanted| wanted == have);
        match self {
            RowTest::Tag(key, value) => {
                attributes.tags.iter().any(|(name, have)| name == key && is(value, have))
            }
            RowTest::Meta(key, value) => attributes.user.get(key).is_some_and(|have| is(value, have)),
            RowTest::Type(pattern) => has_type(attributes, pattern),
            RowTest::Size(range) => range.contains(bytes),
            RowTest::Modified(range) => range.contains(&modified.0),
        }
    }
}

fn has_type(attributes: &Attributes, pattern: &Glob) -> bool {
    let (whole, bare) = terms::types(attributes);
    pattern.is_match(&bare) || pattern.is_match(&whole)
}

fn type_plan(pattern: &str) -> Plan {
    if !is_glob(pattern) {
        return Plan::Term(terms::content_type(pattern));
    }
    match pattern.strip_suffix("/*") {
        Some(kind) if !is_glob(kind) && !kind.contains('/') => Plan::Term(terms::content_kind(kind)),
        _ => Plan::Everything,
    }
}

/// All of them, with nothing that says nothing.
fn all(plans: Vec<Plan>) -> Plan {
    let mut parts = Vec::new();
    for plan in plans {
        match plan {
            Plan::Everything => {}
            Plan::All(more) => parts.extend(more),
            part if !parts.contains(&part) => parts.push(part),
            _ => {}
        }
    }
    parts.truncate(TERMS_MAX);
    match parts.len() {
        0 => Plan::Everything,
        1 => parts.remove(0),
        _ => Plan::All(parts),
    }
}

fn any(plans: Vec<Plan>) -> Plan {
    match plans.len() {
        0 => Plan::Everything,
        more if ALTERNATIVES_MAX < more => Plan::Everything,
        _ if plans.contains(&Plan::Everything) => Plan::Everything,
        _ => Plan::Any(plans),
    }
}

/// What contains a folded text.
fn literal(folded: &str) -> Plan {
    all(terms::trigrams(folded).map(Plan::Term).collect())
}

fn compiled(pattern: &str, position: usize) -> Result<(Regex, Plan), SyntaxError> {
    let wrong = |why: String| SyntaxError::at(position, format!("the pattern cannot be used: {why}"));
    let parsed = regex_syntax::ParserBuilder::new().nest_limit(REGEX_DEPTH_MAX).build().parse(pattern);
    let hir = parsed.map_err(|error| match error {
        regex_syntax::Error::Parse(error) => wrong(error.kind().to_string()),
        regex_syntax::Error::Translate(error) => wrong(error.kind().to_string()),
        other => wrong(other.to_string()),
    })?;
    let built = regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .nest_limit(REGEX_DEPTH_MAX)
        .build();
    let regex = built.map_err(|_| wrong("it is too large".to_string()))?;
    Ok((regex, required(&hir)))
}

/// What every name has that an expression is found in.
fn required(hir: &Hir) -> Plan {
    let mut run = Run::default();
    run.add(hir);
    run.end();
    all(run.parts)
}

/// Letters that follow each other in an expression, and what came before.
#[derive(Default)]
struct Run {
    folded: String,
    parts: Vec<Plan>,
}

impl Run {
    fn end(&mut self) {
        self.parts.push(literal(&self.folded));
        self.folded.clear();
    }

    fn add(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(bytes) => match std::str::from_utf8(&bytes.0) {
                Ok(text) => terms::fold_into(text, &mut self.folded),
                Err(_) => self.end(),
            },
            HirKind::Class(class) => match folded_letter(class) {
                Some(letter) => self.folded.push_str(&letter),
                None => self.end(),
            },
            HirKind::Repetition(repetition) if repetition.min == 0 => self.end(),
            HirKind::Repetition(repetition) => {
                self.add(&repetition.sub);
                self.end();
            }
            HirKind::Capture(capture) => self.add(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.add(part)),
            HirKind::Alternation(parts) => {
                self.end();
                self.parts.push(any(parts.iter().map(required).collect()));
            }
        }
    }
}

/// The letter that all of a class are without their case.
fn folded_letter(class: &Class) -> Option<String> {
    let Class::Unicode(class) = class else { return None };
    let ranges = class.ranges();
    if ranges.iter().map(|range| range.end() as u32 - range.start() as u32 + 1).sum::<u32>() > 4 {
        return None;
    }
    let mut letters = ranges.iter().flat_map(|range| range.start()..=range.end()).map(|letter| {
        let mut bytes = [0; 4];
        terms::fold(letter.encode_utf8(&mut bytes))
    });
    let first = letters.next()?;
    letters.all(|letter| letter == first).then_some(first)
}

fn fuzzy(text: &str, position: usize) -> Result<(NameTest, Plan), SyntaxError> {
    let word: Vec<char> = terms::fold(text).chars().collect();
    if !FUZZY_LETTERS.contains(&word.len()) || !word.iter().all(|letter| letter.is_alphanumeric()) {
        let (least, most) = FUZZY_LETTERS.into_inner();
        let what = format!("a word after `~` has {least} to {most} letters or digits and nothing else");
        return Err(SyntaxError::at(position, what));
    }
    let edits = if word.len() < TWO_EDITS_FROM { 1 } else { 2 };
    // So many edits leave one of so many pieces and one more as it is.
    let pieces = edits + 1;
    let piece = |at: usize| -> String {
        word[at * word.len() / pieces..(at + 1) * word.len() / pieces].iter().collect()
    };
    let plan = any((0..pieces).map(|at| literal(&piece(at))).collect());
    Ok((NameTest::Fuzzy { word, edits }, plan))
}

/// Whether so many letters added, removed or changed make one word the other.
fn is_near(word: &[char], other: &str, edits: usize) -> bool {
    let letters = other.chars().count();
    if edits < letters.abs_diff(word.len()) {
        return false;
    }
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (line, letter) in other.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (at, wanted) in word.iter().enumerate() {
            let changed = diagonal + usize::from(*wanted != letter);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[word.len()] <= edits
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matcher(text: &str) -> Result<Matcher, SyntaxError> {
        Matcher::new(&Search::parse(text).unwrap())
    }

    fn matches(text: &str, key: &str) -> bool {
        matcher(text).unwrap().matches_name(key, &mut String::new())
    }

    #[test]
    fn names_are_compared() {
        for (query, key, expected) in [
            ("CAT", "a/Cat.jpg", true),
            ("cat -dog", "cat-dog", false),
            ("name:^A", "A/b", true),
            ("name:^a", "A/b", false),
            ("name:*.JPG", "x/Y.jpg", true),
            ("name:*.jpg", "x.jpg.txt", false),
            ("name:?[0-9].[!a]*", "x7.bc", true),
            ("name:?[0-9].[!a]*", "x7.ab", false),
            ("name:[.", "[.", true),
            ("name:[x-a]", "x", false),
            ("name:/^a.*[0-9]{2}$/", "ab12", true),
            ("name:/A/", "a", false),
            ("name:~kitten", "my-Kitten.png", true),
            ("name:~kitten", "sitten", true),
            ("name:~kitten", "sittin", false),
            ("name:~holidays2026", "holiday206", true),
            ("größe", "GRÖSSE größe", true),
            ("name:*STRAẞE*", "straße", true),
        ] {
            match matcher(query) {
                Ok(matcher) => {
                    assert_eq!(matcher.matches_name(key, &mut String::new()), expected, "{query} {key}");
                }
                Err(_) => assert!(!expected, "{query}"),
            }
        }
        assert!(matches("a", "A"));
    }

    #[test]
    fn plans_name_what_must_be_there() {
        let plan = |text: &str| matcher(text).unwrap().plan().clone();
        let term = |text: &str| Plan::Term(terms::trigrams(text).next().unwrap());
        assert_eq!(plan("ab"), Plan::Everything);
        assert_eq!(plan("ABC"), term("abc"));
        assert_eq!(plan("abc -xyz size:>1"), term("abc"));
        assert_eq!(plan("name:*abc*d"), term("abc"));
        assert_eq!(plan("name:/(?i)aBc/"), term("abc"));
        assert_eq!(plan("name:/x*abc+/"), term("abc"));
        assert_eq!(plan("name:/(abc|xyz)/"), Plan::Any(vec![term("abc"), term("xyz")]));
        assert_eq!(plan("name:/(abc|x)/"), Plan::Everything);
        assert_eq!(plan("name:~kitten"), Plan::Any(vec![term("kit"), term("ten")]));
        assert_eq!(plan("type:image/*"), Plan::Term(terms::content_kind("image")));
        assert_eq!(matcher("name:^a/b x").unwrap().prefix(), "a/b");
    }

    #[test]
    fn patterns_that_cost_too_much_are_refused() {
        for text in ["name:/(a{1000}){1000}/", "name:/(/", "name:/\\pX/", "name:~a", "name:~a-b-c"] {
            let error = matcher(text).err().unwrap();
            assert_eq!(error.position, 1, "{error}");
        }
        assert!(matches("name:/(a+)+$/", &"a".repeat(1024)));
        assert!(!matches("name:/^(a+)+$/", &("a".repeat(1023) + "b")));
    }
}
