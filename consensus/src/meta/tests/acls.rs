//! Access control lists and owners of versions: where they come from, where they go, and where there are none.

use fabric::ids::Stamp;

use super::world::{World, add_user, key, stored};
use crate::meta::acl::*;
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::names::UserName;
use crate::meta::query::{Answer, Query};
use crate::meta::tables::{Acls, scan_all};

fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

/// A world with anna's bucket, in which berta writes, too.
fn world(ownership: Option<ObjectOwnership>) -> World {
    let mut world = World::new();
    world.done(add_user("berta", "KEY2"));
    if let Some(ownership) = ownership {
        set(&mut world, BucketSetting::ObjectOwnership(ownership));
    }
    world
}

fn set(world: &mut World, setting: BucketSetting) {
    let change = BucketChange::Set(setting);
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change }));
}

fn with(command: Command, canned: CannedAcl) -> Command {
    let acl = Some(WantedAcl::Canned(canned));
    Command::WithAcl(WithAcl { ownership: None, acl, command: Box::new(command) })
}

fn by(name: &str) -> Origin {
    Origin { requester: name.to_string(), ..Origin::default() }
}

fn put_by(world: &World, name: &str) -> Command {
    let put = world.put("k", NewBody::Inline("x".into()));
    Command::PutObject(PutObject { origin: by(name), ..put })
}

fn acl_of(world: &World, name: &str) -> Option<ObjectAcl> {
    match world.ask(Query::Acl { bucket: world.bucket, key: key(name), version: None }) {
        Ok(Answer::Acl(acl)) => acl,
        answer => panic!("{answer:?}"),
    }
}

fn owner_of(world: &World, name: &str) -> String {
    acl_of(world, name).map_or("anna".to_string(), |acl| acl.owner.to_string())
}

fn rows(world: &World) -> usize {
    scan_all::<Acls>(&world.rows).unwrap().count()
}

#[test]
fn who_owns_what_others_write() {
    use ObjectOwnership::{BucketOwnerPreferred, ObjectWriter};
    let full = Some(CannedAcl::BucketOwnerFullControl);
    for (ownership, writer, canned, owner) in [
        (None, "berta", None, "anna"),
        (None, "berta", full, "anna"),
        (Some(ObjectWriter), "anna", None, "anna"),
        (Some(ObjectWriter), "berta", None, "berta"),
        (Some(ObjectWriter), "berta", full, "berta"),
        (Some(ObjectWriter), "*", None, "anna"),
        (Some(BucketOwnerPreferred), "berta", None, "berta"),
        (Some(BucketOwnerPreferred), "berta", full, "anna"),
        (Some(BucketOwnerPreferred), "berta", Some(CannedAcl::PublicRead), "berta"),
    ] {
        let mut world = world(ownership);
        let put = put_by(&world, writer);
        world.done(match canned {
            Some(canned) => with(put, canned),
            None => put,
        });
        assert_eq!(owner_of(&world, "k"), owner, "{ownership:?} {writer} {canned:?}");
        world.audit();
    }
}

#[test]
fn without_lists_only_what_holds_anyway_is_taken() {
    let mut world = world(None);
    for canned in [CannedAcl::Private, CannedAcl::BucketOwnerFullControl] {
        let put = with(put_by(&world, "anna"), canned);
        world.done(put);
    }
    let refused = with(put_by(&world, "anna"), CannedAcl::PublicRead);
    assert_eq!(world.rejected(refused), Reject::AclNotSupported);
    let set_acl = |acl| SetAcl { bucket: world.bucket, key: key("k"), version: None, acl };
    let own = WantedAcl::Grants(private(&user("anna")));
    let (own, public) = (set_acl(own), set_acl(WantedAcl::Canned(CannedAcl::PublicRead)));
    world.done(Command::SetAcl(own));
    assert_eq!(world.rejected(Command::SetAcl(public)), Reject::AclNotSupported);
    let acl = BucketSetting::Acl(private(&user("berta")));
    let change = SetBucket { bucket: world.bucket, change: BucketChange::Set(acl) };
    assert_eq!(world.rejected(Command::SetBucket(change)), Reject::AclNotSupported);
    assert_eq!(rows(&world), 0);
}

#[test]
fn a_list_goes_with_its_version() {
    let mut world = world(Some(ObjectOwnership::ObjectWriter));
    let put = put_by(&world, "berta");
    world.done(with(put, CannedAcl::PublicRead));
    let before = acl_of(&world, "k").unwrap();
    assert_eq!((before.owner.as_str(), before.grants.len()), ("berta", 2));
    // A copy has a list of its own, a rename brings the list along, an append keeps it.
    let copy = CopyObject { origin: by("anna"), ..world.copy("k", "copy") };
    world.done(Command::CopyObject(copy));
    assert_eq!(acl_of(&world, "copy"), None);
    let rename = world.rename("k", "renamed");
    world.done(Command::RenameObject(rename));
    assert_eq!(acl_of(&world, "renamed").as_ref(), Some(&before));
    let append = AppendObject { origin: by("anna"), ..world.append("renamed", "more") };
    world.done(Command::AppendObject(append));
    assert_eq!((acl_of(&world, "renamed"), rows(&world)), (Some(before), 1));
    world.audit();
    world.delete_one("renamed", None);
    assert_eq!(rows(&world), 0);
    // What replaces a version replaces its list.
    for writer in ["berta", "anna"] {
        let put = put_by(&world, writer);
        world.done(put);
        assert_eq!(owner_of(&world, "k"), writer);
        world.audit();
    }
    assert_eq!(rows(&world), 0);
}

#[test]
fn each_version_has_its_own_list() {
    let mut world = world(Some(ObjectOwnership::ObjectWriter));
    world.set_versioning(Versioning::Enabled);
    let put = put_by(&world, "berta");
    let first = stored(world.done(put));
    let put = put_by(&world, "anna");
    world.done(put);
    let versions = vec![(key("k"), first.stamp), (key("k"), world.current("k").unwrap().stamp)];
    let owners = world.ask(Query::Owners { bucket: world.bucket, versions });
    assert_eq!(owners, Ok(Answer::Owners(vec![Some(user("berta")), None])));
    let version = Some(VersionSelector::Stamp(first.stamp));
    let acl = WantedAcl::Canned(CannedAcl::AuthenticatedRead);
    let set_acl = SetAcl { bucket: world.bucket, key: key("k"), version, acl };
    world.done(Command::SetAcl(set_acl));
    assert_eq!(owner_of(&world, "k"), "anna");
    world.delete_one("k", version);
    assert_eq!(rows(&world), 0);
    world.audit();
}

#[test]
fn the_change_feed_tells_of_a_list_that_changes() {
    let mut world = world(Some(ObjectOwnership::ObjectWriter));
    let put = put_by(&world, "anna");
    world.done(put);
    let set_acl = |canned| SetAcl {
        bucket: world.bucket,
        key: key("k"),
        version: None,
        acl: WantedAcl::Canned(canned),
    };
    let (open, closed) = (set_acl(CannedAcl::AuthenticatedRead), set_acl(CannedAcl::Private));
    for command in [&open, &open, &closed, &closed] {
        world.done(Command::ChangeAcl(command.clone(), by("berta")));
    }
    world.done(Command::SetAcl(open));
    let query = Query::Changes { bucket: world.bucket, after: Stamp::ZERO, limit: 10 };
    let Ok(Answer::Changes(changes)) = world.ask(query) else { panic!() };
    let told = changes.events.into_iter().map(|(_, event)| (event.kind, event.origin.requester));
    let expected = [(EventKind::Put, "anna"), (EventKind::Acl, "berta"), (EventKind::Acl, "berta")];
    assert_eq!(told.collect::<Vec<_>>(), expected.map(|(kind, by)| (kind, by.to_string())));
    world.audit();
}

#[test]
fn the_list_of_an_upload_becomes_that_of_its_object() {
    let mut world = world(Some(ObjectOwnership::ObjectWriter));
    let create = |world: &World| {
        Command::CreateUpload(CreateUpload {
            bucket: world.bucket,
            key: key("k"),
            attributes: Attributes::default(),
            checksum: None,
            origin: by("berta"),
        })
    };
    for complete in [true, false] {
        let begin = with(create(&world), CannedAcl::PublicRead);
        let Done::Upload(id) = world.done(begin) else { panic!("no upload") };
        let part = world.part("k", id, 1, 7);
        world.done(Command::PutPart(part));
        assert_eq!(rows(&world), 1 + usize::from(!complete));
        let command = match complete {
            true => Command::CompleteUpload(world.complete("k", id, &[1])),
            false => Command::AbortUpload(AbortUpload { bucket: world.bucket, key: key("k"), upload: id }),
        };
        world.done(command);
        let acl = acl_of(&world, "k").unwrap();
        assert_eq!((acl.owner.as_str(), acl.grants.len(), rows(&world)), ("berta", 2, 1));
        world.audit();
    }
}

#[test]
fn what_a_list_may_not_say() {
    let mut world = world(Some(ObjectOwnership::ObjectWriter));
    let put = put_by(&world, "anna");
    world.done(put);
    let grants = |name: &str, count| {
        let grant = Grant { grantee: Grantee::User(user(name)), permission: Permission::Read };
        WantedAcl::Grants(vec![grant; count])
    };
    let set_acl = |world: &World, acl| {
        Command::SetAcl(SetAcl { bucket: world.bucket, key: key("k"), version: None, acl })
    };
    let many = set_acl(&world, grants("berta", 100));
    world.done(many);
    let too_many = set_acl(&world, grants("berta", 101));
    assert!(matches!(world.rejected(too_many), Reject::Malformed(_)));
    let stranger = set_acl(&world, grants("carla", 1));
    assert_eq!(world.rejected(stranger), Reject::NoSuchGrantee { user: user("carla") });
    let block = PublicAccessBlock { block_public_acls: true, ..PublicAccessBlock::default() };
    set(&mut world, BucketSetting::PublicAccessBlock(block));
    for canned in [CannedAcl::PublicRead, CannedAcl::PublicReadWrite, CannedAcl::AuthenticatedRead] {
        let public = set_acl(&world, WantedAcl::Canned(canned));
        assert_eq!(world.rejected(public), Reject::PublicAclBlocked);
        let put = with(put_by(&world, "berta"), canned);
        assert_eq!(world.rejected(put), Reject::PublicAclBlocked);
    }
    let put = with(put_by(&world, "berta"), CannedAcl::BucketOwnerRead);
    world.done(put);
    let bare = with(world.delete("k", None), CannedAcl::Private);
    assert!(matches!(world.rejected(bare), Reject::Malformed(_)));
}

#[test]
fn a_bucket_is_made_with_its_list() {
    let mut world = world(None);
    let create = |ownership, canned: Option<CannedAcl>| {
        let name = "lists".parse().unwrap();
        let command = Box::new(Command::CreateBucket(CreateBucket { name, owner: user("anna") }));
        Command::WithAcl(WithAcl { ownership, acl: canned.map(WantedAcl::Canned), command })
    };
    let refused = create(None, Some(CannedAcl::PublicRead));
    assert_eq!(world.rejected(refused), Reject::AclNotSupported);
    let made = create(Some(ObjectOwnership::ObjectWriter), Some(CannedAcl::PublicRead));
    let Done::Bucket(bucket) = world.done(made) else { panic!("no bucket") };
    let Ok(Answer::Settings(settings)) = world.ask(Query::Settings(bucket.id)) else { panic!("no settings") };
    let kinds: Vec<_> = settings.iter().map(BucketSetting::kind).collect();
    assert_eq!(kinds, [SettingKind::OwnerEnforced, SettingKind::Acl]);
    world.done(Command::DeleteBucket(DeleteBucket { bucket: bucket.id }));
    world.audit();
}
