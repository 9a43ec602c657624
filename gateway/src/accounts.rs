//! Records that every request needs, kept for seconds: access keys, policies, buckets and what is set on them.
//!
//! [`Records`] stands in front of the metadata and looks like it. What always holds: a record is used for at most
//! [`RECORD_LIFETIME`] after it was asked for, so a revoked key is dead everywhere within five seconds; what this
//! gateway changes itself, it forgets at once; that a bucket or a key does *not* exist is never kept.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::{Meta, MetaError, ReadGuard, WriteGuard, ask};
use consensus::meta::command::{Command, Done, Reject};
use consensus::meta::names::{AccessKeyId, BucketName, UserName};
use consensus::meta::query::{Answer, Answered, Query};
use fabric::env::Env;
use fabric::ids::BucketId;
use lru::LruCache;

use crate::overlay::Overlay;
use crate::s3::auth::{Keys, SigningKey};
use crate::s3::{Code, S3Result};
use crate::secrets::{ClusterKey, Secret};

/// A record is asked for again after this.
pub const RECORD_LIFETIME: Duration = Duration::from_secs(4);
/// Records of each kind.
const RECORDS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("10,000 is not 0");

/// See the file's head.
pub struct Records {
    meta: Arc<dyn Meta>,
    env: Arc<dyn Env>,
    /// By the number of their kind.
    kept: [Mutex<LruCache<Name, Kept>>; 4],
}

/// Of what there are records.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Keys,
    Policies,
    Buckets,
    Settings,
}

/// A record by what is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Key(AccessKeyId),
    Policies(UserName),
    Bucket(BucketName),
    Settings(BucketId),
}

impl Name {
    /// What a question asks for, where that is kept.
    fn of(query: &Query) -> Option<Name> {
        match query {
            Query::AccessKey(id) => Some(Name::Key(id.clone())),
            Query::UserPolicies(user) => Some(Name::Policies(user.clone())),
            Query::Bucket(name) => Some(Name::Bucket(name.clone())),
            Query::Settings(bucket) => Some(Name::Settings(*bucket)),
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Name::Key(_) => Kind::Keys,
            Name::Policies(_) => Kind::Policies,
            Name::Bucket(_) => Kind::Buckets,
            Name::Settings(_) => Kind::Settings,
        }
    }
}

struct Kept {
    answered: Answered,
    asked: Duration,
}

impl Records {
    /// In front of `meta`.
    pub fn new(meta: Arc<dyn Meta>, env: Arc<dyn Env>) -> Records {
        let kept = std::array::from_fn(|_| Mutex::new(LruCache::new(RECORDS_MAX)));
        Records { meta, env, kept }
    }

    fn of_kind(&self, kind: Kind) -> MutexGuard<'_, LruCache<Name, Kept>> {
        // Each change of a cache is a single call, so poison means nothing here.
        self.kept[kind as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, name: &Name) -> Option<Answered> {
        let mut records = self.of_kind(name.kind());
        let kept = records.get(name)?;
        if self.env.monotonic().saturating_sub(kept.asked) < RECORD_LIFETIME {
            return Some(kept.answered.clone());
        }
        records.pop(name);
        None
    }

    fn forget(&self, kinds: &[Kind]) {
        kinds.iter().for_each(|kind| self.of_kind(*kind).clear());
    }

    fn note_missing(&self, reject: &Reject) {
        if *reject == Reject::NoSuchBucket {
            self.forget(&[Kind::Buckets, Kind::Settings]);
        }
    }
}

/// Which records a command may change.
fn touched(command: &Command) -> &'static [Kind] {
    match command {
        Command::AddUser(_)
        | Command::RemoveUser(_)
        | Command::AddAccessKey(_)
        | Command::RemoveAccessKey(_) => &[Kind::Keys, Kind::Policies],
        Command::SetUserPolicy(_) => &[Kind::Policies],
        Command::CreateBucket(_) | Command::DeleteBucket(_) | Command::SetBucket(_) => {
            &[Kind::Buckets, Kind::Settings]
        }
        Command::Guarded(guarded) => touched(&guarded.command),
        Command::WithAcl(with) => touched(&with.command),
        _ => &[],
    }
}

/// Whether an answer is a record.
fn is_record(answered: &Answered) -> bool {
    matches!(
        &answered.answer,
        Ok(Answer::Bucket(Some(_))
            | Answer::AccessKey(Some(_))
            | Answer::Settings(_)
            | Answer::UserPolicies(_))
    )
}

#[async_trait]
impl Meta for Records {
    async fn propose(&self, command: Command) -> Result<Done, MetaError> {
        let touched = touched(&command);
        let outcome = self.meta.propose(command).await;
        self.forget(touched);
        if let Err(MetaError::Rejected(reject)) = &outcome {
            self.note_missing(reject);
        }
        outcome
    }

    async fn query(&self, query: Query) -> Result<Answered, MetaError> {
        let name = Name::of(&query);
        if let Some(answered) = name.as_ref().and_then(|name| self.kept(name)) {
            metrics::counter!("fluffy_record_hits_total").increment(1);
            return Ok(answered);
        }
        // The time of the question counts, not of the answer: a record is true as of somewhere between.
        let asked = self.env.monotonic();
        let answered = self.meta.query(query).await?;
        if let Some(name) = name {
            metrics::counter!("fluffy_record_misses_total").increment(1);
            if is_record(&answered) {
                self.of_kind(name.kind()).put(name, Kept { answered: answered.clone(), asked });
            }
        }
        if let Err(reject) = &answered.answer {
            self.note_missing(reject);
        }
        Ok(answered)
    }

    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        self.meta.begin_write().await
    }

    fn begin_read(&self) -> ReadGuard {
        self.meta.begin_read()
    }
}

/// Secrets of users, from the metadata.
pub struct Accounts {
    /// Where the sealed secrets are.
    pub records: Arc<Records>,
    /// Opens them.
    pub cluster_key: ClusterKey,
    /// Where users of other clusters are at home.
    pub overlay: Option<Arc<Overlay>>,
}

#[async_trait]
impl Keys for Accounts {
    async fn secret(&self, id: &AccessKeyId) -> S3Result<Option<(UserName, Secret)>> {
        let Answer::AccessKey(key) = ask(&*self.records, Query::AccessKey(id.clone())).await? else {
            return Err(Code::InternalError.caused("the metadata answered another question than AccessKey"));
        };
        let Some(key) = key else {
            return Ok(None);
        };
        let secret = self
            .cluster_key
            .open(id, &key.sealed_secret)
            .map_err(|error| Code::InternalError.caused(error))?;
        Ok(Some((key.user, secret)))
    }

    async fn of_others(
        &self,
        id: &AccessKeyId,
        date: &str,
        region: &str,
    ) -> S3Result<Option<(UserName, SigningKey)>> {
        let Some(overlay) = self.overlay.as_ref().filter(|overlay| !overlay.is_alone()) else {
            return Ok(None);
        };
        let found = overlay.day_key(id, date, region).await;
        let found = found.map_err(|error| {
            Code::ServiceUnavailable.says(format!("The access key is not to be checked now: {error}."))
        })?;
        Ok(found.and_then(|key| Some((key.user, SigningKey::from_hex(&key.signing_key)?))))
    }
}

/// The same, with keys of users of other clusters as they were known last: for reads that do not wait for their home.
pub struct LastKnown {
    /// Secrets of users of this cluster.
    pub keys: Arc<dyn Keys>,
    /// What other clusters told.
    pub overlay: Arc<Overlay>,
}

#[async_trait]
impl Keys for LastKnown {
    async fn secret(&self, id: &AccessKeyId) -> S3Result<Option<(UserName, Secret)>> {
        self.keys.secret(id).await
    }

    async fn of_others(
        &self,
        id: &AccessKeyId,
        date: &str,
        region: &str,
    ) -> S3Result<Option<(UserName, SigningKey)>> {
        let found = self.overlay.known_day_key(id, date, region);
        Ok(found.and_then(|key| Some((key.user, SigningKey::from_hex(&key.signing_key)?))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use consensus::meta::command::DeleteBucket;
    use consensus::meta::model::{Bucket, ClusterMs, Versioning};
    use fabric::ids::BucketId;
    use tokio::time::sleep;

    use super::*;
    use crate::data::fakes::TestEnv;

    /// Knows one bucket, and counts the questions.
    #[derive(Default)]
    struct Counting(AtomicU64);

    #[async_trait]
    impl Meta for Counting {
        async fn propose(&self, _: Command) -> Result<Done, MetaError> {
            Err(MetaError::Rejected(Reject::BucketNotEmpty))
        }
        async fn query(&self, query: Query) -> Result<Answered, MetaError> {
            let index = self.0.fetch_add(1, Ordering::Relaxed);
            let answer = match query {
                Query::Bucket(name) if name.as_str() == "there" => Ok(Answer::Bucket(Some(Bucket {
                    id: BucketId(1),
                    name,
                    owner: "root".parse().unwrap(),
                    created: ClusterMs(0),
                    epoch: 0,
                    versioning: Versioning::Off,
                }))),
                Query::Bucket(_) => Ok(Answer::Bucket(None)),
                _ => Err(Reject::NoSuchBucket),
            };
            Ok(Answered { index, answer })
        }
        async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
            Err(MetaError::Unavailable("no writes here".to_string()))
        }
        fn begin_read(&self) -> ReadGuard {
            ReadGuard::new(Box::new(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_kept_for_seconds_and_absence_never() {
        let meta = Arc::new(Counting::default());
        let records = Records::new(meta.clone(), TestEnv::shared());
        let asked = async |name: &str| {
            let before = meta.0.load(Ordering::Relaxed);
            records.query(Query::Bucket(name.parse().unwrap())).await.unwrap();
            meta.0.load(Ordering::Relaxed) - before
        };
        assert_eq!([asked("there").await, asked("there").await], [1, 0]);
        assert_eq!([asked("absent").await, asked("absent").await], [1, 1]);
        sleep(RECORD_LIFETIME).await;
        assert_eq!([asked("there").await, asked("there").await], [1, 0]);
        // What another gateway did is noticed where a command or question is refused for it …
        let _ = records.query(Query::Users).await.unwrap();
        assert_eq!([asked("there").await, asked("there").await], [1, 0]);
        // … and what this one may have changed is forgotten, whatever the outcome.
        let delete = Command::DeleteBucket(DeleteBucket { bucket: BucketId(1) });
        assert!(records.propose(delete).await.is_err());
        assert_eq!(asked("there").await, 1);
    }
}
