//! Whole copies that become shards.

use fabric::coding::Coding;
use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::limits::PART_BYTES_MIN;
use fabric::placement::Layout;

use super::world::{World, key, sealing};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, BodyView, ObjectView, Query, Recoding, Want};
use crate::meta::tables::{Objects, Recodings, put as put_row};

/// Six nodes.
fn world() -> World {
    let mut world = World::new();
    let partitions = vec![(1..=6).map(NodeId).collect()];
    world.done(Command::SetLayout(SetLayout { layout: Layout { version: LayoutVersion(2), partitions } }));
    world
}

fn in_class(put: PutObject) -> PutObject {
    let attributes = Attributes { storage_class: Some("STANDARD_IA".to_string()), ..put.attributes };
    PutObject { attributes, ..put }
}

fn put(world: &mut World, name: &str) -> Extent {
    let extent = Extent { layout: LayoutVersion(2), ..world.extent(100_000) };
    let put = world.put(name, NewBody::Extent(extent.clone()));
    world.done(Command::PutObject(in_class(put)));
    extent
}

fn next(world: &World) -> Option<Recoding> {
    match world.ask(Query::Recoding { after: None }) {
        Ok(Answer::Recoding(found)) => found,
        answer => panic!("{answer:?}"),
    }
}

/// As the job does it.
fn shards(recoding: &Recoding) -> Recode {
    let coded = |old: &Extent| {
        let (id, chunk_bytes) = (old.id.coded(Coding::FourPlusTwo), 28_672);
        Extent { id, chunk_bytes, layout: LayoutVersion(2), confirmed: 0b11_1111, ..old.clone() }
    };
    let extents = recoding.extents.iter().map(coded).collect();
    Recode { home: recoding.home.clone(), version: recoding.version, extents }
}

fn view(world: &World, name: &str) -> ObjectView {
    let query = Query::Object { bucket: world.bucket, key: key(name), version: None, want: Want::Body };
    match world.ask(query) {
        Ok(Answer::Object(view)) => view,
        answer => panic!("{answer:?}"),
    }
}

fn extents(world: &World, name: &str) -> Vec<ExtentId> {
    match view(world, name).body {
        BodyView::Pieces(pieces) => pieces.into_iter().map(|piece| piece.extent.id).collect(),
        body => panic!("{body:?}"),
    }
}

fn named(world: &World, name: &str, id: ExtentId) -> bool {
    let home = Home { bucket: world.bucket, key: key(name) };
    world.ask(Query::Named(vec![(home, id)])) == Ok(Answer::Named(vec![true]))
}

#[test]
fn a_version_becomes_shards_and_stays_what_it_is() {
    let mut world = world();
    let old = put(&mut world, "k");
    let before = view(&world, "k").object;
    let found = next(&world).unwrap();
    assert_eq!((found.version, &found.extents), (before.stamp, &vec![old.clone()]));
    let recode = shards(&found);
    let new = recode.extents[0].id;
    assert!(named(&world, "k", new), "as the copies are: nobody may collect what is on its way");
    world.done(Command::Recode(recode.clone()));
    world.audit();
    let after = view(&world, "k").object;
    assert_eq!(extents(&world, "k"), [new]);
    assert_eq!(Object { body: before.body.clone(), ..after }, before, "only where it lies changed");
    assert_eq!(next(&world), None);
    let oldest_read = world.index + 1;
    world.done(Command::RenewSession(RenewSession { oldest_write: 0, oldest_read, pinned: Vec::new() }));
    let Ok(Answer::Garbage(garbage)) = world.ask(Query::Garbage { after: None, limit: 10 }) else { panic!() };
    assert!(matches!(&garbage[..], [(_, _, Garbage::Extent(extent))] if extent.id == old.id));
    // Once more: it is done.
    assert_eq!(world.done(Command::Recode(recode)), Done::Nothing);
    world.delete_one("k", None);
    assert!(!named(&world, "k", new) && !named(&world, "k", old.id));
    world.audit();
}

#[test]
fn what_is_not_the_same_bytes_or_not_durable_is_refused() {
    let mut world = world();
    put(&mut world, "k");
    let found = next(&world).unwrap();
    let good = shards(&found);
    let with = |change: &dyn Fn(&mut Extent)| {
        let mut recode = good.clone();
        change(&mut recode.extents[0]);
        Command::Recode(recode)
    };
    for (command, source_changed) in [
        (with(&|extent| extent.bytes += 1), false),
        (with(&|extent| extent.confirmed = 0b1111), false),
        (with(&|extent| extent.id = extent.id.coded(Coding::Whole)), false),
        (with(&|extent| extent.layout = LayoutVersion(9)), false),
        (
            with(&|extent| extent.id = ExtentId::new(1, extent.id.session(), 99).coded(Coding::FourPlusTwo)),
            true,
        ),
    ] {
        let reject = world.rejected(command);
        assert_eq!(reject == Reject::SourceChanged, source_changed, "{reject:?}");
        assert!(source_changed || matches!(reject, Reject::Malformed(_)));
    }
    // Something was appended on the way.
    let append = world.append("k", "more");
    world.done(Command::AppendObject(append));
    assert_eq!(world.done(Command::Recode(good)), Done::Nothing, "that version is gone");
    world.audit();
}

#[test]
fn what_is_shared_small_or_gone_stays() {
    let mut world = world();
    put(&mut world, "k");
    world.done(Command::CopyObject(world.copy("k", "copy")));
    let found = next(&world).unwrap();
    assert_eq!(found.extents, [], "it would be named twice");
    world.done(Command::Recode(Recode { home: found.home, version: found.version, extents: Vec::new() }));
    assert_eq!(next(&world), None);
    world.put_inline("small", "x");
    world.put_extent("standard");
    assert_eq!(next(&world), None);
    put(&mut world, "gone");
    assert!(next(&world).is_some());
    world.delete_one("gone", None);
    assert_eq!(next(&world), None);
    // A new key is a new version.
    put(&mut world, "renamed");
    world.done(Command::RenameObject(world.rename("renamed", "k")));
    assert_eq!(next(&world).unwrap().home.key, key("k"));
    world.audit();
}

#[test]
fn without_nodes_for_shards_nothing_waits() {
    let mut world = World::new();
    let partitions = vec![vec![NodeId(1), NodeId(2)]];
    world.done(Command::SetLayout(SetLayout { layout: Layout { version: LayoutVersion(2), partitions } }));
    let extent = Extent { layout: LayoutVersion(2), confirmed: 0b11, ..world.extent(100_000) };
    let put = world.put("k", NewBody::Extent(extent));
    world.done(Command::PutObject(in_class(put)));
    assert_eq!(next(&world), None);
}

#[test]
fn all_parts_become_shards() {
    let mut world = world();
    let upload = world.create_upload_sealed("k", Some(sealing()));
    for (number, bytes) in [(1, PART_BYTES_MIN), (2, 70_000)] {
        // What a part takes where it is stored.
        let part = world.part("k", upload, number, sealing().sealed_bytes(bytes));
        world.done(Command::PutPart(part));
    }
    world.done(Command::CompleteUpload(world.complete("k", upload, &[1, 2])));
    let before = view(&world, "k");
    let home = Home { bucket: world.bucket, key: key("k") };
    let class = |object: Object| {
        let storage_class = Some("STANDARD_IA".to_string());
        Object { attributes: Attributes { storage_class, ..object.attributes.clone() }, ..object }
    };
    // As a rule moves it.
    put_row::<Objects>(&mut world.rows, &home, &class(before.object.clone()));
    put_row::<Recodings>(&mut world.rows, (&home, before.object.stamp), &());
    let found = next(&world).unwrap();
    assert_eq!(found.extents.len(), 2);
    world.done(Command::Recode(shards(&found)));
    world.audit();
    assert!(extents(&world, "k").iter().all(|id| id.coding() == Some(Coding::FourPlusTwo)));
    let after = view(&world, "k");
    let parts = |view: &ObjectView| -> Vec<_> {
        view.parts.iter().map(|slice| (slice.part, slice.bytes, slice.md5)).collect()
    };
    assert_eq!(parts(&after), parts(&before));
    assert_eq!(next(&world), None);
}
