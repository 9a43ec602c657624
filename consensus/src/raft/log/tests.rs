#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fabric::env::SystemEnv;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::raft::testing::TestDisks;
use crate::raft::types::Proposal;

fn small() -> LogConfig {
    LogConfig {
        first_segment_bytes: 4096,
        segment_bytes: 8192,
        queue_bytes_max: 1 << 20,
        tail_bytes_max: 2000,
        reserve_bytes: 0,
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> LogEntry {
    let payload = EntryPayload::Normal(Proposal(Bytes::from(vec![index as u8; bytes])));
    LogEntry { log_id: log_id(term, index), payload }
}

async fn open(disks: &TestDisks) -> Result<Log, LogFault> {
    open_with(disks, 0, &NoDonors).await
}

async fn open_with(disks: &TestDisks, floor: u64, donors: &dyn Donors) -> Result<Log, LogFault> {
    open_sized(disks, floor, donors, small()).await
}

async fn open_sized(
    disks: &TestDisks,
    floor: u64,
    donors: &dyn Donors,
    config: LogConfig,
) -> Result<Log, LogFault> {
    let (env, disks) = (Arc::new(SystemEnv::default()), Arc::new(disks.clone()));
    Log::open(env, disks, Path::new("/log"), config, floor, donors, &Shelf::default()).await
}

/// Another node's log, in memory, that counts what it is asked for.
#[derive(Default)]
struct Copies {
    entries: Vec<LogEntry>,
    /// From this index on it has decided others.
    superseded: Option<u64>,
    asked: std::sync::Mutex<Vec<LogId>>,
}

#[async_trait]
impl Donors for Copies {
    async fn entry(&self, log_id: LogId) -> Option<Known> {
        self.asked.lock().unwrap().push(log_id);
        if self.superseded.is_some_and(|from| log_id.index >= from) {
            return Some(Known::Superseded);
        }
        self.entries.iter().find(|entry| entry.log_id == log_id).cloned().map(Known::Entry)
    }
}

/// Ends what runs for a log, so that many can be opened in one test.
async fn finish(log: Log) {
    log.close();
    tokio::task::yield_now().await;
}

/// What a log holds, as Raft reads it.
#[derive(Debug, PartialEq)]
struct Held {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<LogEntry>,
}

async fn held(log: &mut Log) -> Held {
    let purged = log.get_log_state().await.unwrap().last_purged_log_id;
    let vote = log.read_vote().await.unwrap();
    Held { vote, purged, entries: log.try_get_log_entries(..).await.unwrap() }
}

/// A log of batches of every kind of record, over several segments, that was opened again after a power cut: all
/// of it but the last two batches is followed by later ones.
async fn story() -> (TestDisks, Held) {
    let disks = TestDisks::default();
    let mut log = open_tiny(&disks, &NoDonors).await.unwrap();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    for index in 0..6 {
        append(&mut log, entry(1, index, 40)).await;
        log.save_committed(Some(log_id(1, index))).await.unwrap();
    }
    log.save_vote(&Vote::new_committed(2, 1)).await.unwrap();
    log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    let pending = [queue(&mut log, entry(2, 5, 10)).await, queue(&mut log, entry(2, 6, 400)).await];
    futures::future::join_all(pending).await;
    log.purge(log_id(1, 1)).await.unwrap();
    for index in 7..14 {
        append(&mut log, entry(2, index, 60)).await;
    }
    let disks = disks.crash(|_| false);
    let mut log = open_tiny(&disks, &NoDonors).await.unwrap();
    let intact = held(&mut log).await;
    assert_eq!(intact.entries.len(), 12);
    let used = |file: &PathBuf| {
        let mut used = false;
        disks.damage(file, |bytes| used = bytes.iter().any(|byte| *byte != 0));
        used
    };
    assert_eq!(disks.names().iter().filter(|file| used(file)).count(), 2);
    (disks.crash(|_| false), intact)
}

async fn open_tiny(disks: &TestDisks, donors: &dyn Donors) -> Result<Log, LogFault> {
    let config = LogConfig { first_segment_bytes: 2048, segment_bytes: 2048, ..small() };
    open_sized(disks, 0, donors, config).await
}

/// Queues an entry; the receiver hears when it is durable.
async fn queue(log: &mut Log, entry: LogEntry) -> impl Future<Output = ()> + use<> {
    let (sender, receiver) = Types::oneshot();
    log.append([entry], IOFlushed::signal(sender)).await.unwrap();
    async move { receiver.await.unwrap().unwrap() }
}

/// Flips a bit in the payload of an entry that [`entry`] made.
fn rot_entry(disks: &TestDisks, index: u8) {
    disks.damage(&disks.names()[0].clone(), |bytes| {
        let payload = bytes.windows(100).position(|bytes| bytes.iter().all(|byte| *byte == index)).unwrap();
        bytes[payload + 50] ^= 4;
    });
}

async fn append(log: &mut Log, entry: LogEntry) {
    queue(log, entry).await.await;
}

async fn indexes(log: &mut Log) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

#[tokio::test]
async fn what_was_synced_is_there_after_a_power_cut() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    assert!(log.is_pristine());
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    for index in 0..100 {
        append(&mut log, entry(1, index, 200)).await;
    }
    let disks = disks.crash(|_| false);
    let mut log = open(&disks).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    assert_eq!(
        log.try_get_log_entries(..).await.unwrap(),
        (0..100).map(|i| entry(1, i, 200)).collect::<Vec<_>>()
    );
    // And it goes on.
    append(&mut log, entry(1, 100, 10)).await;
    let mut log = open(&disks.crash(|_| false)).await.unwrap();
    assert_eq!(indexes(&mut log).await.len(), 101);
    assert_eq!(*log.synced().borrow(), 101);
}

#[tokio::test]
async fn a_torn_batch_ends_the_log_wherever_it_is_torn() {
    for kept in 0..64_u32 {
        let disks = TestDisks::default();
        let mut log = open(&disks).await.unwrap();
        append(&mut log, entry(1, 0, 900)).await;
        // One batch of several records: queued before the writer runs, cut before its sync.
        let file = disks.names()[0].clone();
        let mut image = Vec::new();
        disks.damage(&file, |bytes| image = bytes.clone());
        let pending = [queue(&mut log, entry(1, 1, 700)).await, queue(&mut log, entry(1, 2, 700)).await];
        futures::future::join_all(pending).await;
        let crashed = disks.crash(|_| false);
        // Of the pages the batch wrote, keep those whose bit is set.
        crashed.damage(&file, |bytes| {
            for (page, (new, old)) in bytes.chunks_mut(512).zip(image.chunks(512)).enumerate() {
                if page >= 2 && (kept >> ((page - 2) % 6)) & 1 == 0 {
                    new.copy_from_slice(old);
                }
            }
        });
        let Ok(mut log) = open(&crashed).await else { panic!("torn as {kept:b} does not open") };
        let found = indexes(&mut log).await;
        assert!((1..=3).contains(&found.len()), "{kept:b}: {found:?}");
        let next = found.len() as u64;
        append(&mut log, entry(2, next, 300)).await;
        let mut log = open(&crashed.crash(|_| false)).await.unwrap();
        assert_eq!(indexes(&mut log).await.last(), Some(&(2, next)), "{kept:b}");
    }
}

/// Every byte of all segments, one bit of it flipped: the log is whole again, with what another node has of it.
#[tokio::test]
async fn every_flipped_bit_is_repaired_or_harmless() {
    let (disks, intact) = story().await;
    let peer = Copies { entries: intact.entries.clone(), ..Copies::default() };
    for file in disks.names() {
        let mut bytes = Vec::new();
        disks.damage(&file, |now| bytes = now.clone());
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in 0..end {
            let rotten = disks.crash(|_| false);
            rotten.damage(&file, |bytes| bytes[at] ^= 1 << (at % 8));
            let opened = open_tiny(&rotten, &peer).await;
            let mut log = opened.unwrap_or_else(|fault| panic!("{} {at}: {fault}", file.display()));
            assert_eq!(held(&mut log).await, intact, "{} {at}", file.display());
            finish(log).await;
            if at % 7 == 0 {
                // It stays repaired, with nobody to ask.
                let mut log = open_tiny(&rotten.crash(|_| false), &NoDonors).await.unwrap();
                assert_eq!(held(&mut log).await, intact, "{} {at}, again", file.display());
                finish(log).await;
            }
        }
    }
    // Only what was rotten was asked for, never what had been cut off.
    assert!(
        peer.asked.lock().unwrap().iter().all(|log_id| intact.entries.iter().any(|e| e.log_id == *log_id))
    );
}

/// Sectors of garbage: headers are lost too. The log is whole again, or it does not open.
#[tokio::test]
async fn sectors_of_garbage_are_never_taken_for_the_end() {
    let (disks, intact) = story().await;
    let peer = Copies { entries: intact.entries.clone(), ..Copies::default() };
    let (mut repaired, mut refused) = (0, 0);
    for file in disks.names() {
        let mut bytes = Vec::new();
        disks.damage(&file, |now| bytes = now.clone());
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // Without the last batches: the record of opening, and the marks repeated after it.
        let opening = 3 * 100;
        for at in (0..end.saturating_sub(512 + opening)).step_by(64) {
            for garbage in [0, 0xA7] {
                let rotten = disks.crash(|_| false);
                rotten.damage(&file, |bytes| bytes[at..at + 512].fill(garbage));
                match open_tiny(&rotten, &peer).await {
                    Ok(mut log) => {
                        assert_eq!(held(&mut log).await, intact, "{} {at}", file.display());
                        finish(log).await;
                        repaired += 1;
                    }
                    Err(LogFault::Io(error)) => panic!("{} {at}: {error}", file.display()),
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(2 * repaired > refused, "{repaired} repaired, {refused} refused");
}

#[tokio::test]
async fn rot_that_nobody_repairs_names_the_entry() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    for index in 0..8 {
        append(&mut log, entry(1, index, 200)).await;
    }
    let disks = disks.crash(|_| false);
    let file = disks.names()[0].clone();
    disks.damage(&file, |bytes| bytes[1000] ^= 4);
    let fault = open(&disks).await.err().unwrap();
    assert!(matches!(fault, LogFault::Rot { index: 3, .. }), "{fault}");
    // Another entry of that index is no help.
    let other = Copies { entries: (0..8).map(|index| entry(2, index, 200)).collect(), ..Copies::default() };
    assert!(open_with(&disks, 0, &other).await.is_err());
    assert_eq!(*other.asked.lock().unwrap(), [log_id(1, 3)]);
    // Other bytes under that name are not, either.
    let forged = Copies { entries: vec![entry(1, 3, 201)], ..Copies::default() };
    assert!(open_with(&disks, 0, &forged).await.is_err());
    // Where the checkpoint holds the entry, it is not needed.
    let mut log = open_with(&disks, 5, &NoDonors).await.unwrap();
    assert_eq!(indexes(&mut log).await, [(1, 4), (1, 5), (1, 6), (1, 7)]);
}

/// The leader that wrote them was alone with us: whoever came after it decided others.
#[tokio::test]
async fn rot_in_entries_that_were_never_decided_is_cut_off() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    log.save_committed(Some(log_id(1, 2))).await.unwrap();
    for index in 0..9 {
        append(&mut log, entry(1, index, 200)).await;
    }
    let disks = disks.crash(|_| false);
    rot_entry(&disks, 5);
    let fault = open(&disks).await.err().unwrap();
    assert!(matches!(fault, LogFault::Rot { index: 5, .. }), "{fault}");
    let peer = Copies { superseded: Some(5), ..Copies::default() };
    let mut log = open_with(&disks, 0, &peer).await.unwrap();
    assert_eq!(*peer.asked.lock().unwrap(), [log_id(1, 5)]);
    assert_eq!(indexes(&mut log).await, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]);
    append(&mut log, entry(2, 5, 200)).await;
    let mut log = open(&disks.crash(|_| false)).await.unwrap();
    assert_eq!(indexes(&mut log).await.last(), Some(&(2, 5)));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(1, 1)));
}

#[tokio::test]
async fn what_is_known_to_be_decided_is_never_cut_off() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    log.save_committed(Some(log_id(1, 3))).await.unwrap();
    for index in 0..8 {
        append(&mut log, entry(1, index, 200)).await;
    }
    let disks = disks.crash(|_| false);
    rot_entry(&disks, 3);
    let peer = Copies { superseded: Some(0), ..Copies::default() };
    assert!(open_with(&disks, 0, &peer).await.is_err());
}

#[tokio::test]
async fn a_rotten_vote_is_never_guessed() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    append(&mut log, entry(1, 0, 200)).await;
    let disks = disks.crash(|_| false);
    let file = disks.names()[0].clone();
    // Two bits of its payload; then all of it.
    for range in [72 + 72 + 2..72 + 72 + 4, 72..150] {
        let rotten = disks.crash(|_| false);
        rotten.damage(&file, |bytes| bytes[range].fill(0x55));
        let fault = open(&rotten).await.err().unwrap();
        assert!(matches!(fault, LogFault::RottenVote { .. }), "{fault}");
    }
}

/// Nodes that start together: each gives what it has while its own log is still broken.
#[tokio::test]
async fn a_broken_log_gives_what_it_has() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    for index in 0..8 {
        append(&mut log, entry(1, index, 200)).await;
    }
    let disks = disks.crash(|_| false);
    disks.damage(&disks.names()[0].clone(), |bytes| bytes[1000] ^= 4);
    let (env, shelf) = (Arc::new(SystemEnv::default()), Shelf::default());
    assert_eq!(shelf.entry(&*env, log_id(1, 2)).await, None);
    let opened =
        Log::open(env.clone(), Arc::new(disks), Path::new("/log"), small(), 0, &NoDonors, &shelf).await;
    assert!(opened.is_err());
    assert_eq!(shelf.entry(&*env, log_id(1, 2)).await, Some(Known::Entry(entry(1, 2, 200))));
    assert_eq!(shelf.entry(&*env, log_id(1, 3)).await, None);
    assert_eq!(shelf.entry(&*env, log_id(2, 2)).await, None);
}

/// It says that an entry was never decided only where it knows what was.
#[tokio::test]
async fn an_open_log_knows_what_was_superseded() {
    let disks = Arc::new(TestDisks::default());
    let (env, shelf) = (Arc::new(SystemEnv::default()), Shelf::default());
    let opened = Log::open(env.clone(), disks, Path::new("/log"), small(), 0, &NoDonors, &shelf).await;
    let mut log = opened.unwrap();
    for index in 0..8 {
        append(&mut log, entry(2, index, 200)).await;
    }
    assert_eq!(shelf.entry(&*env, log_id(1, 4)).await, None);
    log.save_committed(Some(log_id(2, 4))).await.unwrap();
    assert_eq!(shelf.entry(&*env, log_id(1, 4)).await, Some(Known::Superseded));
    assert_eq!(shelf.entry(&*env, log_id(1, 5)).await, None);
    assert_eq!(shelf.entry(&*env, log_id(2, 4)).await, Some(Known::Entry(entry(2, 4, 200))));
}

/// The power went after a snapshot was in place, and before the log had cut off what it replaced.
#[tokio::test]
async fn a_log_is_cut_where_it_contradicts_the_checkpoint() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    for index in 0..12 {
        append(&mut log, entry(1, index, 100)).await;
    }
    log.agree_with(log_id(1, 5)).await.unwrap();
    assert_eq!(indexes(&mut log).await.len(), 12);
    log.agree_with(log_id(2, 20)).await.unwrap();
    assert_eq!(indexes(&mut log).await.len(), 12);
    log.agree_with(log_id(2, 9)).await.unwrap();
    assert_eq!(indexes(&mut log).await.last(), Some(&(1, 8)));
    append(&mut log, entry(2, 9, 100)).await;
    let mut log = open(&disks.crash(|_| false)).await.unwrap();
    assert_eq!(indexes(&mut log).await.last(), Some(&(2, 9)));
}

#[tokio::test]
async fn truncations_and_purges_survive() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    for index in 0..150 {
        append(&mut log, entry(1, index, 200)).await;
    }
    log.truncate_after(Some(log_id(1, 119))).await.unwrap();
    assert_eq!(*log.synced().borrow(), 120);
    append(&mut log, entry(2, 120, 10)).await;
    log.purge(log_id(1, 99)).await.unwrap();
    append(&mut log, entry(2, 121, 10)).await;
    log.save_vote(&Vote::new(4, 1)).await.unwrap();
    assert!(!disks.names().contains(&segment::path(Path::new("/log"), 1)));
    let mut log = open(&disks.crash(|_| false)).await.unwrap();
    let found = indexes(&mut log).await;
    assert_eq!((found[0], found[19], found[20], found.len()), ((1, 100), (1, 119), (2, 120), 22));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 99)));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 1)));
}

#[tokio::test]
async fn reads_are_cut_in_bytes() {
    let disks = TestDisks::default();
    let mut log = open(&disks).await.unwrap();
    for index in 0..4 {
        append(&mut log, entry(1, index, 900_000)).await;
    }
    assert_eq!(log.limited_get_log_entries(0, 4).await.unwrap().len(), 2);
    assert_eq!(log.limited_get_log_entries(3, 4).await.unwrap(), vec![entry(1, 3, 900_000)]);
}
