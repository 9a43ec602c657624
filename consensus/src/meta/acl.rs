//! Access control lists: who may do what with a bucket or a version beside what policies say. Pure.
//!
//! They hold where the owner of a bucket allows them ([`ObjectOwnership`]). Everywhere else the owner of the bucket owns
//! all that is in it, and nobody has a list.

use serde::{Deserialize, Serialize};

use super::names::UserName;

/// Grants of one list.
pub const GRANTS_MAX: usize = 100;

/// Who owns what others write into a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectOwnership {
    /// The owner of the bucket, where the writer gives it `bucket-owner-full-control`; else the writer.
    BucketOwnerPreferred,
    /// The writer.
    ObjectWriter,
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who.
    pub grantee: Grantee,
    /// What.
    pub permission: Permission,
}

/// Who may do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grantee {
    /// A user.
    User(UserName),
    /// Everybody.
    AllUsers,
    /// Whoever signs.
    AuthenticatedUsers,
    /// Who writes the logs of accesses.
    LogDelivery,
}

impl Grantee {
    /// Whether more people are meant than anybody knows.
    pub fn is_public(&self) -> bool {
        matches!(self, Grantee::AllUsers | Grantee::AuthenticatedUsers)
    }

    /// Whether somebody is meant; nobody in particular is `None`.
    pub fn is(&self, who: Option<&UserName>) -> bool {
        match self {
            Grantee::User(user) => who == Some(user),
            Grantee::AllUsers => true,
            Grantee::AuthenticatedUsers => who.is_some(),
            Grantee::LogDelivery => false,
        }
    }
}

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    /// All of the others.
    FullControl,
    /// To list a bucket, or to read a version.
    Read,
    /// To write into a bucket; of a version nothing.
    Write,
    /// To read the list.
    ReadAcp,
    /// To change the list.
    WriteAcp,
}

impl Permission {
    /// Whether it allows this.
    pub fn allows(self, wanted: Permission) -> bool {
        self == Permission::FullControl || self == wanted
    }
}

/// A list as its writer wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedAcl {
    /// One that has a name.
    Canned(CannedAcl),
    /// Grant by grant, at most [`GRANTS_MAX`].
    Grants(Vec<Grant>),
}

/// Lists that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CannedAcl {
    Private,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
    BucketOwnerRead,
    BucketOwnerFullControl,
    LogDeliveryWrite,
}

impl WantedAcl {
    /// The grants, where `owner` owns what they are about.
    pub fn grants(&self, owner: &UserName, bucket_owner: &UserName) -> Vec<Grant> {
        let canned = match self {
            WantedAcl::Grants(grants) => return grants.clone(),
            WantedAcl::Canned(canned) => canned,
        };
        let to = |grantee, permission| Grant { grantee, permission };
        let to_bucket_owner = |permission| match owner == bucket_owner {
            true => Vec::new(),
            false => vec![to(Grantee::User(bucket_owner.clone()), permission)],
        };
        let mut grants = private(owner);
        grants.extend(match canned {
            CannedAcl::Private => Vec::new(),
            CannedAcl::PublicRead => vec![to(Grantee::AllUsers, Permission::Read)],
            CannedAcl::PublicReadWrite => {
                vec![to(Grantee::AllUsers, Permission::Read), to(Grantee::AllUsers, Permission::Write)]
            }
            CannedAcl::AuthenticatedRead => vec![to(Grantee::AuthenticatedUsers, Permission::Read)],
            CannedAcl::BucketOwnerRead => to_bucket_owner(Permission::Read),
            CannedAcl::BucketOwnerFullControl => to_bucket_owner(Permission::FullControl),
            CannedAcl::LogDeliveryWrite => {
                vec![
                    to(Grantee::LogDelivery, Permission::Write),
                    to(Grantee::LogDelivery, Permission::ReadAcp),
                ]
            }
        });
        grants
    }

    /// Whether it says no more than what holds where there are no lists: the owner of the bucket may do everything.
    pub fn says_nothing(&self, bucket_owner: &UserName) -> bool {
        match self {
            WantedAcl::Canned(canned) => {
                matches!(canned, CannedAcl::Private | CannedAcl::BucketOwnerFullControl)
            }
            WantedAcl::Grants(grants) => *grants == private(bucket_owner),
        }
    }
}

/// The list where nobody said anything: the owner may do everything.
pub fn private(owner: &UserName) -> Vec<Grant> {
    vec![Grant { grantee: Grantee::User(owner.clone()), permission: Permission::FullControl }]
}

/// Who owns a version, and who may do what with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectAcl {
    /// Its owner, who may always read and change the list.
    pub owner: UserName,
    /// At most [`GRANTS_MAX`].
    pub grants: Vec<Grant>,
}

impl ObjectAcl {
    /// That of a version without a row.
    pub fn default_of(bucket_owner: &UserName) -> ObjectAcl {
        ObjectAcl { owner: bucket_owner.clone(), grants: private(bucket_owner) }
    }
}
