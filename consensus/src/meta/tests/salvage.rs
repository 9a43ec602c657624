//! Bodies without a row are named again, and nothing else is.

use fabric::ids::{BucketId, Incarnation, NodeId, RaftId, SessionId};

use super::world::{World, key, stored};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::names::BucketName;
use crate::meta::query::{Answer, BodyView, Query, Want};

const LOST_BUCKET: BucketId = BucketId(77);

/// The next epoch, in which garbage is kept.
fn recovered() -> World {
    let mut world = World::new();
    begin_epoch(&mut world, FIRST_EPOCH + 1);
    world
}

fn begin_epoch(world: &mut World, epoch: u16) {
    let voter = RaftId::new(NodeId(1), Incarnation(7));
    world.done(Command::BeginEpoch(BeginEpoch { epoch, voter }));
}

fn found(world: &mut World, part: u16) -> SalvagedBody {
    SalvagedBody { part, extent: world.extent(6 << 20), md5: [part as u8 + 1; 16] }
}

fn salvage(bucket: BucketId, name: &str, bodies: Vec<SalvagedBody>) -> Salvage {
    Salvage {
        bucket,
        bucket_name: name.parse().unwrap(),
        owner: "anna".parse().unwrap(),
        key: key("k"),
        bodies,
        attributes: Attributes::default(),
        newer: false,
    }
}

fn extent_of(world: &World, bucket: BucketId) -> Vec<Extent> {
    let query = Query::Object { bucket, key: key("k"), version: None, want: Want::Body };
    let Ok(Answer::Object(view)) = world.ask(query) else { panic!("not there") };
    let BodyView::Pieces(pieces) = view.body else { panic!("{:?}", view.body) };
    pieces.into_iter().map(|piece| piece.extent).collect()
}

#[test]
fn a_bucket_and_its_objects_come_back() {
    let mut world = recovered();
    let body = found(&mut world, 0);
    let mut command = salvage(LOST_BUCKET, "lost", vec![body.clone()]);
    command.attributes.headers.insert("content-type".to_string(), "text/plain".to_string());
    let made = stored(world.done(Command::Salvage(command)));
    assert_eq!((made.bytes, made.etag), (6 << 20, Etag::Md5([1; 16])));
    assert_eq!(extent_of(&world, LOST_BUCKET), vec![body.extent]);
    let name: BucketName = "lost".parse().unwrap();
    let Ok(Answer::Bucket(Some(bucket))) = world.ask(Query::Bucket(name)) else { panic!() };
    assert_eq!((bucket.id, bucket.owner.to_string()), (LOST_BUCKET, "anna".to_string()));
    // Numbers that chunks on nodes may carry are not drawn again.
    assert!(world.create_bucket("next").0 >= u64::from(FIRST_EPOCH + 1) << 32);
    world.audit();
}

#[test]
fn parts_become_one_object() {
    let mut world = recovered();
    let parts: Vec<_> = [1, 2, 5].into_iter().map(|part| found(&mut world, part)).collect();
    let made = stored(world.done(Command::Salvage(salvage(LOST_BUCKET, "lost", parts.clone()))));
    assert_eq!(made.bytes, 18 << 20);
    assert!(matches!(made.etag, Etag::Multipart(_, 3)));
    let extents: Vec<_> = parts.into_iter().map(|part| part.extent).collect();
    assert_eq!(extent_of(&world, LOST_BUCKET), extents);
    world.audit();
}

#[test]
fn the_newest_body_of_those_found_stays_in_any_order() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let mut world = recovered();
        let bodies: Vec<_> = (0..3).map(|_| found(&mut world, 0)).collect();
        for place in order {
            let command = salvage(LOST_BUCKET, "lost", vec![bodies[place].clone()]);
            let _ = world.run(Command::Salvage(command));
        }
        assert_eq!(extent_of(&world, LOST_BUCKET), vec![bodies[2].extent.clone()], "{order:?}");
        world.audit();
    }
}

#[test]
fn what_is_named_gives_way_only_where_that_is_wanted() {
    let mut world = World::new();
    let named = world.put_extent("k");
    let newer = found(&mut world, 0);
    begin_epoch(&mut world, FIRST_EPOCH + 1);
    let bucket = world.bucket;
    let mut command = salvage(bucket, "photos", vec![newer.clone()]);
    assert_eq!(world.rejected(Command::Salvage(command.clone())), Reject::PreconditionFailed);
    assert_eq!(extent_of(&world, bucket)[0].id, named.id);
    command.newer = true;
    world.done(Command::Salvage(command.clone()));
    assert_eq!(extent_of(&world, bucket), vec![newer.extent]);
    // What gave way waits to be collected, and is not brought back.
    command.bodies[0].extent = named;
    assert_eq!(world.rejected(Command::Salvage(command.clone())), Reject::PreconditionFailed);
    command.key = key("elsewhere");
    assert_eq!(world.rejected(Command::Salvage(command)), Reject::LateExtent);
    world.audit();
}

#[test]
fn nothing_is_salvaged_that_may_be_collected_or_named_by_its_writer() {
    let mut world = World::new();
    let body = found(&mut world, 0);
    let bucket = world.bucket;
    let command = salvage(bucket, "photos", vec![body.clone()]);
    assert!(matches!(world.rejected(Command::Salvage(command.clone())), Reject::Malformed(_)));
    begin_epoch(&mut world, FIRST_EPOCH + 1);
    let session = SessionId { epoch: FIRST_EPOCH + 1, number: 1 };
    let mut fresh = command.clone();
    fresh.bodies[0].extent.id = fabric::ids::ExtentId::new(0, session, 1);
    assert_eq!(world.rejected(Command::Salvage(fresh)), Reject::LateExtent);
    for bodies in [vec![], vec![body.clone(), body.clone()]] {
        let broken = salvage(bucket, "photos", bodies);
        assert!(matches!(world.rejected(Command::Salvage(broken)), Reject::Malformed(_)));
    }
    let taken = salvage(LOST_BUCKET, "photos", vec![body.clone()]);
    assert!(matches!(world.rejected(Command::Salvage(taken)), Reject::BucketExists { .. }));
    let mut nobody = salvage(LOST_BUCKET, "lost", vec![body]);
    nobody.owner = "nobody".parse().unwrap();
    assert_eq!(world.rejected(Command::Salvage(nobody)), Reject::NoSuchUser);
    world.done(Command::Salvage(command));
    world.audit();
}
