//! What clients do: signed HTTP to the real gateways, on a few hot keys, every answer shown to the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fabric::limits::INLINE_BYTES_MAX;
use fabric::net::{BoxStream, Net};

use super::body;
use super::oracle::{Condition, Moment, Oracle, Outcome, Value, Violation, WriteHandle};
use super::plan::Plan;
use super::random::SimRandom;
use super::seams::{EPOCH_MS, SimNet};
use super::world::Report;
use crate::client::{Client, Credentials, Request, Response, Target};
use crate::conformance;

/// The one bucket.
pub(super) const BUCKET: &str = "bucket";
/// The healed cluster has to serve within this.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// What is collected by mistake is gone after this, with the failpoint `eager_collection`.
const COLLECTION: Duration = Duration::from_secs(20);
/// Port of the S3 service of a simulated gateway.
pub const S3_PORT: u16 = 9000;

/// The result type of turmoil's clients.
pub(super) type Ended = Result<(), Box<dyn std::error::Error>>;

/// The simulated cluster as seen from a client.
pub(super) struct SimTarget {
    gateways: usize,
    patience: Duration,
}

impl SimTarget {
    /// The gateways of a plan.
    pub(super) fn of(plan: &Plan) -> SimTarget {
        let patience = Duration::from_millis(plan.patience_ms);
        SimTarget { gateways: usize::from(plan.gateways), patience }
    }
}

#[async_trait]
impl Target for SimTarget {
    fn gateways(&self) -> usize {
        self.gateways
    }

    async fn connect(&self, gateway: usize) -> io::Result<BoxStream> {
        SimNet.connect(&self.host(gateway)).await
    }

    fn host(&self, gateway: usize) -> String {
        format!("gateway-{}:{S3_PORT}", gateway + 1)
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64
    }

    fn root(&self) -> Credentials {
        root_credentials()
    }

    fn other_user(&self) -> Option<Credentials> {
        Some(other_credentials())
    }

    fn domain(&self) -> Option<String> {
        None
    }
}

/// Keys of the first user of every simulated cluster.
pub fn root_credentials() -> Credentials {
    Credentials::new("SIMULATEDROOT", "simulated-secret-of-the-root-user")
}

/// Keys of a second user, who owns nothing.
pub fn other_credentials() -> Credentials {
    Credentials::new("SIMULATEDOTHER", "simulated-secret-of-another-user")
}

/// What all clients of a world share.
pub struct Shared {
    plan: Plan,
    state: Mutex<State>,
}

struct State {
    oracle: Oracle,
    moment: Moment,
    next_write: u64,
    trace: Vec<String>,
    operations: u64,
    clients_done: usize,
    set_up: bool,
    violation: Option<String>,
    /// Outcomes of the conformance suite.
    behaviours: Vec<(String, conformance::Outcome)>,
    /// Nodes whose rows are still to be audited.
    audits_wanted: BTreeSet<u16>,
    /// Nodes that have still to hold everything that belongs on them, and what they lacked last.
    copies_wanted: BTreeMap<u16, Vec<String>>,
    /// ETag (with quotes) of each acknowledged write.
    etags: BTreeMap<u64, String>,
    /// How often all nodes moved to other ports.
    moves: u16,
    /// What each voter showed of itself last.
    shown: BTreeMap<u16, Shown>,
}

/// What a voter knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Its number.
    pub node: u16,
    /// Whether it leads.
    pub leads: bool,
    /// The last entry applied.
    pub index: u64,
    /// Cluster time then.
    pub time_ms: u64,
}

impl Shared {
    /// Nothing happened yet.
    pub fn new(plan: &Plan) -> Arc<Shared> {
        let state = State {
            oracle: Oracle::default(),
            moment: 0,
            next_write: 1,
            trace: Vec::new(),
            operations: 0,
            clients_done: 0,
            set_up: false,
            violation: None,
            behaviours: Vec::new(),
            audits_wanted: BTreeSet::new(),
            copies_wanted: BTreeMap::new(),
            etags: BTreeMap::new(),
            moves: 0,
            shown: BTreeMap::new(),
        };
        Arc::new(Shared { plan: plan.clone(), state: Mutex::new(state) })
    }

    /// Adds a line to the trace, with the simulated time of the client that calls.
    pub fn note(&self, line: &str) {
        self.note_at(turmoil::sim_elapsed().unwrap_or_default(), line);
    }

    /// Adds a line to the trace.
    pub fn note_at(&self, elapsed: Duration, line: &str) {
        self.state().trace.push(format!("{elapsed:?} {line}"));
    }

    /// What is being simulated.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How often all nodes moved to other ports.
    pub fn moves(&self) -> u16 {
        self.state().moves
    }

    /// All nodes move.
    pub fn move_nodes(&self) {
        self.state().moves += 1;
    }

    /// A voter shows itself.
    pub fn show(&self, shown: Shown) {
        self.state().shown.insert(shown.node, shown);
    }

    /// What a voter showed last.
    pub fn shown(&self, node: u16) -> Option<Shown> {
        self.state().shown.get(&node).copied()
    }

    /// It has to show itself again.
    pub fn forget_shown(&self, node: u16) {
        self.state().shown.remove(&node);
    }

    /// Whether the rows of this node are to be audited now.
    pub fn wants_audit_of(&self, node: u16) -> bool {
        self.state().audits_wanted.contains(&node)
    }

    /// What an audit found; nothing is good.
    pub fn audited(&self, node: u16, findings: Vec<String>) {
        self.state().audits_wanted.remove(&node);
        if !findings.is_empty() {
            self.violate(format!("the rows of node {node} disagree: {}", findings.join("; ")));
        }
    }

    /// Whether this node has to say which copies it lacks.
    pub fn wants_copies_of(&self, node: u16) -> bool {
        self.state().copies_wanted.contains_key(&node)
    }

    /// What a node lacks; nothing is good.
    pub fn counted_copies(&self, node: u16, missing: Vec<String>) {
        if missing.is_empty() {
            self.state().copies_wanted.remove(&node);
        } else {
            self.state().copies_wanted.insert(node, missing);
        }
    }

    /// Keeps the first violation.
    pub fn violate(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.state().violation.get_or_insert(what);
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    /// How many clients came to their end.
    pub fn clients_done(&self) -> usize {
        self.state().clients_done
    }

    /// A client came to its end.
    pub fn client_done(&self) {
        self.state().clients_done += 1;
    }

    /// Whether the bucket is there.
    pub fn is_set_up(&self) -> bool {
        self.state().set_up
    }

    /// What came of it all.
    pub fn report(&self) -> Report {
        let state = self.state();
        Report {
            violation: state.violation.clone(),
            trace: state.trace.clone(),
            operations: state.operations,
            unknowns: state.oracle.unknowns,
        }
    }

    /// What the conformance suite found.
    pub fn take_behaviours(&self) -> Vec<(String, conformance::Outcome)> {
        std::mem::take(&mut self.state().behaviours)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    fn moment(&self) -> Moment {
        let mut state = self.state();
        state.moment += 1;
        state.moment
    }

    fn judge(&self, verdict: Result<(), Violation>) {
        if let Err(Violation(what)) = verdict {
            self.violate(what);
        }
    }
}

/// Creates the bucket, and waits until every gateway serves small and large bodies.
pub async fn setup(shared: Arc<Shared>) -> Ended {
    let target = SimTarget::of(&shared.plan);
    for gateway in 0..target.gateways {
        let bucket = || Request::bucket("PUT", BUCKET);
        until_answered(&target, gateway, bucket, &[200, 409]).await;
        // A body in chunks needs the first layout, too.
        let object = || Request::object("PUT", BUCKET, "ready").body(vec![0; 2 * INLINE_BYTES_MAX]);
        until_answered(&target, gateway, object, &[200]).await;
        until_answered(&target, gateway, || Request::object("DELETE", BUCKET, "ready"), &[204]).await;
    }
    shared.state().set_up = true;
    Ok(())
}

/// Repeats a request until its status is a wanted one.
async fn until_answered(target: &SimTarget, gateway: usize, request: impl Fn() -> Request, wanted: &[u16]) {
    while !send(target, gateway, request()).await.is_some_and(|response| wanted.contains(&response.status)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One client: the operations of the plan, one after the other.
pub async fn client(shared: Arc<Shared>, number: u16) -> Ended {
    let random = SimRandom::new(shared.plan.seed, &format!("client {number}"));
    let target = SimTarget::of(&shared.plan);
    let worker = Worker { shared: &shared, target: &target, random: &random, number };
    for _ in 0..shared.plan.operations {
        worker.operate().await;
        let pause_us = random.below(150_000);
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
    }
    shared.client_done();
    Ok(())
}

/// After the faults: the cluster serves again, and everything promised is there, through every gateway.
pub async fn audit(shared: Arc<Shared>) -> Ended {
    let random = SimRandom::new(shared.plan.seed, "audit");
    let target = SimTarget::of(&shared.plan);
    let worker = Worker { shared: &shared, target: &target, random: &random, number: 0 };
    if shared.plan.failpoints.contains("eager_collection") {
        tokio::time::sleep(COLLECTION).await;
    }
    let keys = shared.state().oracle.keys();
    for gateway in 0..target.gateways {
        if tokio::time::timeout(CONVERGENCE, worker.until_served(gateway)).await.is_err() {
            shared.violate(format!("not live: gateway {} does not serve after the faults", gateway + 1));
            return Ok(());
        }
        for key in &keys {
            if !worker.get_until_answered(gateway, key).await {
                shared.violate(format!("not live: {key} cannot be read after the faults"));
                return Ok(());
            }
        }
        worker.list(gateway).await;
    }
    shared.state().audits_wanted = (1..=shared.plan.nodes.min(3)).collect();
    let audits = async {
        while !shared.state().audits_wanted.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(CONVERGENCE, audits).await.is_err() {
        shared.violate("not live: a voter does not take part after the faults".to_string());
    }
    shared.state().copies_wanted = (1..=shared.plan.nodes.min(3)).map(|node| (node, Vec::new())).collect();
    let forgetful = shared.plan.forgetful_node();
    let copies = async {
        while shared.state().copies_wanted.iter().any(|(node, missing)| {
            // Where bits flip, redb may not find what is there; only the walk of every day does.
            Some(*node) != forgetful || missing.is_empty()
        }) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(CONVERGENCE, copies).await.is_err() {
        let lacking = format!("{:?}", shared.state().copies_wanted);
        shared.violate(format!("not live: copies are missing after the faults: {lacking:.500}"));
    }
    shared.client_done();
    Ok(())
}

/// The conformance suite: the same behaviours that are run against real daemons.
pub async fn suite(shared: Arc<Shared>) -> Ended {
    let target = SimTarget::of(&shared.plan);
    let hear = |name: &str, outcome: conformance::Outcome| {
        shared.note(&format!("{name}: {outcome:?}"));
        shared.state().behaviours.push((name.to_string(), outcome));
    };
    conformance::run(&target, hear).await;
    shared.client_done();
    Ok(())
}

/// Sends one request; `None` when there was no whole answer in time.
async fn send(target: &SimTarget, gateway: usize, request: Request) -> Option<Response> {
    let client = Client::new(target, gateway);
    tokio::time::timeout(target.patience, client.send(request)).await.ok()?.ok()
}

fn outcome_of(response: Option<&Response>) -> Outcome {
    match response.map(|response| response.status) {
        Some(200..=299) => Outcome::Acknowledged,
        Some(408 | 409) | None => Outcome::Unknown,
        // SlowDown and InsufficientStorage are definite: it did not happen and never will.
        Some(400..=499 | 503 | 507) => Outcome::Refused,
        Some(_) => Outcome::Unknown,
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    target: &'a SimTarget,
    random: &'a SimRandom,
    number: u16,
}

impl Worker<'_> {
    async fn operate(&self) {
        self.shared.state().operations += 1;
        let key = format!("key/{:02}", self.random.below(u64::from(self.shared.plan.keys)));
        let gateway = self.random.below(self.target.gateways as u64) as usize;
        match self.random.below(100) {
            0..30 => self.put(gateway, &key, Condition::None).await,
            30..40 => self.put(gateway, &key, Condition::Absent).await,
            40..52 => self.compare_and_swap(gateway, &key).await,
            52..78 => {
                self.get(gateway, &key).await;
            }
            78..86 => self.delete(gateway, &key).await,
            86..92 => self.multipart(gateway, &key).await,
            _ => self.list(gateway).await,
        }
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
            let mut state = self.shared.state();
            state.next_write += 1;
            state.next_write
        };
        (id, body::make(id, bytes as usize).to_vec())
    }

    async fn put(&self, gateway: usize, key: &str, condition: Condition) {
        let (id, body) = self.new_body();
        let request = Request::object("PUT", BUCKET, key).body(body);
        let request = match condition {
            Condition::None => request,
            Condition::Absent => request.header("if-none-match", "*"),
            Condition::Holds(seen) => {
                let Some(etag) = self.shared.state().etags.get(&seen).cloned() else { return };
                request.header("if-match", etag)
            }
        };
        let write = self.begin(key, Value::Written(id), condition);
        let response = send(self.target, gateway, request).await;
        self.end(&write, key, id, response.as_ref());
    }

    async fn compare_and_swap(&self, gateway: usize, key: &str) {
        let seen = self.shared.state().oracle.last_acknowledged(key);
        match seen {
            Some(seen) => self.put(gateway, key, Condition::Holds(seen)).await,
            None => self.put(gateway, key, Condition::Absent).await,
        }
    }

    async fn delete(&self, gateway: usize, key: &str) {
        let write = self.begin(key, Value::Absent, Condition::None);
        let response = send(self.target, gateway, Request::object("DELETE", BUCKET, key)).await;
        self.end(&write, key, 0, response.as_ref());
    }

    /// One small part: all the steps of an upload, without its weight.
    async fn multipart(&self, gateway: usize, key: &str) {
        let (id, body) = self.new_body();
        let create = Request::object("POST", BUCKET, key).flag("uploads");
        let Some(upload) = send(self.target, gateway, create).await.filter(|response| response.status == 200)
        else {
            return;
        };
        let Ok(upload) = upload.xml().map(|xml| xml.text_of("UploadId").to_string()) else {
            self.shared.violate("an answer to CreateMultipartUpload is not XML".to_string());
            return;
        };
        let part =
            Request::object("PUT", BUCKET, key).query("partNumber", 1).query("uploadId", &upload).body(body);
        let Some(part) = send(self.target, gateway, part).await.filter(|response| response.status == 200)
        else {
            return;
        };
        let xml = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
            part.etag().replace('"', "&quot;")
        );
        let complete = || Request::object("POST", BUCKET, key).query("uploadId", &upload).body(xml.clone());
        let write = self.begin(key, Value::Written(id), Condition::None);
        let mut response = send(self.target, gateway, complete()).await;
        if outcome_of(response.as_ref()) == Outcome::Unknown {
            // A repeated Complete is answered as the first one was.
            let again = (gateway + 1) % self.target.gateways;
            response = send(self.target, again, complete()).await.filter(|response| response.status == 200);
        }
        self.end(&write, key, id, response.as_ref());
    }

    /// Reads a key; whether there was an answer.
    async fn get(&self, gateway: usize, key: &str) -> bool {
        let began = self.shared.moment();
        let Some(response) = send(self.target, gateway, Request::object("GET", BUCKET, key)).await else {
            return false;
        };
        let value = match response.status {
            200 => match body::read(&response.body) {
                Ok(id) => Value::Written(id),
                Err(flaw) => {
                    self.shared.violate(format!("{key}: a read returned a flawed body: {flaw:?}"));
                    return true;
                }
            },
            404 => Value::Absent,
            _ => return false,
        };
        let ended = self.shared.moment();
        self.note(&format!("get {key} {value:?} {began}..{ended}"));
        let verdict = self.shared.state().oracle.read(key, value, began, ended);
        self.shared.judge(verdict);
        true
    }

    /// All pages of a listing, small ones.
    async fn list(&self, gateway: usize) {
        let began = self.shared.moment();
        let page_keys = self.random.between(1, 9);
        let (mut shown, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut request =
                Request::bucket("GET", BUCKET).query("list-type", 2).query("max-keys", page_keys);
            if let Some(token) = &token {
                request = request.query("continuation-token", token);
            }
            let Some(page) = send(self.target, gateway, request).await.filter(|page| page.status == 200)
            else {
                return;
            };
            let Ok(xml) = page.xml() else {
                self.shared.violate("a listing is not XML".to_string());
                return;
            };
            shown.extend(xml.all("Contents").map(|item| item.text_of("Key").to_string()));
            if xml.text_of("IsTruncated") != "true" {
                break;
            }
            token = Some(xml.text_of("NextContinuationToken").to_string());
        }
        let ended = self.shared.moment();
        self.note(&format!("list {} keys {began}..{ended}", shown.len()));
        let verdict = self.shared.state().oracle.listed(&shown, began, ended);
        self.shared.judge(verdict);
    }

    async fn until_served(&self, gateway: usize) {
        loop {
            let request = Request::object("PUT", BUCKET, "audit").body(format!("gateway {gateway}"));
            let response = send(self.target, gateway, request).await;
            if outcome_of(response.as_ref()) == Outcome::Acknowledged {
                let _gone = send(self.target, gateway, Request::object("DELETE", BUCKET, "audit")).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn get_until_answered(&self, gateway: usize, key: &str) -> bool {
        for _ in 0..20 {
            if self.get(gateway, key).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        false
    }

    fn begin(&self, key: &str, value: Value, condition: Condition) -> WriteHandle {
        let now = self.shared.moment();
        self.note(&format!("begin {key} {value:?} if {condition:?} {now}"));
        self.shared.state().oracle.begin(key, value, condition, now)
    }

    fn end(&self, write: &WriteHandle, key: &str, id: u64, response: Option<&Response>) {
        let outcome = outcome_of(response);
        let now = self.shared.moment();
        let status = response.map_or("none".to_string(), |response| response.status.to_string());
        self.note(&format!("end {key} {outcome:?} {status} {now}"));
        let mut state = self.shared.state();
        if outcome == Outcome::Acknowledged
            && let Some(response) = response
        {
            let etag = match response.etag() {
                "" => response.xml().map(|xml| xml.text_of("ETag").to_string()).unwrap_or_default(),
                etag => etag.to_string(),
            };
            state.etags.insert(id, etag);
        }
        let verdict = state.oracle.end(write, outcome, now);
        drop(state);
        self.shared.judge(verdict);
    }

    fn note(&self, line: &str) {
        self.shared.note(&format!("client {} {line}", self.number));
    }
}
