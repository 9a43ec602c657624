//! What happens in the simulated cluster: workers under faults, the audit after them, the conformance suite.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use consensus::raft::overlay::View;
use fabric::net::{BoxStream, Net};

use super::coverage::Reached;
use super::plan::Plan;
use super::random::SimRandom;
use super::seams::{EPOCH_MS, SimNet};
use super::world::Report;
use crate::client::{Credentials, Request, Target};
use crate::conformance;
use crate::history::{Moment, Violation};
use crate::worker::{Added, Book, Scene, Task, Worker, send};

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
    book: Mutex<Book>,
    state: Mutex<State>,
}

struct State {
    moment: Moment,
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
    /// The rows that the node had which led last.
    leaders_rows: Option<Arc<View>>,
    /// How often all nodes moved to other ports.
    moves: u16,
    /// Whether nodes keep an index for searches: only where somebody searches.
    searches: bool,
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
            moment: 0,
            trace: Vec::new(),
            operations: 0,
            clients_done: 0,
            set_up: false,
            violation: None,
            behaviours: Vec::new(),
            audits_wanted: BTreeSet::new(),
            copies_wanted: BTreeMap::new(),
            leaders_rows: None,
            moves: 0,
            searches: false,
            shown: BTreeMap::new(),
        };
        Arc::new(Shared { plan: plan.clone(), book: Mutex::default(), state: Mutex::new(state) })
    }

    /// Adds a line to the trace.
    pub fn note_at(&self, elapsed: Duration, line: &str) {
        self.state().trace.push(format!("{elapsed:?} {line}"));
    }

    /// What is being simulated.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Lets nodes that start keep an index for searches.
    pub fn keep_indexes(&self) {
        self.state().searches = true;
    }

    /// Whether they do.
    pub fn searches(&self) -> bool {
        self.state().searches
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

    /// The rows of the node that leads, as they were a moment ago.
    pub fn leaders_rows(&self) -> Option<Arc<View>> {
        self.state().leaders_rows.clone()
    }

    /// A leader shows its rows.
    pub fn show_leaders_rows(&self, rows: Arc<View>) {
        self.state().leaders_rows = Some(rows);
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
            unknowns: self.book().history.unknowns,
            reached: Reached::default(),
        }
    }

    /// What the conformance suite found.
    pub fn take_behaviours(&self) -> Vec<(String, conformance::Outcome)> {
        std::mem::take(&mut self.state().behaviours)
    }

    fn worker<'a>(&'a self, target: &'a SimTarget, random: &'a SimRandom, number: u16) -> Worker<'a> {
        let task = Task {
            bucket: BUCKET.to_string(),
            prefix: "key/".to_string(),
            keys: self.plan.keys,
            patience: target.patience,
        };
        Worker { scene: self, target, random, task, name: format!("client {number}") }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }
}

impl Scene for Shared {
    /// Ascends with every step of any client.
    fn moment(&self) -> Moment {
        let mut state = self.state();
        state.moment += 1;
        state.moment
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no holder of this lock can panic")
    }

    /// With the simulated time of the client that calls.
    fn note(&self, line: &str) {
        self.note_at(turmoil::sim_elapsed().unwrap_or_default(), line);
    }

    /// Keeps the first violation.
    fn violate(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.state().violation.get_or_insert(what);
    }

    /// Judges at once, so that the trace ends where the promise was broken.
    fn added(&self, what: Added<'_>) {
        let verdict = match what {
            Added::Key(key) => self.book().history.judge_key(key),
            Added::Listing => self.book().history.judge_newest_listing(),
        };
        if let Err(Violation(what)) = verdict {
            self.violate(what);
        }
    }
}

/// Creates the bucket, and waits until every gateway serves small and large bodies.
pub async fn setup(shared: Arc<Shared>) -> Ended {
    let (target, random) = (SimTarget::of(&shared.plan), SimRandom::new(shared.plan.seed, "setup"));
    let worker = shared.worker(&target, &random, 0);
    for gateway in 0..target.gateways {
        let bucket = || Request::bucket("PUT", BUCKET);
        until_answered(&target, gateway, bucket, &[200, 409]).await;
        worker.until_served(gateway).await;
    }
    shared.state().set_up = true;
    Ok(())
}

/// Repeats a request until its status is a wanted one.
async fn until_answered(target: &SimTarget, gateway: usize, request: impl Fn() -> Request, wanted: &[u16]) {
    let sent = || send(target, target.patience, gateway, request());
    while !sent().await.is_some_and(|response| wanted.contains(&response.status)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One client: the operations of the plan, one after the other.
pub async fn client(shared: Arc<Shared>, number: u16) -> Ended {
    let random = SimRandom::new(shared.plan.seed, &format!("client {number}"));
    let target = SimTarget::of(&shared.plan);
    let worker = shared.worker(&target, &random, number);
    for _ in 0..shared.plan.operations {
        shared.state().operations += 1;
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
    let worker = shared.worker(&target, &random, 0);
    if shared.plan.failpoints.contains("eager_collection") {
        tokio::time::sleep(COLLECTION).await;
    }
    let keys = shared.book().history.keys();
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
