//! What S3 calls public: open to everybody from everywhere.

use super::condition::{Absence, Condition, Quantifier, Sense, Test};
use super::operands::Network;
use super::pattern::{ArnPattern, Pattern};
use super::statement::{Effect, Principals, Statement};

/// The keys by which a statement can be limited, lower-cased. Other keys say what is asked, or what a client says of
/// itself.
const LIMITING_KEYS: &[&str] = &[
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
];

/// Whether it allows something to everybody without a limit. "Everybody but some" is everybody.
pub(super) fn is_public(statement: &Statement) -> bool {
    let to_all = matches!(statement.principals, Principals::Everyone | Principals::Except(_));
    statement.effect == Effect::Allow && to_all && !statement.conditions.iter().any(is_limit)
}

/// Whether it holds only where the key is present and has one of some fixed values.
fn is_limit(condition: &Condition) -> bool {
    let needs_key = condition.absence == Absence::Usual && condition.quantifier != Quantifier::All;
    let fixed = match &condition.test {
        Test::Text(own) | Test::TextIgnoringCase(own) => own.iter().all(Pattern::is_fixed),
        Test::Arn(own) => own.iter().all(ArnPattern::is_fixed),
        Test::Address(own) => !own.iter().any(Network::is_broad),
        Test::Number(..) | Test::Date(..) | Test::Bool(_) | Test::Binary(_) | Test::Null(_) => false,
    };
    needs_key
        && fixed
        && condition.sense == Sense::Positive
        && LIMITING_KEYS.contains(&condition.key.as_str())
}
