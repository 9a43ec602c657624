//! What a client is told when it does not get what it asked for.
//!
//! [`Code`] is the one table of codes and statuses; [`S3Error`] is a code with words and fields for one request.
//! No error ever carries a secret or a signature that we computed.

use std::borrow::Cow;
use std::fmt;

use consensus::client::MetaError;
use consensus::meta::command::Reject;
use consensus::meta::model::{ClusterMs, Quota, QuotaOf};
use consensus::meta::names::NameError;
use consensus::meta::overlay::OverlayRefusal;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::time::http_date;
use super::xml::XmlWriter;

/// The result of everything that a request can make fail.
pub type S3Result<T> = Result<T, S3Error>;
/// A cause, for the log only.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

macro_rules! codes {
    (@wire $name:ident) => { stringify!($name) };
    (@wire $name:ident $wire:literal) => { $wire };
    ($($name:ident $(= $wire:literal)? $status:ident $message:literal;)*) => {
        /// Everything a client can be told, by S3's names. A code exists only if a client would act on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Code { $($name,)* }

        impl Code {
            /// Every code, for tests and tables.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// What goes on the wire: name, status, and the words used where the error has none of its own.
            pub fn wire(self) -> (&'static str, StatusCode, &'static str) {
                match self {
                    $(Code::$name => (codes!(@wire $name $($wire)?), StatusCode::$status, $message),)*
                }
            }
        }
    };
}

codes! {
    AccessControlListNotSupported BAD_REQUEST "The bucket does not allow ACLs.";
    AccessDenied FORBIDDEN "Access Denied";
    AccessForbidden FORBIDDEN "Access Forbidden";
    AnnotationLimitExceeded BAD_REQUEST "The object has as many annotations as it may have.";
    AnnotationNameTooLong BAD_REQUEST "The annotation name exceeds 512 bytes.";
    AuthorizationHeaderMalformed BAD_REQUEST "The authorization header that you provided is not valid.";
    AuthorizationQueryParametersError BAD_REQUEST "The authorization query parameters that you provided are not valid.";
    BadDigest BAD_REQUEST "The digest or checksum you specified did not match what we received.";
    BadRequest BAD_REQUEST "Bad Request";
    BucketAlreadyExists CONFLICT "The requested bucket name is not available. Select a different name and try again.";
    BucketAlreadyOwnedByYou CONFLICT "The bucket you tried to create already exists, and you own it.";
    BucketNotEmpty CONFLICT "The bucket you tried to delete is not empty.";
    ConditionalRequestConflict CONFLICT "A conflicting operation occurred while the request was processed; try again.";
    EntityTooLarge BAD_REQUEST "Your proposed upload exceeds the maximum allowed size.";
    EntityTooSmall BAD_REQUEST "Your proposed upload is smaller than the minimum allowed size.";
    ExpiredCursor GONE "Events behind the cursor are no longer kept. Take stock of the bucket, and go on from OldestCursor.";
    ExpiredToken BAD_REQUEST "The provided token has expired.";
    IdempotencyParameterMismatch BAD_REQUEST "The client token was used for another request before.";
    IllegalLocationConstraintException BAD_REQUEST "The location constraint is incompatible with the region of this endpoint.";
    IllegalVersioningConfigurationException BAD_REQUEST "The versioning configuration specified in the request is invalid.";
    IncorrectNumberOfFilesInPostRequest BAD_REQUEST "POST requires exactly one file upload per request.";
    InvalidPolicyDocument BAD_REQUEST "The content of the form does not meet the conditions specified in the policy document.";
    MalformedPOSTRequest BAD_REQUEST "The body of your POST request is not well-formed multipart/form-data.";
    MaxPostPreDataLengthExceededError BAD_REQUEST "Your POST request fields preceding the upload file were too large.";
    IncompleteBody BAD_REQUEST "The body does not have the bytes that the headers announce.";
    InsufficientStorage INSUFFICIENT_STORAGE "The store is full; waiting does not help.";
    InternalError INTERNAL_SERVER_ERROR "We encountered an internal error. Please try again.";
    InvalidAccessKeyId FORBIDDEN "The access key id you provided does not exist in our records.";
    InvalidAnnotationName BAD_REQUEST "The annotation name you provided is invalid.";
    InvalidArgument BAD_REQUEST "Invalid Argument";
    InvalidBucketAclWithObjectOwnership BAD_REQUEST "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting";
    InvalidBucketName BAD_REQUEST "The specified bucket is not valid.";
    InvalidBucketState CONFLICT "The request is not valid with the current state of the bucket.";
    InvalidChunkSizeError BAD_REQUEST "Only the last chunk is allowed to have a size less than 8192 bytes";
    InvalidDigest BAD_REQUEST "The Content-MD5 you specified is not valid.";
    InvalidEncodingMethod BAD_REQUEST "Invalid Encoding Method specified in Request";
    InvalidEncryptionAlgorithmError BAD_REQUEST "The encryption request you specified is not valid. The valid value is AES256.";
    InvalidLocationConstraint BAD_REQUEST "The specified location constraint is not valid.";
    InvalidObjectState FORBIDDEN "The operation is not valid for the object's state.";
    InvalidPart BAD_REQUEST "One or more of the specified parts could not be found, or its entity tag or checksum differs.";
    InvalidPartNumber RANGE_NOT_SATISFIABLE "The requested partnumber is not satisfiable";
    InvalidPartOrder BAD_REQUEST "The list of parts was not in ascending order of part number.";
    InvalidRange RANGE_NOT_SATISFIABLE "The requested range is not satisfiable";
    InvalidRedirectLocation BAD_REQUEST "The website redirect location must begin with 'http://', 'https://' or '/'.";
    InvalidRequest BAD_REQUEST "Invalid Request";
    InvalidStorageClass BAD_REQUEST "The storage class you specified is not valid";
    InvalidTag BAD_REQUEST "The tag provided was not a valid tag.";
    InvalidTargetBucketForLogging BAD_REQUEST "The target bucket for logging does not exist, is not owned by you, or does not have the appropriate grants for the log-delivery group.";
    InvalidToken BAD_REQUEST "The provided token is malformed or otherwise invalid.";
    InvalidURI BAD_REQUEST "Couldn't parse the specified URI.";
    InvalidWriteOffset BAD_REQUEST "The write offset value that you specified does not match the current object size.";
    KeyTooLongError BAD_REQUEST "Your key is too long";
    MalformedACLError BAD_REQUEST "The XML you provided was not well-formed or did not validate against our published schema";
    MalformedPolicy BAD_REQUEST "Policies must be valid JSON and the first byte must be '{'";
    KmsNotFoundException = "KMS.NotFoundException" BAD_REQUEST "The key does not exist here.";
    MalformedTrailerError BAD_REQUEST "The request contained trailing data that was not well-formed.";
    MalformedXML BAD_REQUEST "The XML you provided was not well-formed or did not validate against our published schema.";
    MaxMessageLengthExceeded BAD_REQUEST "Your request was too big.";
    MetadataConfigurationNotFound NOT_FOUND "The metadata configuration was not found";
    MetadataTooLarge BAD_REQUEST "Your metadata headers exceed the maximum allowed metadata size.";
    MethodNotAllowed METHOD_NOT_ALLOWED "The specified method is not allowed against this resource.";
    MissingContentLength LENGTH_REQUIRED "You must provide the Content-Length HTTP header.";
    MissingRequestBodyError BAD_REQUEST "Request body is empty.";
    NoSuchAnnotation NOT_FOUND "The specified annotation does not exist on this object.";
    NoSuchBucket NOT_FOUND "The specified bucket does not exist";
    NoSuchBucketPolicy NOT_FOUND "The bucket policy does not exist";
    NoSuchCORSConfiguration NOT_FOUND "The CORS configuration does not exist";
    NoSuchConfiguration NOT_FOUND "The specified configuration does not exist.";
    NoSuchKey NOT_FOUND "The specified key does not exist.";
    NoSuchLifecycleConfiguration NOT_FOUND "The lifecycle configuration does not exist";
    NoSuchObjectLockConfiguration NOT_FOUND "The specified object does not have a ObjectLock configuration";
    NoSuchPublicAccessBlockConfiguration NOT_FOUND "The public access block configuration was not found";
    NoSuchTagSet NOT_FOUND "The TagSet does not exist";
    NoSuchUpload NOT_FOUND "The specified multipart upload does not exist. The upload ID might be invalid, or the upload might have been aborted or completed.";
    NoSuchVersion NOT_FOUND "The specified version does not exist.";
    NoSuchWebsiteConfiguration NOT_FOUND "The specified bucket does not have a website configuration";
    NotImplemented NOT_IMPLEMENTED "A header or parameter you provided implies functionality that is not implemented.";
    ObjectLockConfigurationNotFoundError NOT_FOUND "Object Lock configuration does not exist for this bucket";
    OperationAborted CONFLICT "A conflicting conditional operation is in progress against this resource. Try again.";
    OwnershipControlsNotFoundError NOT_FOUND "The bucket ownership controls were not found";
    PreconditionFailed PRECONDITION_FAILED "At least one of the pre-conditions you specified did not hold";
    QuotaExceeded FORBIDDEN "The quota of the bucket or of its owner does not allow more.";
    ReplicationConfigurationNotFoundError NOT_FOUND "The replication configuration was not found";
    RequestHeaderSectionTooLarge BAD_REQUEST "Your request header section exceeds the maximum allowed size.";
    RequestTimeTooSkewed FORBIDDEN "The difference between the request time and the current time is too large.";
    RequestTimeout BAD_REQUEST "Your socket connection to the server was not read from or written to within the timeout period.";
    ServerSideEncryptionConfigurationNotFoundError NOT_FOUND "The server side encryption configuration was not found";
    SignatureDoesNotMatch FORBIDDEN "The request signature we calculated does not match the signature you provided. Check your key and signing method.";
    ServiceUnavailable SERVICE_UNAVAILABLE "Service is unable to handle request.";
    SlowDown SERVICE_UNAVAILABLE "Please reduce your request rate.";
    TooManyBuckets BAD_REQUEST "You have attempted to create more buckets than allowed.";
    TooManyParts BAD_REQUEST "The object has as many parts as it may have.";
    UnresolvableGrantByEmailAddress BAD_REQUEST "The email address you provided does not match any account on record.";
    UnexpectedContent BAD_REQUEST "This request does not support content";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "The annotation is not UTF-8.";
    XAmzContentSHA256Mismatch BAD_REQUEST "The provided 'x-amz-content-sha256' header does not match what was computed.";
}

impl Code {
    /// The error with words of its own.
    pub fn says(self, message: impl Into<Cow<'static, str>>) -> S3Error {
        let mut error = S3Error::from(self);
        error.0.message = message.into();
        error
    }

    /// The error with its cause, which goes to the log and never to the client.
    pub fn caused(self, cause: impl Into<BoxError>) -> S3Error {
        let mut error = S3Error::from(self);
        error.0.cause = Some(cause.into());
        error
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        self.wire().1
    }

    /// The name in the XML.
    pub fn name(self) -> &'static str {
        self.wire().0
    }
}

/// A refusal or failure of one request.
pub struct S3Error(Box<Inner>);

struct Inner {
    code: Code,
    message: Cow<'static, str>,
    fields: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<BoxError>,
}

impl S3Error {
    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The words for the client.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What caused it, for the log.
    pub fn cause(&self) -> Option<&BoxError> {
        self.0.cause.as_ref()
    }

    /// Elements of the XML beside the common ones.
    pub fn fields(&self) -> &[(&'static str, String)] {
        &self.0.fields
    }

    /// Headers of the answer beside the common ones.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0.headers
    }

    /// Adds an element to the XML (`Region`, `ArgumentName`, …).
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> S3Error {
        self.0.fields.push((name, value.into()));
        self
    }

    /// Adds a header to the answer. A value that is no header value is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> S3Error {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// The argument of a query parameter or header is wrong.
    pub fn argument(name: &str, value: &str, message: impl Into<Cow<'static, str>>) -> S3Error {
        Code::InvalidArgument.says(message).field("ArgumentName", name).field("ArgumentValue", clipped(value))
    }

    /// The XML document of the error.
    pub fn document(&self, resource: &str, request_id: &str, host_id: &str) -> String {
        let mut xml = XmlWriter::new();
        xml.open("Error");
        xml.text("Code", self.0.code.name());
        xml.text("Message", &self.0.message);
        for (name, value) in &self.0.fields {
            xml.text(name, value);
        }
        xml.text("Resource", resource);
        xml.text("RequestId", request_id);
        xml.text("HostId", host_id);
        xml.close("Error");
        xml.finish()
    }
}

/// The document of an error that has no more than a code and words, for requests that were never parsed.
pub(super) fn plain_document(code: &str, message: &str, request_id: &str, host_id: &str) -> String {
    let mut xml = XmlWriter::new();
    xml.element("Error", |xml| {
        xml.text("Code", code);
        xml.text("Message", message);
        xml.text("RequestId", request_id);
        xml.text("HostId", host_id);
    });
    xml.finish()
}

/// At most 1,024 bytes of what the client sent: an error does not amplify.
fn clipped(value: &str) -> &str {
    let mut end = value.len().min(1024);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

impl From<Code> for S3Error {
    fn from(code: Code) -> S3Error {
        let headers = match code {
            // A client that waits a second finds the queue shorter or the new leader elected.
            Code::SlowDown | Code::ServiceUnavailable => {
                vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))]
            }
            _ => Vec::new(),
        };
        let message = Cow::Borrowed(code.wire().2);
        S3Error(Box::new(Inner { code, message, fields: Vec::new(), headers, cause: None }))
    }
}

impl fmt::Debug for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.name(), self.0.message)?;
        match &self.0.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for S3Error {}

/// No `_` arm: a new refusal has to be given a meaning in S3 here.
impl From<Reject> for S3Error {
    fn from(reject: Reject) -> S3Error {
        match reject {
            // Certainly not done; the gateway opens a new session meanwhile.
            Reject::SessionEnded | Reject::SessionFull | Reject::LateExtent => {
                Code::SlowDown.caused(format!("{reject:?}"))
            }
            // Commands of nodes and of administration: no S3 operation proposes them.
            Reject::StaleNode
            | Reject::NodeInUse
            | Reject::NodeRemoved
            | Reject::LayoutExists
            | Reject::UserExists
            | Reject::UserOwnsBuckets
            | Reject::NoSuchAccessKey
            | Reject::AccessKeyExists
            | Reject::NoSuchPolicy
            | Reject::NotDeliverer
            | Reject::TooManyPolicies
            | Reject::Malformed(_) => Code::InternalError.caused(format!("{reject:?}")),
            // The user was removed while its request ran.
            Reject::NoSuchUser => Code::InvalidAccessKeyId.into(),
            Reject::NoSuchBucket => Code::NoSuchBucket.into(),
            Reject::BucketExists { .. } => Code::BucketAlreadyExists.into(),
            Reject::BucketNotEmpty => Code::BucketNotEmpty.into(),
            Reject::TooManyBuckets => Code::TooManyBuckets.into(),
            Reject::NoSuchKey => Code::NoSuchKey.into(),
            Reject::NoSuchVersion => Code::NoSuchVersion.into(),
            Reject::IsDeleteMarker => Code::MethodNotAllowed.says("The version is a delete marker."),
            Reject::DeleteMarker { version, modified, current } => delete_marker(&version, modified, current),
            Reject::PreconditionFailed | Reject::SourcePreconditionFailed => Code::PreconditionFailed.into(),
            Reject::Overlay(why @ OverlayRefusal::IsCopy) => Code::AccessDenied.says(format!("Not here: {why}.")),
            Reject::Overlay(why) => Code::InternalError.caused(why),
            Reject::Superseded { by } => Code::AccessDenied.says(format!(
                "Not here: the bucket {} of the cluster {} took the place of this one and is written instead.",
                by.bucket, by.cluster
            )),
            Reject::Locked => {
                Code::AccessDenied.says("Access Denied because object protected by object lock.")
            }
            Reject::NoObjectLock => Code::InvalidRequest.says("Bucket is missing Object Lock Configuration"),
            Reject::RetentionPast => Code::InvalidArgument.says("The retain until date must be in the future!"),
            Reject::BucketState(why) => Code::InvalidBucketState.says(format!("This cannot be done: {why}.")),
            Reject::SourceChanged => Code::ConditionalRequestConflict.into(),
            Reject::CopyOntoItself => Code::InvalidRequest.says(
                "A copy onto itself must change the metadata, storage class, redirect location or encryption.",
            ),
            Reject::NoSuchUpload => Code::NoSuchUpload.into(),
            Reject::InvalidPart { number } => {
                S3Error::from(Code::InvalidPart).field("PartNumber", number.to_string())
            }
            Reject::InvalidPartOrder => Code::InvalidPartOrder.into(),
            Reject::PartTooSmall { number, bytes } => S3Error::from(Code::EntityTooSmall)
                .field("ProposedSize", bytes.to_string())
                .field("MinSizeAllowed", fabric::limits::PART_BYTES_MIN.to_string())
                .field("PartNumber", number.to_string()),
            Reject::TooLarge => Code::EntityTooLarge.into(),
            Reject::QuotaExceeded { of, quota } => quota_exceeded(&of, quota),
            Reject::WrongOffset { bytes } => wrong_offset(bytes),
            Reject::TooManyParts => Code::TooManyParts.into(),
            Reject::TooManyAnnotations => Code::AnnotationLimitExceeded.into(),
            Reject::TokenReused => Code::IdempotencyParameterMismatch.into(),
            Reject::AclNotSupported => Code::AccessControlListNotSupported.into(),
            Reject::PublicAclBlocked => Code::AccessDenied.says(
                "The list would let everybody in, which the public access block of the bucket rules out (BlockPublicAcls).",
            ),
            Reject::NoSuchGrantee { user } => S3Error::argument("CanonicalUser/ID", user.as_str(), "Invalid id"),
            Reject::WrongSize => {
                Code::InvalidRequest.says("x-amz-mp-object-size differs from the sum of the sizes of the parts.")
            }
        }
    }
}

/// The object that is appended to has so many bytes, and not as many as the client believes.
pub fn wrong_offset(bytes: u64) -> S3Error {
    S3Error::from(Code::InvalidWriteOffset).field("ObjectSize", bytes.to_string())
}

/// What is a delete marker cannot be read: 404 without a version id, else 405.
fn delete_marker(version: &str, modified: ClusterMs, current: bool) -> S3Error {
    let error = match current {
        true => S3Error::from(Code::NoSuchKey),
        false => S3Error::from(Code::MethodNotAllowed)
            .field("ResourceType", "DeleteMarker")
            .header(header::ALLOW, "DELETE")
            .header(header::LAST_MODIFIED, &http_date(modified.0)),
    };
    error
        .header(HeaderName::from_static("x-amz-delete-marker"), "true")
        .header(HeaderName::from_static("x-amz-version-id"), version)
}

/// A retry does not help, and so the status is none that SDKs retry.
fn quota_exceeded(of: &QuotaOf, quota: Quota) -> S3Error {
    let whose = match of {
        QuotaOf::Bucket(_) => "This bucket",
        QuotaOf::User(_) => "All buckets of this bucket's owner together",
    };
    let bound = |bound: Option<u64>, what: &str| bound.map(|bound| format!("{bound} {what}"));
    let bounds: Vec<String> =
        bound(quota.objects, "objects").into_iter().chain(bound(quota.bytes, "bytes")).collect();
    Code::QuotaExceeded.says(format!(
        "{whose} may hold {}, uploads in progress included; delete something, or have the quota raised.",
        bounds.join(" and ")
    ))
}

impl From<MetaError> for S3Error {
    fn from(error: MetaError) -> S3Error {
        match error {
            MetaError::Rejected(reject) => reject.into(),
            // Certainly not done.
            MetaError::Unavailable(_) => Code::SlowDown.caused(error),
            // Perhaps done: never "slow down", which promises that it is not.
            MetaError::Unknown(_) => Code::InternalError.caused(error),
            // Certainly not done, and waiting does not help.
            MetaError::Full(_) => Code::InsufficientStorage.caused(error),
        }
    }
}

impl From<NameError> for S3Error {
    fn from(error: NameError) -> S3Error {
        match error {
            NameError::Bucket(_) => Code::InvalidBucketName.into(),
            NameError::KeyTooLong(bytes) => S3Error::from(Code::KeyTooLongError)
                .field("Size", bytes.to_string())
                .field("MaxSizeAllowed", fabric::limits::KEY_BYTES_MAX.to_string()),
            NameError::Key(why) => Code::InvalidURI.says(format!("The key is not valid: {why}.")),
            NameError::AnnotationTooLong(_) => Code::AnnotationNameTooLong.into(),
            NameError::Annotation(why) => {
                Code::InvalidAnnotationName.says(format!("The name of the annotation is not valid: {why}."))
            }
            NameError::User(_)
            | NameError::AccessKey(_)
            | NameError::Policy(_)
            | NameError::Cluster(_)
            | NameError::ClientToken(_) => Code::InvalidArgument.caused(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_error_status() {
        for code in Code::ALL {
            let (name, status, message) = code.wire();
            assert!(status.is_client_error() || status.is_server_error(), "{name}");
            assert!(!message.is_empty(), "{name}");
        }
    }

    #[test]
    fn document_escapes_what_clients_sent() {
        let error = S3Error::argument("marker", "<script>\u{1}", "no");
        let document = error.document("/b/<k>&\"", "ID", "HOST");
        assert_eq!(
            document,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InvalidArgument</Code><Message>no</Message>\
             <ArgumentName>marker</ArgumentName><ArgumentValue>&lt;script&gt;&#x1;</ArgumentValue>\
             <Resource>/b/&lt;k&gt;&amp;&quot;</Resource><RequestId>ID</RequestId><HostId>HOST</HostId></Error>"
        );
    }

    #[test]
    fn unavailable_and_unknown_are_told_apart() {
        let unavailable = S3Error::from(MetaError::Unavailable("no leader".into()));
        assert_eq!(unavailable.code(), Code::SlowDown);
        assert_eq!(unavailable.headers().len(), 1);
        assert_eq!(S3Error::from(MetaError::Unknown("deadline".into())).code(), Code::InternalError);
    }
}
