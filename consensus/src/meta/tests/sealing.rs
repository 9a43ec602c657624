//! Encrypted bodies: lengths are those that clients know, rows and extents those of what is stored.

use bytes::Bytes;
use fabric::ids::{Incarnation, NodeId, RaftId};
use fabric::limits::PART_BYTES_MIN;

use super::world::{World, encrypted, key, sealing, stored};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, BodyView, ObjectView, Query, Want};
use crate::meta::sealing::{Scheme, Sealing, sealed_bytes};

fn put(world: &mut World, name: &str, body: NewBody) -> Reply {
    let put = Command::PutObject(world.put(name, body));
    world.run(encrypted(Some(sealing()), put))
}

fn view(world: &World, name: &str) -> ObjectView {
    let query = Query::Object { bucket: world.bucket, key: key(name), version: None, want: Want::Body };
    match world.ask(query) {
        Ok(Answer::Object(view)) => view,
        answer => panic!("{answer:?}"),
    }
}

fn pieces(view: &ObjectView) -> Vec<(u64, u64)> {
    match &view.body {
        BodyView::Pieces(pieces) => pieces.iter().map(|piece| (piece.offset, piece.bytes)).collect(),
        body => panic!("{body:?}"),
    }
}

fn usage(world: &World) -> Usage {
    match world.ask(Query::Usage(world.bucket)) {
        Ok(Answer::Usage(usage)) => usage,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn an_object_is_as_long_as_its_client_knows() {
    let mut world = World::new();
    let payload = Bytes::from(vec![7; sealed_bytes(100) as usize]);
    assert!(matches!(put(&mut world, "small", NewBody::Inline(payload.clone())), Reply::Done(_)));
    let extent = world.extent(sealed_bytes(1_000_000));
    assert!(matches!(put(&mut world, "large", NewBody::Extent(extent)), Reply::Done(_)));
    assert!(matches!(put(&mut world, "empty", NewBody::Inline(Bytes::new())), Reply::Done(_)));
    assert_eq!(usage(&world).bytes, 1_000_100);
    world.audit();

    let small = view(&world, "small");
    assert_eq!((small.object.bytes, small.object.stored_bytes()), (100, 116));
    assert_eq!(small.body, BodyView::Inline(payload));
    assert_eq!(small.object.body.sealing(), Some(&sealing()));
    let large = view(&world, "large");
    assert_eq!((large.object.bytes, pieces(&large)), (1_000_000, vec![(0, 1_000_256)]));
    assert_eq!(view(&world, "empty").object.body.sealing(), Some(&sealing()));

    // Packed small bodies are found where they lie then.
    let inline = world.inline(1000);
    let pack = world.pack(&inline);
    world.done(Command::PackInline(pack));
    world.audit();
    let small = view(&world, "small");
    assert_eq!((small.object.bytes, pieces(&small)), (100, vec![(0, 116)]));
    assert_eq!(small.object.body.sealing(), Some(&sealing()));
    for name in ["small", "large", "empty"] {
        world.delete_one(name, None);
    }
    assert_eq!(usage(&world), Usage::default());
    world.audit();
}

#[test]
fn a_copy_is_encrypted_as_its_source() {
    let mut world = World::new();
    put(&mut world, "a", NewBody::Inline(Bytes::from(vec![7; 116])));
    world.done(Command::CopyObject(world.copy("a", "b")));
    let (from, to) = (view(&world, "a"), view(&world, "b"));
    assert_eq!((to.object.bytes, to.object.body.sealing()), (100, from.object.body.sealing()));
    assert_eq!(to.body, from.body);
    world.audit();
}

#[test]
fn parts_are_as_long_as_their_client_knows() {
    let mut world = World::new();
    let upload = world.create_upload_sealed("k", Some(sealing()));
    let query = Query::Upload { bucket: world.bucket, key: key("k"), upload };
    let Ok(Answer::Upload { upload: row, sealing: known }) = world.ask(query.clone()) else { panic!() };
    assert_eq!((row.id, known), (upload, Some(sealing())));
    for (number, bytes) in [(1, PART_BYTES_MIN), (2, 10)] {
        let part = world.part("k", upload, number, sealed_bytes(bytes));
        world.done(Command::PutPart(part));
    }
    // As long as an encrypted part of 5 MiB less a byte: too short for one that is not the last.
    let part = world.part("k", upload, 3, sealed_bytes(PART_BYTES_MIN - 1));
    world.done(Command::PutPart(part));
    assert_eq!(usage(&world).part_bytes, 2 * PART_BYTES_MIN + 9);
    world.audit();
    let short = Command::CompleteUpload(world.complete("k", upload, &[1, 3, 2]));
    assert_eq!(world.rejected(short), Reject::InvalidPartOrder);
    let last = world.part("k", upload, 4, sealed_bytes(10));
    world.done(Command::PutPart(last));
    let short = Command::CompleteUpload(world.complete("k", upload, &[1, 3, 4]));
    let bytes = PART_BYTES_MIN - 1;
    assert_eq!(world.rejected(short), Reject::PartTooSmall { number: 3, bytes });

    let complete = Command::CompleteUpload(world.complete("k", upload, &[1, 2]));
    assert_eq!(stored(world.done(complete)).bytes, PART_BYTES_MIN + 10);
    let object = view(&world, "k");
    assert_eq!(pieces(&object), vec![(0, sealed_bytes(PART_BYTES_MIN)), (0, 26)]);
    assert_eq!(object.parts.iter().map(|slice| slice.bytes).collect::<Vec<_>>(), [PART_BYTES_MIN, 10]);
    assert_eq!(object.object.body.sealing(), Some(&sealing()));
    assert_eq!(world.ask(query), Err(Reject::NoSuchUpload));
    world.audit();

    let upload = world.create_upload_sealed("k", Some(sealing()));
    world.done(Command::AbortUpload(AbortUpload { bucket: world.bucket, key: key("k"), upload }));
    world.audit();
}

#[test]
fn lengths_that_no_encrypted_body_has_are_refused() {
    let mut world = World::new();
    for bytes in [1, 16, 65_537] {
        let extent = world.extent(bytes);
        let put = Command::PutObject(world.put("k", NewBody::Extent(extent)));
        let put = encrypted(Some(sealing()), put);
        assert!(matches!(world.rejected(put), Reject::Malformed(_)), "{bytes}");
    }
    let long = Sealing { data_key: Bytes::from(vec![0; 1000]), ..sealing() };
    let put = Command::PutObject(world.put("k", NewBody::Inline(Bytes::from(vec![7; 116]))));
    assert!(matches!(world.rejected(encrypted(Some(long), put.clone())), Reject::Malformed(_)));
    let twice = encrypted(Some(sealing()), encrypted(Some(sealing()), put));
    assert!(matches!(world.rejected(twice), Reject::Malformed(_)));
}

#[test]
fn the_feed_tells_of_a_copy_whose_bytes_were_written_anew() {
    let mut world = World::new();
    let put = Command::PutObject(world.put("k", NewBody::Inline(Bytes::from_static(b"plain again"))));
    world.done(Command::Sealed(Sealed { sealing: None, copied: true, command: Box::new(put) }));
    assert_eq!(view(&world, "k").object.body.sealing(), None);
    let query = Query::Events { bucket: world.bucket, after: None, limit: 10 };
    let Ok(Answer::Events(events)) = world.ask(query) else { panic!() };
    assert_eq!(events.last().unwrap().1.kind, EventKind::Copy);
}

#[test]
fn what_comes_back_is_encrypted_as_it_was() {
    let mut world = World::new();
    let voter = RaftId::new(NodeId(1), Incarnation(7));
    world.done(Command::BeginEpoch(BeginEpoch { epoch: FIRST_EPOCH + 1, voter }));
    let customer = Sealing { scheme: Scheme::Customer { salt: [1; 16], proof: [2; 32] }, ..sealing() };
    for (name, parts) in [("whole", &[0][..]), ("parted", &[1, 2])] {
        let bodies = parts.iter().map(|part| SalvagedBody {
            part: *part,
            extent: world.extent(sealed_bytes(6 << 20)),
            md5: [7; 16],
        });
        let bodies = bodies.collect();
        let salvage = Salvage {
            bucket: world.bucket,
            bucket_name: "photos".parse().unwrap(),
            owner: "anna".parse().unwrap(),
            key: key(name),
            bodies,
            attributes: Attributes::default(),
            newer: false,
        };
        world.done(encrypted(Some(customer.clone()), Command::Salvage(salvage)));
        let found = view(&world, name);
        assert_eq!(found.object.bytes, (parts.len() as u64) * (6 << 20));
        assert_eq!(found.object.body.sealing(), Some(&customer));
        assert_eq!(pieces(&found).len(), parts.len());
        assert_eq!(pieces(&found)[0].1, sealed_bytes(6 << 20));
    }
    world.audit();
}
