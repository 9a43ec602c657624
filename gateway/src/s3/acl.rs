//! Access control lists as clients write and see them.

use std::sync::Arc;

use consensus::meta::acl::{
    CannedAcl, GRANTS_MAX, Grant, Grantee, ObjectAcl, ObjectOwnership, Permission, WantedAcl, private,
};
use consensus::meta::command::{Command, Reject, VersionSelector, WithAcl};
use consensus::meta::model::{Bucket, BucketSetting};
use consensus::meta::names::{ObjectKey, UserName};
use consensus::meta::query::{Answer, Query};
use fabric::ids::Stamp;
use http::HeaderMap;

use super::access::block_of;
use super::error::{Code, S3Error, S3Result};
use super::listing;
use super::op::{Action, Context, unexpected};
use super::request::header_text;
use super::xml::{AclDocument, GrantElement, XmlWriter};

/// Operations that make something that can have a list, or change one.
pub const OPERATIONS: &[&str] = &[
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "PostObject",
    "PutBucketAcl",
    "PutObject",
    "PutObjectAcl",
];

const CANNED: &str = "x-amz-acl";
const GRANT_HEADERS: &[(&str, Permission)] = &[
    ("x-amz-grant-full-control", Permission::FullControl),
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
];

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// What a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A bucket.
    Bucket,
    /// An object.
    Object,
}

/// Whether a header is about a list.
pub fn is_header(name: &str) -> bool {
    name == CANNED || name.starts_with("x-amz-grant-")
}

/// Whether a request wants a list by its headers.
pub fn is_in(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_header(name.as_str()))
}

/// The list that headers want.
pub fn of_headers(headers: &HeaderMap, about: About) -> S3Result<Option<WantedAcl>> {
    let canned = header_text(headers, CANNED)?;
    let mut grants = Vec::new();
    for name in headers.keys().filter(|name| name.as_str().starts_with("x-amz-grant-")) {
        let known = GRANT_HEADERS.iter().find(|(known, _)| known == name);
        let (name, permission) =
            known.ok_or_else(|| S3Error::from(Code::NotImplemented).field("Header", name.as_str()))?;
        let text = header_text(headers, name)?.unwrap_or("");
        for grantee in grantees(name, text)? {
            grants.push(Grant { grantee, permission: *permission });
        }
    }
    match (canned, grants.is_empty()) {
        (None, true) => Ok(None),
        (Some(name), true) => canned_acl(name, about).map(|canned| Some(WantedAcl::Canned(canned))),
        (None, false) => bounded(grants).map(|grants| Some(WantedAcl::Grants(grants))),
        (Some(_), false) => {
            Err(Code::InvalidRequest.says("Specifying both Canned ACLs and Header Grants is not allowed"))
        }
    }
}

fn canned_acl(name: &str, about: About) -> S3Result<CannedAcl> {
    Ok(match (name, about) {
        ("private", _) => CannedAcl::Private,
        ("public-read", _) => CannedAcl::PublicRead,
        ("public-read-write", _) => CannedAcl::PublicReadWrite,
        ("authenticated-read", _) => CannedAcl::AuthenticatedRead,
        // The reader that it means is a service of AWS.
        ("aws-exec-read", _) => CannedAcl::Private,
        ("bucket-owner-read", About::Object) => CannedAcl::BucketOwnerRead,
        ("bucket-owner-full-control", About::Object) => CannedAcl::BucketOwnerFullControl,
        ("bucket-owner-read" | "bucket-owner-full-control", About::Bucket) => CannedAcl::Private,
        ("log-delivery-write", About::Bucket) => CannedAcl::LogDeliveryWrite,
        _ => return Err(S3Error::argument(CANNED, name, "The canned ACL is not known.")),
    })
}

/// The grantees of a header: `id="…", uri="…"`.
fn grantees(header: &str, text: &str) -> S3Result<Vec<Grantee>> {
    let wrong = || S3Error::argument(header, text, "Argument format not recognized");
    let mut found = Vec::new();
    for piece in text.split(',') {
        let (kind, value) = piece.split_once('=').ok_or_else(wrong)?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        found.push(match kind.trim().to_ascii_lowercase().as_str() {
            "id" => user(value)?,
            "uri" => group(value)?,
            "emailaddress" => return Err(Code::UnresolvableGrantByEmailAddress.into()),
            _ => return Err(wrong()),
        });
    }
    Ok(found)
}

fn user(id: &str) -> S3Result<Grantee> {
    let user = id.parse().map_err(|_| S3Error::argument("CanonicalUser/ID", id, "Invalid id"))?;
    Ok(Grantee::User(user))
}

fn group(uri: &str) -> S3Result<Grantee> {
    match uri {
        ALL_USERS => Ok(Grantee::AllUsers),
        AUTHENTICATED_USERS => Ok(Grantee::AuthenticatedUsers),
        LOG_DELIVERY => Ok(Grantee::LogDelivery),
        _ => Err(S3Error::argument("Group/URI", uri, "Invalid group uri")),
    }
}

fn bounded(grants: Vec<Grant>) -> S3Result<Vec<Grant>> {
    if GRANTS_MAX < grants.len() { Err(Code::MalformedACLError.into()) } else { Ok(grants) }
}

/// The list of a document, and the owner that it names.
pub fn of_document(document: AclDocument) -> S3Result<(String, WantedAcl)> {
    let grants = document.grants.iter().map(grant_of).collect::<S3Result<_>>()?;
    Ok((document.owner, WantedAcl::Grants(bounded(grants)?)))
}

fn grant_of(element: &GrantElement) -> S3Result<Grant> {
    let grantee = match (&element.id, &element.uri, &element.email) {
        (Some(id), None, None) => user(id)?,
        (None, Some(uri), None) => group(uri)?,
        (None, None, Some(_)) => return Err(Code::UnresolvableGrantByEmailAddress.into()),
        _ => return Err(Code::MalformedACLError.into()),
    };
    let named = |permission: &Permission| permission_name(*permission) == element.permission;
    let all = GRANT_HEADERS.iter().map(|(_, permission)| permission);
    let permission = all.copied().find(named).ok_or(Code::MalformedACLError)?;
    Ok(Grant { grantee, permission })
}

/// The document that shows a list.
pub fn document(acl: &ObjectAcl) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("AccessControlPolicy");
    listing::user(&mut xml, "Owner", acl.owner.as_str());
    xml.element("AccessControlList", |xml| acl.grants.iter().for_each(|grant| show_grant(xml, grant)));
    xml.close("AccessControlPolicy");
    xml
}

fn show_grant(xml: &mut XmlWriter, grant: &Grant) {
    let group = |uri: &'static str| ("Group", uri);
    xml.element("Grant", |xml| {
        let (kind, name) = match &grant.grantee {
            Grantee::User(user) => ("CanonicalUser", user.as_str()),
            Grantee::AllUsers => group(ALL_USERS),
            Grantee::AuthenticatedUsers => group(AUTHENTICATED_USERS),
            Grantee::LogDelivery => group(LOG_DELIVERY),
        };
        xml.open(&format!(
            "Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\""
        ));
        if let Grantee::User(_) = &grant.grantee {
            xml.text("ID", name);
            xml.text("DisplayName", name);
        } else {
            xml.text("URI", name);
        }
        xml.close("Grantee");
        xml.text("Permission", permission_name(grant.permission));
    });
}

fn permission_name(permission: Permission) -> &'static str {
    match permission {
        Permission::FullControl => "FULL_CONTROL",
        Permission::Read => "READ",
        Permission::Write => "WRITE",
        Permission::ReadAcp => "READ_ACP",
        Permission::WriteAcp => "WRITE_ACP",
    }
}

/// Who owns what others write into a bucket; `None`: it has no lists, and its owner owns all.
pub fn ownership_of(settings: &[BucketSetting]) -> Option<ObjectOwnership> {
    settings.iter().find_map(|setting| match setting {
        BucketSetting::ObjectOwnership(ownership) => Some(*ownership),
        _ => None,
    })
}

/// What a name of AWS means for [`ownership_of`].
pub fn ownership_by_name(name: &str) -> Option<Option<ObjectOwnership>> {
    let all = [None, Some(ObjectOwnership::BucketOwnerPreferred), Some(ObjectOwnership::ObjectWriter)];
    all.into_iter().find(|ownership| ownership_name(*ownership) == name)
}

/// Its name.
pub fn ownership_name(ownership: Option<ObjectOwnership>) -> &'static str {
    match ownership {
        None => "BucketOwnerEnforced",
        Some(ObjectOwnership::BucketOwnerPreferred) => "BucketOwnerPreferred",
        Some(ObjectOwnership::ObjectWriter) => "ObjectWriter",
    }
}

/// What a list must allow for an action, and whose list; `None`: no list allows it. `by_write`: the list that is set
/// comes with a new version, so that who may write it may do that, too.
pub fn needed(action: Action, by_write: bool) -> Option<(About, Permission)> {
    Some(match action {
        Action::ListBucket | Action::ListBucketVersions | Action::ListBucketMultipartUploads => {
            (About::Bucket, Permission::Read)
        }
        Action::PutObject
        | Action::DeleteObject
        | Action::AbortMultipartUpload
        | Action::ListMultipartUploadParts => (About::Bucket, Permission::Write),
        Action::PutObjectAcl if by_write => (About::Bucket, Permission::Write),
        Action::GetBucketAcl => (About::Bucket, Permission::ReadAcp),
        Action::PutBucketAcl => (About::Bucket, Permission::WriteAcp),
        Action::GetObject
        | Action::GetObjectVersion
        | Action::GetObjectAttributes
        | Action::GetObjectVersionAttributes => (About::Object, Permission::Read),
        Action::GetObjectAcl | Action::GetObjectVersionAcl => (About::Object, Permission::ReadAcp),
        Action::PutObjectAcl | Action::PutObjectVersionAcl => (About::Object, Permission::WriteAcp),
        _ => return None,
    })
}

/// The list of a bucket that has lists.
pub fn of_bucket(bucket: &Bucket, settings: &[BucketSetting]) -> Vec<Grant> {
    let grants = settings.iter().find_map(|setting| match setting {
        BucketSetting::Acl(grants) => Some(grants.clone()),
        _ => None,
    });
    grants.unwrap_or_else(|| private(&bucket.owner))
}

/// A command with the list that its writer wants, if any.
pub fn with(command: Command, acl: Option<WantedAcl>) -> Command {
    match acl {
        None => command,
        acl => Command::WithAcl(WithAcl { ownership: None, acl, command: Box::new(command) }),
    }
}

/// Refuses a list that the bucket refuses anyway, before the body is read. That it does not refuse decides nothing.
pub async fn refuse_early(cx: &Context, wanted: Option<&WantedAcl>) -> S3Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let (settings, owner) = (cx.recent_settings().await?, &cx.bucket()?.owner);
    if ownership_of(&settings).is_none() && !wanted.says_nothing(owner) {
        return Err(Code::AccessControlListNotSupported.into());
    }
    let public = wanted.grants(owner, owner).iter().any(|grant| grant.grantee.is_public());
    if public && block_of(&settings).block_public_acls {
        return Err(Reject::PublicAclBlocked.into());
    }
    Ok(())
}

/// The list of a version; of the bucket's owner alone where the bucket has none.
pub async fn of_version(
    cx: &Context,
    key: &ObjectKey,
    version: Option<VersionSelector>,
) -> S3Result<ObjectAcl> {
    let bucket = cx.bucket()?;
    let query = Query::Acl { bucket: bucket.id, key: key.clone(), version };
    let Answer::Acl(found) = cx.ask(query).await? else { return Err(unexpected("Acl")) };
    let has_lists = ownership_of(&cx.recent_settings().await?).is_some();
    Ok(found.filter(|_| has_lists).unwrap_or_else(|| ObjectAcl::default_of(&bucket.owner)))
}

/// Who owns versions of a listing, in order.
pub async fn owners(cx: &Context, versions: Vec<(ObjectKey, Stamp)>) -> S3Result<Vec<Arc<str>>> {
    let bucket = cx.bucket()?;
    let owner: Arc<str> = bucket.owner.as_str().into();
    let all = versions.len();
    if all == 0 || ownership_of(&cx.recent_settings().await?).is_none() {
        return Ok(vec![owner; all]);
    }
    match cx.ask(Query::Owners { bucket: bucket.id, versions }).await? {
        Answer::Owners(owners) if owners.len() == all => {
            let shown = |found: Option<UserName>| found.map_or(owner.clone(), |user| user.as_str().into());
            Ok(owners.into_iter().map(shown).collect())
        }
        _ => Err(unexpected("Owners")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&'static str, &str)], about: About) -> Result<Option<WantedAcl>, Code> {
        let headers =
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        of_headers(&headers, about).map_err(|error| error.code())
    }

    #[test]
    fn lists_of_headers() {
        let canned = |canned| Ok(Some(WantedAcl::Canned(canned)));
        assert_eq!(wanted(&[], About::Object), Ok(None));
        assert_eq!(wanted(&[(CANNED, "public-read")], About::Object), canned(CannedAcl::PublicRead));
        assert_eq!(wanted(&[(CANNED, "bucket-owner-read")], About::Bucket), canned(CannedAcl::Private));
        let grants = format!("id=\"anna\", uri={ALL_USERS}");
        let to = |grantee| Grant { grantee, permission: Permission::ReadAcp };
        let expected = vec![to(Grantee::User("anna".parse().unwrap())), to(Grantee::AllUsers)];
        assert_eq!(
            wanted(&[("x-amz-grant-read-acp", grants.as_str())], About::Object),
            Ok(Some(WantedAcl::Grants(expected)))
        );
        let many = vec!["id=anna"; 101].join(",");
        for (pairs, code) in [
            (&[(CANNED, "public")][..], Code::InvalidArgument),
            (&[(CANNED, "")], Code::InvalidArgument),
            (&[(CANNED, "log-delivery-write")], Code::InvalidArgument),
            (&[(CANNED, "private"), ("x-amz-grant-read", "id=a")], Code::InvalidRequest),
            (&[("x-amz-grant-read", "")], Code::InvalidArgument),
            (&[("x-amz-grant-read", "anna")], Code::InvalidArgument),
            (&[("x-amz-grant-read", "id=")], Code::InvalidArgument),
            (&[("x-amz-grant-read", "id=a,")], Code::InvalidArgument),
            (&[("x-amz-grant-read", "name=a")], Code::InvalidArgument),
            (&[("x-amz-grant-read", "uri=http://x")], Code::InvalidArgument),
            (&[("x-amz-grant-read", "emailAddress=a@b")], Code::UnresolvableGrantByEmailAddress),
            (&[("x-amz-grant-read", many.as_str())], Code::MalformedACLError),
            (&[("x-amz-grant-everything", "id=a")], Code::NotImplemented),
        ] {
            assert_eq!(wanted(pairs, About::Object), Err(code), "{pairs:?}");
        }
    }

    #[test]
    fn a_document_is_read_as_it_is_shown() {
        let grant = |grantee, permission| Grant { grantee, permission };
        let grants = vec![
            grant(Grantee::User("anna".parse().unwrap()), Permission::FullControl),
            grant(Grantee::AllUsers, Permission::Read),
            grant(Grantee::AuthenticatedUsers, Permission::WriteAcp),
            grant(Grantee::LogDelivery, Permission::Write),
        ];
        let acl = ObjectAcl { owner: "anna".parse().unwrap(), grants: grants.clone() };
        let read = AclDocument::parse(document(&acl).finish().as_bytes()).unwrap();
        assert_eq!(of_document(read).unwrap(), ("anna".to_string(), WantedAcl::Grants(grants)));
    }
}
