//! What a client claims: the parts of a signature as they come in a header or in a query, checked for form.

use super::signature::Claimed;

/// The longest list of signed headers that is looked at.
const SIGNED_HEADERS_MAX: usize = 128;

/// Where the claim came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// The `Authorization` header.
    Header,
    /// A presigned query, of either version.
    Query,
    /// Fields of a form, of either version.
    Form,
}

/// A signature with everything that it was made from but the secret.
#[derive(Debug)]
pub(super) struct Claim {
    pub carrier: Carrier,
    pub credential: Credential,
    /// Lower-case, in the order of the client.
    pub signed_headers: Vec<String>,
    pub signature: Claimed,
    /// `yyyymmddThhmmssZ`.
    pub timestamp: String,
    /// The same, in seconds since 1970.
    pub seconds: u64,
    /// Seconds of validity of a presigned query.
    pub expires: Option<u64>,
}

/// `key/date/region/service/terminal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credential {
    pub key: String,
    pub date: String,
    pub region: String,
}

impl Credential {
    /// What the client signed: everything but the key.
    pub fn scope(&self) -> String {
        format!("{}/{}/s3/aws4_request", self.date, self.region)
    }

    /// Five parts, an eight-digit date, our service and terminal; else the words for the client.
    pub fn parse(text: &str) -> Result<Credential, &'static str> {
        let parts: Vec<&str> = text.split('/').collect();
        let [key, date, region, service, terminal] = parts[..] else {
            return Err(
                "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            );
        };
        if key.is_empty() {
            return Err("the access key of the Credential is empty.");
        }
        if date.len() != 8 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the date of the Credential is not in the form YYYYMMDD.");
        }
        if service != "s3" {
            return Err("the service of the Credential is wrong; expecting \"s3\".");
        }
        if terminal != "aws4_request" {
            return Err("the terminal of the Credential is wrong; expecting \"aws4_request\".");
        }
        Ok(Credential { key: key.to_string(), date: date.to_string(), region: region.to_string() })
    }
}

/// The list of signed headers: lower-case names, none twice.
pub(super) fn parse_signed_headers(text: &str) -> Result<Vec<String>, &'static str> {
    let names: Vec<String> = text.split(';').map(str::to_ascii_lowercase).collect();
    if names.len() > SIGNED_HEADERS_MAX || names.iter().any(String::is_empty) {
        return Err("the SignedHeaders are mal-formed.");
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != names.len() {
        return Err("the SignedHeaders name a header twice.");
    }
    Ok(names)
}
