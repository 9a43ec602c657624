//! Quotas: exact under every kind of write. A refused command would have gone above the quota without it, and an
//! accepted one did not, or took nothing more.

use bytes::Bytes;
use fabric::ids::Stamp;
use fabric::limits::PART_BYTES_MIN;
use proptest::prelude::*;

use super::world::{World, cases};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, Query};

fn bucket(world: &World) -> QuotaOf {
    QuotaOf::Bucket(world.bucket)
}

fn anna() -> QuotaOf {
    QuotaOf::User("anna".parse().unwrap())
}

fn set(world: &mut World, of: QuotaOf, objects: Option<u64>, bytes: Option<u64>) {
    world.done(Command::SetQuota(SetQuota { of, quota: Quota { objects, bytes } }));
}

fn set_bucket(world: &mut World, objects: Option<u64>, bytes: Option<u64>) {
    let of = bucket(world);
    set(world, of, objects, bytes);
}

fn of(world: &World, of: QuotaOf) -> (Quota, Usage) {
    match world.ask(Query::Quota(of)) {
        Ok(Answer::Quota { quota, usage }) => (quota, usage),
        answer => panic!("{answer:?}"),
    }
}

fn put(world: &World, key: &str, bytes: usize) -> Command {
    Command::PutObject(world.put(key, NewBody::Inline(Bytes::from(vec![7; bytes]))))
}

fn is_quota(reject: &Reject, whose: &QuotaOf) -> bool {
    matches!(reject, Reject::QuotaExceeded { of, .. } if of == whose)
}

#[test]
fn a_bucket_holds_what_it_may_and_no_more() {
    let mut world = World::new();
    set_bucket(&mut world, Some(2), Some(100));
    world.done(put(&world, "a", 60));
    let refused = world.rejected(put(&world, "b", 41));
    assert!(is_quota(&refused, &bucket(&world)), "{refused:?}");
    world.done(put(&world, "a", 100));
    world.done(put(&world, "b", 0));
    assert!(is_quota(&world.rejected(put(&world, "c", 0)), &bucket(&world)), "a third object");
    // Lowered below what is there: nothing goes, and what takes no more is still done.
    set_bucket(&mut world, Some(1), Some(10));
    world.done(put(&world, "a", 99));
    assert!(is_quota(&world.rejected(put(&world, "b", 1)), &bucket(&world)));
    world.delete_one("a", None);
    world.done(put(&world, "b", 10));
    set_bucket(&mut world, None, None);
    world.done(put(&world, "c", 1000));
    assert_eq!(of(&world, bucket(&world)).0, Quota::default());
    world.audit();
}

#[test]
fn the_quota_of_a_user_covers_all_its_buckets() {
    let mut world = World::new();
    world.done(put(&world, "a", 60));
    let first = world.bucket;
    set(&mut world, anna(), None, Some(100));
    assert_eq!(of(&world, anna()).1.bytes, 60, "what was there before counts");
    world.bucket = world.create_bucket("music");
    assert!(is_quota(&world.rejected(put(&world, "b", 41)), &anna()));
    let copy = CopyObject { source_bucket: first, ..world.copy("a", "copy") };
    assert!(is_quota(&world.rejected(Command::CopyObject(copy)), &anna()), "a copy counts in full");
    world.done(put(&world, "b", 40));
    world.audit();
    // A bucket and a user that go take their quotas with them.
    set_bucket(&mut world, Some(1), None);
    world.delete_one("b", None);
    world.done(Command::DeleteBucket(DeleteBucket { bucket: world.bucket }));
    world.bucket = first;
    world.delete_one("a", None);
    world.done(Command::DeleteBucket(DeleteBucket { bucket: first }));
    world.done(Command::RemoveUser(RemoveUser { name: "anna".parse().unwrap() }));
    world.audit();
}

#[test]
fn uploads_and_their_parts_count_from_the_beginning() {
    let mut world = World::new();
    set_bucket(&mut world, Some(1), Some(3 * PART_BYTES_MIN));
    let upload = world.create_upload("big");
    let create = CreateUpload {
        bucket: world.bucket,
        key: "other".parse().unwrap(),
        attributes: Attributes::default(),
        checksum: None,
        origin: Origin { requester: "anna".to_string(), ..Origin::default() },
    };
    assert!(is_quota(&world.rejected(Command::CreateUpload(create)), &bucket(&world)));
    for number in [1, 2, 2, 3] {
        let part = world.part("big", upload, number, PART_BYTES_MIN);
        world.done(Command::PutPart(part));
    }
    let fourth = world.part("big", upload, 4, 1);
    assert!(is_quota(&world.rejected(Command::PutPart(fourth)), &bucket(&world)));
    world.done(Command::CompleteUpload(world.complete("big", upload, &[1, 3])));
    let (_, usage) = of(&world, bucket(&world));
    let expected = Usage { objects: 1, bytes: 2 * PART_BYTES_MIN, uploads: 0, part_bytes: 0 };
    assert_eq!(usage, expected, "the part that went into no object is free again");
    world.audit();
}

#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, bytes: u16 },
    Copy { from: u8, to: u8 },
    Delete { key: u8 },
    Upload { key: u8 },
    Part { upload: u8, number: u16, bytes: u16 },
    Complete { upload: u8 },
    Abort { upload: u8 },
    Quota { user: bool, objects: Option<u64>, bytes: Option<u64> },
    Versioning { enabled: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..4_u8;
    let bytes = || prop_oneof![Just(0), 0..400_u16];
    let bound = |most: u64| prop_oneof![1 => Just(None), 4 => (0..most).prop_map(Some)];
    prop_oneof![
        6 => (key(), bytes()).prop_map(|(key, bytes)| Step::Put { key, bytes }),
        3 => (key(), key()).prop_map(|(from, to)| Step::Copy { from, to }),
        3 => key().prop_map(|key| Step::Delete { key }),
        2 => key().prop_map(|key| Step::Upload { key }),
        5 => (any::<u8>(), 1..4_u16, bytes())
            .prop_map(|(upload, number, bytes)| Step::Part { upload, number, bytes }),
        2 => any::<u8>().prop_map(|upload| Step::Complete { upload }),
        1 => any::<u8>().prop_map(|upload| Step::Abort { upload }),
        2 => (any::<bool>(), bound(8), bound(1500))
            .prop_map(|(user, objects, bytes)| Step::Quota { user, objects, bytes }),
        1 => any::<bool>().prop_map(|enabled| Step::Versioning { enabled }),
    ]
}

/// The command of a step; `None` where it has nothing to work on.
fn command(world: &mut World, uploads: &[(String, Stamp)], step: &Step) -> Option<Command> {
    let name = |key: u8| format!("key-{key}");
    let chosen = |upload: u8| uploads.get(usize::from(upload) % uploads.len().max(1)).cloned();
    Some(match *step {
        Step::Put { key, bytes } => put(world, &name(key), usize::from(bytes)),
        Step::Copy { from, to } => Command::CopyObject(CopyObject {
            attributes: Some(Attributes::default()),
            ..world.copy(&name(from), &name(to))
        }),
        Step::Delete { key } => world.delete(&name(key), None),
        Step::Upload { key } => Command::CreateUpload(CreateUpload {
            bucket: world.bucket,
            key: name(key).parse().unwrap(),
            attributes: Attributes::default(),
            checksum: None,
            origin: Origin { requester: "anna".to_string(), ..Origin::default() },
        }),
        Step::Part { upload, number, bytes } => {
            let (key, id) = chosen(upload)?;
            Command::PutPart(world.part(&key, id, number, u64::from(bytes)))
        }
        Step::Complete { upload } => {
            let (key, id) = chosen(upload)?;
            Command::CompleteUpload(world.complete(&key, id, &[1]))
        }
        Step::Abort { upload } => {
            let (key, id) = chosen(upload)?;
            Command::AbortUpload(AbortUpload { bucket: world.bucket, key: key.parse().unwrap(), upload: id })
        }
        Step::Quota { user, objects, bytes } => {
            let of = if user { anna() } else { bucket(world) };
            Command::SetQuota(SetQuota { of, quota: Quota { objects, bytes } })
        }
        Step::Versioning { enabled } => {
            world.set_versioning(if enabled { Versioning::Enabled } else { Versioning::Suspended });
            return None;
        }
    })
}

/// By how much more than it may each of the two holds something.
fn excess(quota: Quota, usage: Usage) -> (u64, u64) {
    let over = |limit: Option<u64>, used: u64| limit.map_or(0, |limit| used.saturating_sub(limit));
    (over(quota.objects, usage.counted_objects()), over(quota.bytes, usage.counted_bytes()))
}

/// Applies the command to a copy of the rows that has no quotas. Returns what each of `of` would hold.
fn without_quotas(world: &World, command: &Command) -> [Usage; 2] {
    let mut free = World::new();
    free.rows = world.rows.clone();
    (free.index, free.session, free.bucket) = (world.index, world.session, world.bucket);
    (free.sequence, free.now) = (world.sequence, world.now);
    let both = [bucket(&free), anna()];
    for of in both.clone() {
        set(&mut free, of, None, None);
    }
    free.done(command.clone());
    both.map(|of| self::of(&free, of).1)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_refusal_is_due_and_nothing_else_passes(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut uploads = Vec::new();
        for step in &steps {
            let before = [bucket(&world), anna()].map(|whose| of(&world, whose));
            let Some(command) = command(&mut world, &uploads, step) else { continue };
            let reply = world.run(command.clone());
            let after = [bucket(&world), anna()].map(|whose| of(&world, whose));
            if let (Command::CreateUpload(create), Reply::Done(Done::Upload(id))) = (&command, &reply) {
                uploads.push((create.key.to_string(), *id));
            }
            if matches!(reply, Reply::Rejected(Reject::QuotaExceeded { .. })) {
                let free = without_quotas(&world, &command);
                let worse = before.iter().zip(&free).any(|((quota, usage), free)| {
                    let (was, would_be) = (excess(*quota, *usage), excess(*quota, *free));
                    was.0 < would_be.0 || was.1 < would_be.1
                });
                prop_assert!(worse, "{command:?} was refused with {before:?} and would leave {free:?}");
            } else if !matches!(command, Command::SetQuota(_)) {
                for ((quota, was), (_, is)) in before.iter().zip(&after) {
                    let (was, is) = (excess(*quota, *was), excess(*quota, *is));
                    prop_assert!(is.0 <= was.0 && is.1 <= was.1, "{command:?}: {before:?} {after:?}");
                }
            }
        }
        world.audit();
    }
}
