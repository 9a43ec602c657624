//! The policy of a form: until when it may be sent, and what its fields may say. Its signer gives it to a browser.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consensus::meta::names::BucketName;
use serde::Deserialize;
use serde_json::Value;

use super::Fields;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::time::parse_iso8601;

/// Fields that need no condition: what proves the policy, and the policy.
const FREE: &[&str] = &["awsaccesskeyid", "file", "policy", "signature", "x-amz-signature"];
const CONDITIONS_MAX: usize = 128;

/// What a form may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormPolicy {
    /// Milliseconds since 1970.
    expires: u64,
    conditions: Vec<Condition>,
    bytes: RangeInclusive<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    /// In lower case.
    field: String,
    /// What its value is, or begins with.
    text: String,
    whole: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    expiration: String,
    conditions: Vec<Value>,
}

impl FormPolicy {
    /// Reads a policy as it stands in the form.
    pub fn parse(encoded: &str) -> S3Result<FormPolicy> {
        let bytes = STANDARD.decode(encoded).map_err(|_| invalid("it is not base64"))?;
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| invalid(&format!("it is not JSON: {error}")))?;
        let expires =
            parse_iso8601(&document.expiration).ok_or_else(|| invalid("its expiration is no date"))?;
        if document.conditions.is_empty() || CONDITIONS_MAX < document.conditions.len() {
            return Err(invalid("it has no conditions, or too many"));
        }
        let mut policy = FormPolicy { expires, conditions: Vec::new(), bytes: 0..=u64::MAX };
        for condition in &document.conditions {
            policy.add(condition).ok_or_else(|| invalid(&format!("{condition} is no condition")))?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Option<()> {
        match condition {
            Value::Object(pairs) => {
                for (name, value) in pairs {
                    self.push(name, value, true)?;
                }
            }
            Value::Array(parts) => match parts.as_slice() {
                [Value::String(word), least, most] if word.eq_ignore_ascii_case("content-length-range") => {
                    self.bytes = number(least)?..=number(most)?;
                }
                [Value::String(word), Value::String(name), value] => {
                    let whole = match word.to_ascii_lowercase().as_str() {
                        "eq" => true,
                        "starts-with" => false,
                        _ => return None,
                    };
                    self.push(name.strip_prefix('$')?, value, whole)?;
                }
                _ => return None,
            },
            _ => return None,
        }
        Some(())
    }

    fn push(&mut self, field: &str, value: &Value, whole: bool) -> Option<()> {
        let text = value.as_str()?.to_string();
        self.conditions.push(Condition { field: field.to_ascii_lowercase(), text, whole });
        Some(())
    }

    /// How many bytes the file may have.
    pub fn bytes(&self) -> RangeInclusive<u64> {
        self.bytes.clone()
    }

    /// Whether a form for this bucket says what it may, in time.
    pub fn check(&self, fields: &Fields, bucket: &BucketName, now_ms: u64) -> S3Result<()> {
        if self.expires <= now_ms {
            return Err(denied("Policy expired."));
        }
        if fields.get("bucket").is_some_and(|named| named != bucket.as_str()) {
            return Err(denied("The bucket of the form is not that of its address."));
        }
        for condition in &self.conditions {
            let value = match condition.field.as_str() {
                "bucket" => bucket.as_str(),
                field => fields.get(field).unwrap_or(""),
            };
            if !condition.holds(value) {
                let Condition { field, text, whole } = condition;
                let word = if *whole { "eq" } else { "starts-with" };
                return Err(denied(&format!(
                    "Policy Condition failed: [\"{word}\", \"${field}\", \"{text}\"]"
                )));
            }
        }
        let unnamed = |name: &str| {
            let conditioned = self.conditions.iter().any(|condition| condition.field == name);
            !conditioned && !FREE.contains(&name) && !name.starts_with("x-ignore-") && name != "bucket"
        };
        match fields.iter().find(|(name, _)| unnamed(name)) {
            Some((name, _)) => Err(denied(&format!("Extra input fields: {name}"))),
            None => Ok(()),
        }
    }
}

impl Condition {
    fn holds(&self, value: &str) -> bool {
        match (self.whole, self.field.as_str()) {
            (true, _) => value == self.text,
            // Of a list of types each begins like that.
            (false, "content-type") => value.split(',').all(|one| one.trim().starts_with(&self.text)),
            (false, _) => value.starts_with(&self.text),
        }
    }
}

/// A number, or its digits as text, as some signers write them.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn invalid(why: &str) -> S3Error {
    Code::InvalidPolicyDocument.says(format!("Invalid Policy: {why}."))
}

fn denied(why: &str) -> S3Error {
    Code::AccessDenied.says(format!("Invalid according to Policy: {why}"))
}
