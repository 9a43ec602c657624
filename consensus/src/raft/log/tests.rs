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
    Log::open(Arc::new(SystemEnv::default()), Arc::new(disks.clone()), Path::new("/log"), small(), 0).await
}

/// Queues an entry; the receiver hears when it is durable.
async fn queue(log: &mut Log, entry: LogEntry) -> impl Future<Output = ()> + use<> {
    let (sender, receiver) = Types::oneshot();
    log.append([entry], IOFlushed::signal(sender)).await.unwrap();
    async move { receiver.await.unwrap().unwrap() }
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

#[tokio::test]
async fn rot_is_told_from_a_torn_tail() {
    for at in [100, 150, 600] {
        let disks = TestDisks::default();
        let mut log = open(&disks).await.unwrap();
        for index in 0..8 {
            append(&mut log, entry(1, index, 200)).await;
        }
        let disks = disks.crash(|_| false);
        disks.damage(&disks.names()[0].clone(), |bytes| bytes[at] ^= 4);
        let fault = open(&disks).await.err().unwrap();
        assert!(matches!(fault, LogFault::Rot { .. }), "{at}: {fault}");
        assert!(fault.to_string().contains("replace"));
        // Where the checkpoint holds the entry, it is not needed.
        if at != 100 {
            let log =
                Log::open(Arc::new(SystemEnv::default()), Arc::new(disks), Path::new("/log"), small(), 5)
                    .await;
            assert_eq!(indexes(&mut log.unwrap()).await.last(), Some(&(1, 7)));
        }
    }
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
