//! Records that every request needs, kept for seconds: access keys and buckets.
//!
//! [`Records`] stands in front of the metadata and looks like it. What always holds: a record is used for at most
//! [`RECORD_LIFETIME`] after it was asked for, so a revoked key is dead everywhere within five seconds; what this
//! gateway changes itself, it forgets at once; that something does *not* exist is never kept.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::{Meta, MetaError, ReadGuard, WriteGuard, ask};
use consensus::meta::command::{Command, Done, Reject};
use consensus::meta::model::{AccessKey, Bucket};
use consensus::meta::names::{AccessKeyId, BucketName, UserName};
use consensus::meta::query::{Answer, Answered, Query};
use fabric::env::Env;
use lru::LruCache;

use crate::s3::auth::Keys;
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
    keys: Mutex<LruCache<AccessKeyId, Kept<AccessKey>>>,
    buckets: Mutex<LruCache<BucketName, Kept<Bucket>>>,
}

struct Kept<T> {
    record: T,
    index: u64,
    asked: Duration,
}

impl Records {
    /// In front of `meta`.
    pub fn new(meta: Arc<dyn Meta>, env: Arc<dyn Env>) -> Records {
        Records {
            meta,
            env,
            keys: Mutex::new(LruCache::new(RECORDS_MAX)),
            buckets: Mutex::new(LruCache::new(RECORDS_MAX)),
        }
    }

    fn kept<K: Hash + Eq, T: Clone>(
        &self,
        cache: &Mutex<LruCache<K, Kept<T>>>,
        name: &K,
    ) -> Option<(u64, T)> {
        let mut cache = locked(cache);
        let kept = cache.get(name)?;
        if self.env.monotonic().saturating_sub(kept.asked) < RECORD_LIFETIME {
            return Some((kept.index, kept.record.clone()));
        }
        cache.pop(name);
        None
    }

    /// Forgets what a command may have changed.
    fn forget(&self, command: &Touched) {
        match command {
            Touched::Nothing => {}
            Touched::Keys => locked(&self.keys).clear(),
            Touched::Buckets => locked(&self.buckets).clear(),
        }
    }

    fn note_missing(&self, reject: &Reject) {
        if *reject == Reject::NoSuchBucket {
            locked(&self.buckets).clear();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of a cache is a single call, so poison means nothing here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which records a command changes.
enum Touched {
    Nothing,
    Keys,
    Buckets,
}

impl Touched {
    fn by(command: &Command) -> Touched {
        match command {
            Command::AddUser(_)
            | Command::RemoveUser(_)
            | Command::AddAccessKey(_)
            | Command::RemoveAccessKey(_) => Touched::Keys,
            Command::CreateBucket(_) | Command::DeleteBucket(_) | Command::SetBucket(_) => Touched::Buckets,
            _ => Touched::Nothing,
        }
    }
}

#[async_trait]
impl Meta for Records {
    async fn propose(&self, command: Command) -> Result<Done, MetaError> {
        let touched = Touched::by(&command);
        let outcome = self.meta.propose(command).await;
        self.forget(&touched);
        if let Err(MetaError::Rejected(reject)) = &outcome {
            self.note_missing(reject);
        }
        outcome
    }

    async fn query(&self, query: Query) -> Result<Answered, MetaError> {
        let kept = match &query {
            Query::Bucket(name) => self
                .kept(&self.buckets, name)
                .map(|(index, bucket)| Answered { index, answer: Ok(Answer::Bucket(Some(bucket))) }),
            Query::AccessKey(id) => self
                .kept(&self.keys, id)
                .map(|(index, key)| Answered { index, answer: Ok(Answer::AccessKey(Some(key))) }),
            _ => None,
        };
        if let Some(answered) = kept {
            metrics::counter!("fluffy_record_hits_total").increment(1);
            return Ok(answered);
        }
        if matches!(query, Query::Bucket(_) | Query::AccessKey(_)) {
            metrics::counter!("fluffy_record_misses_total").increment(1);
        }
        // The time of the question counts, not of the answer: a record is true as of somewhere between.
        let asked = self.env.monotonic();
        let answered = self.meta.query(query).await?;
        let index = answered.index;
        match &answered.answer {
            Ok(Answer::Bucket(Some(bucket))) => {
                let kept = Kept { record: bucket.clone(), index, asked };
                locked(&self.buckets).put(bucket.name.clone(), kept);
            }
            Ok(Answer::AccessKey(Some(key))) => {
                locked(&self.keys).put(key.id.clone(), Kept { record: key.clone(), index, asked });
            }
            Err(reject) => self.note_missing(reject),
            Ok(_) => {}
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use consensus::meta::command::DeleteBucket;
    use consensus::meta::model::{ClusterMs, Versioning};
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
