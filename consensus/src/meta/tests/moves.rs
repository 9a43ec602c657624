//! Extents that move between layouts, and members that go.

use fabric::coding::Coding;
use fabric::ids::{ExtentId, Incarnation, LayoutVersion, NodeId, RaftId};
use fabric::placement::Layout;

use super::world::{World, key};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, Query};
use crate::meta::tables::{Extents, get};

fn set_layout(world: &mut World, version: u32, owners: &[u16]) {
    let partitions = vec![owners.iter().copied().map(NodeId).collect()];
    world.done(Command::SetLayout(SetLayout {
        layout: Layout { version: LayoutVersion(version), partitions },
    }));
}

fn home(world: &World, name: &str) -> Home {
    Home { bucket: world.bucket, key: key(name) }
}

fn moving(world: &World, node: u16) -> Vec<ExtentId> {
    match world.ask(Query::Moving { node: NodeId(node), after: None, limit: 10 }) {
        Ok(Answer::Placed { extents, .. }) => extents.into_iter().map(|(_, extent)| extent.id).collect(),
        answer => panic!("{answer:?}"),
    }
}

fn leaving(world: &World, node: u16) -> Vec<(Home, ExtentId, Leaving)> {
    match world.ask(Query::Leaving { node: NodeId(node), after: None, limit: 10 }) {
        Ok(Answer::Leaving { copies, .. }) => copies,
        answer => panic!("{answer:?}"),
    }
}

fn renew(world: &mut World) {
    let oldest_read = world.index + 1;
    world.done(Command::RenewSession(RenewSession { oldest_write: 0, oldest_read, pinned: Vec::new() }));
}

fn move_to(world: &mut World, version: u32, extent: &Extent, from: u32, brought: &[u16]) {
    let moved = MovedExtent {
        home: home(world, "k"),
        id: extent.id,
        from: LayoutVersion(from),
        brought: brought.iter().copied().map(NodeId).collect(),
    };
    world.done(Command::MoveExtents(MoveExtents { layout: LayoutVersion(version), moves: vec![moved] }));
}

fn row(world: &World, id: ExtentId) -> (u32, u16) {
    let row = get::<Extents>(&world.rows, (&home(world, "k"), id)).unwrap().unwrap();
    (row.extent.layout.0, row.extent.confirmed)
}

#[test]
fn an_extent_moves_when_its_chunks_are_there_and_leaves_nothing_behind() {
    let mut world = World::new();
    let extent = world.put_extent("k");
    assert_eq!(moving(&world, 1), []);
    set_layout(&mut world, 2, &[2, 3, 4]);
    assert_eq!((moving(&world, 4), moving(&world, 2)), (vec![extent.id], vec![]), "who lacks it brings it");
    renew(&mut world);
    move_to(&mut world, 2, &extent, 1, &[4]);
    assert_eq!(row(&world, extent.id), (2, 0b111));
    assert_eq!(moving(&world, 4), []);
    assert_eq!(leaving(&world, 1), [], "somebody may read the old row still");
    renew(&mut world);
    let copies = leaving(&world, 1);
    assert_eq!((copies[0].1, copies[0].2.chunks), (extent.id, 1));
    world.audit();

    // It cannot come back before the old copy is removed.
    set_layout(&mut world, 3, &[1, 3, 4]);
    assert_eq!((moving(&world, 1), moving(&world, 3)), (vec![], vec![]));
    move_to(&mut world, 3, &extent, 2, &[1]);
    assert_eq!(row(&world, extent.id), (2, 0b111));
    let end =
        |since: u64| EndLeaving { node: NodeId(1), extents: vec![(copies[0].0.clone(), extent.id, since)] };
    world.done(Command::EndLeaving(end(copies[0].2.since + 1)));
    assert_eq!(leaving(&world, 1).len(), 1, "another one is not ended");
    world.done(Command::EndLeaving(end(copies[0].2.since)));
    assert_eq!((leaving(&world, 1), moving(&world, 1)), (vec![], vec![extent.id]));
    world.audit();
}

#[test]
fn copies_that_were_not_brought_are_owed_and_hold_the_old_ones() {
    let mut world = World::new();
    let extent = world.put_extent("k");
    set_layout(&mut world, 2, &[3, 4, 5]);
    move_to(&mut world, 2, &extent, 1, &[]);
    assert_eq!(row(&world, extent.id), (1, 0b111), "one copy is too few");
    move_to(&mut world, 2, &extent, 1, &[4]);
    assert_eq!(row(&world, extent.id), (2, 0b011));
    renew(&mut world);
    assert_eq!(leaving(&world, 1), [], "a new owner lacks its copy");
    let extents = vec![(home(&world, "k"), extent.id)];
    world.done(Command::PayDebts(PayDebts { node: NodeId(5), extents }));
    assert_eq!(
        (row(&world, extent.id), leaving(&world, 1).len(), leaving(&world, 2).len()),
        ((2, 0b111), 1, 1)
    );
    world.done(Command::ReportLoss(ReportLoss { node: NodeId(4) }));
    assert_eq!(leaving(&world, 1), [], "a new owner is in doubt");
    world.audit();
    world.delete_one("k", None);
    assert_eq!(leaving(&world, 1).len(), 1, "what nobody names needs no owner");
    world.audit();
}

#[test]
fn a_loss_is_owed_under_older_layouts_too() {
    let mut world = World::new();
    let extent = world.put_extent("k");
    set_layout(&mut world, 2, &[2, 3, 4]);
    world.done(Command::ReportLoss(ReportLoss { node: NodeId(2) }));
    let Ok(Answer::Absences(absences)) = world.ask(Query::Absences(NodeId(2))) else { panic!() };
    assert_eq!(absences.len(), 1);
    move_to(&mut world, 2, &extent, 1, &[4]);
    assert_eq!(row(&world, extent.id), (2, 0b110), "who lost chunks is not believed");
    world.done(Command::ReportLoss(ReportLoss { node: NodeId(1) }));
    let Ok(Answer::Absences(absences)) = world.ask(Query::Absences(NodeId(1))) else { panic!() };
    assert_eq!(absences.len(), 1, "extents may lie in the first layout still");
    world.audit();
}

#[test]
fn a_member_goes_when_it_holds_nothing_and_its_number_never_comes_back() {
    let mut world = World::new();
    let member = |starts| NodeRow {
        id: NodeId(4),
        incarnation: Incarnation(9),
        address: "10.0.0.4:7001".to_string(),
        zone: String::new(),
        capacity_bytes: 1,
        starts,
        release: String::new(),
        voter: None,
        run: 1,
    };
    world.done(Command::SetNode(SetNode { row: member(1) }));
    set_layout(&mut world, 2, &[2, 3, 4]);
    let remove = || Command::RemoveNode(RemoveNode { node: NodeId(4) });
    assert_eq!(world.rejected(remove()), Reject::NodeInUse);
    set_layout(&mut world, 3, &[1, 2, 3]);
    world.done(remove());
    world.done(remove());
    assert_eq!(world.rejected(Command::SetNode(SetNode { row: member(2) })), Reject::NodeRemoved);
    let voter = RaftId::new(NodeId(5), Incarnation(9));
    let row = NodeRow { id: NodeId(5), voter: Some(voter), ..member(1) };
    world.done(Command::SetNode(SetNode { row }));
    assert_eq!(world.rejected(Command::RemoveNode(RemoveNode { node: NodeId(5) })), Reject::NodeInUse);
}

fn put_coded(world: &mut World, coding: Coding, confirmed: u16, layout: u32) -> Extent {
    let extent = world.extent(100_000);
    let layout = LayoutVersion(layout);
    let extent = Extent { id: extent.id.coded(coding), chunk_bytes: 4096, confirmed, layout, ..extent };
    let put = world.put("k", NewBody::Extent(extent.clone()));
    world.done(Command::PutObject(put));
    extent
}

fn owed(world: &World, node: u16) -> usize {
    match world.ask(Query::Debts { node: NodeId(node), after: None, limit: 10 }) {
        Ok(Answer::Debts(debts)) => debts.len(),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn shards_are_named_where_one_can_be_lost_and_owed_where_they_are_missing() {
    let mut world = World::new();
    set_layout(&mut world, 2, &[1, 2, 3, 4, 5, 6, 7]);
    let extent = put_coded(&mut world, Coding::FourPlusTwo, 0b01_1111, 2);
    assert_eq!((1..=7).map(|node| owed(&world, node)).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 1, 0]);
    let pay = PayDebts { node: NodeId(6), extents: vec![(home(&world, "k"), extent.id)] };
    world.done(Command::PayDebts(pay));
    assert_eq!((row(&world, extent.id), owed(&world, 6)), ((2, 0b11_1111), 0));
    world.audit();
    // Too few shards, a mask beyond the shards, and a number that is reserved.
    for (id, confirmed) in [
        (world.extent(1).id.coded(Coding::FourPlusTwo), 0b1111),
        (world.extent(1).id.coded(Coding::TwoPlusOne), 0b011),
        (world.extent(1).id.coded(Coding::TwoPlusOne), 0b1111),
        (world.extent(1).id, 0b1111),
        (ExtentId::from_bytes((world.extent(1).id.chunk(0).get() | 7 << 61).to_be_bytes()), 0b111),
    ] {
        let extent = Extent { id, confirmed, layout: LayoutVersion(2), ..extent.clone() };
        let put = world.put("other", NewBody::Extent(extent));
        assert!(
            matches!(world.rejected(Command::PutObject(put)), Reject::Malformed(_)),
            "{id} {confirmed:b}"
        );
    }
}

#[test]
fn a_shard_moves_with_its_place_and_only_what_left_is_removed() {
    let mut world = World::new();
    set_layout(&mut world, 2, &[1, 2, 3, 4, 5, 6]);
    let extent = put_coded(&mut world, Coding::FourPlusTwo, 0b11_1111, 2);
    // Node 6 goes, and nodes 4 and 5 change places: node 1 takes the shard of node 6 beside its own.
    set_layout(&mut world, 3, &[1, 2, 3, 5, 4]);
    assert_eq!(moving(&world, 1), [extent.id], "the first that lacks something brings it");
    move_to(&mut world, 3, &extent, 2, &[5, 4]);
    assert_eq!(row(&world, extent.id), (2, 0b11_1111), "four shards of six are too few");
    move_to(&mut world, 3, &extent, 2, &[1, 4]);
    assert_eq!(row(&world, extent.id), (2, 0b11_1111), "node 1 has two of five shards, and may be lost");
    move_to(&mut world, 3, &extent, 2, &[1, 5, 4]);
    assert_eq!(row(&world, extent.id), (3, 0b1_1111));
    world.audit();
    renew(&mut world);
    let shards = |world: &World, node| leaving(world, node).first().map_or(0, |copy| copy.2.shards());
    let left: Vec<u16> = (1..=6).map(|node| shards(&world, node)).collect();
    assert_eq!(left, [0, 0, 0, 0b1000, 0b1_0000, 0b10_0000]);
    // Before they are removed node 4 takes no place, and what it has to remove is not forgotten when it goes.
    set_layout(&mut world, 4, &[1, 2, 3, 4, 6]);
    move_to(&mut world, 4, &extent, 3, &[4, 6]);
    assert_eq!(row(&world, extent.id).0, 3);
    set_layout(&mut world, 5, &[1, 2, 3]);
    move_to(&mut world, 5, &extent, 3, &[1, 2, 3]);
    renew(&mut world);
    assert_eq!((shards(&world, 4), shards(&world, 1)), (0b1_1000, 0b10_0000));
    world.audit();
}
