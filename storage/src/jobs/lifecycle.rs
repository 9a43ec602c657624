//! Does what the lifecycle rules of buckets ask for, in its time.
//!
//! One node does it, the one that leads. It asks for hints whose time has come and has them looked at; what becomes of
//! each is decided where the command is applied, so two that do it at once, or one that is late, do no harm. Where the
//! rules of a bucket changed, its rows are walked once, a piece with each command.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::command::{Command, Done, Expire, Expired, FillDue};
use consensus::meta::model::{ClusterMs, Hint};
use consensus::meta::query::{Answer, DuePage, Query};
use fabric::limits::EXPIRE_PER_COMMAND;

use super::{Job, JobContext, JobError, Next, wrong_answer};

/// The longest pause between two looks at what is due; where something is sooner, it is shorter.
const REST: Duration = Duration::from_secs(5);
/// The shortest.
const REST_MIN: Duration = Duration::from_millis(500);

/// See the file's head.
#[derive(Default)]
pub struct Lifecycle {
    /// Behind this hint in the present round: what is left before it waits for the next one.
    after: Option<Hint>,
}

#[async_trait]
impl Job for Lifecycle {
    fn name(&self) -> &'static str {
        "lifecycle"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if !(cx.leads)() {
            self.after = None;
            metrics::gauge!("fluffy_lifecycle_overdue_seconds").set(0.0);
            return Ok(Next::Rest(REST));
        }
        let began = self.after.is_none();
        let question = Query::Due { after: self.after.take(), limit: EXPIRE_PER_COMMAND as u32 };
        let Answer::Due(DuePage { now, hints, next, walk }) = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("due"));
        };
        if began {
            tell_overdue(now, hints.first());
        }
        let last = hints.last().cloned();
        if last.is_some()
            && let Done::Expired(expired) = cx.meta.propose(Command::Expire(Expire { hints })).await?
        {
            count(expired);
        }
        self.after = last;
        // Last, as a full disk refuses what grows.
        if let Some(bucket) = walk {
            cx.meta.propose(Command::FillDue(FillDue { bucket })).await?;
        }
        let more = walk.is_some() || !began || self.after.is_some();
        Ok(if more { Next::Again } else { Next::Rest(until(now, next)) })
    }
}

/// How far behind the job is.
fn tell_overdue(now: ClusterMs, first: Option<&Hint>) {
    let overdue_ms = first.map_or(0, |hint| now.0.saturating_sub(hint.due.0));
    metrics::gauge!("fluffy_lifecycle_overdue_seconds").set(overdue_ms as f64 / 1000.0);
}

fn until(now: ClusterMs, next: Option<ClusterMs>) -> Duration {
    let next = next.map_or(REST, |next| Duration::from_millis(next.0.saturating_sub(now.0)));
    next.clamp(REST_MIN, REST)
}

fn count(expired: Expired) {
    for (what, number) in [
        ("current", expired.current),
        ("noncurrent", expired.noncurrent),
        ("marker", expired.markers),
        ("upload", expired.uploads),
    ] {
        metrics::counter!("fluffy_lifecycle_expired_total", "what" => what).increment(number);
    }
    metrics::counter!("fluffy_lifecycle_locked_total").increment(expired.put_off);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_until_something_is_due() {
        for (next, rest) in [
            (None, REST),
            (Some(1_000), REST_MIN),
            (Some(3_000), Duration::from_secs(2)),
            (Some(90_000), REST),
            (Some(0), REST_MIN),
        ] {
            assert_eq!(until(ClusterMs(1_000), next.map(ClusterMs)), rest, "{next:?}");
        }
    }
}
