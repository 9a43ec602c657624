//! Server-side encryption as clients write and see it: SSE-S3, SSE-KMS with the keys of the ring, and SSE-C.
//!
//! What always holds: what a client asked to be encrypted is encrypted as it asked, or refused; an object that its
//! customer encrypted is read by nobody who does not send that key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consensus::meta::command::{Command, Sealed};
use consensus::meta::model::{Body, BucketSetting, DefaultEncryption, DefaultKey, Object};
use consensus::meta::sealing::{CONTEXT_BYTES_MAX, Scheme, Sealing};
use fabric::env::Env;
use http::HeaderMap;
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::request::{Request, header_text};
use super::response::Response;
use crate::data::{BodyKey, DataKey, KeyUse, Seal};
use crate::keyring::{CustomerKey, KeyRing, OpenError, Wanted, check_proof};

const ALGORITHM: &str = "x-amz-server-side-encryption";
const KEY_ID: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const CONTEXT: &str = "x-amz-server-side-encryption-context";
const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
const CUSTOMER_ALGORITHM: &str = "x-amz-server-side-encryption-customer-algorithm";
const CUSTOMER_KEY_MD5: &str = "x-amz-server-side-encryption-customer-key-md5";

const AES: &str = "AES256";
const KMS: &str = "aws:kms";
const DOUBLE_KMS: &str = "aws:kms:dsse";

/// The key of the customer that a request carries, checked.
#[derive(Debug, Clone)]
pub struct Customer {
    key: CustomerKey,
    /// As the client sent it, and hears it again.
    md5: String,
}

/// Of which object the customer's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Of the object of the path.
    Own,
    /// Of the source of a copy.
    Source,
}

impl Whose {
    /// Headers with the algorithm, the key and its MD5.
    fn headers(self) -> [&'static str; 3] {
        match self {
            Whose::Own => [CUSTOMER_ALGORITHM, "x-amz-server-side-encryption-customer-key", CUSTOMER_KEY_MD5],
            Whose::Source => [
                "x-amz-copy-source-server-side-encryption-customer-algorithm",
                "x-amz-copy-source-server-side-encryption-customer-key",
                "x-amz-copy-source-server-side-encryption-customer-key-md5",
            ],
        }
    }
}

/// The key that a request carries, if it carries one and may.
pub fn customer(request: &Request, whose: Whose) -> S3Result<Option<Customer>> {
    let customer = customer_of(request.headers(), whose)?;
    if customer.is_some() && !request.may_carry_keys() {
        return Err(Code::InvalidRequest.says(
            "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection.",
        ));
    }
    Ok(customer)
}

fn customer_of(headers: &HeaderMap, whose: Whose) -> S3Result<Option<Customer>> {
    const START: &str = "Requests specifying Server Side Encryption with Customer provided keys must provide";
    let [algorithm_name, key_name, md5_name] = whose.headers();
    let [algorithm, key, md5] = [
        header_text(headers, algorithm_name)?,
        header_text(headers, key_name)?,
        header_text(headers, md5_name)?,
    ];
    if (algorithm, key, md5) == (None, None, None) {
        return Ok(None);
    }
    let lacks = |name: &str, what: &str| S3Error::argument(name, "", format!("{START} {what}"));
    let algorithm = algorithm.ok_or_else(|| lacks(algorithm_name, "a valid encryption algorithm."))?;
    let key = key.ok_or_else(|| lacks(key_name, "an appropriate secret key."))?;
    let md5 = md5.ok_or_else(|| lacks(md5_name, "the client calculated MD5 of the secret key."))?;
    if algorithm != AES {
        return Err(S3Error::from(Code::InvalidEncryptionAlgorithmError)
            .field("ArgumentName", algorithm_name)
            .field("ArgumentValue", algorithm));
    }
    // What the key was is never told.
    let wrong = |message: &'static str| S3Error::argument(key_name, "", message);
    let bytes = STANDARD.decode(key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| wrong("The secret key was invalid for the specified algorithm."))?;
    let announced = STANDARD.decode(md5).unwrap_or_default();
    if !bool::from(Md5::digest(bytes)[..].ct_eq(&announced)) {
        return Err(wrong("The calculated MD5 hash of the key did not match the hash that was provided."));
    }
    Ok(Some(Customer { key: CustomerKey::from_bytes(bytes), md5: md5.to_string() }))
}

/// What the headers of a writer say; nothing where there are none.
#[derive(Debug, Default)]
pub struct Stated {
    asked: Asked,
    customer: Option<Customer>,
}

impl Stated {
    /// Reads the headers.
    pub fn parse(request: &Request) -> S3Result<Stated> {
        let (asked, customer) = (asked(request.headers())?, customer(request, Whose::Own)?);
        match asked.algorithm.is_some() && customer.is_some() {
            true => Err(Code::InvalidArgument.says(
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
            )),
            false => Ok(Stated { asked, customer }),
        }
    }

    /// With what the bucket says where they are silent.
    pub async fn wish(self, cx: &Context) -> S3Result<Wish> {
        let Stated { asked, customer } = self;
        if asked.algorithm.is_some() {
            return Ok(Wish { wanted: Some(asked.wanted(cx)?), customer });
        }
        let default = cx.recent_settings().await?.iter().find_map(|setting| match setting {
            BucketSetting::Encryption(default) => Some(default.clone()),
            _ => None,
        });
        if customer.is_some() && default.as_ref().is_some_and(|default| default.no_customer_keys) {
            return Err(Code::AccessDenied.says("The bucket refuses keys that customers provide."));
        }
        let wanted = match &customer {
            Some(customer) => Some(Wanted::Customer(customer.key.clone())),
            None => {
                let asked = default.and_then(|default| by_default(default, &asked));
                asked.map(|asked| asked.wanted(cx)).transpose()?
            }
        };
        Ok(Wish { wanted, customer })
    }
}

/// How a writer wants its bytes encrypted.
#[derive(Debug, Clone)]
pub struct Wish {
    wanted: Option<Wanted>,
    customer: Option<Customer>,
}

impl Wish {
    /// A new data key for one body, or for all parts of an upload; `None`: it is not to be encrypted.
    pub fn seal(&self, cx: &Context) -> S3Result<Option<Encryption>> {
        let Some(wanted) = &self.wanted else { return Ok(None) };
        draw(cx, wanted, self.customer.clone()).map(Some)
    }

    /// The data key of annotations as it is sealed for a copy that is encrypted like this.
    pub fn reseal(&self, cx: &Context, sealing: &Sealing) -> S3Result<Sealing> {
        let wanted = match &self.wanted {
            Some(Wanted::Customer(_)) => return Err(never_annotated()),
            Some(wanted) => wanted,
            None => &Wanted::Store,
        };
        let key = cx.ring.open(sealing, None).map_err(|error| closed(error, &sealing.scheme))?;
        cx.ring.seal_key(&*cx.env, wanted, &key).ok_or_else(|| Code::KmsNotFoundException.into())
    }

    /// Whether bytes that are encrypted like this (or not) are already as they are wanted. Never those of customers: they
    /// are encrypted anew under the key of the copy.
    pub fn is_met_by(&self, sealing: Option<&Sealing>) -> bool {
        match (&self.wanted, sealing.map(|sealing| &sealing.scheme)) {
            (None, None) | (Some(Wanted::Store), Some(Scheme::Store { .. })) => true,
            (
                Some(Wanted::Named { key, context, bucket_key }),
                Some(Scheme::Named { key: its, context: with, bucket_key: told, .. }),
            ) => (key, context, bucket_key) == (its, with, told),
            _ => false,
        }
    }
}

/// A method of encryption that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Store,
    Named,
}

/// What the headers of a writer ask for, beside keys of customers.
#[derive(Debug, Clone, Default)]
struct Asked {
    algorithm: Option<Algorithm>,
    key: Option<String>,
    context: Option<String>,
    bucket_key: Option<bool>,
}

impl Asked {
    /// With the key of the ring that is meant.
    fn wanted(self, cx: &Context) -> S3Result<Wanted> {
        if self.algorithm != Some(Algorithm::Named) {
            return Ok(Wanted::Store);
        }
        let unknown = || {
            let named = self.key.as_deref().unwrap_or_default().escape_default();
            Code::KmsNotFoundException.says(format!("Invalid keyId '{named}'"))
        };
        let key = cx.ring.resolve(self.key.as_deref()).ok_or_else(unknown)?;
        Ok(Wanted::Named { key, context: self.context, bucket_key: self.bucket_key.unwrap_or(false) })
    }
}

fn asked(headers: &HeaderMap) -> S3Result<Asked> {
    let algorithm = match header_text(headers, ALGORITHM)? {
        None => None,
        Some(AES) => Some(Algorithm::Store),
        Some(KMS) => Some(Algorithm::Named),
        Some(DOUBLE_KMS) => return Err(S3Error::from(Code::NotImplemented).field("Header", ALGORITHM)),
        Some(other) => {
            let message = "The encryption method specified is not supported";
            return Err(S3Error::argument(ALGORITHM, other, message));
        }
    };
    let (key, context) = (header_text(headers, KEY_ID)?, header_text(headers, CONTEXT)?);
    for (name, value) in [(KEY_ID, key), (CONTEXT, context)] {
        if let Some(value) = value.filter(|_| algorithm != Some(Algorithm::Named)) {
            let message = "It goes with the encryption method aws:kms only.";
            return Err(S3Error::argument(name, value, message));
        }
    }
    let bucket_key = match header_text(headers, BUCKET_KEY)? {
        None => None,
        Some(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Some(false),
        Some(text) => return Err(S3Error::argument(BUCKET_KEY, text, "It is neither true nor false.")),
    };
    let context = context.map(encryption_context).transpose()?;
    Ok(Asked { algorithm, key: key.map(str::to_string), context, bucket_key })
}

/// The encryption context as it is bound: the JSON document of texts that the client sent in base64.
fn encryption_context(text: &str) -> S3Result<String> {
    let wrong = |why: &'static str| S3Error::argument(CONTEXT, text, why);
    let bytes = STANDARD.decode(text).map_err(|_| wrong("The context is not base64."))?;
    let document: Option<std::collections::BTreeMap<String, String>> = serde_json::from_slice(&bytes).ok();
    let document = document.ok_or_else(|| wrong("The context is no JSON object of texts."))?;
    // In one order, so that equal contexts are equal.
    let context = serde_json::to_string(&document).map_err(|error| Code::InternalError.caused(error))?;
    match context.len() <= CONTEXT_BYTES_MAX {
        true => Ok(context),
        false => Err(wrong("The context is too long.")),
    }
}

fn by_default(default: DefaultEncryption, asked: &Asked) -> Option<Asked> {
    let bucket_key = Some(asked.bucket_key.unwrap_or(default.bucket_key));
    let (algorithm, key) = match default.key? {
        DefaultKey::Store => (Algorithm::Store, None),
        DefaultKey::Named(key) => (Algorithm::Named, key),
    };
    Some(Asked { algorithm: Some(algorithm), key, context: None, bucket_key })
}

/// How bytes that are written are encrypted.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// As it is stored.
    pub sealing: Sealing,
    key: DataKey,
    customer: Option<Customer>,
}

impl Encryption {
    /// For whoever writes the bytes.
    pub fn for_target(&self) -> Seal {
        Seal { key: self.key.clone(), sealing: self.sealing.encode() }
    }

    /// Adds what the answer to a writer says of it.
    fn show(&self, response: Response) -> Response {
        let response = show_scheme(response, Some(&self.sealing.scheme), self.customer.as_ref());
        match &self.sealing.scheme {
            Scheme::Named { context: Some(context), .. } => response.amz(CONTEXT, STANDARD.encode(context)),
            _ => response,
        }
    }
}

fn draw(cx: &Context, wanted: &Wanted, customer: Option<Customer>) -> S3Result<Encryption> {
    let (sealing, key) = cx.ring.seal(&*cx.env, wanted).ok_or(Code::KmsNotFoundException)?;
    Ok(Encryption { sealing, key, customer })
}

/// How a new annotation of an object is encrypted: like those that it has, else like the object, else by SSE-S3.
pub fn of_annotation(cx: &Context, object: &Object, others: Option<&Sealing>) -> S3Result<Encryption> {
    if let Some(sealing) = others {
        let key = cx.ring.open(sealing, None).map_err(|error| closed(error, &sealing.scheme))?;
        return Ok(Encryption { sealing: sealing.clone(), key, customer: None });
    }
    let wanted = match object.body.sealing().map(|sealing| &sealing.scheme) {
        None | Some(Scheme::Store { .. }) => Wanted::Store,
        Some(Scheme::Named { key, context, bucket_key, .. }) => {
            let (key, context) = (key.clone(), context.clone());
            Wanted::Named { key, context, bucket_key: *bucket_key }
        }
        Some(Scheme::Customer { .. }) => return Err(never_annotated()),
    };
    draw(cx, &wanted, None)
}

fn never_annotated() -> S3Error {
    Code::InvalidRequest
        .says("Objects that customers encrypt with keys of their own cannot have annotations.")
}

/// Refuses headers about encryption where a request has nothing to say about it.
pub fn refuse_stated(request: &Request) -> S3Result<()> {
    refuse_method(request.headers())?;
    match customer(request, Whose::Own)? {
        Some(_) => {
            Err(Code::InvalidRequest.says("The encryption parameters are not applicable to annotations."))
        }
        None => Ok(()),
    }
}

/// Adds what the answer to a writer says of how its bytes are encrypted, where they are.
pub fn show(response: Response, encryption: Option<&Encryption>) -> Response {
    match encryption {
        Some(encryption) => encryption.show(response),
        None => response,
    }
}

/// The same for the writer of a part.
pub fn show_part(response: Response, encryption: Option<&Encryption>) -> Response {
    let scheme = encryption.map(|encryption| &encryption.sealing.scheme);
    show_scheme(response, scheme, encryption.and_then(|encryption| encryption.customer.as_ref()))
}

/// The sealing of bytes that may be encrypted.
pub fn sealing_of(encryption: Option<&Encryption>) -> Option<&Sealing> {
    encryption.map(|encryption| &encryption.sealing)
}

/// The same for a part of an upload that was begun like this. Requests about parts name no other method, and carry the
/// customer's key where the upload began with it.
pub fn of_part(cx: &Context, request: &Request, upload: Option<&Sealing>) -> S3Result<Option<Encryption>> {
    refuse_method(request.headers())?;
    let customer = customer(request, Whose::Own)?;
    let by_customer = upload.is_some_and(|sealing| matches!(sealing.scheme, Scheme::Customer { .. }));
    let Some(sealing) = upload.filter(|_| by_customer == customer.is_some()) else {
        return match (by_customer, customer) {
            (false, None) => Ok(None),
            (true, _) => Err(Code::InvalidRequest.says(
                "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate encryption parameters.",
            )),
            (false, Some(_)) => Err(Code::InvalidRequest.says(
                "The multipart upload initiate did not request encryption. Please resend the request without sending encryption parameters.",
            )),
        };
    };
    let opened = cx.ring.open(sealing, customer.as_ref().map(|customer| &customer.key));
    let key = opened.map_err(|error| match error {
        OpenError::WrongCustomerKey => Code::InvalidRequest
            .says("The provided encryption parameters did not match the ones used originally."),
        error => closed(error, &sealing.scheme),
    })?;
    Ok(Some(Encryption { sealing: sealing.clone(), key, customer }))
}

/// Refuses a method of encryption where it is not for the request to choose.
fn refuse_method(headers: &HeaderMap) -> S3Result<()> {
    for name in [ALGORITHM, KEY_ID, CONTEXT, BUCKET_KEY] {
        if let Some(value) = header_text(headers, name)? {
            let message = format!("{name} header is not supported for this operation.");
            return Err(S3Error::argument(name, value, message));
        }
    }
    Ok(())
}

/// The key with which a reader comes.
pub fn of_reader(request: &Request) -> S3Result<Option<Customer>> {
    refuse_method(request.headers())?;
    customer(request, Whose::Own)
}

/// Refuses a reader without the key of the customer who encrypted an object, and one with a key that is for nothing.
pub fn check_reader(object: &Object, customer: Option<&Customer>) -> S3Result<()> {
    let scheme = object.body.sealing().map(|sealing| &sealing.scheme);
    match (scheme, customer) {
        (Some(scheme @ Scheme::Customer { salt, proof }), Some(customer)) => {
            check_proof(&customer.key, salt, proof).map_err(|error| closed(error, scheme))
        }
        (Some(scheme @ Scheme::Customer { .. }), None) => Err(closed(OpenError::NoCustomerKey, scheme)),
        (_, Some(_)) => {
            Err(Code::InvalidRequest.says("The encryption parameters are not applicable to this object."))
        }
        (_, None) => Ok(()),
    }
}

/// What it takes to read the bytes of an object whose reader was checked; `None` where they are plain.
pub fn body_key(cx: &Context, object: &Object, customer: Option<&Customer>) -> S3Result<Option<BodyKey>> {
    opened(&cx.ring, object, customer)
}

/// The same where no request is answered.
pub fn opened(ring: &KeyRing, object: &Object, customer: Option<&Customer>) -> S3Result<Option<BodyKey>> {
    let Some(sealing) = object.body.sealing() else { return Ok(None) };
    let opened = ring.open(sealing, customer.map(|customer| &customer.key));
    let key = opened.map_err(|error| closed(error, &sealing.scheme))?;
    let used = if matches!(object.body.place(), Body::Slices { .. }) { KeyUse::Parts } else { KeyUse::Whole };
    Ok(Some(BodyKey { key, used }))
}

/// The same for annotations.
pub fn annotation_key(cx: &Context, sealing: &Sealing) -> S3Result<BodyKey> {
    let key = cx.ring.open(sealing, None).map_err(|error| closed(error, &sealing.scheme))?;
    Ok(BodyKey { key, used: KeyUse::Parts })
}

fn closed(error: OpenError, scheme: &Scheme) -> S3Error {
    match (&error, scheme) {
        (OpenError::NoCustomerKey, _) => Code::InvalidRequest.says(
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.",
        ),
        (OpenError::WrongCustomerKey, _) => Code::AccessDenied.into(),
        (OpenError::NoMasterKey { name, .. }, Scheme::Named { .. }) => {
            Code::KmsNotFoundException.says(format!("The key '{name}' of the object does not exist here."))
        }
        (OpenError::NoMasterKey { .. } | OpenError::Sealed, _) => Code::InternalError.caused(error),
    }
}

/// Adds how an object is encrypted to the answer to its reader.
pub fn show_object(response: Response, object: &Object, customer: Option<&Customer>) -> Response {
    show_scheme(response, object.body.sealing().map(|sealing| &sealing.scheme), customer)
}

fn show_scheme(response: Response, scheme: Option<&Scheme>, customer: Option<&Customer>) -> Response {
    match (scheme, customer) {
        (None, _) | (Some(Scheme::Customer { .. }), None) => response,
        (Some(Scheme::Store { .. }), _) => response.amz(ALGORITHM, AES),
        (Some(Scheme::Named { key, bucket_key, .. }), _) => {
            let response = response.amz(ALGORITHM, KMS).amz(KEY_ID, key);
            if *bucket_key { response.amz(BUCKET_KEY, "true") } else { response }
        }
        (Some(Scheme::Customer { .. }), Some(customer)) => {
            response.amz(CUSTOMER_ALGORITHM, AES).amz(CUSTOMER_KEY_MD5, &customer.md5)
        }
    }
}

/// Completing an upload takes no key: what its parts are is known. One that is sent all the same has to be the right one.
pub fn check_completing(request: &Request, upload: Option<&Sealing>) -> S3Result<()> {
    refuse_method(request.headers())?;
    let customer = customer(request, Whose::Own)?;
    match (upload.map(|sealing| &sealing.scheme), &customer) {
        (Some(Scheme::Customer { salt, proof }), Some(customer)) => check_proof(&customer.key, salt, proof)
            .map_err(|_| {
                Code::InvalidRequest
                    .says("The provided encryption parameters did not match the ones used originally.")
            }),
        _ => Ok(()),
    }
}

/// Adds how bytes are encrypted, as those hear it who need no key: of a completed upload, or of an annotation.
pub fn show_sealing(response: Response, sealing: Option<&Sealing>) -> Response {
    show_scheme(response, sealing.map(|sealing| &sealing.scheme), None)
}

/// The tag of bytes with this MD5, or of a part. Of what is encrypted under a named or a customer's key it says nothing.
pub fn tag(env: &dyn Env, sealing: Option<&Sealing>, md5: [u8; 16]) -> [u8; 16] {
    match sealing.map(|sealing| &sealing.scheme) {
        None | Some(Scheme::Store { .. }) => md5,
        Some(Scheme::Named { .. } | Scheme::Customer { .. }) => {
            let mut drawn = [0; 16];
            env.random(&mut drawn);
            drawn
        }
    }
}

/// A command about bytes that are encrypted, where they are.
pub fn sealed(command: Command, sealing: Option<Sealing>) -> Command {
    match sealing {
        None => command,
        sealing => Command::Sealed(Sealed { sealing, copied: false, command: Box::new(command) }),
    }
}

/// A PutObject of bytes of another object.
pub fn copied(command: Command, sealing: Option<Sealing>) -> Command {
    Command::Sealed(Sealed { sealing, copied: true, command: Box::new(command) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn key(bytes: usize) -> (String, String) {
        let key = vec![7; bytes];
        (STANDARD.encode(&key), STANDARD.encode(Md5::digest(&key)))
    }

    #[test]
    fn keys_of_customers() {
        let [algorithm, key_name, md5_name] = Whose::Own.headers();
        let (good, md5) = key(32);
        let (short, short_md5) = key(16);
        let parse = |pairs: &[(&'static str, &str)]| customer_of(&headers(pairs), Whose::Own);
        let found = parse(&[(algorithm, AES), (key_name, &good), (md5_name, &md5)]).unwrap().unwrap();
        assert_eq!(found.md5, md5);
        assert!(parse(&[]).unwrap().is_none());
        for (pairs, code, said) in [
            (
                &[(key_name, &*good), (md5_name, &*md5)][..],
                Code::InvalidArgument,
                "valid encryption algorithm",
            ),
            (&[(algorithm, AES), (md5_name, &md5)], Code::InvalidArgument, "appropriate secret key"),
            (
                &[(algorithm, AES), (key_name, &good)],
                Code::InvalidArgument,
                "calculated MD5 of the secret key",
            ),
            (
                &[(algorithm, "DES"), (key_name, &good), (md5_name, &md5)],
                Code::InvalidEncryptionAlgorithmError,
                "AES256",
            ),
            (
                &[(algorithm, AES), (key_name, &short), (md5_name, &short_md5)],
                Code::InvalidArgument,
                "was invalid for the specified algorithm",
            ),
            (
                &[(algorithm, AES), (key_name, "%%"), (md5_name, &md5)],
                Code::InvalidArgument,
                "was invalid for the specified algorithm",
            ),
            (
                &[(algorithm, AES), (key_name, &good), (md5_name, &short_md5)],
                Code::InvalidArgument,
                "did not match the hash",
            ),
            (
                &[(algorithm, AES), (key_name, &good), (md5_name, "x")],
                Code::InvalidArgument,
                "did not match the hash",
            ),
        ] {
            let error = parse(pairs).unwrap_err();
            assert_eq!(error.code(), code, "{said}");
            assert!(error.message().contains(said), "{}", error.message());
            assert!(!error.document("/", "", "").contains(&good), "no key is told again");
        }
    }

    #[test]
    fn methods_of_encryption() {
        let context = STANDARD.encode(r#"{"b": "2", "a": "1"}"#);
        let parsed = headers(&[(ALGORITHM, KMS), (KEY_ID, "k"), (CONTEXT, &context), (BUCKET_KEY, "TRUE")]);
        let found = asked(&parsed).unwrap();
        assert_eq!((found.key.as_deref(), found.bucket_key), (Some("k"), Some(true)));
        assert_eq!(found.context.as_deref(), Some(r#"{"a":"1","b":"2"}"#));
        let numbers = STANDARD.encode(r#"{"a": 1}"#);
        let long = STANDARD.encode(format!(r#"{{"a":"{}"}}"#, "x".repeat(CONTEXT_BYTES_MAX)));
        for (pairs, code) in [
            (&[(ALGORITHM, DOUBLE_KMS)][..], Code::NotImplemented),
            (&[(ALGORITHM, "AES128")], Code::InvalidArgument),
            (&[(ALGORITHM, "aes256")], Code::InvalidArgument),
            (&[(ALGORITHM, AES), (KEY_ID, "k")], Code::InvalidArgument),
            (&[(KEY_ID, "k")], Code::InvalidArgument),
            (&[(ALGORITHM, KMS), (CONTEXT, "{}")], Code::InvalidArgument),
            (&[(ALGORITHM, KMS), (CONTEXT, &numbers)], Code::InvalidArgument),
            (&[(ALGORITHM, KMS), (CONTEXT, &long)], Code::InvalidArgument),
            (&[(ALGORITHM, KMS), (BUCKET_KEY, "1")], Code::InvalidArgument),
        ] {
            assert_eq!(asked(&headers(pairs)).unwrap_err().code(), code, "{pairs:?}");
        }
        for name in [ALGORITHM, KEY_ID, CONTEXT, BUCKET_KEY] {
            assert_eq!(refuse_method(&headers(&[(name, AES)])).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}
