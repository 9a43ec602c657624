//! Buckets that follow others: what is copied once and in order, and what is left alone.

use bytes::Bytes;
use fabric::ids::{BucketId, Stamp};

use super::world::*;
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::names::{BucketName, ClusterName, ObjectKey};
use crate::meta::overlay::*;
use crate::meta::query::{Answer, ListVersions, ListedVersion, PageEntry, Query, Want};
use crate::meta::replication::*;

fn source() -> Source {
    Source { cluster: "east".parse().unwrap(), bucket: "photos".parse().unwrap() }
}

fn there(index: u64) -> Stamp {
    Stamp { epoch: 3, index, ordinal: 0 }
}

/// A versioned bucket that follows one of the east.
fn following(kind: FollowKind) -> World {
    let mut world = World::new();
    let name = |text: &str| text.parse().unwrap();
    let found = OverlayChange::Found { name: name("west"), sealed_key: Bytes::from_static(b"sealed") };
    world.done(Command::Overlay(found));
    let east = Member {
        name: name("east"),
        key: [1; 32],
        addresses: Vec::new(),
        serial: 1,
        via: None,
        since: ClusterMs(0),
        standing: Standing::In,
    };
    world.done(Command::Overlay(OverlayChange::Admit { invite: None, joined: true, member: east }));
    assert_eq!(refused(&mut world, follow(BucketId(1), kind)), OverlayRefusal::NotVersioned);
    world.set_versioning(Versioning::Enabled);
    world.done(follow(world.bucket, kind));
    world
}

fn follow(bucket: BucketId, kind: FollowKind) -> Command {
    let cursor = Stamp::ZERO;
    let follow = OverlayChange::Follow { bucket, source: source(), kind, source_id: BucketId(9), cursor };
    Command::Overlay(follow)
}

fn refused(world: &mut World, command: Command) -> OverlayRefusal {
    match world.rejected(command) {
        Reject::Overlay(why) => why,
        other => panic!("{other:?}"),
    }
}

fn version(at: u64, key: &str, text: &str) -> ReplicaChange {
    let version = ReplicaVersion {
        body: NewBody::Inline(Bytes::copy_from_slice(text.as_bytes())),
        sealing: None,
        etag: etag(text.len() as u8),
        modified: ClusterMs(at * 1000),
        checksum: None,
        attributes: Attributes::default(),
    };
    change(at, key, ReplicaOf::Version(version))
}

fn change(at: u64, key: &str, what: ReplicaOf) -> ReplicaChange {
    ReplicaChange { at: there(at), reached: ClusterMs(at * 1000), key: self::key(key), what }
}

fn replicate(world: &World, step: ReplicateStep, after: Stamp, changes: Vec<ReplicaChange>) -> Command {
    let last = changes.last().map_or(after, |change| change.at);
    Command::Replicate(Replicate {
        bucket: world.bucket,
        source: source(),
        after,
        upto: if step == ReplicateStep::Feed { last } else { after },
        reached: ClusterMs(last.index * 1000),
        step,
        changes,
    })
}

fn feed(world: &World, after: Stamp, changes: Vec<ReplicaChange>) -> Command {
    replicate(world, ReplicateStep::Feed, after, changes)
}

/// All versions, those of a key newest first.
fn listed(world: &World) -> Vec<(ObjectKey, Version)> {
    let list = ListVersions {
        bucket: world.bucket,
        prefix: String::new(),
        delimiter: String::new(),
        after_key: String::new(),
        after_version: None,
        limit: 100,
    };
    let Ok(Answer::Versions(page)) = world.ask(Query::ListVersions(list)) else { panic!() };
    let version = |entry: PageEntry<ListedVersion>| match entry {
        PageEntry::Item(key, listed) => (key, listed.version),
        PageEntry::Prefix(prefix) => panic!("{prefix}"),
    };
    page.entries.into_iter().map(version).collect()
}

/// The same as texts: keys and bytes; `-` is a delete marker.
fn versions(world: &World) -> Vec<String> {
    let shown = |(key, version): (ObjectKey, Version)| match version {
        Version::Object(object) => format!("{} {}", key.as_str(), object.bytes),
        Version::DeleteMarker { .. } => format!("{} -", key.as_str()),
    };
    listed(world).into_iter().map(shown).collect()
}

fn state(world: &World) -> Follow {
    match world.ask(Query::Follows) {
        Ok(Answer::Follows(mut follows)) => follows.follows.remove(0).2,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn changes_are_copied_once_and_in_order() {
    let mut world = following(FollowKind::Mirror);
    let marker = change(2, "k", ReplicaOf::Marker(ClusterMs(2_000)));
    let changes = vec![version(1, "k", "one"), marker, version(3, "k", "three"), version(4, "l", "")];
    let command = feed(&world, Stamp::ZERO, changes);
    let done = world.done(command.clone());
    assert_eq!(done, Done::Replicated { cursor: there(4), refused: None });
    assert_eq!(versions(&world), ["k 5", "k -", "k 3", "l 0"]);
    // Who repeats it, or missed something, hears so.
    assert_eq!(refused(&mut world, command), OverlayRefusal::Moved);
    let late = feed(&world, there(5), vec![version(6, "k", "six")]);
    assert_eq!(refused(&mut world, late), OverlayRefusal::Moved);
    let found = state(&world);
    assert_eq!((found.objects, found.bytes, found.reached), (3, 8, ClusterMs(4_000)));
    let Ok(Answer::Changes(changes)) =
        world.ask(Query::Changes { bucket: world.bucket, after: Stamp::ZERO, limit: 10 })
    else {
        panic!()
    };
    assert_eq!(changes.events.len(), 4);
    assert!(changes.events.iter().all(|(_, event)| event.origin.source == "overlay/east"));
    world.audit();
}

#[test]
fn a_change_that_is_refused_ends_what_is_copied() {
    let mut world = following(FollowKind::Replica);
    let quota = Quota { objects: Some(1), bytes: None };
    world.done(Command::SetQuota(SetQuota { of: QuotaOf::Bucket(world.bucket), quota }));
    let changes = vec![version(1, "k", "one"), version(2, "l", "two"), version(3, "m", "three")];
    let command = feed(&world, Stamp::ZERO, changes);
    match world.done(command) {
        Done::Replicated { cursor, refused: Some(why) } => {
            assert_eq!(cursor, there(1));
            assert!(matches!(*why, Reject::QuotaExceeded { .. }));
        }
        done => panic!("{done:?}"),
    }
    assert_eq!((versions(&world), state(&world).cursor), (vec!["k 3".to_string()], there(1)));
    world.audit();
}

#[test]
fn a_comparison_changes_what_differs_and_nothing_that_is_newer() {
    let mut world = following(FollowKind::Mirror);
    let first = feed(&world, Stamp::ZERO, vec![version(1, "k", "one"), version(2, "l", "two")]);
    world.done(first);
    let compare = |world: &mut World, changes| {
        let command = replicate(world, ReplicateStep::Compare, there(2), changes);
        world.done(command)
    };
    let marker = |at, key: &str| change(at, key, ReplicaOf::Marker(ClusterMs(at * 1000)));
    let older = change(1, "k", ReplicaOf::Marker(ClusterMs(999)));
    let changes = vec![version(1, "k", "one"), version(5, "m", "five"), older, marker(6, "l")];
    compare(&mut world, changes.clone());
    assert_eq!(versions(&world), ["k 3", "l -", "l 3", "m 4"]);
    compare(&mut world, changes);
    assert_eq!(versions(&world), ["k 3", "l -", "l 3", "m 4"]);
    // No events while both sides are compared.
    let early = feed(&world, there(2), vec![version(7, "k", "seven")]);
    assert_eq!(refused(&mut world, early), OverlayRefusal::Moved);
    let Command::Replicate(end) =
        replicate(&world, ReplicateStep::Compared { upto: there(6) }, there(2), Vec::new())
    else {
        panic!()
    };
    world.done(Command::Replicate(Replicate { upto: there(5), ..end }));
    // Of what the comparison may have found already a marker is not set twice.
    let again = feed(&world, there(5), vec![marker(6, "l"), version(7, "k", "seven!"), marker(8, "l")]);
    world.done(again);
    assert_eq!(versions(&world), ["k 6", "k 3", "l -", "l -", "l 3", "m 4"]);
    world.audit();
}

#[test]
fn tags_follow_the_version_that_they_are_of() {
    let mut world = following(FollowKind::Replica);
    let tags = |at, text: &str, value: &str| {
        let tags = vec![("k".to_string(), value.to_string())];
        let what = ReplicaOf::Tags { etag: etag(text.len() as u8), modified: ClusterMs(1_000), tags };
        change(at, "k", what)
    };
    let changes =
        vec![version(1, "k", "one"), version(2, "k", "three"), tags(3, "one", "v"), tags(4, "none", "v")];
    let command = feed(&world, Stamp::ZERO, changes);
    world.done(command);
    let tags_of = |(key, version): (ObjectKey, Version)| {
        let version = Some(VersionSelector::Stamp(version.stamp()));
        match world.ask(Query::Object { bucket: world.bucket, key, version, want: Want::Row }) {
            Ok(Answer::Object(view)) => view.object.attributes.tags.len(),
            answer => panic!("{answer:?}"),
        }
    };
    let tags: Vec<usize> = listed(&world).into_iter().map(tags_of).collect();
    assert_eq!(tags, [0, 1]);
    world.audit();
}

#[test]
fn what_members_have_is_kept_and_read_from_a_place_on() {
    let mut world = following(FollowKind::Replica);
    let name = |text: &str| text.parse::<BucketName>().unwrap();
    let (east, north) = ("east".parse::<ClusterName>().unwrap(), "north".parse().unwrap());
    let bucket = HeardBucket {
        owner: None,
        created: ClusterMs(5),
        objects: 1,
        bytes: 2,
        versioned: true,
        stale_seconds: None,
        heard: ClusterMs(0),
    };
    let heard = |there: &[(&ClusterName, &str)], gone: &[&str]| {
        let there = there.iter().map(|(cluster, text)| ((*cluster).clone(), name(text), bucket.clone()));
        let gone = gone.iter().map(|text| (east.clone(), name(text)));
        Command::Overlay(OverlayChange::Heard { there: there.collect(), gone: gone.collect() })
    };
    world.done(heard(&[(&east, "one"), (&east, "two"), (&east, "three"), (&north, "one")], &[]));
    world.done(heard(&[], &["three", "never"]));
    let ask = |world: &World, from: Option<HeardPlace>, limit| match world.ask(Query::Heard { from, limit }) {
        Ok(Answer::Heard { buckets, more }) => {
            assert!(buckets.iter().all(|(of, _, bucket)| *of == east && ClusterMs(0) < bucket.heard));
            (buckets.into_iter().map(|(_, name, _)| name.to_string()).collect::<Vec<_>>(), more)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(&world, None, 9), (vec!["one".to_string(), "two".to_string()], false));
    assert_eq!(ask(&world, Some((east.clone(), None)), 1), (vec!["one".to_string()], true));
    assert_eq!(ask(&world, Some((east.clone(), Some(name("one")))), 9), (vec!["two".to_string()], false));
    assert_eq!(ask(&world, Some((north, None)), 9), (Vec::new(), false));
}

#[test]
fn only_the_source_writes_to_a_mirror_until_it_is_promoted() {
    let mut world = following(FollowKind::Mirror);
    let put = Command::PutObject(world.put("k", NewBody::Inline(Bytes::from_static(b"x"))));
    assert_eq!(refused(&mut world, put.clone()), OverlayRefusal::IsCopy);
    let guarded = Command::Guarded(Guarded { guard: Guard::default(), command: Box::new(put.clone()) });
    assert_eq!(refused(&mut world, guarded), OverlayRefusal::IsCopy);
    let other = Source { bucket: "other".parse().unwrap(), ..source() };
    let (bucket, kind, source_id) = (world.bucket, FollowKind::Replica, BucketId(9));
    let second = OverlayChange::Follow { bucket, source: other, kind, source_id, cursor: Stamp::ZERO };
    assert_eq!(refused(&mut world, Command::Overlay(second.clone())), OverlayRefusal::FollowsOther);
    world.done(follow(bucket, FollowKind::Mirror));
    let suspend = BucketChange::Versioning(Versioning::Suspended);
    let suspend = Command::SetBucket(SetBucket { bucket, change: suspend });
    assert!(matches!(world.rejected(suspend), Reject::BucketState(_)));

    let end = |cursor| Command::Overlay(OverlayChange::Unfollow { bucket, source: source(), cursor });
    assert_eq!(refused(&mut world, end(Some(there(1)))), OverlayRefusal::Moved);
    world.done(end(Some(Stamp::ZERO)));
    assert_eq!(refused(&mut world, end(None)), OverlayRefusal::NotFollowed);
    world.done(put);
    // What is there is compared when it follows again.
    world.done(follow(bucket, FollowKind::Mirror));
    assert!(state(&world).compare);
    world.done(end(None));
    // Several may be copied to one bucket, to which clients write, too.
    world.done(follow(bucket, FollowKind::Replica));
    world.done(Command::Overlay(second));
    world.put_inline("k", "y");
    world.audit();
}

fn overlay(change: OverlayChange) -> Command {
    Command::Overlay(change)
}

fn promote(bucket: BucketId, cursor: Option<Stamp>) -> Command {
    overlay(OverlayChange::Promote { bucket, source: source(), cursor })
}

fn promotions(world: &World) -> Promotions {
    match world.ask(Query::Promotions) {
        Ok(Answer::Promotions(promotions)) => promotions,
        answer => panic!("{answer:?}"),
    }
}

fn kept(at: u64, key: &str, text: &str) -> ReplicaChange {
    let ReplicaChange { what: ReplicaOf::Version(version), .. } = version(at, key, text) else { panic!() };
    change(at, key, ReplicaOf::KeptVersion { id: there(at), version })
}

fn kept_marker(at: u64, key: &str) -> ReplicaChange {
    change(at, key, ReplicaOf::KeptMarker { id: there(at), modified: ClusterMs(at * 1000) })
}

/// Stamps of all versions, those of a key newest first.
fn stamps(world: &World) -> Vec<Stamp> {
    listed(world).into_iter().map(|(_, version)| version.stamp()).collect()
}

#[test]
fn versions_and_markers_of_a_mirror_keep_their_ids() {
    let mut world = following(FollowKind::Mirror);
    let changes = vec![kept(1, "k", "one"), kept_marker(2, "k"), kept(3, "k", "three"), kept(4, "l", "four")];
    let command = feed(&world, Stamp::ZERO, changes);
    world.done(command);
    assert_eq!(stamps(&world), [there(3), there(2), there(1), there(4)]);
    // Its own events are in order whatever they are about, and name the versions as they are.
    let query = Query::Changes { bucket: world.bucket, after: Stamp::ZERO, limit: 10 };
    let Ok(Answer::Changes(changes)) = world.ask(query) else { panic!() };
    let told: Vec<Stamp> = changes.events.iter().map(|(_, event)| event.version).collect();
    assert_eq!(told, [there(1), there(2), there(3), there(4)]);
    assert!(changes.events.windows(2).all(|pair| pair[0].0 < pair[1].0));
    // What comes twice is there once.
    let later = |at, told: ReplicaChange| ReplicaChange { at: there(at), ..told };
    let again = vec![later(5, kept(3, "k", "three")), later(6, kept_marker(2, "k"))];
    let again = feed(&world, there(4), again);
    world.done(again);
    assert_eq!(stamps(&world).len(), 4);
    world.audit();
    let (cursor, bucket) = (state(&world).cursor, world.bucket);
    world.done(promote(bucket, Some(cursor)));
    assert!(there(u64::MAX) < world.put_inline("k", "own").stamp);
    world.audit();
}

#[test]
fn small_bodies_of_kept_versions_are_packed_whatever_their_index() {
    let mut world = following(FollowKind::Mirror);
    let command = feed(&world, Stamp::ZERO, vec![kept(1 << 40, "k", "one")]);
    world.done(command);
    let query = Query::Inline { above: 0, after: None, before: world.index, bytes: 1000 };
    let Ok(Answer::Inline(page)) = world.ask(query) else { panic!() };
    assert_eq!(page.payloads.len(), 1);
}

#[test]
fn an_id_that_would_not_be_the_newest_of_its_key_is_not_kept() {
    let mut world = following(FollowKind::Mirror);
    let bucket = world.bucket;
    let first = feed(&world, Stamp::ZERO, vec![kept(1, "k", "one"), kept(2, "l", "two")]);
    world.done(first);
    world.done(promote(bucket, Some(there(2))));
    let own = world.put_inline("k", "written after").stamp;
    world.done(follow(bucket, FollowKind::Mirror));
    // The source decides what is current, however old it is.
    let changes = vec![kept(1, "k", "one"), kept_marker(5, "l")];
    let compare = |world: &World| replicate(world, ReplicateStep::Compare, Stamp::ZERO, changes.clone());
    let command = compare(&world);
    assert_eq!(refused(&mut world, command), OverlayRefusal::Moved, "only who copies compares");
    world.done(Command::LeadFollowing);
    for _ in 0..2 {
        let command = compare(&world);
        world.done(command);
        assert_eq!(versions(&world), ["k 3", "k 13", "k 3", "l -", "l 3"]);
        assert!(own < stamps(&world)[0] && stamps(&world)[3] == there(5));
    }
    world.audit();
}

#[test]
fn locks_come_with_versions_where_there_can_be_locks() {
    let mut world = following(FollowKind::Mirror);
    let hold = |told: ReplicaChange| {
        let lock = Lock { retention: None, legal_hold: true };
        ReplicaChange { what: ReplicaOf::Locked { lock, what: Box::new(told.what) }, ..told }
    };
    let first = feed(&world, Stamp::ZERO, vec![hold(kept(1, "k", "one"))]);
    world.done(first);
    let locks = BucketChange::Set(BucketSetting::ObjectLock(ObjectLock::default()));
    let bucket = world.bucket;
    world.done(Command::SetBucket(SetBucket { bucket, change: locks }));
    let second = feed(&world, there(1), vec![hold(kept(2, "k", "two")), kept(3, "k", "three")]);
    world.done(second);
    let held = |version| match world.ask(Query::Lock { bucket, key: key("k"), version }) {
        Ok(Answer::Lock(lock)) => lock.legal_hold,
        answer => panic!("{answer:?}"),
    };
    assert_eq!([1, 2, 3].map(|at| held(there(at))), [false, true, false]);
    world.audit();
}

#[test]
fn the_lock_of_a_copy_becomes_what_the_source_says_but_for_compliance() {
    let mut world = following(FollowKind::Replica);
    let bucket = world.bucket;
    let locks = |default| BucketChange::Set(BucketSetting::ObjectLock(ObjectLock { default }));
    let retained = |mode, until| Some(Retention { mode, until: ClusterMs(until) });
    let governed = |until| retained(RetentionMode::Governance, until);
    let promised = |until| retained(RetentionMode::Compliance, until);
    let far = world.now.0 + 1_000_000;
    let relock = |at, retention, legal_hold| {
        let ReplicaOf::Version(copied) = version(1, "k", "one").what else { panic!() };
        let (etag, modified, lock) = (copied.etag, copied.modified, Lock { retention, legal_hold });
        change(at, "k", ReplicaOf::Lock { etag, modified, lock })
    };
    // Where there are no locks nothing happens.
    let first = feed(&world, Stamp::ZERO, vec![version(1, "k", "one"), relock(2, governed(far), true)]);
    world.done(first);
    world.done(Command::SetBucket(SetBucket { bucket, change: locks(None) }));
    let id = stamps(&world)[0];
    let lock = |world: &World| match world.ask(Query::Lock { bucket, key: key("k"), version: id }) {
        Ok(Answer::Lock(lock)) => (lock.retention, lock.legal_hold),
        answer => panic!("{answer:?}"),
    };
    assert_eq!(lock(&world), (None, false));
    let day = DefaultRetention { mode: RetentionMode::Governance, days: 1, in_years: false };
    for (at, said, default, expected) in [
        (3, (governed(far), true), None, (governed(far), true)),
        (4, (governed(far - 1), false), None, (governed(far - 1), false)),
        // The bucket of the copy has a rule of its own.
        (5, (None, false), Some(day), (governed(far - 1), false)),
        (6, (None, false), None, (None, false)),
        (7, (promised(far), false), None, (promised(far), false)),
        (8, (governed(far + 9), true), None, (promised(far), true)),
        (9, (promised(far + 1), false), None, (promised(far + 1), false)),
    ] {
        world.done(Command::SetBucket(SetBucket { bucket, change: locks(default) }));
        let command = feed(&world, there(at - 1), vec![relock(at, said.0, said.1)]);
        world.done(command);
        assert_eq!(lock(&world), expected, "{at}");
    }
    // Another version is left alone, and the change feed tells of each change.
    let other = change(10, "l", relock(10, None, true).what);
    let command = feed(&world, there(9), vec![other]);
    world.done(command);
    let query = Query::Changes { bucket, after: Stamp::ZERO, limit: 20 };
    let Ok(Answer::Changes(changes)) = world.ask(query) else { panic!() };
    let kinds: Vec<_> = changes.events.iter().skip(1).map(|(_, event)| event.kind).collect();
    let (retention, hold) = (EventKind::Retention, EventKind::LegalHold);
    assert_eq!(kinds, [retention, retention, retention, retention, hold, retention]);
    world.audit();
}

#[test]
fn versions_of_a_promoted_copy_come_behind_all_that_the_source_ever_stamps() {
    let mut world = following(FollowKind::Mirror);
    let bucket = world.bucket;
    let first = feed(&world, Stamp::ZERO, vec![version(1, "k", "one")]);
    world.done(first);
    assert_eq!(refused(&mut world, promote(bucket, Some(Stamp::ZERO))), OverlayRefusal::Moved);
    world.done(promote(bucket, Some(there(1))));
    assert_eq!(refused(&mut world, promote(bucket, None)), OverlayRefusal::NotFollowed);
    assert!(there(u64::MAX) < world.put_inline("k", "two").stamp);
    assert_eq!(versions(&world), ["k 3", "k 3"]);
    // Its home knows.
    assert!(promotions(&world).promoted.is_empty());
    // After a recovery indexes of the log come again, in this bucket, too.
    let before = world.put_inline("k", "three").stamp;
    world.done(Command::BeginEpoch(BeginEpoch { epoch: 2, voter: fabric::ids::RaftId(1) }));
    world.session = world.open_session(9);
    assert!(before.epoch < world.put_inline("k", "four").stamp.epoch);
    world.audit();
}

#[test]
fn a_home_that_was_lost_is_still_to_hear_of_the_promotion() {
    let mut world = following(FollowKind::Mirror);
    let bucket = world.bucket;
    let first = feed(&world, Stamp::ZERO, vec![version(1, "k", "one")]);
    world.done(first);
    world.done(promote(bucket, None));
    let promoted = promotions(&world).promoted;
    assert_eq!((promoted[0].0.id, &promoted[0].1), (bucket, &source()));
    assert_eq!((promoted[0].2.source, promoted[0].2.cursor), (BucketId(9), there(1)));
    world.done(overlay(OverlayChange::Told { bucket, source: source() }));
    assert!(promotions(&world).promoted.is_empty());
    // Who follows it again has nothing to tell it.
    world.done(follow(bucket, FollowKind::Mirror));
    world.done(promote(bucket, None));
    assert_eq!(promotions(&world).promoted.len(), 1);
    world.done(follow(bucket, FollowKind::Mirror));
    assert!(promotions(&world).promoted.is_empty());
    // Replicas are of others, too: nothing is promoted.
    world.done(overlay(OverlayChange::Unfollow { bucket, source: source(), cursor: None }));
    world.done(follow(bucket, FollowKind::Replica));
    assert_eq!(refused(&mut world, promote(bucket, None)), OverlayRefusal::NotFollowed);
    world.audit();
}

#[test]
fn a_bucket_whose_place_was_taken_takes_nothing_until_it_is_reopened() {
    let mut world = following(FollowKind::Mirror);
    let bucket = world.bucket;
    let supersede = |by: Source, at| overlay(OverlayChange::Supersede { bucket, by, at });
    let by = Source { cluster: "west".parse().unwrap(), bucket: "mirror".parse().unwrap() };
    assert_eq!(refused(&mut world, supersede(by.clone(), None)), OverlayRefusal::IsCopy);
    world.done(overlay(OverlayChange::Unfollow { bucket, source: source(), cursor: None }));
    let last = world.put_inline("k", "x").stamp;
    world.done(supersede(by.clone(), None));
    let fence = promotions(&world).superseded[0].1.at;
    assert!(last < fence);

    let put = Command::PutObject(world.put("k", NewBody::Inline(Bytes::from_static(b"y"))));
    assert_eq!(world.rejected(put.clone()), Reject::Superseded { by: by.clone() });
    world.done(follow(bucket, FollowKind::Replica));
    let copied = feed(&world, Stamp::ZERO, vec![version(1, "k", "one")]);
    assert_eq!(world.rejected(copied), Reject::Superseded { by: by.clone() });
    world.done(overlay(OverlayChange::Unfollow { bucket, source: source(), cursor: None }));

    // The copy could not have all of it, and says how far it came; another one comes too late.
    world.done(supersede(by.clone(), Some(last)));
    world.done(supersede(by.clone(), None));
    world.done(supersede(by.clone(), Some(fence)));
    assert_eq!(promotions(&world).superseded[0].1.at, last);
    let other = Source { cluster: "north".parse().unwrap(), ..by.clone() };
    assert_eq!(refused(&mut world, supersede(other, None)), OverlayRefusal::SupersededByOther);

    world.done(overlay(OverlayChange::Reopen { bucket }));
    let reopen = overlay(OverlayChange::Reopen { bucket });
    assert_eq!(refused(&mut world, reopen), OverlayRefusal::NotSuperseded);
    world.done(put);
    // Who follows the one that took its place is a copy, and nothing else.
    world.done(supersede(by, None));
    world.done(follow(bucket, FollowKind::Mirror));
    assert!(promotions(&world).superseded.is_empty());
    world.audit();
}

#[test]
fn one_session_follows() {
    let mut world = following(FollowKind::Mirror);
    let Done::Leads(Some(session)) = world.done(Command::LeadFollowing) else { panic!() };
    let other = world.open_session(77);
    assert_eq!(world.apply(other, 1, Command::LeadFollowing), Reply::Done(Done::Leads(None)));
    let Ok(Answer::Follows(follows)) = world.ask(Query::Follows) else { panic!() };
    assert_eq!((follows.follower, follows.follower_lives), (Some(session), true));
}

#[test]
fn buckets_that_are_copied_elsewhere_are_known() {
    let mut world = World::new();
    let (bucket, replication) =
        (world.bucket, Replication { role: String::new(), rules: Vec::new(), since: there(1) });
    let set = BucketChange::Set(BucketSetting::Replication(replication.clone()));
    let set = Command::SetBucket(SetBucket { bucket, change: set });
    assert!(matches!(world.rejected(set.clone()), Reject::BucketState(_)));
    world.set_versioning(Versioning::Enabled);
    world.done(set);
    let shown = |world: &World| match world.ask(Query::Replications { after: None, limit: 10 }) {
        Ok(Answer::Replications { buckets, more: false }) => buckets,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(shown(&world)[0].1, replication);
    let remove = BucketChange::Remove(SettingKind::Replication);
    world.done(Command::SetBucket(SetBucket { bucket, change: remove }));
    assert!(shown(&world).is_empty());
}

/// The rules of a bucket that is copied to `photos` of the east.
fn replication(enabled: bool, since: Stamp) -> BucketSetting {
    let Source { cluster, bucket } = source();
    let rule = ReplicationRule {
        id: "a".to_string(),
        priority: 1,
        enabled,
        form: ReplicationFilter::Empty,
        prefix: String::new(),
        tags: Tags::new(),
        destination: bucket.clone(),
        cluster,
        bucket,
        account: None,
        storage_class: None,
        markers: None,
        existing: None,
    };
    BucketSetting::Replication(Replication { role: String::new(), rules: vec![rule], since })
}

#[test]
fn copies_say_how_far_they_are_while_rules_name_them() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    let bucket = world.bucket;
    let set = |change| Command::SetBucket(SetBucket { bucket, change });
    let acknowledge = |upto| overlay(OverlayChange::Acknowledge { bucket, to: source(), upto });
    let rows = |world: &World| match world.ask(Query::Acknowledged(bucket)) {
        Ok(Answer::Acknowledged(rows)) => rows,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(refused(&mut world, acknowledge(there(5))), OverlayRefusal::NotFollowed);
    world.done(set(BucketChange::Set(replication(false, there(2)))));
    assert_eq!(refused(&mut world, acknowledge(there(5))), OverlayRefusal::NotFollowed);
    world.done(set(BucketChange::Set(replication(true, there(2)))));
    // A copy that begins anew is less far than it was.
    for (upto, first) in
        [(there(5), there(2)), (there(7), there(2)), (there(1), there(1)), (there(9), there(1))]
    {
        world.done(acknowledge(upto));
        assert_eq!(rows(&world), [(source(), Acknowledged { first, upto })]);
    }
    // Other rules that name it change nothing; those that do not forget it.
    world.done(set(BucketChange::Set(replication(true, there(8)))));
    assert_eq!(rows(&world).len(), 1);
    world.done(set(BucketChange::Set(replication(false, there(8)))));
    assert!(rows(&world).is_empty());
    world.done(set(BucketChange::Set(replication(true, there(8)))));
    world.done(acknowledge(there(9)));
    world.done(set(BucketChange::Remove(SettingKind::Replication)));
    assert!(rows(&world).is_empty());
}

#[test]
fn what_is_made_here_of_a_copy_is_none() {
    let mut world = following(FollowKind::Replica);
    let mut change = version(1, "k", "one");
    let ReplicaOf::Version(copy) = &mut change.what else { panic!() };
    copy.attributes.mark_replica();
    let command = feed(&world, Stamp::ZERO, vec![change]);
    world.done(command);
    let is_replica = |world: &World, key: &str| world.current(key).unwrap().attributes.is_replica();
    assert!(is_replica(&world, "k"));
    let copied = CopyObject {
        source_bucket: world.bucket,
        source_key: key("k"),
        source_version: None,
        source_conditions: ReadConditions::default(),
        bucket: world.bucket,
        key: key("own"),
        expect: Expect::default(),
        attributes: None,
        checksum: None,
        source_seen: None,
        origin: Origin::default(),
    };
    world.done(Command::CopyObject(copied));
    assert!(is_replica(&world, "k") && !is_replica(&world, "own"));
}

#[test]
fn versions_keep_their_parts() {
    let mut world = following(FollowKind::Mirror);
    let bucket = world.bucket;
    let part = |number, extent| ReplicaPart { number, md5: [number as u8; 16], checksum: None, extent };
    let in_parts = |told: ReplicaChange, parts| {
        let ReplicaOf::KeptVersion { id, version } = told.what else { panic!() };
        let version = ReplicaVersion { etag: Etag::Multipart([7; 16], 3), ..version };
        let what = Box::new(ReplicaOf::KeptVersion { id, version });
        ReplicaChange { what: ReplicaOf::InParts { parts, what }, ..told }
    };
    let (first, last) = (world.extent(300), world.extent(20));
    let parts = vec![part(1, Some(first)), part(4, None), part(9, Some(last))];
    let changes = vec![in_parts(kept(1, "k", ""), parts.clone())];
    let command = feed(&world, Stamp::ZERO, changes);
    assert_eq!(world.done(command), Done::Replicated { cursor: there(1), refused: None });
    let query = Query::Object { bucket, key: key("k"), version: None, want: Want::Body };
    let Ok(Answer::Object(view)) = world.ask(query) else { panic!() };
    assert_eq!((view.object.stamp, view.object.bytes), (there(1), 320));
    let found: Vec<_> = view.parts.iter().map(|slice| (slice.part, slice.bytes, slice.md5)).collect();
    assert_eq!(found, [(1, 300, [1; 16]), (4, 0, [4; 16]), (9, 20, [9; 16])]);
    world.audit();
    // A copy has the parts as long as it is there, also where the version comes once more.
    world.done(promote(bucket, Some(there(1))));
    let copy = world.copy("k", "own");
    world.done(Command::CopyObject(copy));
    world.delete_one("k", Some(VersionSelector::Stamp(there(1))));
    world.done(follow(bucket, FollowKind::Mirror));
    world.done(Command::LeadFollowing);
    let extent = world.extent(7);
    let again = in_parts(kept(1, "k", ""), vec![part(2, Some(extent))]);
    let command = replicate(&world, ReplicateStep::Compare, Stamp::ZERO, vec![again]);
    world.done(command);
    world.audit();
    for (name, bytes) in [("k", vec![7]), ("own", vec![300, 0, 20])] {
        let query = Query::Object { bucket, key: key(name), version: None, want: Want::Body };
        let Ok(Answer::Object(view)) = world.ask(query) else { panic!() };
        assert_eq!(view.parts.iter().map(|slice| slice.bytes).collect::<Vec<_>>(), bytes, "{name}");
    }
    // What no follower sends.
    let fresh = world.extent(5);
    for parts in [
        Vec::new(),
        vec![part(2, None), part(1, None)],
        vec![part(1, Some(fresh.clone())), part(2, Some(fresh))],
    ] {
        let command =
            replicate(&world, ReplicateStep::Compare, Stamp::ZERO, vec![in_parts(kept(9, "l", ""), parts)]);
        let Done::Replicated { refused: Some(why), .. } = world.done(command) else { panic!() };
        assert!(matches!(*why, Reject::Malformed(_)), "{why:?}");
    }
    world.audit();
}
