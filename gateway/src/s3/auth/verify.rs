//! From a claim to a proof.
//!
//! Everything that can be refused without a secret is refused first. An unknown key takes the same arithmetic as a
//! wrong secret. A server signature is compared and forgotten; no error contains one.

use consensus::meta::names::{AccessKeyId, UserName};
use http::HeaderMap;

use super::canonical::{self, PathForm, Unverified};
use super::claim::{Carrier, Claim, Credential};
use super::keys::{Keys, SigningKeys};
use super::signature::{self, ChunkSigner, PayloadAuth, SigningKey};
use super::{header, presigned, presigned_v2};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::form::Fields;
use crate::s3::request::header_text;
use crate::s3::time::{iso8601, parse_iso8601_basic};
use crate::secrets::Secret;

/// Stands for the access key of users for whom other clusters act.
const VOUCHED_KEY: &str = "OVERLAY";
/// Clocks may differ by this much.
const SKEW_SECONDS_MAX: u64 = 15 * 60;

/// Headers that may occur once: nobody may check the first and use the second.
const SINGLE: &[&str] = &["authorization", "content-md5", "content-type", "date", "host"];

/// Headers of presigning SDKs that they add after signing. They change nothing that is stored.
const UNSIGNED_WITH_QUERY: &[&str] = &["x-amz-checksum-mode", "x-amz-user-agent"];

/// Who verifies signatures, and when.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    /// The region of this gateway.
    pub region: &'a str,
    /// That of the cluster whose gateway the request came to first, where that is another one.
    pub other_region: Option<&'a str>,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

impl Verifier<'_> {
    /// Whether signatures for this region are good.
    fn takes(&self, region: &str) -> bool {
        region == self.region || self.other_region == Some(region)
    }
}

/// Proof that a request was signed by a user, or that nobody claims to have signed it. Made by [`verify`] and by
/// nothing else.
#[derive(Debug)]
pub struct Verified {
    signer: Option<Signer>,
    payload: PayloadAuth,
}

/// Who signed a request.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The user.
    pub user: UserName,
    /// With which key.
    pub key: AccessKeyId,
    /// How the signature came.
    pub carrier: Carrier,
    /// When, in milliseconds since 1970; version 2 does not tell.
    pub signed_ms: Option<u64>,
}

impl Signer {
    /// A user whom a cluster acts for that may. What the user signed stayed there.
    pub(in crate::s3) fn vouched_for(user: UserName) -> Signer {
        let key = AccessKeyId::try_from(VOUCHED_KEY.to_string()).expect("letters are an access key id");
        Signer { user, key, carrier: Carrier::Header, signed_ms: None }
    }
}

impl Verified {
    /// Of a form, whose fields say who signed it.
    pub(in crate::s3) fn of_form(signer: Option<Signer>) -> Verified {
        Verified { signer, payload: PayloadAuth::Unsigned }
    }

    /// Who asks; `None`: anybody.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// What the signature says about the body.
    pub fn payload(&self) -> &PayloadAuth {
        &self.payload
    }

    /// A proof out of thin air, for tests of operations.
    #[cfg(test)]
    pub(crate) fn for_tests(user: &str) -> Verified {
        Verified {
            signer: Some(Signer {
                user: user.parse().expect("tests name valid users"),
                key: "TESTKEY".parse().expect("TESTKEY is a valid key id"),
                carrier: Carrier::Header,
                signed_ms: None,
            }),
            payload: PayloadAuth::Unsigned,
        }
    }
}

/// Verifies the signature of a request. Its body is verified later, by what [`Verified::payload`] says.
pub async fn verify(
    request: Unverified<'_>,
    verifier: Verifier<'_>,
    keys: &dyn Keys,
    cache: &SigningKeys,
) -> S3Result<Verified> {
    refuse_repeated(request.headers)?;
    match parse_claim(&request, verifier.region)? {
        Presented::V4(claim) => verify_v4(&request, claim, verifier, keys, cache).await,
        Presented::V2(claim) => verify_v2(&request, claim, verifier, keys).await,
        Presented::Nothing => verify_nothing(&request),
    }
}

async fn verify_v4(
    request: &Unverified<'_>,
    claim: Claim,
    verifier: Verifier<'_>,
    keys: &dyn Keys,
    cache: &SigningKeys,
) -> S3Result<Verified> {
    let (payload_text, mode) = payload_mode(request, Some(claim.carrier))?;
    check_region(&claim, &verifier)?;
    check_time(&claim, verifier.now_ms)?;
    check_signed_headers(&claim, request.headers)?;
    refuse_token(request)?;
    let (owner, signing) = owner_for_day(&claim.credential, keys, cache).await?;
    let right = signature_matches(request, &claim, payload_text, &signing);
    let (user, key) = proven(owner, right, &claim.credential.key)?;
    let signer =
        || ChunkSigner::new(signing.clone(), &claim.timestamp, &claim.credential.scope(), claim.signature);
    let payload = match mode {
        Mode::Exact(sha256) => PayloadAuth::Exact(sha256),
        Mode::Unsigned => PayloadAuth::Unsigned,
        Mode::SignedChunks => PayloadAuth::SignedChunks(signer()),
        Mode::SignedChunksTrailer => PayloadAuth::SignedChunksTrailer(signer()),
        Mode::UnsignedTrailer => PayloadAuth::UnsignedTrailer,
    };
    let signer = Signer { user, key, carrier: claim.carrier, signed_ms: Some(claim.seconds * 1000) };
    Ok(Verified { signer: Some(signer), payload })
}

async fn verify_v2(
    request: &Unverified<'_>,
    claim: presigned_v2::Claim,
    verifier: Verifier<'_>,
    keys: &dyn Keys,
) -> S3Result<Verified> {
    let payload = payload_mode(request, Some(Carrier::Query))?
        .1
        .without_chunks()
        .ok_or_else(|| Code::InvalidRequest.says("Signature version 2 has no chunk signatures."))?;
    claim.check_time(verifier.now_ms)?;
    refuse_token(request)?;
    let (owner, secret) = owner(&claim.key, keys).await?;
    let (user, key) = proven(owner, claim.is_signed_with(&secret), &claim.key)?;
    let signer = Signer { user, key, carrier: Carrier::Query, signed_ms: None };
    Ok(Verified { signer: Some(signer), payload })
}

/// Nobody signed it: what it may do is what anybody may.
fn verify_nothing(request: &Unverified<'_>) -> S3Result<Verified> {
    refuse_token(request)?;
    let payload = payload_mode(request, None)?
        .1
        .without_chunks()
        .ok_or_else(|| Code::InvalidRequest.says("An anonymous request has no chunk signatures."))?;
    Ok(Verified { signer: None, payload })
}

/// Verifies the signature of a form, which is one of its policy. `None`: nobody signed it.
pub async fn verify_form(
    fields: &Fields,
    verifier: Verifier<'_>,
    keys: &dyn Keys,
    cache: &SigningKeys,
) -> S3Result<Option<Signer>> {
    let missing = |name: &'static str| {
        S3Error::argument(name, "", format!("Bucket POST must contain a field named '{name}'."))
    };
    let field = |name: &'static str| fields.get(name).ok_or_else(|| missing(name));
    if fields.get("x-amz-security-token").is_some() {
        return Err(Code::InvalidToken.into());
    }
    if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
        if verifier.region != presigned_v2::REGION || fields.get("x-amz-signature").is_some() {
            return Err(S3Error::argument(
                "signature",
                "",
                "Only one auth mechanism allowed here: AWS4-HMAC-SHA256",
            ));
        }
        let key = field("awsaccesskeyid")?;
        let (owner, secret) = owner(key, keys).await?;
        let right = presigned_v2::is_signature(&secret, field("policy")?, field("signature")?);
        let (user, key) = proven(owner, right, key)?;
        return Ok(Some(Signer { user, key, carrier: Carrier::Form, signed_ms: None }));
    }
    if fields.get("x-amz-signature").is_none() && fields.get("policy").is_none() {
        return Ok(None);
    }
    if field("x-amz-algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(S3Error::argument("x-amz-algorithm", "", "The algorithm must be AWS4-HMAC-SHA256."));
    }
    let credential = Credential::parse(field("x-amz-credential")?)
        .map_err(|why| S3Error::argument("x-amz-credential", "", why))?;
    if !verifier.takes(&credential.region) {
        let message = format!("the region is wrong; expecting '{}'", verifier.region);
        return Err(S3Error::argument("x-amz-credential", "", message).field("Region", verifier.region));
    }
    let date = field("x-amz-date")?;
    let signed = parse_iso8601_basic(date).filter(|_| date.starts_with(&credential.date));
    let signed = signed
        .ok_or_else(|| S3Error::argument("x-amz-date", date, "It is not the date of the credential."))?;
    let claimed = signature::Claimed::parse(field("x-amz-signature")?).ok_or(Code::SignatureDoesNotMatch)?;
    let (owner, signing) = owner_for_day(&credential, keys, cache).await?;
    let (user, key) = proven(owner, signing.verifies(field("policy")?, &claimed), &credential.key)?;
    Ok(Some(Signer { user, key, carrier: Carrier::Form, signed_ms: Some(signed * 1000) }))
}

/// Whose signature a request is said to have. Whether it is, [`verify`] says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// Which access key.
    pub key: AccessKeyId,
    /// For which day, `yyyymmdd`.
    pub date: String,
    /// And which region.
    pub region: String,
    /// How it came.
    pub carrier: Carrier,
}

/// Whose signature of version 4 a request is said to have; `None`: it has none. What is no such claim is an error.
pub fn claimed(request: &Unverified<'_>, region: &str) -> S3Result<Option<Claimed>> {
    match parse_claim(request, region)? {
        Presented::Nothing => Ok(None),
        Presented::V2(_) => Err(Code::AccessDenied.into()),
        Presented::V4(Claim { carrier, credential: Credential { key, date, region }, .. }) => {
            let key = AccessKeyId::try_from(key).map_err(|_| Code::InvalidAccessKeyId)?;
            Ok(Some(Claimed { key, date, region, carrier }))
        }
    }
}

/// What a request presents to prove who sends it.
enum Presented {
    V4(Claim),
    V2(presigned_v2::Claim),
    Nothing,
}

fn parse_claim(request: &Unverified<'_>, region: &str) -> S3Result<Presented> {
    let in_header = request.headers.contains_key("authorization");
    let in_query = presigned::is_presigned(request.query);
    let in_query_v2 = presigned_v2::is_presigned(request.query);
    match (in_header, in_query, in_query_v2) {
        (true, false, false) => header::parse(request.headers).map(Presented::V4),
        (false, true, false) => presigned::parse(request.query).map(Presented::V4),
        (false, false, true) => presigned_v2::Claim::parse(request, region).map(Presented::V2),
        (true, true, _) | (true, _, true) | (_, true, true) => Err(S3Error::argument(
            "Authorization",
            "",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified",
        )),
        (false, false, false) => Ok(Presented::Nothing),
    }
}

/// Each `x-amz-*` header but metadata means one thing and may be said once.
fn refuse_repeated(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let text = name.as_str();
        let single = SINGLE.contains(&text) || text.starts_with("x-amz-") && !text.starts_with("x-amz-meta-");
        if single && 1 < headers.get_all(name).iter().count() {
            return Err(Code::InvalidRequest.says(format!("The header {text} is given more than once.")));
        }
    }
    Ok(())
}

/// The modes of `x-amz-content-sha256`.
enum Mode {
    Exact([u8; 32]),
    Unsigned,
    SignedChunks,
    SignedChunksTrailer,
    UnsignedTrailer,
}

impl Mode {
    /// What the signature says about the body, unless the body has chunks with signatures of their own.
    fn without_chunks(self) -> Option<PayloadAuth> {
        match self {
            Mode::Exact(sha256) => Some(PayloadAuth::Exact(sha256)),
            Mode::Unsigned => Some(PayloadAuth::Unsigned),
            Mode::UnsignedTrailer => Some(PayloadAuth::UnsignedTrailer),
            Mode::SignedChunks | Mode::SignedChunksTrailer => None,
        }
    }
}

/// The text that stands in the canonical request, and what it means. `carrier`: of the signature, if there is one.
fn payload_mode<'a>(request: &Unverified<'a>, carrier: Option<Carrier>) -> S3Result<(&'a str, Mode)> {
    const NAME: &str = "x-amz-content-sha256";
    let text = match (header_text(request.headers, NAME)?, carrier) {
        (Some(text), _) => text,
        (None, None) => "UNSIGNED-PAYLOAD",
        (None, Some(Carrier::Query)) => request.query.as_header(NAME).unwrap_or("UNSIGNED-PAYLOAD"),
        (None, Some(Carrier::Header | Carrier::Form)) => {
            return Err(
                Code::InvalidRequest.says("Missing required header for this request: x-amz-content-sha256")
            );
        }
    };
    let mode = match text {
        "UNSIGNED-PAYLOAD" => Mode::Unsigned,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Mode::SignedChunks,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Mode::SignedChunksTrailer,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Mode::UnsignedTrailer,
        digest => {
            let mut sha256 = [0; 32];
            hex::decode_to_slice(digest, &mut sha256).map_err(|_| {
                let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                               STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a \
                               valid sha256 value.";
                S3Error::argument(NAME, digest, message)
            })?;
            Mode::Exact(sha256)
        }
    };
    Ok((text, mode))
}

fn check_region(claim: &Claim, verifier: &Verifier<'_>) -> S3Result<()> {
    let region = verifier.region;
    if verifier.takes(&claim.credential.region) {
        return Ok(());
    }
    let error = match claim.carrier {
        Carrier::Header => Code::AuthorizationHeaderMalformed.says(format!(
            "The authorization header is malformed; the region is wrong; expecting '{region}'"
        )),
        Carrier::Query | Carrier::Form => Code::AuthorizationQueryParametersError.says(format!(
            "Error parsing the X-Amz-Credential parameter; the region is wrong; expecting '{region}'"
        )),
    };
    Err(error.field("Region", region))
}

fn check_time(claim: &Claim, now_ms: u64) -> S3Result<()> {
    let now = now_ms / 1000;
    let Some(expires) = claim.expires else {
        if SKEW_SECONDS_MAX < now.abs_diff(claim.seconds) {
            return Err(S3Error::from(Code::RequestTimeTooSkewed)
                .field("RequestTime", claim.timestamp.clone())
                .field("ServerTime", iso8601(now_ms))
                .field("MaxAllowedSkewMilliseconds", (SKEW_SECONDS_MAX * 1000).to_string()));
        }
        return Ok(());
    };
    if now + SKEW_SECONDS_MAX < claim.seconds {
        return Err(Code::AccessDenied.says("Request is not valid yet").field("ServerTime", iso8601(now_ms)));
    }
    if claim.seconds + expires <= now {
        return Err(Code::AccessDenied
            .says("Request has expired")
            .field("X-Amz-Expires", expires.to_string())
            .field("Expires", iso8601((claim.seconds + expires) * 1000))
            .field("ServerTime", iso8601(now_ms)));
    }
    Ok(())
}

/// `host` and every `x-amz-*` header must be signed: an intermediary adds none.
fn check_signed_headers(claim: &Claim, headers: &HeaderMap) -> S3Result<()> {
    let signed = |name: &str| claim.signed_headers.iter().any(|signed| signed == name);
    let exempt = |name: &str| claim.carrier == Carrier::Query && UNSIGNED_WITH_QUERY.contains(&name);
    let mut missing: Vec<&str> = headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| name.starts_with("x-amz-") && !signed(name) && !exempt(name))
        .collect();
    if !signed("host") {
        missing.push("host");
    }
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    Err(Code::AccessDenied
        .says("There were headers present in the request which were not signed")
        .field("HeadersNotSigned", missing.join(", ")))
}

/// We have no sessions: no token is valid.
fn refuse_token(request: &Unverified<'_>) -> S3Result<()> {
    const NAME: &str = "x-amz-security-token";
    if request.headers.contains_key(NAME) || request.query.as_header(NAME).is_some() {
        return Err(Code::InvalidToken.into());
    }
    Ok(())
}

/// Whose key it is.
type Owner = (UserName, AccessKeyId);

/// The owner and the secret of the claimed access key; for an unknown one a secret which nobody has.
async fn owner(claimed: &str, keys: &dyn Keys) -> S3Result<(Option<Owner>, Secret)> {
    let mut found = None;
    if let Ok(key) = claimed.parse::<AccessKeyId>() {
        found = keys.secret(&key).await?.map(|(user, secret)| ((user, key), secret));
    }
    // A key whose secret is empty would be everybody's: it counts as unknown.
    Ok(match found.filter(|(_, secret)| !secret.expose().is_empty()) {
        Some((owner, secret)) => (Some(owner), secret),
        None => (None, Secret::new("no user has this secret".to_string())),
    })
}

/// The same with the signing key that belongs to what is claimed. Of users of other clusters only that is to be had.
async fn owner_for_day(
    claimed: &Credential,
    keys: &dyn Keys,
    cache: &SigningKeys,
) -> S3Result<(Option<Owner>, SigningKey)> {
    let (found, secret) = owner(&claimed.key, keys).await?;
    if found.is_none()
        && let Ok(id) = claimed.key.parse::<AccessKeyId>()
        && let Some((user, signing)) = keys.of_others(&id, &claimed.date, &claimed.region).await?
    {
        return Ok((Some((user, id)), signing));
    }
    Ok((found, cache.get(&secret, &claimed.date, &claimed.region)))
}

/// The owner if the signature is right. The key first: with an unknown one the comparison was made with a secret that
/// nobody has.
fn proven(owner: Option<Owner>, right: bool, claimed: &str) -> S3Result<Owner> {
    let refused = |code: Code| S3Error::from(code).field("AWSAccessKeyId", claimed);
    let owner = owner.ok_or_else(|| refused(Code::InvalidAccessKeyId))?;
    if right { Ok(owner) } else { Err(refused(Code::SignatureDoesNotMatch)) }
}

fn signature_matches(request: &Unverified<'_>, claim: &Claim, payload: &str, key: &SigningKey) -> bool {
    let names: Vec<&str> = claim.signed_headers.iter().map(String::as_str).collect();
    let scope = claim.credential.scope();
    [PathForm::Encoded, PathForm::Raw].into_iter().any(|form| {
        let hash = canonical::hash(request, &names, payload, form);
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", claim.timestamp);
        key.verifies(&text, &claim.signature)
    })
}
