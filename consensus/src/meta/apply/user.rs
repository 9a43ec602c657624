//! Users and access keys.

use fabric::limits::POLICIES_PER_USER_MAX;

use super::transaction::Transaction;
use super::{Outcome, malformed, quota};
use crate::meta::command::{AddAccessKey, AddUser, Done, Reject, RemoveAccessKey, RemoveUser, SetUserPolicy};
use crate::meta::model::{AccessKey, User};
use crate::meta::names::{AccessKeyId, UserName};
use crate::meta::store::Fault;
use crate::meta::tables::{AccessKeys, KeysByUser, UserPolicies, Users};

/// Adds a user with its first key.
pub(super) fn add(tx: &mut Transaction<'_>, command: &AddUser) -> Outcome {
    if command.key.user != command.name {
        return malformed("the first key is another user's");
    }
    if command.name.home().is_some() {
        return malformed("the user is of another cluster");
    }
    if tx.get::<Users>(&command.name)?.is_some() {
        return Err(Reject::UserExists.into());
    }
    if tx.get::<AccessKeys>(&command.key.id)?.is_some() {
        return Err(Reject::AccessKeyExists.into());
    }
    let user = User { name: command.name.clone(), created: tx.now, buckets: 0 };
    tx.put::<Users>(&command.name, &user);
    put_key(tx, &command.key);
    Ok(Done::Nothing)
}

/// A user by name. One of another cluster becomes known by what it first does here.
pub(super) fn find(tx: &Transaction<'_>, name: &UserName) -> Result<Option<User>, Fault> {
    let found = tx.get::<Users>(name)?;
    let stranger = || name.home().map(|_| User { name: name.clone(), created: tx.now, buckets: 0 });
    Ok(found.or_else(stranger))
}

/// Removes a user and its keys.
pub(super) fn remove(tx: &mut Transaction<'_>, command: &RemoveUser) -> Outcome {
    let user = tx.get::<Users>(&command.name)?.ok_or(Reject::NoSuchUser)?;
    if user.buckets != 0 {
        return Err(Reject::UserOwnsBuckets.into());
    }
    for id in keys_of(tx, &command.name)? {
        tx.delete::<AccessKeys>(&id);
        tx.delete::<KeysByUser>((&command.name, &id));
    }
    quota::remove_of_user(tx, &command.name)?;
    tx.delete_under::<UserPolicies>(&command.name)?;
    tx.delete::<Users>(&command.name);
    Ok(Done::Nothing)
}

/// Adds a key to a user.
pub(super) fn add_key(tx: &mut Transaction<'_>, command: &AddAccessKey) -> Outcome {
    if command.key.user.home().is_some() {
        return malformed("the user is of another cluster");
    }
    if tx.get::<Users>(&command.key.user)?.is_none() {
        return Err(Reject::NoSuchUser.into());
    }
    if tx.get::<AccessKeys>(&command.key.id)?.is_some() {
        return Err(Reject::AccessKeyExists.into());
    }
    put_key(tx, &command.key);
    Ok(Done::Nothing)
}

/// Removes a key that is not its user's last.
pub(super) fn remove_key(tx: &mut Transaction<'_>, command: &RemoveAccessKey) -> Outcome {
    let key = tx.get::<AccessKeys>(&command.id)?.ok_or(Reject::NoSuchAccessKey)?;
    if keys_of(tx, &key.user)?.len() == 1 {
        return Err(Reject::NoSuchAccessKey.into());
    }
    tx.delete::<AccessKeys>(&command.id);
    tx.delete::<KeysByUser>((&key.user, &command.id));
    Ok(Done::Nothing)
}

/// Attaches a policy to a user, or takes it away.
pub(super) fn set_policy(tx: &mut Transaction<'_>, command: &SetUserPolicy) -> Outcome {
    let user = find(tx, &command.user)?.ok_or(Reject::NoSuchUser)?;
    let place = (&command.user, &command.name);
    let is_there = tx.get::<UserPolicies>(place)?.is_some();
    match &command.document {
        None if !is_there => return Err(Reject::NoSuchPolicy.into()),
        None => tx.delete::<UserPolicies>(place),
        Some(document) => {
            let others = tx.scan_under::<UserPolicies>(&command.user)?.count();
            if !is_there && POLICIES_PER_USER_MAX <= others {
                return Err(Reject::TooManyPolicies.into());
            }
            tx.put::<Users>(&command.user, &user);
            tx.put::<UserPolicies>(place, document);
        }
    }
    Ok(Done::Nothing)
}

fn put_key(tx: &mut Transaction<'_>, key: &AccessKey) {
    let key = AccessKey { created: tx.now, ..key.clone() };
    tx.put::<AccessKeys>(&key.id, &key);
    tx.put::<KeysByUser>((&key.user, &key.id), &());
}

fn keys_of(tx: &Transaction<'_>, user: &UserName) -> Result<Vec<AccessKeyId>, Fault> {
    tx.scan_under::<KeysByUser>(user)?.map(|row| row.map(|((_, id), ())| id)).collect()
}
