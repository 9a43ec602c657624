//! The language of policies: read, judged, and nothing else. Knows nothing of requests, buckets or users here.
//!
//! A document is refused or understood to the last word: what is not known here is an error, never ignored. All that
//! can be prepared is prepared by [`Policy::parse`]; [`Policy::judge`] looks up one action, compares texts and asks the
//! [`Context`] for the keys that conditions name. Where something cannot be decided, the answer is the one that gives
//! less: an action unknown to S3 and a policy too costly to judge are [`Verdict::Deny`].

mod condition;
mod document;
mod names;
mod operands;
mod pattern;
mod public;
#[cfg(test)]
mod random_tests;
mod statement;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use document::Json;
use fabric::limits::POLICY_BYTES_MAX;
use statement::{Effect, Statement};

pub use names::is_action;
pub use operands::Network;

/// What every resource of S3 begins with.
const RESOURCE_PREFIX: &str = "arn:aws:s3:::";

/// How much searching behind a `*` one judgement may do, in steps of 16 bytes: some hundred microseconds. Policies that
/// people write need a few hundred steps.
const STEPS_MAX: u32 = 1 << 17;

/// Why a text is no policy: a sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    fn new(why: impl Into<String>) -> Malformed {
        Malformed(why.into())
    }
}

/// What a policy belongs to, which decides what may stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The bucket of this name. Statements name principals, and every resource is the bucket or in it.
    Bucket(&'a str),
    /// A user, who is the principal of every statement.
    User,
}

/// A policy, ready to judge.
#[derive(Debug, Clone)]
pub struct Policy {
    statements: Vec<Statement>,
}

/// What one policy or several say.
///
/// The order is that of precedence: the first of two verdicts decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A statement denies it. Nothing that others say changes that.
    Deny,
    /// A statement allows it and none denies it.
    Allow,
    /// No statement is about it.
    Silent,
}

impl Verdict {
    /// What several policies say together: an explicit deny first, then any allow.
    pub fn combine(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
        verdicts.into_iter().min().unwrap_or(Verdict::Silent)
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal<'a> {
    /// Nobody signed the request.
    Anonymous,
    /// The user of this name.
    User(&'a str),
}

/// What is asked of a policy.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks. The policy of a user does not look at it.
    pub principal: Principal<'a>,
    /// The action as in `s3:GetObject`, in any case; [`is_action`] must know it.
    pub action: &'a str,
    /// `arn:aws:s3:::bucket` or `arn:aws:s3:::bucket/key`. Actions about no bucket ask for `arn:aws:s3:::*`.
    pub resource: &'a str,
    /// What conditions and variables look at.
    pub context: &'a dyn Context,
}

/// What is known about a request, by condition keys.
pub trait Context {
    /// The values of a key; none if the key is absent, and an empty list is the same as absent.
    ///
    /// `key` has its ASCII letters lower-cased, tag keys included: `aws:sourceip`, `s3:prefix`,
    /// `s3:existingobjecttag/team`. Condition keys are not case-sensitive, so tags whose keys differ in case only
    /// are several values of one key.
    fn values(&self, key: &str) -> Option<Vec<Cow<'_, str>>>;
}

/// The version of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// `2008-10-17`, also where no version is said: `${…}` is text like any other.
    Old,
    /// `2012-10-17`: with variables.
    Current,
}

impl Policy {
    /// Reads a policy. The error is a sentence for the client.
    pub fn parse(text: &str, kind: Kind<'_>) -> Result<Policy, Malformed> {
        if POLICY_BYTES_MAX < text.len() {
            return Err(Malformed::new(format!(
                "The policy has {} bytes; the limit is {POLICY_BYTES_MAX}.",
                text.len()
            )));
        }
        let (mut version, mut statements) = (Version::Old, None);
        for (name, value) in document::read(text)?.object("The policy")? {
            match name.as_str() {
                "Version" => version = read_version(value)?,
                "Id" => drop(value.text("Id")?),
                "Statement" => statements = Some(value),
                _ => return Err(Malformed::new(format!("Unknown field {name:.60}."))),
            }
        }
        let statements = statements.ok_or_else(|| Malformed::new("Missing required field Statement."))?;
        let statements = match statements {
            Json::List(list) => list,
            one => vec![one],
        };
        if statements.is_empty() {
            return Err(Malformed::new("The policy has no statement."));
        }
        let mut sids = BTreeSet::new();
        let read = |json| statement::read(json, kind, version, &mut sids);
        Ok(Policy { statements: statements.into_iter().map(read).collect::<Result<_, _>>()? })
    }

    /// What this policy says: a deny beats an allow, in whatever order they stand.
    pub fn judge(&self, asked: &Asked<'_>) -> Verdict {
        // An action that S3 does not have is our own mistake, and no statement could deny it.
        let Some(action) = names::action(asked.action) else {
            return Verdict::Deny;
        };
        let judging = Judging::new(asked.context);
        let mut verdict = Verdict::Silent;
        for statement in &self.statements {
            let adds_nothing = verdict == Verdict::Allow && statement.effect == Effect::Allow;
            if adds_nothing || !statement.applies(action, asked, &judging) {
                continue;
            }
            match statement.effect {
                Effect::Deny => return Verdict::Deny,
                Effect::Allow => verdict = Verdict::Allow,
            }
        }
        if judging.is_exhausted() { Verdict::Deny } else { verdict }
    }

    /// Whether this policy of a bucket is public by S3's definition: a statement allows something to everybody, and no
    /// condition limits it to fixed values of where a request comes from. Statements that deny do not count.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(public::is_public)
    }
}

fn read_version(value: Json) -> Result<Version, Malformed> {
    match value.text("Version")?.as_str() {
        "2012-10-17" => Ok(Version::Current),
        "2008-10-17" => Ok(Version::Old),
        _ => Err(Malformed::new("The policy must contain a valid version string: 2012-10-17 or 2008-10-17.")),
    }
}

/// Keys whose values one judgement keeps: more than statements that people write share.
const KEPT_MAX: usize = 16;

/// One judgement: what it looks at, what it has seen there, and how much it may still search.
struct Judging<'a> {
    context: &'a dyn Context,
    /// Statements often look at the same few keys.
    kept: RefCell<Vec<(&'a str, Found<'a>)>>,
    steps: Cell<u32>,
}

/// The values of a key. None if it is absent.
type Found<'a> = Rc<Vec<Cow<'a, str>>>;

impl<'a> Judging<'a> {
    fn new(context: &'a dyn Context) -> Judging<'a> {
        Judging { context, kept: RefCell::default(), steps: Cell::new(STEPS_MAX) }
    }

    /// What the request has for a key.
    fn values(&self, key: &'a str) -> Found<'a> {
        let mut kept = self.kept.borrow_mut();
        if let Some((_, found)) = kept.iter().find(|(known, _)| *known == key) {
            return found.clone();
        }
        let found = Rc::new(self.context.values(key).unwrap_or_default());
        if kept.len() < KEPT_MAX {
            kept.push((key, found.clone()));
        }
        found
    }

    /// Takes the cost of looking at so many bytes; false once nothing is left.
    fn spend(&self, bytes: usize) -> bool {
        let steps = u32::try_from(1 + bytes / 16).unwrap_or(u32::MAX);
        self.steps.set(self.steps.get().saturating_sub(steps));
        !self.is_exhausted()
    }

    fn is_exhausted(&self) -> bool {
        self.steps.get() == 0
    }
}

/// A request of which nothing is known.
struct NoContext;

impl Context for NoContext {
    fn values(&self, _key: &str) -> Option<Vec<Cow<'_, str>>> {
        None
    }
}
