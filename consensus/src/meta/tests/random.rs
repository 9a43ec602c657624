//! Random commands against a plain model: a map of keys to what a client wrote. Replies, answers and the audit of
//! all rows have to agree, with retries, conditions, copies, uploads, debts and collection in between.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fabric::coding::Coding;
use fabric::ids::{ExtentId, LayoutVersion, NodeId, Stamp};
use fabric::limits::PART_BYTES_MIN;
use fabric::placement::Layout;
use proptest::prelude::*;

use super::world::{World, add_user, cases, encrypted, etag, key, sealing, stored};
use crate::meta::acl::{CannedAcl, ObjectOwnership, WantedAcl};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::names::ObjectKey;
use crate::meta::query::{Answer, BodyView, List, PageEntry, Piece, Query, Want};
use crate::meta::sealing::{Sealing, sealed_bytes};
use crate::meta::tables::{Extents, owners_of, scan_all};

/// One step; small numbers choose keys, uploads and earlier entries.
#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, size: Size, condition: Condition, tag: u8, sealed: bool },
    Copy { from: u8, to: u8, replace: bool, condition: Condition },
    Rename { from: u8, to: u8, condition: Condition },
    Append { key: u8, size: Size, condition: Condition, tag: u8 },
    Delete { key: u8, condition: Condition },
    CreateUpload { key: u8, sealed: bool },
    PutPart { upload: u8, number: u16, size: Size },
    Complete { upload: u8, skip: u16 },
    Abort { upload: u8 },
    Retry { entry: u8 },
    RaiseLowestOpen,
    PayDebts { node: u16 },
    Collect,
    LookAtInline { bytes: u64 },
    Pack,
    SetLayout { first: u16 },
    Move { node: u16, all: bool },
    Leave { node: u16 },
}

#[derive(Debug, Clone, Copy)]
enum Size {
    None,
    Small,
    Large,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    None,
    Absent,
    Present,
    Current,
    Wrong,
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![1 => Just(Size::None), 2 => Just(Size::Small), 3 => Just(Size::Large)]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        5 => Just(Condition::None),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        1 => Just(Condition::Current),
        1 => Just(Condition::Wrong),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..5_u8;
    prop_oneof![
        6 => (key(), size(), condition(), any::<u8>(), any::<bool>())
            .prop_map(|(key, size, condition, tag, sealed)| Step::Put { key, size, condition, tag, sealed }),
        4 => (key(), key(), any::<bool>(), condition())
            .prop_map(|(from, to, replace, condition)| Step::Copy { from, to, replace, condition }),
        3 => (key(), key(), condition())
            .prop_map(|(from, to, condition)| Step::Rename { from, to, condition }),
        4 => (key(), size(), condition(), any::<u8>())
            .prop_map(|(key, size, condition, tag)| Step::Append { key, size, condition, tag }),
        4 => (key(), condition()).prop_map(|(key, condition)| Step::Delete { key, condition }),
        2 => (key(), any::<bool>()).prop_map(|(key, sealed)| Step::CreateUpload { key, sealed }),
        5 => (any::<u8>(), 1..5_u16, size()).prop_map(|(upload, number, size)| Step::PutPart { upload, number, size }),
        3 => (any::<u8>(), 0..8_u16).prop_map(|(upload, skip)| Step::Complete { upload, skip }),
        1 => any::<u8>().prop_map(|upload| Step::Abort { upload }),
        3 => any::<u8>().prop_map(|entry| Step::Retry { entry }),
        1 => Just(Step::RaiseLowestOpen),
        1 => (1..4_u16).prop_map(|node| Step::PayDebts { node }),
        2 => Just(Step::Collect),
        2 => (1..60_u64).prop_map(|bytes| Step::LookAtInline { bytes }),
        2 => Just(Step::Pack),
        1 => (0..5_u16).prop_map(|first| Step::SetLayout { first }),
        3 => (1..6_u16, any::<bool>()).prop_map(|(node, all)| Step::Move { node, all }),
        2 => (1..6_u16).prop_map(|node| Step::Leave { node }),
    ]
}

/// What a client knows of an object.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    etag: Etag,
    content: Content,
    user: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Text(Bytes),
    Extents(Vec<(ExtentId, u64)>),
}

/// An upload: its key and, while it is open, its parts.
struct KnownUpload {
    key: String,
    id: Stamp,
    sealed: bool,
    parts: Option<BTreeMap<u16, Option<(ExtentId, u64)>>>,
}

struct Run {
    world: World,
    objects: BTreeMap<String, Known>,
    uploads: Vec<KnownUpload>,
    entries: Vec<(u64, Command, Reply)>,
    /// Payloads that were looked at a while ago, to be packed.
    inline: Vec<(ObjectKey, Stamp, Bytes)>,
    /// What packed extents hold.
    packed: BTreeMap<ExtentId, Bytes>,
    /// Which shards of which extent a node has, as bits; of whole copies there is one.
    held: BTreeMap<(NodeId, ExtentId), u16>,
    /// Extents that were named at some time.
    seen: BTreeSet<ExtentId>,
}

/// A world in whose bucket another user writes, too, with lists.
fn lists_allowed(mut world: World) -> World {
    world.done(add_user("berta", "KEY2"));
    let setting = BucketSetting::ObjectOwnership(ObjectOwnership::ObjectWriter);
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(setting) }));
    world
}

fn name(key: u8) -> String {
    ["a", "a/b", "a/c", "b", "é"][usize::from(key)].to_string()
}

impl Run {
    fn new() -> Run {
        Run {
            world: lists_allowed(World::new()),
            objects: BTreeMap::new(),
            uploads: Vec::new(),
            entries: Vec::new(),
            inline: Vec::new(),
            packed: BTreeMap::new(),
            held: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    fn apply(&mut self, command: Command) -> Reply {
        let reply = self.world.run(command.clone());
        self.entries.push((self.world.sequence, command, reply.clone()));
        reply
    }

    /// The condition as a command has it, and the refusal that it earns on `key`.
    fn expect(&self, key: &str, condition: Condition) -> (Expect, Option<Reject>) {
        let current = self.objects.get(key);
        let tag = |condition| Expect { etag: Some(condition), ..Expect::default() };
        let missing = || current.is_none().then_some(Reject::NoSuchKey);
        match condition {
            Condition::None => (Expect::default(), None),
            Condition::Absent => {
                let refused = current.is_some().then_some(Reject::PreconditionFailed);
                (Expect { absent: true, ..Expect::default() }, refused)
            }
            Condition::Present => (tag(EtagCondition::Any), missing()),
            Condition::Current => {
                let etag = current.map_or(etag(0), |known| known.etag);
                (tag(EtagCondition::OneOf(vec![etag])), missing())
            }
            Condition::Wrong => {
                let refused = missing().or(Some(Reject::PreconditionFailed));
                (tag(EtagCondition::OneOf(vec![Etag::Multipart([0xEE; 16], 9)])), refused)
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Put { key, size, condition, tag, sealed } => {
                self.put(&name(key), size, condition, tag, sealed)
            }
            Step::Copy { from, to, replace, condition } => {
                self.copy(&name(from), &name(to), replace, condition)
            }
            Step::Rename { from, to, condition } => self.rename(&name(from), &name(to), condition),
            Step::Append { key, size, condition, tag } => self.append(&name(key), size, condition, tag),
            Step::Delete { key, condition } => self.delete(&name(key), condition),
            Step::CreateUpload { key, sealed } => {
                let id = self.world.create_upload_sealed(&name(key), sealed.then(sealing));
                self.uploads.push(KnownUpload { key: name(key), id, sealed, parts: Some(BTreeMap::new()) });
            }
            Step::PutPart { upload, number, size } => self.put_part(upload, number, size),
            Step::Complete { upload, skip } => self.complete(upload, skip),
            Step::Abort { upload } => self.abort(upload),
            Step::Retry { entry } => self.retry(entry),
            Step::RaiseLowestOpen => {
                self.world.lowest_open = self.world.sequence + 1;
                let oldest_read = self.world.index;
                let renew = RenewSession { oldest_write: 0, oldest_read, pinned: Vec::new() };
                self.apply(Command::RenewSession(renew));
            }
            Step::PayDebts { node } => self.pay_debts(NodeId(node)),
            Step::Collect => self.collect(),
            Step::LookAtInline { bytes } => self.inline = self.world.inline(bytes),
            Step::Pack => self.pack(),
            Step::SetLayout { first } => self.set_layout(first),
            Step::Move { node, all } => self.move_extents(NodeId(node), all),
            Step::Leave { node } => self.leave(NodeId(node)),
        }
    }

    fn put(&mut self, name: &str, size: Size, condition: Condition, tag: u8, sealed: bool) {
        let (body, content) = match size {
            Size::None => (NewBody::Inline(Bytes::new()), Content::Text(Bytes::new())),
            Size::Small => {
                let text = Bytes::from(format!("text {tag}, longer than a tag"));
                (NewBody::Inline(text.clone()), Content::Text(text))
            }
            Size::Large => {
                let (coding, confirmed) = [
                    (Coding::Whole, 0b111),
                    (Coding::Whole, 0b110),
                    (Coding::Whole, 0b101),
                    (Coding::TwoPlusOne, 0b111),
                    (Coding::FourPlusTwo, 0b111),
                ][usize::from(tag) % 5];
                let extent = self.world.extent(100_000);
                let extent = Extent { id: extent.id.coded(coding), confirmed, ..extent };
                let content = Content::Extents(vec![(extent.id, extent.bytes)]);
                (NewBody::Extent(extent), content)
            }
        };
        let (expect, refused) = self.expect(name, condition);
        let requester = if tag.is_multiple_of(3) { "berta" } else { "anna" };
        let origin = Origin { requester: requester.to_string(), ..Origin::default() };
        let put = PutObject { expect, etag: etag(tag), origin, ..self.world.put(name, body) };
        let put = encrypted(sealed.then(sealing), Command::PutObject(put));
        let acl = tag.is_multiple_of(5).then_some(WantedAcl::Canned(CannedAcl::PublicRead));
        let put = match acl {
            None => put,
            acl => Command::WithAcl(WithAcl { ownership: None, acl, command: Box::new(put) }),
        };
        self.stored(name, refused, put, Known { etag: etag(tag), content, user: None });
    }

    fn copy(&mut self, from: &str, to: &str, replace: bool, condition: Condition) {
        let (expect, mut refused) = self.expect(to, condition);
        let source = self.objects.get(from).cloned();
        if refused.is_none() && from == to && !replace {
            refused = Some(Reject::CopyOntoItself);
        }
        if source.is_none() {
            refused = Some(Reject::NoSuchKey);
        }
        let text = format!("copy {}", self.world.index);
        let user = [("k".to_string(), text.clone())].into();
        let attributes = replace.then(|| Attributes { user, ..Attributes::default() });
        let copy = CopyObject { expect, attributes, ..self.world.copy(from, to) };
        let mut known =
            source.unwrap_or(Known { etag: etag(0), content: Content::Text(Bytes::new()), user: None });
        if replace {
            known.user = Some(text);
        }
        self.stored(to, refused, Command::CopyObject(copy), known);
    }

    fn rename(&mut self, from: &str, to: &str, condition: Condition) {
        let (Expect { etag: if_match, absent, .. }, refused) = self.expect(to, condition);
        let conditions = ReadConditions {
            if_match,
            if_none_match: absent.then_some(EtagCondition::Any),
            ..ReadConditions::default()
        };
        let rename = RenameObject { conditions, ..self.world.rename(from, to) };
        let source = self.objects.get(from).cloned();
        let expected = match (&source, refused) {
            (None, _) => Err(Reject::NoSuchKey),
            (Some(_), Some(_)) => Err(Reject::PreconditionFailed),
            (Some(known), None) => Ok(known.etag),
        };
        match (self.apply(Command::RenameObject(rename)), expected) {
            (Reply::Done(Done::Stored(stored)), Ok(etag)) => {
                assert_eq!(stored.etag, etag);
                let known = self.objects.remove(from).unwrap();
                self.objects.insert(to.to_string(), known);
            }
            (Reply::Rejected(reject), Err(refused)) => assert_eq!(reject, refused),
            (reply, expected) => panic!("{reply:?}, expected {expected:?}"),
        }
    }

    /// Behind text comes text, or all of it becomes an extent; behind extents comes another one. An odd tag names an
    /// offset that is wrong.
    fn append(&mut self, name: &str, size: Size, condition: Condition, tag: u8) {
        let (expect, refused) = self.expect(name, condition);
        let known = self.objects.get(name).cloned();
        let user = known.as_ref().and_then(|known| known.user.clone());
        let before = known.map_or(Content::Text(Bytes::new()), |known| known.content);
        let (appended, content) = match (before, size) {
            (Content::Text(text), Size::None | Size::Small) => {
                let more = if matches!(size, Size::None) { "" } else { "more" };
                let whole = Bytes::from([&text[..], more.as_bytes()].concat());
                (
                    Appended::Whole { body: NewBody::Inline(whole.clone()), md5: [tag; 16] },
                    Content::Text(whole),
                )
            }
            (Content::Text(_), Size::Large) => {
                let extent = self.world.extent(100_000);
                let content = Content::Extents(vec![(extent.id, extent.bytes)]);
                (Appended::Whole { body: NewBody::Extent(extent), md5: [tag; 16] }, content)
            }
            (Content::Extents(mut extents), size) => {
                let extent = (!matches!(size, Size::None)).then(|| self.world.extent(10 + u64::from(tag)));
                extents.extend(extent.iter().map(|extent| (extent.id, extent.bytes)));
                (Appended::Part { extent, md5: [tag; 16], checksum: None }, Content::Extents(extents))
            }
        };
        let mut command = AppendObject { expect, appended, ..self.world.append(name, "") };
        let bytes = command.offset;
        command.offset += u64::from(tag % 2);
        let wrong = (tag % 2 == 1).then_some(Reject::WrongOffset { bytes });
        let malformed = || Reject::Malformed("nothing is appended to encrypted bytes".to_string());
        let encrypted = self.world.current(name).is_some_and(|object| object.body.sealing().is_some());
        let refused = refused.or(wrong).or(encrypted.then(malformed));
        match (self.apply(Command::AppendObject(command)), refused) {
            (Reply::Done(Done::Stored(Stored { etag, .. })), None) => {
                self.objects.insert(name.to_string(), Known { etag, content, user });
            }
            (Reply::Rejected(reject), Some(refused)) => assert_eq!(reject, refused),
            (reply, refused) => panic!("{reply:?}, expected {refused:?}"),
        }
    }

    fn stored(&mut self, name: &str, refused: Option<Reject>, command: Command, known: Known) {
        match (self.apply(command), refused) {
            (Reply::Done(Done::Stored(stored)), None) => {
                assert_eq!(stored.etag, known.etag);
                self.objects.insert(name.to_string(), known);
            }
            (Reply::Rejected(reject), Some(refused)) => assert_eq!(reject, refused),
            (reply, refused) => panic!("{reply:?}, expected {refused:?}"),
        }
    }

    fn delete(&mut self, name: &str, condition: Condition) {
        let (expect, refused) = self.expect(name, condition);
        let keys = vec![DeleteKey { key: key(name), version: None, expect }];
        let delete = DeleteObjects { bucket: self.world.bucket, keys, origin: Origin::default() };
        let outcome = refused.map_or(Ok(DeletedKey::default()), Err);
        if outcome.is_ok() {
            self.objects.remove(name);
        }
        assert_eq!(self.apply(Command::DeleteObjects(delete)), Reply::Done(Done::Deleted(vec![outcome])));
    }

    fn put_part(&mut self, upload: u8, number: u16, size: Size) {
        let Some(place) = self.upload(upload) else { return };
        let bytes = match size {
            Size::None => 0,
            Size::Small => 10,
            Size::Large => PART_BYTES_MIN,
        };
        let (name, id) = (self.uploads[place].key.clone(), self.uploads[place].id);
        let bytes = if self.uploads[place].sealed { sealed_bytes(bytes) } else { bytes };
        let part = self.world.part(&name, id, number, bytes);
        let extent = part.extent.as_ref().map(|extent| (extent.id, extent.bytes));
        let reply = self.apply(Command::PutPart(part));
        match &mut self.uploads[place].parts {
            Some(parts) => {
                assert!(matches!(reply, Reply::Done(Done::Part(_))));
                parts.insert(number, extent);
            }
            None => assert_eq!(reply, Reply::Rejected(Reject::NoSuchUpload)),
        }
    }

    /// Completes with all parts but the one that is skipped.
    fn complete(&mut self, upload: u8, skip: u16) {
        let Some(place) = self.upload(upload) else { return };
        let (name, id) = (self.uploads[place].key.clone(), self.uploads[place].id);
        let Some(parts) = self.uploads[place].parts.clone() else { return };
        let chosen: Vec<_> = parts.into_iter().filter(|(number, _)| *number != skip).collect();
        let numbers: Vec<u16> = chosen.iter().map(|(number, _)| *number).collect();
        let command = Command::CompleteUpload(self.world.complete(&name, id, &numbers));
        let before_last = &chosen[..chosen.len().saturating_sub(1)];
        let small =
            before_last.iter().any(|(_, extent)| extent.is_none_or(|(_, bytes)| bytes < PART_BYTES_MIN));
        match self.apply(command.clone()) {
            Reply::Done(Done::Stored(stored)) => {
                assert!(!chosen.is_empty() && !small);
                let content = Content::Extents(chosen.iter().filter_map(|(_, extent)| *extent).collect());
                self.objects.insert(name, Known { etag: stored.etag, content, user: None });
                self.uploads[place].parts = None;
                assert_eq!(self.apply(command), Reply::Done(Done::Stored(stored)));
            }
            Reply::Rejected(Reject::Malformed(_)) => assert!(chosen.is_empty()),
            Reply::Rejected(Reject::PartTooSmall { .. }) => assert!(small),
            reply => panic!("{reply:?}"),
        }
    }

    fn abort(&mut self, upload: u8) {
        let Some(place) = self.upload(upload) else { return };
        let KnownUpload { key: name, id, parts, .. } = &mut self.uploads[place];
        let open = parts.take().is_some();
        let abort = AbortUpload { bucket: self.world.bucket, key: key(name), upload: *id };
        let reply = self.apply(Command::AbortUpload(abort));
        let expected = if open { Reply::Done(Done::Nothing) } else { Reply::Rejected(Reject::NoSuchUpload) };
        assert_eq!(reply, expected);
    }

    fn upload(&self, number: u8) -> Option<usize> {
        (!self.uploads.is_empty()).then(|| usize::from(number) % self.uploads.len())
    }

    /// An entry that arrives again changes nothing: it gets its first reply, or none once it was given up.
    fn retry(&mut self, entry: u8) {
        if self.entries.is_empty() {
            return;
        }
        let (sequence, command, reply) = self.entries[usize::from(entry) % self.entries.len()].clone();
        let late = sequence < self.world.lowest_open && sequence < self.world.sequence;
        match self.world.apply(self.world.session, sequence, command) {
            Reply::TooLate => assert!(late),
            again => assert_eq!(again, reply),
        }
    }

    fn pay_debts(&mut self, node: NodeId) {
        let Ok(Answer::Debts(debts)) = self.world.ask(Query::Debts { node, after: None, limit: 3 }) else {
            panic!()
        };
        for (_, extent) in &debts {
            self.hold(node, extent, extent.layout);
        }
        let extents = debts.into_iter().map(|(home, extent)| (home, extent.id)).collect();
        self.apply(Command::PayDebts(PayDebts { node, extents }));
    }

    fn newest(&self) -> Layout {
        match self.world.ask(Query::Layout(None)) {
            Ok(Answer::Layout(Some(layout))) => layout,
            answer => panic!("{answer:?}"),
        }
    }

    /// A node is given what belongs on it in a layout.
    fn hold(&mut self, node: NodeId, extent: &Extent, layout: LayoutVersion) {
        let owners = owners_of(&self.world.rows, layout, extent.id).unwrap().unwrap();
        *self.held.entry((node, extent.id)).or_default() |= extent.coding().shards_on(node, &owners);
    }

    /// Three to five of five nodes.
    fn set_layout(&mut self, first: u16) {
        let version = LayoutVersion(self.newest().version.0 + 1);
        let owners = (0..3 + version.0 as u16 % 3).map(|place| NodeId((first + place) % 5 + 1)).collect();
        let layout = Layout { version, partitions: vec![owners] };
        self.apply(Command::SetLayout(SetLayout { layout }));
    }

    /// A node brings what it has to; one of the new owners may miss it.
    fn move_extents(&mut self, node: NodeId, all: bool) {
        let Ok(Answer::Placed { extents, .. }) =
            self.world.ask(Query::Moving { node, after: None, limit: 3 })
        else {
            panic!()
        };
        let newest = self.newest();
        let mut moves = Vec::new();
        for (home, extent) in extents {
            let mut brought = newest.owners_of(extent.id).to_vec();
            brought.retain(|owner| all || *owner == node);
            brought.iter().for_each(|owner| self.hold(*owner, &extent, newest.version));
            moves.push(MovedExtent { home, id: extent.id, from: extent.layout, brought });
        }
        self.apply(Command::MoveExtents(MoveExtents { layout: newest.version, moves }));
    }

    /// A node removes what moved elsewhere.
    fn leave(&mut self, node: NodeId) {
        let Ok(Answer::Leaving { copies, .. }) =
            self.world.ask(Query::Leaving { node, after: None, limit: 3 })
        else {
            panic!()
        };
        for (_, id, leaving) in &copies {
            *self.held.entry((node, *id)).or_default() &= !leaving.shards();
        }
        let extents = copies.into_iter().map(|(home, id, leaving)| (home, id, leaving.since)).collect();
        self.apply(Command::EndLeaving(EndLeaving { node, extents }));
    }

    /// Whoever is said to hold an extent does; what is named for the first time is held by those who say so.
    fn compare_holders(&mut self) {
        let rows: Vec<_> = scan_all::<Extents>(&self.world.rows).unwrap().map(Result::unwrap).collect();
        for ((_, id), row) in rows {
            let owners = owners_of(&self.world.rows, row.extent.layout, id).unwrap().unwrap();
            let (confirmed, coding) = (row.extent.confirmed, row.extent.coding());
            let says: Vec<NodeId> = (0..owners.len())
                .filter(|place| confirmed >> place & 1 == 1)
                .map(|place| owners[place])
                .collect();
            if self.seen.insert(id) {
                says.iter().for_each(|node| self.hold(*node, &row.extent, row.extent.layout));
            }
            assert!(coding.is_durable(confirmed, owners.len()), "{id} has too few copies");
            for node in says {
                let (wants, has) = (coding.shards_on(node, &owners), self.held[&(node, id)]);
                assert!(wants & !has == 0, "node {node} holds {has:b} of {wants:b} of {id}");
            }
        }
    }

    fn collect(&mut self) {
        let oldest_read = self.world.index;
        self.apply(Command::RenewSession(RenewSession { oldest_write: 0, oldest_read, pinned: Vec::new() }));
        let Ok(Answer::Garbage(garbage)) = self.world.ask(Query::Garbage { after: None, limit: 4 }) else {
            panic!()
        };
        let (mut done, mut take_apart) = (Vec::new(), Vec::new());
        for (bucket, stamp, garbage) in garbage {
            match garbage {
                Garbage::Extent(_) => done.push((bucket, stamp)),
                Garbage::Body { .. } => take_apart.push((bucket, stamp)),
            }
        }
        self.apply(Command::CollectGarbage(CollectGarbage { done, take_apart }));
    }

    /// Only those payloads move that are still what they were.
    fn pack(&mut self) {
        if self.inline.is_empty() {
            return;
        }
        let events = self.events();
        let command = self.world.pack(&self.inline);
        let all: Vec<u8> = self.inline.iter().flat_map(|(_, _, payload)| payload.to_vec()).collect();
        self.packed.insert(command.extent.id, all.into());
        let reply = self.apply(Command::PackInline(command));
        assert!(matches!(reply, Reply::Done(Done::Nothing) | Reply::Rejected(Reject::SourceChanged)));
        assert_eq!(self.events(), events, "nobody hears of it");
    }

    fn events(&self) -> Answer {
        let query = Query::Events { bucket: self.world.bucket, after: None, limit: 1000 };
        self.world.ask(query).unwrap()
    }

    fn compare(&mut self) {
        self.world.audit();
        self.compare_holders();
        for number in 0..5 {
            let name = name(number);
            assert_eq!(self.read(&name), self.objects.get(&name).cloned(), "{name}");
        }
        let list = List {
            bucket: self.world.bucket,
            prefix: String::new(),
            delimiter: String::new(),
            after: String::new(),
            limit: 1000,
        };
        let Ok(Answer::List(page)) = self.world.ask(Query::List(list)) else { panic!() };
        let listed = page.entries.iter().map(|entry| match entry {
            PageEntry::Item(key, object) => (key.as_str(), object.etag),
            PageEntry::Prefix(prefix) => panic!("{prefix}"),
        });
        let known = self.objects.iter().map(|(name, known)| (name.as_str(), known.etag));
        assert_eq!(listed.collect::<Vec<_>>(), known.collect::<Vec<_>>());
    }

    /// What lies in packed extents is text.
    fn content(&self, pieces: &[Piece]) -> Content {
        if let [Piece { extent, offset, bytes }] = pieces
            && let Some(packed) = self.packed.get(&extent.id)
        {
            let start = *offset as usize;
            return Content::Text(packed.slice(start..start + *bytes as usize));
        }
        Content::Extents(pieces.iter().map(|piece| (piece.extent.id, piece.bytes)).collect())
    }

    fn read(&self, name: &str) -> Option<Known> {
        let query =
            Query::Object { bucket: self.world.bucket, key: key(name), version: None, want: Want::Body };
        let view = match self.world.ask(query) {
            Ok(Answer::Object(view)) => view,
            Err(Reject::NoSuchKey) => return None,
            answer => panic!("{answer:?}"),
        };
        let content = match view.body {
            BodyView::Inline(payload) => Content::Text(payload),
            BodyView::Pieces(pieces) => self.content(&pieces),
            BodyView::NotAsked => panic!(),
        };
        let user = view.object.attributes.user.get("k").cloned();
        Some(Known { etag: view.object.etag, content, user })
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn random_commands_agree_with_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        for (number, step) in steps.iter().enumerate() {
            run.step(step);
            if number % 8 == 0 {
                run.compare();
            }
        }
        run.compare();
    }

    #[test]
    fn versions_leave_the_rows_in_agreement(
        steps in proptest::collection::vec((0..3_u8, 0..14_u8, any::<u8>()), 1..60),
    ) {
        let mut world = World::new();
        let mut stamps = Vec::new();
        for (key, what, which) in steps {
            let name = name(key);
            let version = match what {
                0 | 1 => {
                    let versioning = if what == 0 { Versioning::Enabled } else { Versioning::Suspended };
                    world.set_versioning(versioning);
                    continue;
                }
                2 => {
                    world.put_extent(&name);
                    stamps.push(Stamp { epoch: 1, index: world.index, ordinal: 0 });
                    continue;
                }
                3 => {
                    world.run(Command::CopyObject(world.copy(&self::name(which % 3), &name)));
                    stamps.push(Stamp { epoch: 1, index: world.index, ordinal: 0 });
                    continue;
                }
                4 => Some(VersionSelector::Null),
                5 if !stamps.is_empty() => Some(VersionSelector::Stamp(stamps[usize::from(which) % stamps.len()])),
                6 => {
                    stamps.push(world.put_inline(&name, "x").stamp);
                    continue;
                }
                9 => {
                    world.run(Command::RenameObject(world.rename(&self::name(which % 3), &name)));
                    stamps.extend((0..2).map(|ordinal| Stamp { epoch: 1, index: world.index, ordinal }));
                    world.audit();
                    continue;
                }
                10 => {
                    let append = world.append(&name, "more");
                    // Nothing is appended to what is encrypted.
                    if let Reply::Done(done) = world.run(Command::AppendObject(append)) {
                        stamps.push(stored(done).stamp);
                    }
                    world.audit();
                    continue;
                }
                11 | 12 => {
                    let note = ["a", "b", "c"][usize::from(which % 3)];
                    let mut annotate = world.annotate(&name, note, 1 + u64::from(which));
                    if what == 12 {
                        annotate.change = AnnotationChange::Remove;
                    }
                    world.run(Command::SetAnnotation(annotate));
                    world.audit();
                    continue;
                }
                13 => {
                    let resealed = Sealing { data_key: vec![which; 4].into(), ..sealing() };
                    if let Some(copy) = world.copy_anew(&self::name(which % 3), &name, &resealed) {
                        stamps.push(stored(world.done(copy)).stamp);
                    }
                    world.audit();
                    continue;
                }
                8 => {
                    let inline = world.inline(u64::from(which));
                    if !inline.is_empty() {
                        let pack = world.pack(&inline);
                        assert_eq!(world.done(Command::PackInline(pack)), Done::Nothing);
                    }
                    world.audit();
                    continue;
                }
                _ => None,
            };
            world.delete_one(&name, version);
            stamps.push(Stamp { epoch: 1, index: world.index, ordinal: 0 });
            world.audit();
        }
        world.audit();
    }
}
