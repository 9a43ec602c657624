//! Bringing extents in bounded pieces, small ones side by side.
//!
//! Each chunk that arrives waits for a sync of its disk; those that arrive together share it.

use async_trait::async_trait;
use futures::future::join_all;

use super::{CHUNKS_PER_STEP, JobContext, JobError, STEP_TIME};

/// Extents are added to those under way until they have so many chunks. A chunk on its way is in memory.
const SIDE_BY_SIDE_CHUNKS: u64 = 8;

/// An extent that is brought somewhere.
#[async_trait]
pub(super) trait Bringing: Send {
    /// What is to be said once all of it is there.
    type Brought: Send;

    /// Chunks that are not there yet.
    fn chunks_left(&self) -> u64;

    /// Brings more of it, `most` chunks at most; `None`: there is more.
    async fn go_on(&mut self, cx: &JobContext, most: u64) -> Result<Option<Self::Brought>, JobError>;
}

/// What a unit came to.
pub(super) struct Outcome<B: Bringing> {
    /// To be said.
    pub brought: Vec<B::Brought>,
    /// Extents that could not be brought, and why.
    pub failed: Vec<(B, JobError)>,
}

/// Does one unit: goes on with `current`, then with those that `next` gives, until [`CHUNKS_PER_STEP`] or
/// [`STEP_TIME`] are used up, or `most` extents were brought. The one that takes more units is `current` afterwards.
pub(super) async fn bring_some<B: Bringing>(
    cx: &JobContext,
    current: &mut Option<B>,
    mut next: impl FnMut() -> Option<B> + Send,
    most: usize,
) -> Outcome<B> {
    let mut outcome = Outcome { brought: Vec::new(), failed: Vec::new() };
    let (mut left, until) = (CHUNKS_PER_STEP, cx.env.monotonic() + STEP_TIME);
    while left > 0 && outcome.brought.len() < most && cx.env.monotonic() < until {
        let mut wave = Vec::new();
        let mut chunks = 0;
        while chunks < SIDE_BY_SIDE_CHUNKS.min(left)
            && outcome.brought.len() + wave.len() < most
            && let Some(extent) = current.take().or_else(&mut next)
        {
            let share = extent.chunks_left().min(left - chunks);
            chunks += share;
            wave.push((extent, share));
        }
        if wave.is_empty() {
            break;
        }
        left -= chunks;
        let go_on = |(mut extent, share): (B, u64)| async move {
            let gone = extent.go_on(cx, share).await;
            (extent, gone)
        };
        for (extent, gone) in join_all(wave.into_iter().map(go_on)).await {
            match gone {
                Ok(Some(brought)) => outcome.brought.push(brought),
                Ok(None) => *current = Some(extent), // Only the last of a wave is cut short.
                Err(error) => outcome.failed.push((extent, error)),
            }
        }
    }
    outcome
}
