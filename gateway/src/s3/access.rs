//! Whether a requester may do something: the policies of the user, the policy of the bucket, and who owns it.
//!
//! What always holds: a policy that denies beats all that allow; what no policy, no list and no ownership allows is
//! refused; and a policy that cannot be read denies everything. Access control lists hold where the owner of the bucket
//! wants them; of an object that another user owns there, only its list says who may read it. A user without policies may do everything with its own buckets and make
//! new ones. A user with policies may do what they or the bucket's policy allow, anywhere, and nothing else. Policies are
//! as old as the gateway's records, which is seconds.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use consensus::client::{Meta, ask};
use consensus::meta::acl::{Grant, Grantee, ObjectAcl, Permission};
use consensus::meta::command::VersionSelector;
use consensus::meta::model::{Bucket, BucketSetting, PublicAccessBlock, Tags};
use consensus::meta::names::{AccessKeyId, BucketName, ObjectKey, UserName};
use consensus::meta::query::{Answer, Query as MetaQuery, Want};
use http::HeaderMap;
use lru::LruCache;

use super::acl::{self, About};
use super::auth::{Carrier, Signer};
use super::error::{Code, S3Result};
use super::op::{Action, unexpected};
use super::policy::{self, Asked, Kind, Policy, Principal, Verdict};
use super::request::{Query, header_text};
use super::time::iso8601;
use super::{tags, versions};

/// Policies that are kept ready, of buckets and users together.
const READY_MAX: NonZeroUsize = NonZeroUsize::new(1_000).expect("1,000 is not 0");

/// Directories of a key whose listings are asked about; deeper ones are not.
const DIRECTORIES_MAX: usize = 64;

/// Policies ready to judge, so that none is read for each request anew.
pub struct Policies(Mutex<LruCache<String, Ready>>);

/// A policy, kept under its text.
struct Ready {
    /// Whose it is; `None`: a user's. What stands in two places is kept for the one where it was asked for last.
    bucket: Option<BucketName>,
    policy: Arc<Policy>,
}

impl Default for Policies {
    fn default() -> Policies {
        Policies(Mutex::new(LruCache::new(READY_MAX)))
    }
}

impl Policies {
    /// A stored policy of this bucket, or of a user.
    fn ready(&self, bucket: Option<&BucketName>, text: &str) -> S3Result<Arc<Policy>> {
        // Each change is a single call, so poison means nothing here.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = kept.get(text).filter(|ready| ready.bucket.as_ref() == bucket) {
            return Ok(ready.policy.clone());
        }
        let kind = bucket.map_or(Kind::User, |bucket| Kind::Bucket(bucket.as_str()));
        let policy = Policy::parse(text, kind)
            .map_err(|error| Code::AccessDenied.caused(format!("a stored policy cannot be read: {error}")))?;
        let policy = Arc::new(policy);
        kept.put(text.to_string(), Ready { bucket: bucket.cloned(), policy: policy.clone() });
        Ok(policy)
    }
}

/// Refuses a bucket's policy that opens it to everybody where its owner ruled that out; what is not a policy of this
/// bucket at all is refused before.
pub fn check_policy(text: &str, bucket: &Bucket, block: PublicAccessBlock) -> S3Result<()> {
    let policy = Policy::parse(text, Kind::Bucket(bucket.name.as_str()))
        .map_err(|error| Code::MalformedPolicy.says(error.to_string()))?;
    if block.block_public_policy && policy.is_public() {
        return Err(Code::AccessDenied.says(
            "The policy would make the bucket public, which its public access block rules out (BlockPublicPolicy).",
        ));
    }
    Ok(())
}

/// Whether a stored policy of a bucket opens it to everybody.
pub fn is_public(text: &str, bucket: &Bucket) -> bool {
    Policy::parse(text, Kind::Bucket(bucket.name.as_str())).is_ok_and(|policy| policy.is_public())
}

/// What a bucket has to say of a requester.
struct Rules {
    policy: Option<Arc<Policy>>,
    /// The policy is public, and does not let others in for that.
    shut: bool,
    /// Its access control list lets the requester list it.
    by_list: bool,
}

/// What conditions of policies look at, of one request.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The address of the client.
    pub source: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// The query.
    pub query: Arc<Query>,
    /// The headers.
    pub headers: Arc<HeaderMap>,
}

/// An object that something is done to.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// Which version; `None` is the current one.
    pub version: Option<VersionSelector>,
}

/// What access control lists say.
enum Lists {
    /// Whether they allow it; else policies and ownership may.
    Beside(bool),
    /// The object is another user's than the bucket: whether its list allows it, and nothing else does.
    Alone(bool),
}

/// What a requester may do, asked for one request.
pub struct Access {
    policies: Arc<Policies>,
    meta: Arc<dyn Meta>,
    signer: Option<Signer>,
    /// Those attached to the user.
    own: Vec<Arc<Policy>>,
    facts: Facts,
}

impl Access {
    /// Of who signed the request, or of nobody in particular.
    pub async fn of(
        policies: Arc<Policies>,
        meta: Arc<dyn Meta>,
        signer: Option<Signer>,
        facts: Facts,
    ) -> S3Result<Access> {
        let mut own = Vec::new();
        if let Some(signer) = &signer {
            let Answer::UserPolicies(texts) =
                ask(&*meta, MetaQuery::UserPolicies(signer.user.clone())).await?
            else {
                return Err(unexpected("UserPolicies"));
            };
            own = texts.iter().map(|(_, text)| policies.ready(None, text)).collect::<S3Result<_>>()?;
        }
        Ok(Access { policies, meta, signer, own, facts })
    }

    /// Who asks; a request that nobody signed is refused.
    pub fn user(&self) -> S3Result<&UserName> {
        self.signer.as_ref().map(|signer| &signer.user).ok_or_else(|| Code::AccessDenied.into())
    }

    /// The access key of who signed the request; `None`: nobody did.
    pub fn key(&self) -> Option<&AccessKeyId> {
        self.signer.as_ref().map(|signer| &signer.key)
    }

    /// From which address the request came, and whether over TLS.
    pub fn came(&self) -> (IpAddr, bool) {
        (self.facts.source, self.facts.secure)
    }

    /// Whether something may be done that is about no bucket that exists.
    pub fn permits_service(&self, action: Action, bucket: Option<&BucketName>) -> bool {
        let bucket = bucket.map_or("*", BucketName::as_str);
        let asking = Asking::by(self, None);
        let verdict = asking.judge(&self.own, action, &format!("arn:aws:s3:::{bucket}"));
        self.signer.is_some() && (self.own.is_empty() || verdict == Verdict::Allow)
    }

    /// Whether something may be done in a bucket, to an object where one is named.
    pub async fn permits(
        &self,
        bucket: &Bucket,
        action: Action,
        subject: Option<Subject<'_>>,
    ) -> S3Result<bool> {
        self.permits_tags(bucket, action, subject, None).await
    }

    /// The same with tags that the object is to get; `None`: those of the headers.
    async fn permits_tags(
        &self,
        bucket: &Bucket,
        action: Action,
        subject: Option<Subject<'_>>,
        tags: Option<&Tags>,
    ) -> S3Result<bool> {
        let settings = settings(&*self.meta, bucket).await?;
        let policy = match policy_of(&settings) {
            Some(text) => Some(self.policies.ready(Some(&bucket.name), text)?),
            None => None,
        };
        let owns = self.owns(bucket);
        let owns_freely = owns && self.own.is_empty();
        let has_lists = acl::ownership_of(&settings).is_some();
        if owns_freely && (action.is_about_policy() || policy.is_none() && !has_lists) {
            return Ok(true); // Nobody locks an owner out for good.
        }
        let shut =
            |policy: &Policy| block_of(&settings).restrict_public_buckets && policy.is_public() && !owns;
        let theirs = policy.as_slice();
        let verdicts = self.verdicts(bucket, theirs, action, subject, tags).await?;
        let by_policy = match verdicts {
            (Verdict::Deny, _) | (_, Verdict::Deny) => return Ok(false),
            (Verdict::Allow, _) => return Ok(true),
            (Verdict::Silent, Verdict::Allow) => !theirs.iter().any(|policy| shut(policy)),
            (Verdict::Silent, Verdict::Silent) => false,
        };
        Ok(match self.lists(bucket, &settings, action, subject).await? {
            Lists::Alone(allowed) => allowed,
            Lists::Beside(allowed) => by_policy || allowed || owns_freely,
        })
    }

    /// What access control lists say.
    async fn lists(
        &self,
        bucket: &Bucket,
        settings: &[BucketSetting],
        action: Action,
        subject: Option<Subject<'_>>,
    ) -> S3Result<Lists> {
        let by_write = !self.facts.query.has("acl");
        let needed = acl::needed(action, by_write).filter(|_| acl::ownership_of(settings).is_some());
        let Some((about, permission)) = needed else { return Ok(Lists::Beside(false)) };
        let ignores_public = block_of(settings).ignore_public_acls;
        // Whom policies of its own bind gives itself nothing by lists of its own.
        let asks = |owner: &UserName| {
            let user = self.signer.as_ref().map(|signer| &signer.user);
            user.filter(|user| self.own.is_empty() || *user != owner)
        };
        let allows = |owner: &UserName, grants: &[Grant], permission| {
            let holds =
                |grantee: &Grantee| grantee.is(asks(owner)) && !(ignores_public && grantee.is_public());
            grants.iter().any(|grant| grant.permission.allows(permission) && holds(&grant.grantee))
        };
        let of_bucket = |permission| allows(&bucket.owner, &acl::of_bucket(bucket, settings), permission);
        let Some(Subject { key, version }) = subject.filter(|_| about == About::Object) else {
            return Ok(Lists::Beside(of_bucket(permission)));
        };
        let query = MetaQuery::Acl { bucket: bucket.id, key: key.clone(), version };
        let found = match self.meta.query(query).await?.answer {
            Ok(Answer::Acl(found)) => found.unwrap_or_else(|| ObjectAcl::default_of(&bucket.owner)),
            Ok(_) => return Err(unexpected("Acl")),
            // Who may list hears that there is no such thing.
            Err(_) => return Ok(Lists::Beside(permission == Permission::Read && of_bucket(permission))),
        };
        let of_owner = matches!(permission, Permission::ReadAcp | Permission::WriteAcp);
        let is_owner = asks(&found.owner) == Some(&found.owner);
        let allowed = of_owner && is_owner || allows(&found.owner, &found.grants, permission);
        Ok(match found.owner == bucket.owner {
            true => Lists::Beside(allowed),
            false => Lists::Alone(allowed),
        })
    }

    /// Refuses who does not own the bucket and whom no policy could allow anything in it: a stranger's list of keys is
    /// not even read.
    pub async fn refuse_stranger(&self, bucket: &Bucket) -> S3Result<()> {
        let settings = settings(&*self.meta, bucket).await?;
        let has_lists = acl::ownership_of(&settings).is_some();
        let may_be_let_in = !self.own.is_empty() || has_lists || policy_of(&settings).is_some();
        if self.owns(bucket) || may_be_let_in { Ok(()) } else { Err(Code::AccessDenied.into()) }
    }

    /// Which keys of a bucket may be seen in listings of it.
    pub async fn listing(&self, bucket: &Bucket) -> S3Result<Listing> {
        let theirs = self.rules_of(bucket).await?;
        let asking = Asking { listed: Listed::Whole, ..Asking::by(self, None) };
        let whole = self.lists_under(bucket, &theirs, &asking);
        Ok(match (asking.asks_prefix.get(), whole) {
            (true, _) => Listing::ByPrefix,
            (false, Verdict::Allow) => Listing::Everything,
            (false, _) => Listing::Nothing,
        })
    }

    /// Whether a listing may show this key: one of all keys, of those of a directory that it is in, or of those that
    /// begin with it. A policy that denies the last denies the key.
    pub async fn lists_key(&self, bucket: &Bucket, key: &ObjectKey) -> S3Result<bool> {
        let theirs = self.rules_of(bucket).await?;
        let verdict = |listed| {
            let asking = Asking { listed, ..Asking::by(self, None) };
            self.lists_under(bucket, &theirs, &asking)
        };
        let key = key.as_str();
        Ok(match verdict(Listed::Under(key)) {
            Verdict::Deny => false,
            Verdict::Allow => true,
            Verdict::Silent => {
                let directories = key.match_indices('/').map(|(at, _)| Listed::Under(&key[..=at]));
                let mut wider = directories.take(DIRECTORIES_MAX).chain([Listed::Whole]);
                wider.any(|listed| verdict(listed) == Verdict::Allow)
            }
        })
    }

    /// The policy of a bucket, and whether it lets in only its owner.
    async fn rules_of(&self, bucket: &Bucket) -> S3Result<Rules> {
        let settings = settings(&*self.meta, bucket).await?;
        let policy = policy_of(&settings).map(|text| self.policies.ready(Some(&bucket.name), text));
        let policy = policy.transpose()?;
        let restricts = block_of(&settings).restrict_public_buckets;
        let shut =
            restricts && !self.owns(bucket) && policy.as_ref().is_some_and(|policy| policy.is_public());
        // They do not look at the prefix.
        let by_list = match self.lists(bucket, &settings, Action::ListBucket, None).await? {
            Lists::Alone(allowed) | Lists::Beside(allowed) => allowed,
        };
        Ok(Rules { policy, shut, by_list })
    }

    /// What everything together says of a listing: never silent where the owner may.
    fn lists_under(&self, bucket: &Bucket, theirs: &Rules, asking: &Asking<'_>) -> Verdict {
        let resource = resource(bucket, None);
        let own = asking.judge(&self.own, Action::ListBucket, &resource);
        let policy = asking.judge(theirs.policy.as_slice(), Action::ListBucket, &resource);
        match (own, policy) {
            (Verdict::Deny, _) | (_, Verdict::Deny) => Verdict::Deny,
            (Verdict::Allow, _) => Verdict::Allow,
            (Verdict::Silent, Verdict::Allow) if !theirs.shut => Verdict::Allow,
            (Verdict::Silent, _) if theirs.by_list => Verdict::Allow,
            (Verdict::Silent, _) if self.owns(bucket) && self.own.is_empty() => Verdict::Allow,
            (Verdict::Silent, _) => Verdict::Silent,
        }
    }

    /// The address of the client.
    pub fn source(&self) -> IpAddr {
        self.facts.source
    }

    /// Who asks, for what is told apart by that.
    pub fn requester(&self) -> &str {
        self.signer.as_ref().map_or("", |signer| signer.user.as_str())
    }

    fn owns(&self, bucket: &Bucket) -> bool {
        self.signer.as_ref().is_some_and(|signer| signer.user == bucket.owner)
    }

    /// Refuses what may not be done, as [`Access::permits`] says.
    pub async fn allow(&self, bucket: &Bucket, action: Action, subject: Option<Subject<'_>>) -> S3Result<()> {
        match self.permits(bucket, action, subject).await? {
            true => Ok(()),
            false => Err(Code::AccessDenied.into()),
        }
    }

    /// Refuses to give an object tags that are in the body of the request.
    pub async fn allow_tags(
        &self,
        bucket: &Bucket,
        action: Action,
        subject: Subject<'_>,
        tags: &Tags,
    ) -> S3Result<()> {
        match self.permits_tags(bucket, action, Some(subject), Some(tags)).await? {
            true => Ok(()),
            false => Err(Code::AccessDenied.into()),
        }
    }

    /// What the user's policies and the bucket's say. The tags of the object are looked up where a policy asks for them.
    async fn verdicts(
        &self,
        bucket: &Bucket,
        theirs: &[Arc<Policy>],
        action: Action,
        subject: Option<Subject<'_>>,
        tags: Option<&Tags>,
    ) -> S3Result<(Verdict, Verdict)> {
        let resource = resource(bucket, subject);
        let mut asking = Asking { new_tags: tags, ..Asking::by(self, subject) };
        let both = |asking: &Asking<'_>| {
            (asking.judge(&self.own, action, &resource), asking.judge(theirs, action, &resource))
        };
        let verdicts = both(&asking);
        let Some(Subject { key, version }) = subject.filter(|_| asking.misses_tags.get()) else {
            return Ok(verdicts);
        };
        let query = MetaQuery::Object { bucket: bucket.id, key: key.clone(), version, want: Want::Row };
        asking.tags = match self.meta.query(query).await?.answer {
            Ok(Answer::Object(view)) => Some(view.object.attributes.tags),
            _ => return Ok(verdicts),
        };
        Ok(both(&asking))
    }
}

/// All that the owner of a bucket set.
pub async fn settings(meta: &dyn Meta, bucket: &Bucket) -> S3Result<Arc<Vec<BucketSetting>>> {
    match ask(meta, MetaQuery::Settings(bucket.id)).await? {
        Answer::Settings(settings) => Ok(settings),
        _ => Err(unexpected("Settings")),
    }
}

fn policy_of(settings: &[BucketSetting]) -> Option<&str> {
    settings.iter().find_map(|setting| match setting {
        BucketSetting::Policy(text) => Some(text.as_str()),
        _ => None,
    })
}

/// What may not be made public in a bucket.
pub fn block_of(settings: &[BucketSetting]) -> PublicAccessBlock {
    let block = settings.iter().find_map(|setting| match setting {
        BucketSetting::PublicAccessBlock(block) => Some(*block),
        _ => None,
    });
    block.unwrap_or_default()
}

fn resource(bucket: &Bucket, subject: Option<Subject<'_>>) -> String {
    match subject {
        Some(subject) => format!("arn:aws:s3:::{}/{}", bucket.name, subject.key),
        None => format!("arn:aws:s3:::{}", bucket.name),
    }
}

/// Which keys of a bucket a requester may see in listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// All.
    Everything,
    /// None.
    Nothing,
    /// That depends on the prefix: see [`Access::lists_key`].
    ByPrefix,
}

/// The prefix that a listing is for.
#[derive(Debug, Clone, Copy)]
enum Listed<'a> {
    /// As the request says.
    AsSent,
    /// None.
    Whole,
    /// This one.
    Under(&'a str),
}

/// One question to policies.
struct Asking<'a> {
    access: &'a Access,
    listed: Listed<'a>,
    /// Whether a policy asked for the prefix.
    asks_prefix: Cell<bool>,
    version: Option<String>,
    /// What the object is to get; `None`: what the headers say.
    new_tags: Option<&'a Tags>,
    /// Of the object, once they were looked up.
    tags: Option<Tags>,
    /// Whether a policy asked for them before.
    misses_tags: Cell<bool>,
}

impl<'a> Asking<'a> {
    fn by(access: &'a Access, subject: Option<Subject<'_>>) -> Asking<'a> {
        let version = subject.and_then(|subject| subject.version).map(versions::written);
        let (listed, asks_prefix) = (Listed::AsSent, Cell::new(false));
        Asking {
            access,
            listed,
            asks_prefix,
            version,
            new_tags: None,
            tags: None,
            misses_tags: Cell::new(false),
        }
    }

    fn judge(&self, policies: &[Arc<Policy>], action: Action, resource: &str) -> Verdict {
        let signer = self.access.signer.as_ref();
        let principal = signer.map_or(Principal::Anonymous, |signer| Principal::User(signer.user.as_str()));
        let asked = Asked { principal, action: action.permission(), resource, context: self };
        Verdict::combine(policies.iter().map(|policy| policy.judge(&asked)))
    }

    /// The tags that the object is to get.
    fn new_tags(&self) -> Option<Tags> {
        match self.new_tags {
            Some(tags) => Some(tags.clone()),
            None => tags::of_header(&self.access.facts.headers).ok(),
        }
    }

    /// The values of a tag, whose name is without case in the language of policies.
    fn tags_named<'t>(
        tags: impl IntoIterator<Item = (String, String)>,
        name: &str,
    ) -> Option<Vec<Cow<'t, str>>> {
        let named = tags.into_iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        Some(named.map(|(_, value)| value.into()).collect())
    }
}

impl policy::Context for Asking<'_> {
    fn values(&self, key: &str) -> Option<Vec<Cow<'_, str>>> {
        let (facts, signer) = (&self.access.facts, self.access.signer.as_ref());
        let header = |name: &str| header_text(&facts.headers, name).ok().flatten().map(Cow::Borrowed);
        let said = |name: &str| facts.query.get(name).map(Cow::Borrowed);
        let value = match key {
            "aws:sourceip" => Some(facts.source.to_canonical().to_string().into()),
            "aws:securetransport" => Some(if facts.secure { "true" } else { "false" }.into()),
            "aws:currenttime" => Some(iso8601(facts.now_ms).into()),
            "aws:epochtime" => Some((facts.now_ms / 1000).to_string().into()),
            "aws:referer" => header("referer"),
            "aws:useragent" => header("user-agent"),
            "aws:username" | "aws:userid" => signer.map(|signer| signer.user.as_str().into()),
            "aws:principalarn" => signer.map(|signer| format!("arn:aws:iam:::user/{}", signer.user).into()),
            "aws:principaltype" => Some(if signer.is_some() { "User" } else { "Anonymous" }.into()),
            "s3:authtype" => signer.map(|signer| match signer.carrier {
                Carrier::Header => "REST-HEADER".into(),
                Carrier::Query => "REST-QUERY-STRING".into(),
                Carrier::Form => "POST".into(),
            }),
            "s3:signatureversion" => signer.map(|signer| match signer.signed_ms {
                Some(_) => "AWS4-HMAC-SHA256".into(),
                None => "AWS".into(),
            }),
            "s3:signatureage" => signer
                .and_then(|signer| signer.signed_ms)
                .map(|signed| facts.now_ms.saturating_sub(signed).to_string().into()),
            "s3:versionid" => self.version.as_deref().map(Cow::Borrowed),
            "s3:prefix" => {
                self.asks_prefix.set(true);
                match self.listed {
                    Listed::AsSent => said("prefix"),
                    Listed::Whole => None,
                    Listed::Under(prefix) => Some(prefix.into()),
                }
            }
            "s3:delimiter" | "s3:max-keys" => said(key.trim_start_matches("s3:")),
            "s3:if-match" | "s3:if-none-match" => header(key.trim_start_matches("s3:")),
            "s3:object-lock-mode" | "s3:object-lock-retain-until-date" | "s3:object-lock-legal-hold" => {
                header(&key.replace("s3:", "x-amz-"))
            }
            "s3:requestobjecttagkeys" => {
                return Some(self.new_tags()?.into_iter().map(|(key, _)| key.into()).collect());
            }
            key if key.starts_with("s3:x-amz-") => header(key.trim_start_matches("s3:")),
            key => {
                if let Some(name) = key.strip_prefix("s3:existingobjecttag/") {
                    self.misses_tags.set(self.tags.is_none());
                    return Asking::tags_named(self.tags.clone()?, name);
                }
                let name = key.strip_prefix("s3:requestobjecttag/")?;
                return Asking::tags_named(self.new_tags()?, name);
            }
        };
        value.map(|value| vec![value])
    }
}
