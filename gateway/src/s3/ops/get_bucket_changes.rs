//! GetBucketChanges: what happened to the objects of a bucket, in the order in which it happened. Not in S3.
//!
//! A page of JSON lines behind a cursor, at once or as soon as there is one; or server-sent events for some minutes.
//! Nothing is lost between two requests: the next one goes on behind the last cursor of the one before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::{Meta, ask};
use consensus::meta::query::{Answer, Changes, Query as MetaQuery};
use fabric::ids::{BucketId, Stamp};
use fabric::limits::KIB;
use futures::StreamExt as _;
use http::Method;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::http::guard::now;
use crate::s3::changes::{cursor, expired, from_cursor, line};
use crate::s3::error::S3Result;
use crate::s3::listing::page_size;
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::request::{Query, Request};
use crate::s3::response::{ByteStream, Response, ResponseBody};
use crate::s3::route::Route;

/// How long a request may wait for the first event.
const WAIT_SECONDS_MAX: u64 = 60;
/// How long server-sent events go on before the client has to ask, and be allowed, again.
const STREAM_SECONDS_MAX: u64 = 300;
/// Between two looks for events.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A stream says that it lives where nothing happens for so long: nobody on the way takes it for dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// A page ends when it has as many bytes; it has one line in any case.
const PAGE_BYTES: usize = 768 * KIB as usize;

/// See the module.
pub struct GetBucketChanges;

#[async_trait]
impl Op for GetBucketChanges {
    fn name(&self) -> &'static str {
        "GetBucketChanges"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("changes")
    }

    fn action(&self) -> Action {
        Action::ListBucketChanges
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let bucket = cx.bucket()?.id;
        let last = request.header("last-event-id")?.filter(|id| !id.is_empty());
        let streams =
            request.header(ACCEPT.as_str())?.is_some_and(|kinds| kinds.contains("text/event-stream"));
        let input = Input::parse(bucket, request.query(), last.filter(|_| streams), streams)?;
        let mut reader = Reader { meta: cx.meta.clone(), bucket, after: Stamp::ZERO, limit: input.limit };
        let first = reader.begin(input.since).await?;
        let waiting = Waiting { until: now() + input.wait, stopping: cx.stopping.clone() };
        if streams {
            return Ok(stream(reader, waiting, first));
        }
        page(reader, waiting, first).await
    }
}

/// From where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Oldest,
    Latest,
    Cursor(Stamp),
}

struct Input {
    since: Since,
    limit: u32,
    wait: Duration,
}

impl Input {
    /// `last` is the last event that the client of a stream has seen; it counts more than the address, which says where
    /// the stream began.
    fn parse(bucket: BucketId, query: &Query, last: Option<&str>, streams: bool) -> S3Result<Input> {
        let since = match (last, query.get("since")) {
            (Some(last), _) => Since::Cursor(from_cursor(bucket, "last-event-id", last)?),
            (None, None | Some("" | "0")) => Since::Oldest,
            (None, Some("latest")) => Since::Latest,
            (None, Some(text)) => Since::Cursor(from_cursor(bucket, "since", text)?),
        };
        let (default, most) =
            if streams { (STREAM_SECONDS_MAX, STREAM_SECONDS_MAX) } else { (0, WAIT_SECONDS_MAX) };
        let wait = query.number("wait", 0, most)?.unwrap_or(default);
        Ok(Input { since, limit: page_size(query, "max-keys")?, wait: Duration::from_secs(wait) })
    }
}

/// Reads the feed of one bucket page by page.
struct Reader {
    meta: Arc<dyn Meta>,
    bucket: BucketId,
    after: Stamp,
    limit: u32,
}

impl Reader {
    /// The first page, from where the client wants to begin.
    async fn begin(&mut self, since: Since) -> S3Result<Changes> {
        if let Since::Cursor(stamp) = since {
            self.after = stamp;
            return self.next().await;
        }
        let mut changes = self.ask().await?;
        if since == Since::Latest {
            (changes.events, changes.more) = (Vec::new(), false);
            self.after = changes.latest;
        } else {
            self.after = changes.trimmed;
        }
        Ok(changes)
    }

    /// What there is now behind the cursor.
    async fn next(&self) -> S3Result<Changes> {
        let changes = self.ask().await?;
        if self.after < changes.trimmed {
            return Err(expired(self.bucket, changes.trimmed));
        }
        Ok(changes)
    }

    async fn ask(&self) -> S3Result<Changes> {
        let query = MetaQuery::Changes { bucket: self.bucket, after: self.after, limit: self.limit };
        match ask(&*self.meta, query).await? {
            Answer::Changes(changes) => Ok(changes),
            _ => Err(unexpected("Changes")),
        }
    }
}

/// Until when one waits for events; the end of the gateway ends it, too.
struct Waiting {
    until: Instant,
    stopping: watch::Receiver<bool>,
}

impl Waiting {
    /// Waits until it is time to look again; false: no longer.
    async fn again(&mut self) -> bool {
        if self.until <= now() || *self.stopping.borrow() {
            return false;
        }
        tokio::select! {
            biased;
            // A sender that is gone means the same.
            _ = self.stopping.wait_for(|stopping| *stopping) => false,
            () = sleep(LOOK_INTERVAL) => true,
        }
    }
}

async fn page(mut reader: Reader, mut waiting: Waiting, mut changes: Changes) -> S3Result<Response> {
    while changes.events.is_empty() && reader.limit != 0 && waiting.again().await {
        changes = reader.next().await?;
    }
    let mut text = String::new();
    let mut more = changes.more;
    for (stamp, event) in &changes.events {
        if PAGE_BYTES < text.len() {
            more = true;
            break;
        }
        text.push_str(&line(reader.bucket, *stamp, event, changes.versioning).to_string());
        text.push('\n');
        reader.after = *stamp;
    }
    let response = Response::ok().header(CONTENT_TYPE, "application/x-ndjson");
    let response = response.amz("x-fluffy-cursor", cursor(reader.bucket, reader.after));
    Ok(response.amz("x-fluffy-truncated", more.to_string()).bytes(Bytes::from(text)))
}

/// Server-sent events. A failure ends them; the client asks again with the last id that it saw.
fn stream(reader: Reader, waiting: Waiting, first: Changes) -> Response {
    let quiet_since = now();
    let state = Stream { reader, waiting, ready: VecDeque::new(), quiet_since };
    let ready = state.told(&first);
    let state = Stream { ready, ..state };
    let pieces: ByteStream =
        futures::stream::unfold(state, |mut state| async move { Some((Ok(state.next().await?), state)) })
            .boxed();
    let mut response = Response::ok().header(CONTENT_TYPE, "text/event-stream");
    response = response.header(CACHE_CONTROL, "no-cache");
    response.body = ResponseBody::Open(pieces);
    response
}

struct Stream {
    reader: Reader,
    waiting: Waiting,
    /// Pieces that were read and are not sent, each with its last stamp.
    ready: VecDeque<(Stamp, Bytes)>,
    quiet_since: Instant,
}

impl Stream {
    /// The next piece; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some((stamp, piece)) = self.ready.pop_front() {
                self.reader.after = stamp;
                self.quiet_since = now();
                return Some(piece);
            }
            if SIGN_OF_LIFE <= self.quiet_since.elapsed() {
                self.quiet_since = now();
                return Some(Bytes::from_static(b":\n\n"));
            }
            if !self.waiting.again().await {
                return None;
            }
            let changes = self.reader.next().await.ok()?;
            self.ready = self.told(&changes);
        }
    }

    /// A page of events in pieces.
    fn told(&self, changes: &Changes) -> VecDeque<(Stamp, Bytes)> {
        let mut pieces = VecDeque::new();
        for events in changes.events.chunks(100) {
            let mut text = String::new();
            for (stamp, event) in events {
                let line = line(self.reader.bucket, *stamp, event, changes.versioning);
                text.push_str(&format!("id: {}\ndata: {line}\n\n", cursor(self.reader.bucket, *stamp)));
            }
            let last = events.last().map_or(self.reader.after, |(stamp, _)| *stamp);
            pieces.push_back((last, Bytes::from(text)));
        }
        pieces
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::Code;

    #[test]
    fn parameters() {
        let bucket = BucketId(1);
        let parse = |text: &str, streams| Input::parse(bucket, &Query::parse(text).unwrap(), None, streams);
        let stamp = Stamp { epoch: 1, index: 2, ordinal: 3 };
        let text = cursor(bucket, stamp);
        for (text, since) in [
            ("changes".to_string(), Since::Oldest),
            ("changes&since=0".to_string(), Since::Oldest),
            ("changes&since=latest".to_string(), Since::Latest),
            (format!("changes&since={text}"), Since::Cursor(stamp)),
        ] {
            assert_eq!(parse(&text, false).unwrap().since, since, "{text}");
        }
        assert_eq!(parse("", true).unwrap().wait.as_secs(), STREAM_SECONDS_MAX);
        assert_eq!(parse("wait=60", false).unwrap().wait.as_secs(), 60);
        for bad in ["since=1", "since=LATEST", "wait=61", "wait=-1", "wait=", "max-keys=x"] {
            assert_eq!(parse(bad, false).err().unwrap().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
