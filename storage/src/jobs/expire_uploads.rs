//! Aborts multipart uploads that nobody completed or aborted within a set time, so that their parts do not stay for
//! ever.
//!
//! One node does it, the one that leads. An upload that is completed meanwhile is passed over: completing and aborting
//! are commands, and one of them is the first.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::{MetaError, ask};
use consensus::meta::command::{AbortUpload, Command, Reject};
use consensus::meta::model::Home;
use consensus::meta::query::{Answer, Query};
use fabric::ids::Stamp;

use super::{Job, JobContext, JobError, Next, wrong_answer};

/// Uploads that one unit looks at.
const UPLOADS_PER_STEP: u32 = 256;
/// The longest pause between two walks over all uploads; a short period makes it shorter.
const REST: Duration = Duration::from_secs(15 * 60);
/// The shortest.
const REST_MIN: Duration = Duration::from_secs(1);

/// See the file's head.
pub struct ExpireUploads {
    period: Option<Duration>,
    /// The last upload that the present walk has seen.
    after: Option<(Home, Stamp)>,
}

impl ExpireUploads {
    /// Aborts uploads so long after they were begun; `None`: never.
    pub fn new(period: Option<Duration>) -> ExpireUploads {
        ExpireUploads { period, after: None }
    }
}

#[async_trait]
impl Job for ExpireUploads {
    fn name(&self) -> &'static str {
        "expire_uploads"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let Some(period) = self.period else {
            return Ok(Next::Rest(REST));
        };
        let rest = (period / 8).clamp(REST_MIN, REST);
        if !(cx.leads)() {
            self.after = None;
            return Ok(Next::Rest(rest));
        }
        let age_ms = period.as_millis() as u64;
        let question = Query::OldUploads { age_ms, after: self.after.clone(), limit: UPLOADS_PER_STEP };
        let Answer::OldUploads { uploads, next } = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("old uploads"));
        };
        for (home, upload) in uploads {
            abort(cx, home, upload).await?;
        }
        self.after = next;
        Ok(if self.after.is_some() { Next::Again } else { Next::Rest(rest) })
    }
}

async fn abort(cx: &JobContext, home: Home, upload: Stamp) -> Result<(), JobError> {
    let bucket = home.bucket;
    let command = AbortUpload { bucket, key: home.key.clone(), upload };
    match cx.meta.propose(Command::AbortUpload(command)).await {
        Ok(_) => {
            metrics::counter!("fluffy_uploads_expired_total").increment(1);
            tracing::info!(bucket = bucket.0, key = %home.key, %upload, "an old upload was aborted");
            Ok(())
        }
        Err(MetaError::Rejected(Reject::NoSuchUpload | Reject::NoSuchBucket)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
