//! What is stored and sent: rows, frames, and the log as a sequence of operations.

use bytes::Bytes;
use consensus::meta::tables::{
    Absences, AccessKeys, Acknowledged, Acls, AnnotationSets, Bodies, BucketNames, BucketQuotas,
    BucketSettings, Buckets, BucketsByOwner, Cluster, Completeds, Cursors, DebtCounts, Debts, DecodeKey,
    Deliverer, Deliveries, Due, DueWalks, EncodeKey, EventMarks, EventOrder, Events, Extents, Follower,
    Follows, Garbages, Heard, Holds, Identity, Inline, Invites, KeysByUser, Layouts, LeavingCopies, Locks,
    Members, Nodes, NullVersions, Objects, OverlayGrants, Parts, Promotions, RemovedNodes, Renames,
    Replicating, Replies, SessionNonces, Sessions, Superseded, Table, UploadSealings, Uploads, Usages,
    UserPolicies, UserQuotas, Users, Versions, key_bytes,
};
use fabric::codec::crc32c;
use fabric::rpc::read_all;
use futures::executor::block_on;

use super::targets::short;
use crate::sim::crash::{Target, told_story};

/// Reads a key and a value.
type ReadRow = fn(&[u8], &Bytes) -> Result<String, String>;

const TABLES: &[ReadRow] = &[
    row::<Absences>,
    row::<AccessKeys>,
    row::<AnnotationSets>,
    row::<Bodies>,
    row::<BucketNames>,
    row::<BucketQuotas>,
    row::<BucketSettings>,
    row::<Buckets>,
    row::<BucketsByOwner>,
    row::<Cluster>,
    row::<Completeds>,
    row::<Cursors>,
    row::<DebtCounts>,
    row::<Debts>,
    row::<Deliverer>,
    row::<Deliveries>,
    row::<EventMarks>,
    row::<EventOrder>,
    row::<Events>,
    row::<Extents>,
    row::<Garbages>,
    row::<Holds>,
    row::<Inline>,
    row::<KeysByUser>,
    row::<Layouts>,
    row::<LeavingCopies>,
    row::<Nodes>,
    row::<Locks>,
    row::<NullVersions>,
    row::<Objects>,
    row::<Parts>,
    row::<RemovedNodes>,
    row::<Renames>,
    row::<Replies>,
    row::<SessionNonces>,
    row::<Sessions>,
    row::<UploadSealings>,
    row::<Uploads>,
    row::<Usages>,
    row::<UserPolicies>,
    row::<UserQuotas>,
    row::<Users>,
    row::<Versions>,
    row::<Due>,
    row::<DueWalks>,
    row::<Acls>,
    row::<Heard>,
    row::<Identity>,
    row::<Members>,
    row::<Invites>,
    row::<OverlayGrants>,
    row::<Follows>,
    row::<Follower>,
    row::<Replicating>,
    row::<Superseded>,
    row::<Promotions>,
    row::<Acknowledged>,
];

/// A table, the length of a key, the key, and the value behind it.
pub(super) fn rows(input: &[u8]) -> Result<String, String> {
    let [table, key_bytes, rest @ ..] = input else { return Ok("nothing".to_string()) };
    let (key, value) = rest.split_at(rest.len().min(usize::from(*key_bytes)));
    TABLES[usize::from(*table) % TABLES.len()](key, &Bytes::copy_from_slice(value))
}

/// What can be read is written as it was read, from the second time on.
fn row<T: Table>(mut key: &[u8], value: &Bytes) -> Result<String, String>
where
    T::Owned: EncodeKey,
{
    let name = T::ID.name();
    let whole = key;
    let key = match T::Owned::decode(&mut key) {
        Some(read) if key_bytes(&read) == whole[..whole.len() - key.len()] => "a key",
        Some(_) => return Err(format!("a key of {name} does not come back")),
        None => "no key",
    };
    let value = match T::decode_value(value) {
        Err(error) => short(&error.to_string()),
        Ok(value) => {
            let once = T::encode_value(&value);
            match T::decode_value(&once).map(|again| T::encode_value(&again)) {
                Ok(twice) if twice == once => "a value".to_string(),
                _ => return Err(format!("a value of {name} does not come back")),
            }
        }
    };
    Ok(format!("{name}: {key}, {value}"))
}

pub(super) fn rows_seeds() -> Vec<Vec<u8>> {
    // A key of a bucket and a name, ended by a zero; numbers that are zero, and texts that are empty.
    let key = [&1u64.to_be_bytes()[..], b"name\0", &[0; 24]].concat();
    let value = [&[1][..], &[0; 60]].concat();
    let text = [&[1, 4][..], b"name", &[0; 60]].concat();
    let seeds = (0..TABLES.len() as u8).flat_map(|table| [(table, &value), (table, &text)]);
    seeds.map(|(table, value)| [&[table, key.len() as u8][..], &key, value].concat()).collect()
}

/// Raw bytes, or frames each behind its length (one byte) that get the checksum they need: 0 or 1 says which.
pub(super) fn frames(input: &[u8]) -> Result<String, String> {
    let Some((kind, rest)) = input.split_first() else { return Ok("nothing".to_string()) };
    let sent = if kind % 2 == 0 { rest.to_vec() } else { sealed(rest) };
    let read = match block_on(read_all(&sent)) {
        Err(error) => return Ok(short(&error.to_string())),
        Ok(frames) => frames,
    };
    let bytes: usize = read.iter().map(|(_, _, head, body)| 8 + 15 + head + body).sum();
    if bytes != sent.len() {
        return Err(format!("{bytes} bytes in frames, {} sent", sent.len()));
    }
    let first = read.first().map(|(kind, _, head, body)| (*kind, *head > 0, *body > 0));
    Ok(format!("{:?} and {} more", first, read.len().clamp(1, 3) - 1))
}

fn sealed(mut rest: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    while let Some((length, behind)) = rest.split_first() {
        let (frame, next) = behind.split_at(behind.len().min(usize::from(*length)));
        sent.extend_from_slice(&(frame.len() as u32 + 4).to_le_bytes());
        sent.extend_from_slice(&crc32c(&[frame]).to_le_bytes());
        sent.extend_from_slice(frame);
        rest = next;
    }
    sent
}

pub(super) fn frames_seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, head: &[u8], body: &[u8]| {
        let fixed = [&[kind][..], &0x0101u16.to_le_bytes(), &7u64.to_le_bytes()].concat();
        let frame = [&fixed[..], &(head.len() as u32).to_le_bytes(), head, body].concat();
        [&[frame.len() as u8][..], &frame].concat()
    };
    let several: Vec<u8> = (1..=7).flat_map(|kind| frame(kind, b"head", b"body")).collect();
    let raw = sealed(&frame(3, b"head", b"body"));
    vec![[&[1][..], &frame(1, b"", b"")].concat(), [&[1][..], &several].concat(), [&[0][..], &raw].concat()]
}

/// What a log does after any story is checked by its model: see [`crate::sim::crash`].
pub(super) fn log_story(input: &[u8]) -> Result<String, String> {
    let (tally, told) = told_story(Target::Log, input);
    told.map_err(|violation| violation.0)?;
    let few = |count: u64| count.min(3);
    Ok(format!(
        "{} in recovery, {} kills, rot {} {} {}",
        few(tally.in_recovery),
        few(tally.kills),
        tally.rots,
        tally.rots_reported,
        tally.rots_missing
    ))
}

pub(super) fn log_seeds() -> Vec<Vec<u8>> {
    vec![vec![], vec![0; 200], (0..=255).collect(), (0..=255).rev().cycle().take(600).collect()]
}
