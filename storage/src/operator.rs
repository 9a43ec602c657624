//! What an operator does once: a cluster's secrets, a voter in the place of a lost one, nodes that come and go.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::client::{Contacts, Meta, MetaClient, ask};
use consensus::meta::command::{Command as MetaCommand, EndHold};
use consensus::meta::model::{Hold, SessionKind};
use consensus::meta::query::{Answer, Query};
use consensus::raft::recovery::{Surviving, Undecided};
use consensus::raft::wire::{Replace, ReplaceAnswer, VoterName, method};
use fabric::Seams;
use fabric::cluster::{Config, Directory};
use fabric::env::run_blocking;
use fabric::ids::NodeId;
use fabric::rpc::{AddressBook, CallOptions, Class, Identity, Peer, RpcClient, RpcError};
use fabric::tls::{Certificates, ClusterSecrets, issue, make_authority};
use serde_json::json;
use storage::backup::{self, Reading};
use storage::client::{ChunkClient, Chunks};
use storage::daemon::{self, StorageSettings};
use storage::lost;
use storage::membership::{self, Membership};
use storage::salvage::{self, Salvaged, Wishes};
use storage::wholeness::{Depth, Wholeness, prove};

use super::{Change, Failure, failed, secrets_of, usage};

/// `replace` gives up after this.
const REPLACE_DEADLINE: Duration = Duration::from_secs(60);
/// Between two questions of `replace`, and the longest answer to one.
const REPLACE_PAUSE: Duration = Duration::from_millis(300);
const REPLACE_CALL_DEADLINE: Duration = Duration::from_secs(35);
/// Between two looks at what is still to be moved.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);
/// Letters of a bar of progress.
const BAR: u64 = 30;

/// Makes the secrets of a cluster.
///
/// `from`: the directory of a store in one process, which becomes the cluster's first node.
pub fn init(seams: &Seams, config: &Path, from: Option<&Path>) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let secrets = match from {
        Some(store) => ClusterSecrets::load(store).map_err(failed)?,
        None => ClusterSecrets::draw(&*seams.env),
    };
    let made = make_authority(secrets, &config.secrets).map_err(failed)?;
    let peers = config.nodes.nodes().into_iter().map(Peer::Node).chain([Peer::Gateway]);
    for peer in peers {
        issue(&config.secrets, peer).map_err(failed)?;
    }
    let mut out = std::io::stdout();
    let told = writeln!(out, "cluster {}\nsecrets {}", made.cluster, config.secrets.display());
    told.map_err(failed)
}

/// Issues what nodes lack that were added to the table of a cluster.
pub fn issue_missing(config: &Path) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    for peer in config.nodes.nodes().into_iter().map(Peer::Node) {
        match Certificates::load(&config.secrets, peer) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                issue(&config.secrets, peer).map_err(failed)?;
                writeln!(std::io::stdout(), "certificate of {peer}").map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Asks the voters until one that leads did it.
pub async fn replace(seams: Seams, config: &Path, replace: Replace) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let cluster = secrets_of(&config)?.cluster;
    let (me, tls) = administrator(&config)?;
    let rpc = RpcClient::new(seams, Identity::new(cluster, me, tls), Arc::new(config.nodes.clone()));
    let contacts = Contacts::new(&config.voters, &config.nodes.nodes());
    let asking = async {
        let mut last = "no voter answers".to_string();
        loop {
            for node in contacts.all() {
                let options = CallOptions { class: Class::Control, deadline: REPLACE_CALL_DEADLINE };
                let asked: Result<(ReplaceAnswer, Bytes), RpcError> =
                    rpc.call_typed(node, method::REPLACE, &replace, Bytes::new(), options).await;
                match asked {
                    Ok((ReplaceAnswer::Done, _)) => return Ok(()),
                    Ok((ReplaceAnswer::Failed(why), _)) => return Err(failed(why)),
                    Ok((ReplaceAnswer::NotLeader(_), _)) => last = "no voter leads now".to_string(),
                    Err(error) => tracing::debug!(%node, %error, "ask a node"),
                }
            }
            tracing::info!(last, "asking again");
            tokio::time::sleep(REPLACE_PAUSE).await;
        }
    };
    match tokio::time::timeout(REPLACE_DEADLINE, asking).await {
        Ok(outcome) => outcome,
        Err(_) => {
            Err(failed("no voter that leads answered within a minute; it may have been done: ask again"))
        }
    }
}

/// Tells what is left on this machine; with `accept_loss` the cluster goes on from it.
pub async fn recover(seams: &Seams, settings: &StorageSettings, accept_loss: bool) -> Result<(), Failure> {
    let Surviving { index, term, time, epoch, others, undecided } =
        daemon::recover(seams, settings, accept_loss).await.map_err(failed)?;
    let age = Duration::from_millis(seams.env.wall_ms().saturating_sub(time.0));
    let others: Vec<String> = others.into_iter().map(|voter| VoterName(voter).to_string()).collect();
    let node = settings.node;
    let mut text = format!(
        "node {node} has the log up to entry {index} (term {term}, epoch {epoch}), written {} seconds ago.\n\
         LOST is what was acknowledged after that entry and is on none of this node's disks: objects written later are \
         gone, objects deleted later come back, and so does what was overwritten later.\n\
         {}\n\
         GIVEN UP are the members {}: none of them takes part again with the data it has.\n",
        age.as_secs(),
        undecided_told(&undecided),
        others.join(", ")
    );
    text += &match accept_loss {
        true => next_steps(node, epoch),
        false => {
            "Nothing was changed. Start any voter with a later entry instead, if there is one. To go on from \
                  this node: the same command with --accept-loss"
                .to_string()
        }
    };
    writeln!(std::io::stdout(), "{text}").map_err(failed)?;
    if accept_loss { Ok(()) } else { Err(failed("the loss was not accepted")) }
}

/// What becomes decided that nobody may ever have heard of.
fn undecided_told(undecided: &Undecided) -> String {
    if undecided.entries == 0 {
        return "UNDECIDED is nothing: all of its log was known to be decided.".to_string();
    }
    let mut text = format!(
        "UNDECIDED are the last {} entries of its log: whether or not their clients were answered, they count as done \
         now.",
        undecided.entries
    );
    undecided.told.iter().for_each(|(index, what)| text += &format!("\n  entry {index}: {what}"));
    let more = undecided.entries - undecided.told.len() as u64;
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    text
}

/// Writes the metadata to a new file.
pub async fn backup(seams: &Seams, config: &Path, to: &Path) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, rpc) = connect(seams, &config)?;
    let secrets = secrets_of(&config)?;
    let progress = Progress::begin();
    let told = |bytes: u64| progress.tell(&format!("{} MiB", bytes >> 20));
    let contacts = Contacts::new(&config.voters, &config.nodes.nodes());
    let made = backup::make(seams, &meta, &rpc, &contacts, &secrets, to, told).await;
    progress.end();
    meta.close().await;
    let made = made.map_err(failed)?;
    let text = format!("{}: {} bytes, the metadata as of entry {}", to.display(), made.bytes, made.index);
    writeln!(std::io::stdout(), "{text}").map_err(failed)
}

/// Fills a node from a backup.
pub async fn restore(
    seams: &Seams,
    config: &Config,
    settings: &StorageSettings,
    from: &Path,
) -> Result<(), Failure> {
    let (disks, path, secrets) = (seams.disks.clone(), from.to_path_buf(), secrets_of(config)?);
    let open = move || Reading::open(&*disks, &path, &secrets);
    let reading = run_blocking(&*seams.env, open).await.map_err(failed)?;
    let age = Duration::from_millis(seams.env.wall_ms().saturating_sub(reading.about.made_ms));
    let Surviving { index, epoch, .. } = daemon::restore(seams, settings, reading).await.map_err(failed)?;
    let text = format!(
        "node {} has the metadata as of entry {index}, from a backup that was made {} seconds ago.\n\
         LOST is what was written since: those objects are gone, and what was deleted or overwritten since comes \
         back.\n{}",
        settings.node,
        age.as_secs(),
        next_steps(settings.node, epoch)
    );
    writeln!(std::io::stdout(), "{text}").map_err(failed)
}

/// Begins a cluster from the chunks that are left.
pub async fn begin_anew(seams: &Seams, settings: &StorageSettings) -> Result<(), Failure> {
    let (Surviving { epoch, .. }, chunks) = daemon::begin_anew(seams, settings).await.map_err(failed)?;
    let text = format!(
        "node {} holds {chunks} chunks, and no metadata: users, settings and small objects are LOST. \
         `fluffy-storage salvage` brings back the objects whose chunks are on nodes.\n{}",
        settings.node,
        next_steps(settings.node, epoch)
    );
    writeln!(std::io::stdout(), "{text}").map_err(failed)
}

/// Names again what no row names.
pub async fn salvage(seams: &Seams, config: &Path, wishes: &Wishes) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, rpc) = connect(seams, &config)?;
    let progress = Progress::begin();
    let told =
        |so_far: &Salvaged| progress.tell(&format!("{} objects, {} MiB", so_far.objects, so_far.bytes >> 20));
    let salvaged = salvage::run(&meta, &ChunkClient::new(rpc), wishes, told).await.map_err(failed);
    progress.end();
    meta.close().await;
    let salvaged = salvaged?;
    writeln!(std::io::stdout(), "{salvaged}").map_err(failed)?;
    match salvaged.silent.first() {
        None => Ok(()),
        Some((node, why)) => {
            Err(failed(format!("node {node} could not be asked for all of its chunks: {why}; run it again")))
        }
    }
}

/// What an operator does after the cluster went back.
fn next_steps(node: NodeId, epoch: u16) -> String {
    format!(
        "The cluster goes on from node {node} alone, in epoch {}. Next:\n\
         1. Start node {node}, restart the gateways and the nodes that have no `raft` directory.\n\
         2. On each other node, move `identity`, `raft` and `tables.redb` out of the data directory (what lies in \
         `chunks` may stay) and start it: the cluster makes voters of them again by itself.\n\
         3. fluffy-storage lost --config FILE lists the bodies that are left of objects whose rows are gone; \
         fluffy-storage salvage --config FILE names them again.\n\
         4. fluffy-storage verify --config FILE, then fluffy-storage collect --config FILE: until then no space is \
         freed.",
        epoch + 1
    )
}

/// Lists what lies on nodes and no row names.
pub async fn lost(seams: &Seams, config: &Path) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, rpc) = connect(seams, &config)?;
    let progress = Progress::begin();
    let told = |chunks: u64| progress.tell(&format!("{chunks} chunks"));
    let found = lost::find(&meta, &ChunkClient::new(rpc), told).await.map_err(failed);
    progress.end();
    meta.close().await;
    let found = found?;
    let lines = found.extents.values().map(|unnamed| format!("{unnamed}\n"));
    let text: String = lines.collect();
    let count = found.extents.len() as u64 + found.more;
    writeln!(std::io::stdout(), "{text}{count} bodies are named by no row").map_err(failed)?;
    match found.silent.first() {
        None => Ok(()),
        Some((node, why)) => {
            Err(failed(format!("node {node} could not be asked for all of its chunks: {why}")))
        }
    }
}

/// Ends the keeping of garbage that a recovery began.
pub async fn collect(seams: &Seams, config: &Path) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, _) = connect(seams, &config)?;
    let done = match ask(&meta, Query::Hold).await {
        Ok(Answer::Hold(Some(hold))) => {
            meta.propose(MetaCommand::EndHold(EndHold { since: hold.since })).await.map(drop)
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    meta.close().await;
    done.map_err(failed)
}

/// As whom an operator speaks: a gateway where its certificate is, else a node whose certificate is here.
fn administrator(config: &Config) -> Result<(Peer, Option<Arc<Certificates>>), Failure> {
    if config.insecure {
        return Ok((Peer::Gateway, None));
    }
    let peers = std::iter::once(Peer::Gateway).chain(config.nodes.nodes().into_iter().map(Peer::Node));
    for peer in peers {
        if let Ok(certificates) = Certificates::load(&config.secrets, peer) {
            return Ok((peer, Some(Arc::new(certificates))));
        }
    }
    Err(usage(format!("{} holds no certificate of a gateway or node", config.secrets.display())))
}

/// Connections to the metadata and to nodes, as an operator.
fn connect(seams: &Seams, config: &Config) -> Result<(MetaClient, RpcClient), Failure> {
    let cluster = secrets_of(config)?.cluster;
    let (me, tls) = administrator(config)?;
    let book = Arc::new(Directory::new(config.nodes.clone()));
    let rpc = RpcClient::new(seams.clone(), Identity::new(cluster, me, tls), book);
    let kind = SessionKind::Gateway;
    let contacts = Contacts::new(&config.voters, &config.nodes.nodes());
    Ok((MetaClient::new(seams.env.clone(), rpc.clone(), contacts, kind, None), rpc))
}

/// Prints the members.
pub async fn nodes(seams: &Seams, config: &Path, as_json: bool) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, _) = connect(seams, &config)?;
    let membership = Membership::read(&meta).await.map_err(failed)?;
    let to_move = membership::to_move(&meta).await.map_err(failed)?;
    let hold = match ask(&meta, Query::Hold).await.map_err(failed)? {
        Answer::Hold(hold) => hold,
        _ => None,
    };
    meta.close().await;
    let text =
        if as_json { to_json(&membership, to_move, hold) } else { to_table(&membership, to_move, hold) };
    writeln!(std::io::stdout(), "{text}").map_err(failed)
}

fn to_json(membership: &Membership, to_move: u64, hold: Option<Hold>) -> String {
    let owned = membership.owned();
    let node = |row: &consensus::meta::model::NodeRow| {
        json!({
            "id": row.id.0, "address": row.address, "zone": row.zone, "voter": row.voter.is_some(),
            "release": row.release, "capacity_bytes": row.capacity_bytes,
            "partitions": owned.get(&row.id).copied().unwrap_or(0),
        })
    };
    let nodes: Vec<_> = membership.nodes.iter().map(node).collect();
    json!({
        "layout": membership.layout.version.0, "extents_to_move": to_move, "garbage_is_kept": hold.is_some(),
        "nodes": nodes,
    })
    .to_string()
}

fn to_table(membership: &Membership, to_move: u64, hold: Option<Hold>) -> String {
    let owned = membership.owned();
    let mut text = format!(
        "{:>5}  {:<24} {:<10} {:<6} {:>10}  {}",
        "node", "address", "zone", "voter", "partitions", "release"
    );
    for row in &membership.nodes {
        let voter = if row.voter.is_some() { "yes" } else { "no" };
        let partitions = owned.get(&row.id).copied().unwrap_or(0);
        text += &format!(
            "\n{:>5}  {:<24} {:<10} {voter:<6} {partitions:>10}  {}",
            row.id.0, row.address, row.zone, row.release
        );
    }
    text += &format!("\nlayout {}, {to_move} extents to move", membership.layout.version.0);
    if hold.is_some() {
        text += "\ngarbage is kept since a recovery: `fluffy-storage collect` ends that";
    }
    text
}

/// Prints the proof that everything is there, or what is wrong.
pub async fn verify(seams: &Seams, config: &Path, quick: bool, as_json: bool) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, rpc) = connect(seams, &config)?;
    let chunks = ChunkClient::new(rpc);
    let members = Membership::read(&meta).await.map_err(failed)?.nodes;
    chunks.learn(members.into_iter().map(|row| (row.id, row.address)).collect());
    let depth = if quick { Depth::Index } else { Depth::Read };
    let progress = Progress::begin();
    let tell =
        |found: &Wholeness| progress.tell(&format!("{} extents, {} MiB", found.extents, found.bytes >> 20));
    let proved = prove(&meta, &chunks, config.copies, depth, tell).await.map_err(failed);
    progress.end();
    meta.close().await;
    let found = proved?;
    let text = if as_json { found.to_json() } else { found.to_string() };
    writeln!(std::io::stdout(), "{text}").map_err(failed)?;
    if found.is_whole() {
        return Ok(());
    }
    Err(failed(format!("{} of {} extents are not whole", found.faulty, found.extents)))
}

/// Changes who holds data, and waits until the data are where they belong.
pub async fn change(
    seams: &Seams,
    config: &Path,
    change: Change,
    node: NodeId,
    wait: bool,
) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let (meta, _) = connect(seams, &config)?;
    let changed = match change {
        Change::Add => membership::add(&meta, node, config.copies).await,
        Change::Drain => membership::drain(&meta, node, config.copies).await,
        Change::Remove => membership::remove(&meta, node).await,
    };
    let outcome = match changed {
        Ok(()) if wait => wait_until_moved(&meta).await,
        changed => changed.map_err(failed),
    };
    meta.close().await;
    outcome
}

/// A line that changes, where somebody looks.
struct Progress {
    shown: bool,
}

/// Nobody misses a line that cannot be shown.
impl Progress {
    fn begin() -> Progress {
        Progress { shown: std::io::stderr().is_terminal() }
    }

    fn tell(&self, text: &str) {
        let _ = if self.shown { write!(std::io::stderr(), "\r{text} ") } else { Ok(()) };
    }

    fn end(&self) {
        let _ = if self.shown { writeln!(std::io::stderr()) } else { Ok(()) };
    }
}

async fn wait_until_moved(meta: &dyn Meta) -> Result<(), Failure> {
    let progress = Progress::begin();
    let mut most = 0;
    loop {
        let left = membership::to_move(meta).await.map_err(failed)?;
        most = left.max(most);
        let done = ((most - left) * BAR).checked_div(most).unwrap_or(BAR);
        let bar = "#".repeat(done as usize) + &"-".repeat((BAR - done) as usize);
        progress.tell(&format!("[{bar}] {left} extents to move"));
        if left == 0 {
            progress.end();
            return Ok(());
        }
        tokio::time::sleep(PROGRESS_PAUSE).await;
    }
}
