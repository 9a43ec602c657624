//! A client that reads and writes a few hot keys with signed HTTP, and tells a history what it did and saw. The
//! simulator and the chaos on real processes let many of them loose.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::Duration;

use fabric::limits::INLINE_BYTES_MAX;

use crate::client::{Client, Request, Response, Target};
use crate::history::{Condition, History, Listing, Moment, Outcome, Value, WriteHandle, body};
use crate::sim::random::SimRandom;

/// What all workers of one store write down.
#[derive(Default)]
pub struct Book {
    /// What they did and saw.
    pub history: History,
    /// ETag (with quotes) of each acknowledged write.
    pub etags: BTreeMap<u64, String>,
    /// The newest id of a write.
    pub last_write: u64,
}

/// What was added to the history just now.
#[derive(Debug, Clone, Copy)]
pub enum Added<'a> {
    /// An operation on this key.
    Key(&'a str),
    /// A listing.
    Listing,
}

/// Where workers work: their clock, and who looks over their shoulder.
pub trait Scene: Send + Sync {
    /// A moment of the clock that all workers share.
    fn moment(&self) -> Moment;
    /// The book, for a moment.
    fn book(&self) -> MutexGuard<'_, Book>;
    /// A line for the trace.
    fn note(&self, line: &str);
    /// A promise was broken, whatever else happens.
    fn violate(&self, what: String);
    /// Something was added to the history: it may be judged now, or later as a whole.
    fn added(&self, what: Added<'_>);
    /// A worker heard from the store, or not in time; `served`: it got what it asked for, or a reason that is not the store's.
    fn answered(&self, _worker: &str, _served: bool) {}
    /// A gateway says that the bucket of a task does not exist. It does.
    fn misses_bucket(&self, bucket: &str, gateway: usize) {
        self.violate(format!("gateway {} says that there is no bucket {bucket}", gateway + 1));
    }
}

/// What a worker works on.
#[derive(Debug, Clone)]
pub struct Task {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with.
    pub prefix: String,
    /// How many keys there are.
    pub keys: u16,
    /// A request is given up after this; its outcome is unknown then.
    pub patience: Duration,
}

/// One operation as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operated {
    /// What it was.
    pub operation: &'static str,
    /// Whether the store served it: with an answer that is no refusal for want of something.
    pub served: bool,
}

/// A PUT whose body is kept as shards, which take more nodes than copies do.
pub const PUT_SHARDS: &str = "put of shards";

fn is_sharded(id: u64) -> bool {
    id.is_multiple_of(4)
}

/// One client.
pub struct Worker<'a> {
    /// Where it works.
    pub scene: &'a dyn Scene,
    /// The store.
    pub target: &'a dyn Target,
    /// Its choices.
    pub random: &'a SimRandom,
    /// What it works on.
    pub task: Task,
    /// Its name in the trace.
    pub name: String,
}

/// Sends one request; `None` when there was no whole answer within `patience`.
pub async fn send(
    target: &dyn Target,
    patience: Duration,
    gateway: usize,
    request: Request,
) -> Option<Response> {
    let client = Client::new(target, gateway);
    tokio::time::timeout(patience, client.send(request)).await.ok()?.ok()
}

/// What an answer to a write means.
pub fn outcome_of(response: Option<&Response>) -> Outcome {
    match response.map(|response| response.status) {
        Some(200..=299) => Outcome::Acknowledged,
        Some(412) => Outcome::ConditionFailed,
        Some(408 | 409) | None => Outcome::Unknown,
        // SlowDown and InsufficientStorage are definite: it did not happen and never will.
        Some(400..=499 | 503 | 507) => Outcome::Refused,
        Some(_) => Outcome::Unknown,
    }
}

fn is_served(response: Option<&Response>) -> bool {
    response.is_some_and(|response| response.status < 500)
}

impl Worker<'_> {
    /// One operation, drawn, on a key and through a gateway that are drawn.
    pub async fn operate(&self) -> Operated {
        let key = format!("{}{:02}", self.task.prefix, self.random.below(u64::from(self.task.keys)));
        let gateway = self.random.below(self.target.gateways() as u64) as usize;
        let (operation, served) = match self.random.below(100) {
            0..30 => self.put(gateway, &key, Condition::None).await,
            30..40 => self.put(gateway, &key, Condition::Absent).await,
            40..52 => self.compare_and_swap(gateway, &key).await,
            52..78 => ("get", self.get(gateway, &key).await),
            78..86 => ("delete", self.delete(gateway, &key).await),
            86..92 => ("multipart", self.multipart(gateway, &key).await),
            _ => ("list", self.list(gateway).await),
        };
        Operated { operation, served }
    }

    async fn send(&self, gateway: usize, request: Request) -> Option<Response> {
        let response = send(self.target, self.task.patience, gateway, request).await;
        self.scene.answered(&self.name, is_served(response.as_ref()));
        let response = response?;
        if response.status == 404 && response.code() == "NoSuchBucket" {
            self.scene.misses_bucket(&self.task.bucket, gateway);
        }
        Some(response)
    }

    fn object(&self, method: &str, key: &str) -> Request {
        Request::object(method, &self.task.bucket, key)
    }

    /// Draws a body over the edges of the write path.
    fn new_body(&self) -> (u64, Vec<u8>) {
        const EDGES: &[u64] = &[16, 100, 4_095, 4_096, 4_097, 16_383, 16_384, 16_385, 20_000, 70_000];
        let bytes = match self.random.below(20) {
            0 => (1 << 20) + self.random.below(3) - 1,
            1 => (1 << 20) + 70_000,
            _ => *self.random.pick(EDGES),
        };
        let id = {
            let mut book = self.scene.book();
            book.last_write += 1;
            book.last_write
        };
        (id, body::make(id, bytes as usize).to_vec())
    }

    /// A body of this number is kept in a class, one of four as shards.
    fn kept(id: u64, request: Request) -> Request {
        if is_sharded(id) { request.header("x-amz-storage-class", "STANDARD_IA") } else { request }
    }

    /// What it was, and whether the store served it.
    async fn put(&self, gateway: usize, key: &str, condition: Condition) -> (&'static str, bool) {
        let (id, body) = self.new_body();
        let operation = if is_sharded(id) { PUT_SHARDS } else { "put" };
        let request = Self::kept(id, self.object("PUT", key).body(body));
        let request = match condition {
            Condition::None => request,
            Condition::Absent => request.header("if-none-match", "*"),
            Condition::Holds(seen) => {
                let etag = self.scene.book().etags.get(&seen).cloned();
                let Some(etag) = etag else { return (operation, true) };
                request.header("if-match", etag)
            }
        };
        let write = self.begin(key, Value::Written(id), condition);
        let response = self.send(gateway, request).await;
        self.end(&write, key, id, response.as_ref());
        (operation, is_served(response.as_ref()))
    }

    async fn compare_and_swap(&self, gateway: usize, key: &str) -> (&'static str, bool) {
        let seen = self.scene.book().history.last_acknowledged(key);
        self.put(gateway, key, seen.map_or(Condition::Absent, Condition::Holds)).await
    }

    async fn delete(&self, gateway: usize, key: &str) -> bool {
        let write = self.begin(key, Value::Absent, Condition::None);
        let response = self.send(gateway, self.object("DELETE", key)).await;
        self.end(&write, key, 0, response.as_ref());
        is_served(response.as_ref())
    }

    /// One small part: all the steps of an upload, without its weight.
    async fn multipart(&self, gateway: usize, key: &str) -> bool {
        let (id, body) = self.new_body();
        let create = Self::kept(id, self.object("POST", key).flag("uploads"));
        let Some(upload) = self.send(gateway, create).await.filter(|response| response.status == 200) else {
            return false;
        };
        let Ok(upload) = upload.xml().map(|xml| xml.text_of("UploadId").to_string()) else {
            self.scene.violate("an answer to CreateMultipartUpload is not XML".to_string());
            return false;
        };
        let part = self.object("PUT", key).query("partNumber", 1).query("uploadId", &upload).body(body);
        let Some(part) = self.send(gateway, part).await.filter(|response| response.status == 200) else {
            return false;
        };
        let xml = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
            part.etag().replace('"', "&quot;")
        );
        let complete = || self.object("POST", key).query("uploadId", &upload).body(xml.clone());
        let write = self.begin(key, Value::Written(id), Condition::None);
        let mut response = self.send(gateway, complete()).await;
        if outcome_of(response.as_ref()) == Outcome::Unknown {
            // A repeated Complete is answered as the first one was.
            let again = (gateway + 1) % self.target.gateways();
            response = self.send(again, complete()).await.filter(|response| response.status == 200);
        }
        self.end(&write, key, id, response.as_ref());
        is_served(response.as_ref())
    }

    /// Reads a key; whether there was an answer.
    pub async fn get(&self, gateway: usize, key: &str) -> bool {
        let began = self.scene.moment();
        let Some(response) = self.send(gateway, self.object("GET", key)).await else {
            return false;
        };
        let value = match response.status {
            200 => match body::read(&response.body) {
                Ok(id) => Value::Written(id),
                Err(flaw) => {
                    self.scene.violate(format!("{key}: a read returned a flawed body: {flaw:?}"));
                    return true;
                }
            },
            404 if response.code() == "NoSuchKey" => Value::Absent,
            _ => return false,
        };
        let ended = self.scene.moment();
        self.note(&format!("get {key} {value:?} {began}..{ended}"));
        self.scene.book().history.read(key, value, began, ended);
        self.scene.added(Added::Key(key));
        true
    }

    /// All pages of a listing, small ones; whether all were there.
    pub async fn list(&self, gateway: usize) -> bool {
        let began = self.scene.moment();
        let page_keys = self.random.between(1, 9);
        let (mut shown, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut request = Request::bucket("GET", &self.task.bucket)
                .query("list-type", 2)
                .query("prefix", &self.task.prefix)
                .query("max-keys", page_keys);
            if let Some(token) = &token {
                request = request.query("continuation-token", token);
            }
            let Some(page) = self.send(gateway, request).await.filter(|page| page.status == 200) else {
                return false;
            };
            let Ok(xml) = page.xml() else {
                self.scene.violate("a listing is not XML".to_string());
                return false;
            };
            shown.extend(xml.all("Contents").map(|item| item.text_of("Key").to_string()));
            if xml.text_of("IsTruncated") != "true" {
                break;
            }
            token = Some(xml.text_of("NextContinuationToken").to_string());
        }
        let ended = self.scene.moment();
        self.note(&format!("list {} keys {began}..{ended}", shown.len()));
        let listing = Listing { prefix: self.task.prefix.clone(), shown, began, ended };
        self.scene.book().history.listed(listing);
        self.scene.added(Added::Listing);
        true
    }

    /// Waits until a gateway takes small and large bodies.
    pub async fn until_served(&self, gateway: usize) {
        loop {
            // A body in chunks needs a layout and two storage nodes, too.
            let probe = self.object("PUT", "probe").body(vec![0; 2 * INLINE_BYTES_MAX]);
            let response = self.send(gateway, probe).await;
            if outcome_of(response.as_ref()) == Outcome::Acknowledged {
                let _gone = self.send(gateway, self.object("DELETE", "probe")).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Reads a key, again and again if need be; whether there was an answer at last.
    pub async fn get_until_answered(&self, gateway: usize, key: &str) -> bool {
        for _ in 0..20 {
            if self.get(gateway, key).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        false
    }

    fn begin(&self, key: &str, value: Value, condition: Condition) -> WriteHandle {
        let now = self.scene.moment();
        self.note(&format!("begin {key} {value:?} if {condition:?} {now}"));
        self.scene.book().history.begin(key, value, condition, now)
    }

    fn end(&self, write: &WriteHandle, key: &str, id: u64, response: Option<&Response>) {
        let outcome = outcome_of(response);
        let now = self.scene.moment();
        let status = response.map_or("none".to_string(), |response| response.status.to_string());
        self.note(&format!("end {key} {outcome:?} {status} {now}"));
        let mut book = self.scene.book();
        if outcome == Outcome::Acknowledged
            && let Some(response) = response
        {
            let etag = match response.etag() {
                "" => response.xml().map(|xml| xml.text_of("ETag").to_string()).unwrap_or_default(),
                etag => etag.to_string(),
            };
            book.etags.insert(id, etag);
        }
        book.history.end(write, outcome, now);
        drop(book);
        self.scene.added(Added::Key(key));
    }

    fn note(&self, line: &str) {
        self.scene.note(&format!("{} {line}", self.name));
    }
}
