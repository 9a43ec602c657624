//! What an operation is: a route, a permission, and a function from a verified request to a response.

use std::sync::Arc;

use async_trait::async_trait;
use consensus::client::{Meta, ask};
use consensus::meta::command::{BucketChange, Command, Done, SetBucket};
use consensus::meta::model::{Bucket, BucketSetting, Origin, Placed, SettingKind, Tags};
use consensus::meta::names::BucketName;
use consensus::meta::query::{Answer, Query};
use fabric::env::Env;
use http::HeaderMap;
use tokio::sync::watch;

use super::access::{self, Access, Subject};
use super::acl;
use super::auth::Keys;
use super::error::{Code, S3Error, S3Result};
use super::locks;
use super::request::Request;
use super::response::Response;
use super::route::Route;
use super::search::Searching;
use crate::data::Data;
use crate::keyring::KeyRing;
use crate::notify::Notifier;
use crate::overlay::Overlay;

/// One S3 operation. Operations never import each other.
#[async_trait]
pub trait Op: Send + Sync + 'static {
    /// The name in S3's model, for logs and metrics.
    fn name(&self) -> &'static str;

    /// Which requests are this operation. No request is two (tested over the list).
    fn route(&self) -> Route;

    /// What the requester must be allowed to do, checked before [`Op::run`].
    fn action(&self) -> Action;

    /// Whether its body says what it does, to which objects or with which tags, or it finds its objects, so that it asks [`Context::allow`] or
    /// [`Context::allow_tags`] itself.
    fn is_judged_by_body(&self) -> bool {
        false
    }

    /// What the body of the request is.
    fn body(&self) -> BodyRule {
        BodyRule::None
    }

    /// Does it. The signature is verified, the bucket is resolved and the action allowed.
    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response>;
}

/// What the body of a request is, and so which payload modes and checksums it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRule {
    /// No body. A small one is read, verified and thrown away before [`Op::run`].
    None,
    /// A document, read by [`Request::document`]. `x-amz-checksum-*` are its checksums.
    Document,
    /// A document whose request carries `x-amz-checksum-*` of the object instead (CompleteMultipartUpload).
    DocumentAboutObject,
    /// The bytes of an object or a part: all payload modes, a length, at most 5 GiB.
    Object,
    /// A form of a browser, whose fields stand for headers, signature and key, and whose file is the body.
    Form,
}

/// Actions by S3's names, with the permission that policies speak of.
macro_rules! actions {
    ($($name:ident)*) => {
        /// What a requester does, by S3's permissions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Action {
            $($name,)*
        }

        impl Action {
            /// How policies name it.
            pub fn permission(self) -> &'static str {
                match self {
                    $(Action::$name => concat!("s3:", stringify!($name)),)*
                }
            }
        }
    };
}

actions! {
    ListAllMyBuckets
    CreateBucket
    DeleteBucket
    ListBucket
    ListBucketVersions
    ListBucketMultipartUploads
    GetBucketLocation
    GetBucketVersioning
    GetObject
    GetObjectAttributes
    PutObject
    DeleteObject
    AbortMultipartUpload
    ListMultipartUploadParts
    PutBucketVersioning
    GetBucketCors
    PutBucketCors
    GetBucketTagging
    PutBucketTagging
    GetObjectTagging
    PutObjectTagging
    DeleteObjectTagging
    GetBucketAcl
    GetObjectAcl
    GetBucketPolicy
    GetBucketPolicyStatus
    GetLifecycleConfiguration
    GetEncryptionConfiguration
    GetBucketWebsite
    GetReplicationConfiguration
    GetBucketObjectLockConfiguration
    PutBucketObjectLockConfiguration
    GetObjectRetention
    PutObjectRetention
    GetObjectLegalHold
    PutObjectLegalHold
    GetBucketPublicAccessBlock
    PutBucketPublicAccessBlock
    PutBucketOwnershipControls
    PutBucketAcl
    PutObjectAcl
    PutBucketRequestPayment
    GetBucketOwnershipControls
    GetBucketLogging
    GetBucketNotification
    GetAccelerateConfiguration
    GetBucketRequestPayment
    GetAnalyticsConfiguration
    GetMetricsConfiguration
    GetInventoryConfiguration
    GetIntelligentTieringConfiguration
    GetBucketMetadataTableConfiguration
    GetObjectVersion
    GetObjectVersionAttributes
    GetObjectVersionTagging
    PutObjectVersionTagging
    DeleteObjectVersion
    DeleteObjectVersionTagging
    GetObjectVersionAcl
    PutObjectVersionAcl
    BypassGovernanceRetention
    PutBucketPolicy
    DeleteBucketPolicy
    PutLifecycleConfiguration
    PutEncryptionConfiguration
    ListBucketChanges
    GetObjectAnnotation
    PutObjectAnnotation
    DeleteObjectAnnotation
    ListObjectAnnotations
    GetObjectVersionAnnotation
    PutObjectVersionAnnotation
    DeleteObjectVersionAnnotation
    ListObjectVersionAnnotations
    PutBucketWebsite
    DeleteBucketWebsite
    PutBucketNotification
    PutBucketLogging
    PutReplicationConfiguration
}

impl Action {
    /// Whether it concerns a bucket that must exist. The others need only a user.
    pub fn needs_bucket(self) -> bool {
        !matches!(self, Action::ListAllMyBuckets | Action::CreateBucket)
    }

    /// Whether it shows or changes who may do what in a bucket.
    pub fn is_about_policy(self) -> bool {
        matches!(self, Action::GetBucketPolicy | Action::PutBucketPolicy | Action::DeleteBucketPolicy)
    }

    /// What it is where one version is meant and not the current one.
    #[must_use]
    pub fn of_version(self) -> Action {
        match self {
            Action::GetObject => Action::GetObjectVersion,
            Action::GetObjectAttributes => Action::GetObjectVersionAttributes,
            Action::GetObjectTagging => Action::GetObjectVersionTagging,
            Action::PutObjectTagging => Action::PutObjectVersionTagging,
            Action::DeleteObject => Action::DeleteObjectVersion,
            Action::DeleteObjectTagging => Action::DeleteObjectVersionTagging,
            Action::GetObjectAcl => Action::GetObjectVersionAcl,
            Action::PutObjectAcl => Action::PutObjectVersionAcl,
            Action::GetObjectAnnotation => Action::GetObjectVersionAnnotation,
            Action::PutObjectAnnotation => Action::PutObjectVersionAnnotation,
            Action::DeleteObjectAnnotation => Action::DeleteObjectVersionAnnotation,
            Action::ListObjectAnnotations => Action::ListObjectVersionAnnotations,
            other => other,
        }
    }

    /// What else a request needs that does this with these headers.
    pub fn with(self, headers: &HeaderMap) -> Vec<Action> {
        let mut actions = vec![self];
        match self {
            Action::PutObject => {
                let by_header = [
                    ("x-amz-tagging", Action::PutObjectTagging),
                    ("x-amz-object-lock-mode", Action::PutObjectRetention),
                    ("x-amz-object-lock-legal-hold", Action::PutObjectLegalHold),
                ];
                let sent = by_header.into_iter().filter(|(name, _)| headers.contains_key(*name));
                actions.extend(sent.map(|(_, action)| action));
                actions.extend(acl::is_in(headers).then_some(Action::PutObjectAcl));
            }
            Action::CreateBucket => {
                let owned = headers.contains_key("x-amz-object-ownership");
                actions.extend(owned.then_some(Action::PutBucketOwnershipControls));
                actions.extend(acl::is_in(headers).then_some(Action::PutBucketAcl));
            }
            Action::DeleteObject
            | Action::DeleteObjectVersion
            | Action::PutObjectRetention
            | Action::PutObjectAnnotation
            | Action::PutObjectVersionAnnotation
            | Action::DeleteObjectAnnotation
            | Action::DeleteObjectVersionAnnotation
                if locks::bypass(headers).unwrap_or(true) =>
            {
                actions.push(Action::BypassGovernanceRetention);
            }
            Action::GetObjectAttributes => actions.push(Action::GetObject),
            Action::GetObjectVersionAttributes => actions.push(Action::GetObjectVersion),
            _ => {}
        }
        actions
    }
}

/// What an operation may use, made for one request.
pub struct Context {
    /// The metadata.
    pub meta: Arc<dyn Meta>,
    /// Bodies of objects.
    pub data: Arc<Data>,
    /// Clocks and randomness.
    pub env: Arc<dyn Env>,
    /// Master keys of encryption.
    pub ring: Arc<KeyRing>,
    /// Secrets of users, and what other clusters tell of theirs.
    pub keys: Arc<dyn Keys>,
    /// What answers searches.
    pub search: Arc<Searching>,
    /// The region of this gateway.
    pub region: Arc<str>,
    /// Who asks, as the signature proved, and what that one may do.
    pub access: Access,
    /// How long a day is for new lifecycle rules: 24 hours, but in tests.
    pub lifecycle_day_ms: u64,
    /// The bucket of the path; `None` only where [`Action::needs_bucket`] is false.
    pub bucket: Option<Arc<Bucket>>,
    /// Who asks from where: goes into every command.
    pub origin: Origin,
    /// Who can be told of events.
    pub notifier: Arc<Notifier>,
    /// Other clusters; `None`: this gateway talks to none.
    pub overlay: Option<Arc<Overlay>>,
    /// Why a new bucket is made here and not in the cluster that its creator asked.
    pub placed: Option<Placed>,
    /// Whether the gateway is about to end: nobody waits for anything then.
    pub stopping: watch::Receiver<bool>,
}

impl Context {
    /// The bucket of the path.
    pub fn bucket(&self) -> S3Result<&Bucket> {
        self.bucket.as_deref().ok_or_else(|| Code::NoSuchBucket.into())
    }

    /// Proposes a command and waits for its outcome. The origin is set here, so that no operation forgets it.
    pub async fn propose(&self, mut command: Command) -> S3Result<Done> {
        self.sign(&mut command);
        Ok(self.meta.propose(command).await?)
    }

    /// Like [`Context::propose`], with the refusal of the rules as it is, for operations that read more from it
    /// than its S3 code.
    pub async fn propose_raw(&self, mut command: Command) -> Result<Done, consensus::client::MetaError> {
        self.sign(&mut command);
        self.meta.propose(command).await
    }

    /// Asks the metadata.
    pub async fn ask(&self, query: Query) -> S3Result<Answer> {
        Ok(ask(&*self.meta, query).await?)
    }

    /// The bucket of the path as it is now; [`Context::bucket`] may be some seconds old.
    pub async fn bucket_now(&self) -> S3Result<Bucket> {
        let bucket = self.bucket()?;
        let prefix = bucket.name.to_string();
        match self.ask(Query::Buckets { owner: None, prefix, after: None, limit: 1 }).await? {
            Answer::Buckets { buckets, .. } => {
                let found = buckets.into_iter().find(|found| found.id == bucket.id);
                found.ok_or_else(|| Code::NoSuchBucket.into())
            }
            _ => Err(unexpected("Buckets")),
        }
    }

    /// Other clusters, where there are any.
    pub fn others(&self) -> Option<&Arc<Overlay>> {
        self.overlay.as_ref().filter(|overlay| !overlay.is_alone())
    }

    /// What the owner of the bucket set.
    pub async fn setting(&self, kind: SettingKind) -> S3Result<Option<BucketSetting>> {
        match self.ask(Query::Setting { bucket: self.bucket()?.id, kind }).await? {
            Answer::Setting(setting) => Ok(setting),
            _ => Err(unexpected("Setting")),
        }
    }

    /// All that the owner of the bucket set, as this gateway knows it: perhaps some seconds old, and as a rule without a
    /// question to the metadata.
    pub async fn recent_settings(&self) -> S3Result<Arc<Vec<BucketSetting>>> {
        access::settings(&*self.meta, self.bucket()?).await
    }

    /// Sets it, in place of the one of its kind.
    pub async fn set(&self, setting: BucketSetting) -> S3Result<()> {
        self.change(BucketChange::Set(setting)).await
    }

    /// Removes it.
    pub async fn unset(&self, kind: SettingKind) -> S3Result<()> {
        self.change(BucketChange::Remove(kind)).await
    }

    /// Changes the bucket itself.
    pub async fn change(&self, change: BucketChange) -> S3Result<()> {
        let bucket = self.bucket()?.id;
        self.propose(Command::SetBucket(SetBucket { bucket, change })).await.map(drop)
    }

    /// Another bucket than the path's, which has the source of a copy that the requester may read.
    pub async fn bucket_to_read(&self, name: &BucketName, source: Subject<'_>) -> S3Result<Arc<Bucket>> {
        let bucket = resolve_bucket(&*self.meta, name).await?;
        let action = match source.version {
            None => Action::GetObject,
            Some(_) => Action::GetObjectVersion,
        };
        self.access.allow(&bucket, action, Some(source)).await?;
        Ok(bucket)
    }

    /// Refuses what the requester may not do to an object in the bucket of the path.
    pub async fn allow(&self, action: Action, object: Subject<'_>) -> S3Result<()> {
        self.access.allow(self.bucket()?, action, Some(object)).await
    }

    /// The same, where the object is to get these tags, which are not in the headers.
    pub async fn allow_tags(&self, action: Action, object: Subject<'_>, tags: &Tags) -> S3Result<()> {
        self.access.allow_tags(self.bucket()?, action, object, tags).await
    }

    fn sign(&self, command: &mut Command) {
        let origin = match command {
            Command::Guarded(guarded) => return self.sign(&mut guarded.command),
            Command::Sealed(sealed) => return self.sign(&mut sealed.command),
            Command::Annotated(annotated) => return self.sign(&mut annotated.command),
            Command::WithAcl(with) => return self.sign(&mut with.command),
            Command::PutObject(command) | Command::PostObject(command) => &mut command.origin,
            Command::CopyObject(command) | Command::CopyBare(command) => &mut command.origin,
            Command::DeleteObjects(command) => &mut command.origin,
            Command::CreateUpload(command) => &mut command.origin,
            Command::CompleteUpload(command) => &mut command.origin,
            Command::SetTags(command) => &mut command.origin,
            Command::RenameObject(command) => &mut command.origin,
            Command::AppendObject(command) => &mut command.origin,
            Command::SetAnnotation(command) => &mut command.origin,
            Command::ChangeAcl(_, origin) | Command::ChangeLock(_, origin) => origin,
            _ => return,
        };
        *origin = self.origin.clone();
    }
}

/// The bucket by name.
pub(super) async fn resolve_bucket(meta: &dyn Meta, name: &BucketName) -> S3Result<Arc<Bucket>> {
    let Answer::Bucket(found) = ask(meta, Query::Bucket(name.clone())).await? else {
        return Err(unexpected("Bucket"));
    };
    let missing = || S3Error::from(Code::NoSuchBucket).field("BucketName", name.as_str());
    Ok(Arc::new(found.ok_or_else(missing)?))
}

/// Whether a request means the owner of a bucket, by the name here or, with that of this cluster, by the name elsewhere.
pub(super) fn is_owner(bucket: &Bucket, named: &str, region: &str) -> bool {
    let owner = bucket.owner.as_str();
    named == owner || named.split_once('/') == Some((region, owner))
}

/// The metadata answered something else than was asked: our own fault, never the client's.
pub fn unexpected(asked: &'static str) -> S3Error {
    Code::InternalError.caused(format!("the metadata answered another question than {asked}"))
}

#[cfg(test)]
mod tests {
    use crate::s3::ops;
    use crate::s3::policy::is_action;

    #[test]
    fn policies_know_all_actions() {
        for op in ops::all() {
            for action in [op.action(), op.action().of_version()] {
                assert!(is_action(action.permission()), "{}", action.permission());
            }
        }
    }
}
