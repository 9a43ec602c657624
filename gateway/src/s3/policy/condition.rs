//! Conditions: a key of the request, an operator, and values of which one has to fit.
//!
//! Several values of the policy are alternatives; for a negated operator none of them may fit. A key that is absent
//! makes an operator false and a negated one true, with three exceptions that S3 has as well: `…IfExists` is true,
//! `ForAnyValue:` is false, and **`ForAllValues:` is true**. The last also in a statement that allows, so that such a
//! statement allows every request that lacks the key; who means otherwise adds `"Null": {"key": "false"}`.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::document::Json;
use super::operands::{Network, address, boolean, date, number};
use super::pattern::{ArnPattern, Pattern, Wildcards};
use super::{Judging, Malformed, Version, names};

/// One key of one operator.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// Lower-cased.
    pub(super) key: String,
    pub(super) quantifier: Quantifier,
    pub(super) sense: Sense,
    pub(super) absence: Absence,
    pub(super) test: Test,
}

/// How many of the request's values count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantifier {
    /// No prefix, for keys that have one value. Where there are more, one that fits is enough.
    Single,
    /// `ForAllValues:`
    All,
    /// `ForAnyValue:`
    Any,
}

/// Whether a value has to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    Positive,
    /// `…Not…`: it must not.
    Negated,
}

/// What it means that the key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// What it means without the suffix `IfExists`.
    Usual,
    /// `…IfExists`: the condition holds.
    Holds,
}

/// How a value of the request is compared, and with what.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Text(Vec<Pattern>),
    TextIgnoringCase(Vec<Pattern>),
    Arn(Vec<ArnPattern>),
    /// In billionths.
    Number(Comparison, Vec<i128>),
    /// In milliseconds since 1970.
    Date(Comparison, Vec<i64>),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Address(Vec<Network>),
    /// Whether the key is absent.
    Null(Vec<bool>),
}

/// What a value of the request has to be, beside one of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds<T: Ord>(self, found: &T, own: &T) -> bool {
        match self {
            Comparison::Equal => found == own,
            Comparison::Less => found < own,
            Comparison::LessOrEqual => found <= own,
            Comparison::Greater => found > own,
            Comparison::GreaterOrEqual => found >= own,
        }
    }
}

/// Reads the element `Condition`.
pub(super) fn read(json: Json, version: Version) -> Result<Vec<Condition>, Malformed> {
    let mut conditions = Vec::new();
    for (name, keys) in json.object("Condition")? {
        let operator = Operator::parse(&name)?;
        let keys = keys.object(&name)?;
        if keys.is_empty() {
            return Err(Malformed::new(format!("The condition {name:.60} has no key.")));
        }
        let mut seen = BTreeSet::new();
        for (key, values) in keys {
            let lower = key.to_ascii_lowercase();
            if !names::is_key(&lower) {
                return Err(Malformed::new(format!("Policy has an invalid condition key: {key:.100}.")));
            }
            if !seen.insert(lower.clone()) {
                return Err(Malformed::new(format!("The key {key:.100} stands twice in {name:.60}.")));
            }
            conditions.push(operator.condition(lower, values.scalars(&key)?, version)?);
        }
    }
    Ok(conditions)
}

impl Condition {
    /// Whether it holds for the request.
    pub(super) fn holds<'a>(&'a self, judging: &Judging<'a>) -> bool {
        let found = judging.values(&self.key);
        if let Test::Null(wanted) = &self.test {
            return wanted.contains(&found.is_empty());
        }
        if found.is_empty() {
            return self.holds_without();
        }
        let negated = self.sense == Sense::Negated;
        let mut fits = found.iter().map(|value| self.test.fits(value, judging));
        match self.quantifier {
            Quantifier::Single => fits.any(|fits| fits) != negated,
            Quantifier::All => fits.all(|fits| fits != negated),
            Quantifier::Any => fits.any(|fits| fits != negated),
        }
    }

    fn holds_without(&self) -> bool {
        match (self.absence, self.quantifier) {
            (Absence::Holds, _) | (_, Quantifier::All) => true,
            (Absence::Usual, Quantifier::Any) => false,
            (Absence::Usual, Quantifier::Single) => self.sense == Sense::Negated,
        }
    }
}

impl Test {
    /// Whether a value of the request fits one of the policy. One that is not of the operator's kind never does.
    fn fits<'a>(&'a self, found: &str, judging: &Judging<'a>) -> bool {
        match self {
            Test::Text(own) => own.iter().any(|own| own.matches(found, judging)),
            Test::TextIgnoringCase(own) => own.iter().any(|own| own.equals_ignoring_case(found, judging)),
            Test::Arn(own) => own.iter().any(|own| own.matches(found, judging)),
            Test::Number(comparison, own) => {
                number(found).is_some_and(|found| own.iter().any(|own| comparison.holds(&found, own)))
            }
            Test::Date(comparison, own) => {
                date(found).is_some_and(|found| own.iter().any(|own| comparison.holds(&found, own)))
            }
            Test::Bool(own) => boolean(found).is_some_and(|found| own.contains(&found)),
            Test::Binary(own) => STANDARD.decode(found).is_ok_and(|found| own.contains(&found)),
            Test::Address(own) => {
                address(found).is_some_and(|found| own.iter().any(|own| own.contains(found)))
            }
            // Asks for the key and not for its values: see `Condition::holds`.
            Test::Null(_) => false,
        }
    }
}

/// An operator as it is written.
#[derive(Debug, Clone, Copy)]
struct Operator<'a> {
    name: &'a str,
    family: Family,
    quantifier: Quantifier,
    sense: Sense,
    absence: Absence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Text,
    TextIgnoringCase,
    Like,
    Arn,
    Number(Comparison),
    Date(Comparison),
    Bool,
    Binary,
    Address,
    Null,
}

/// Every operator without prefix and suffix.
const OPERATORS: &[(&str, Family, Sense)] = &[
    ("StringEquals", Family::Text, Sense::Positive),
    ("StringNotEquals", Family::Text, Sense::Negated),
    ("StringEqualsIgnoreCase", Family::TextIgnoringCase, Sense::Positive),
    ("StringNotEqualsIgnoreCase", Family::TextIgnoringCase, Sense::Negated),
    ("StringLike", Family::Like, Sense::Positive),
    ("StringNotLike", Family::Like, Sense::Negated),
    ("ArnEquals", Family::Arn, Sense::Positive),
    ("ArnNotEquals", Family::Arn, Sense::Negated),
    ("ArnLike", Family::Arn, Sense::Positive),
    ("ArnNotLike", Family::Arn, Sense::Negated),
    ("NumericEquals", Family::Number(Comparison::Equal), Sense::Positive),
    ("NumericNotEquals", Family::Number(Comparison::Equal), Sense::Negated),
    ("NumericLessThan", Family::Number(Comparison::Less), Sense::Positive),
    ("NumericLessThanEquals", Family::Number(Comparison::LessOrEqual), Sense::Positive),
    ("NumericGreaterThan", Family::Number(Comparison::Greater), Sense::Positive),
    ("NumericGreaterThanEquals", Family::Number(Comparison::GreaterOrEqual), Sense::Positive),
    ("DateEquals", Family::Date(Comparison::Equal), Sense::Positive),
    ("DateNotEquals", Family::Date(Comparison::Equal), Sense::Negated),
    ("DateLessThan", Family::Date(Comparison::Less), Sense::Positive),
    ("DateLessThanEquals", Family::Date(Comparison::LessOrEqual), Sense::Positive),
    ("DateGreaterThan", Family::Date(Comparison::Greater), Sense::Positive),
    ("DateGreaterThanEquals", Family::Date(Comparison::GreaterOrEqual), Sense::Positive),
    ("Bool", Family::Bool, Sense::Positive),
    ("BinaryEquals", Family::Binary, Sense::Positive),
    ("IpAddress", Family::Address, Sense::Positive),
    ("NotIpAddress", Family::Address, Sense::Negated),
    ("Null", Family::Null, Sense::Positive),
];

impl<'a> Operator<'a> {
    fn parse(name: &'a str) -> Result<Operator<'a>, Malformed> {
        let (quantifier, base) = match name.split_once(':') {
            Some(("ForAllValues", base)) => (Quantifier::All, base),
            Some(("ForAnyValue", base)) => (Quantifier::Any, base),
            _ => (Quantifier::Single, name),
        };
        let suffixed = base.strip_suffix("IfExists");
        let (absence, base) = suffixed.map_or((Absence::Usual, base), |base| (Absence::Holds, base));
        let found = OPERATORS.iter().find(|(known, ..)| *known == base);
        let found = found.filter(|(known, family, _)| *family != Family::Null || *known == name);
        let Some((_, family, sense)) = found else {
            return Err(Malformed::new(format!("Invalid condition operator: {name:.60}.")));
        };
        Ok(Operator { name, family: *family, quantifier, sense: *sense, absence })
    }

    fn condition(self, key: String, values: Vec<String>, version: Version) -> Result<Condition, Malformed> {
        let test = match self.family {
            Family::Text => Test::Text(self.patterns(&values, Wildcards::Literal, version)?),
            Family::TextIgnoringCase => {
                Test::TextIgnoringCase(self.patterns(&values, Wildcards::Literal, version)?)
            }
            Family::Like => Test::Text(self.patterns(&values, Wildcards::Special, version)?),
            Family::Arn => {
                let read = |value: &String| ArnPattern::parse(value, version);
                Test::Arn(values.iter().map(read).collect::<Result<_, _>>()?)
            }
            Family::Number(comparison) => Test::Number(comparison, self.operands(&values, number)?),
            Family::Date(comparison) => Test::Date(comparison, self.operands(&values, date)?),
            Family::Bool => Test::Bool(self.operands(&values, boolean)?),
            Family::Binary => Test::Binary(self.operands(&values, |text| STANDARD.decode(text).ok())?),
            Family::Address => Test::Address(self.operands(&values, Network::parse)?),
            Family::Null => Test::Null(self.operands(&values, boolean)?),
        };
        let Operator { quantifier, sense, absence, .. } = self;
        Ok(Condition { key, quantifier, sense, absence, test })
    }

    fn patterns(
        self,
        values: &[String],
        wild: Wildcards,
        version: Version,
    ) -> Result<Vec<Pattern>, Malformed> {
        values.iter().map(|value| Pattern::parse(value, wild, version)).collect()
    }

    /// Values that have to be of one kind. Variables are none of these kinds, here as in S3.
    fn operands<T>(self, values: &[String], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Malformed> {
        let wrong =
            |value: &str| Malformed::new(format!("{value:.60} is no value for the condition {}.", self.name));
        values.iter().map(|value| read(value).ok_or_else(|| wrong(value))).collect()
    }
}
