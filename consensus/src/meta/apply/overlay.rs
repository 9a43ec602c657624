//! The overlay: who this cluster is, which others it knows, and what it granted to them.

use fabric::limits::{OVERLAY_GRANTS_MAX, OVERLAY_INVITES_MAX, OVERLAY_MEMBERS_MAX};

use super::transaction::Transaction;
use super::{Outcome, promotion, replication};
use crate::meta::command::{Done, Reject};
use crate::meta::model::ClusterMs;
use crate::meta::names::ClusterName;
use crate::meta::overlay::{
    GrantedUser, HeardBucket, Invite, Member, OverlayChange, OverlayGrant, OverlayIdentity, OverlayRefusal,
    Standing,
};
use crate::meta::store::Fault;
use crate::meta::tables::{Heard, Identity, Invites, Members, OverlayGrants, Promotions};

/// Changes what is kept of the overlay.
pub(super) fn change(tx: &mut Transaction<'_>, change: &OverlayChange) -> Outcome {
    match change {
        OverlayChange::Found { name, sealed_key } => match tx.get::<Identity>(())? {
            Some(identity) if identity.name != *name => return refused(OverlayRefusal::OtherName),
            Some(_) => {}
            None => {
                let identity =
                    OverlayIdentity { name: name.clone(), sealed_key: sealed_key.clone(), since: tx.now };
                tx.put::<Identity>((), &identity);
            }
        },
        OverlayChange::Invite { id, secret_sha256, lifetime_ms } => {
            let rows: Vec<(u128, Invite)> = tx.scan_under::<Invites>(())?.collect::<Result<_, _>>()?;
            let (expired, good): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|(_, invite)| invite.expires <= tx.now);
            if OVERLAY_INVITES_MAX <= good.len() {
                return refused(OverlayRefusal::TooMany);
            }
            expired.into_iter().for_each(|(id, _)| tx.delete::<Invites>(id));
            let expires = ClusterMs(tx.now.0.saturating_add(*lifetime_ms));
            tx.put::<Invites>(*id, &Invite { secret_sha256: *secret_sha256, expires });
        }
        OverlayChange::Admit { invite, joined, member } => {
            return admit(tx, invite.as_ref(), *joined, member);
        }
        OverlayChange::Remove(name) => return part(tx, name, Standing::Removed, None),
        OverlayChange::Left { cluster, serial } => {
            return part(tx, cluster, Standing::Left, Some(*serial));
        }
        OverlayChange::Grant(grant) => return give(tx, grant),
        OverlayChange::Revoke { cluster, user } => {
            let text = user_text(user);
            if tx.get::<OverlayGrants>((cluster, text.clone()))?.is_none() {
                return refused(OverlayRefusal::NotGranted);
            }
            tx.delete::<OverlayGrants>((cluster, text));
        }
        OverlayChange::Leave => {
            tx.delete_under::<Members>(())?;
            tx.delete_under::<OverlayGrants>(())?;
            tx.delete_under::<Invites>(())?;
        }
        OverlayChange::Follow { bucket, source, kind, source_id, cursor } => {
            return replication::follow(tx, *bucket, source, *kind, (*source_id, *cursor));
        }
        OverlayChange::Unfollow { bucket, source, cursor } => {
            return replication::unfollow(tx, *bucket, source, *cursor);
        }
        OverlayChange::Heard { there, gone } => {
            for (cluster, name) in gone {
                tx.delete::<Heard>((cluster, name));
            }
            for (cluster, name, bucket) in there {
                if is_member(tx, cluster)? {
                    tx.put::<Heard>((cluster, name), &HeardBucket { heard: tx.now, ..bucket.clone() });
                }
            }
        }
        OverlayChange::Promote { bucket, source, cursor } => {
            return promotion::promote(tx, *bucket, source, *cursor);
        }
        OverlayChange::Told { bucket, source } => {
            tx.delete::<Promotions>((*bucket, &source.cluster, &source.bucket));
        }
        OverlayChange::Supersede { bucket, by, at } => {
            return promotion::supersede(tx, *bucket, by, *at);
        }
        OverlayChange::Reopen { bucket } => return promotion::reopen(tx, *bucket),
        OverlayChange::Acknowledge { bucket, to, upto } => {
            return replication::acknowledge(tx, *bucket, to, *upto);
        }
    }
    Ok(Done::Nothing)
}

fn is_member(tx: &Transaction<'_>, name: &ClusterName) -> Result<bool, Fault> {
    Ok(tx.get::<Members>(name)?.is_some_and(|member| member.standing == Standing::In))
}

/// A cluster is no member any more.
fn part(tx: &mut Transaction<'_>, name: &ClusterName, standing: Standing, serial: Option<u64>) -> Outcome {
    let member = tx.get::<Members>(name)?.filter(|member| member.standing == Standing::In);
    let Some(member) = member else { return refused(OverlayRefusal::NotMember) };
    let serial = serial.unwrap_or(0).max(member.serial);
    tx.put::<Members>(name, &Member { standing, serial, addresses: Vec::new(), ..member });
    tx.delete_under::<OverlayGrants>(name)?;
    Ok(Done::Nothing)
}

/// A cluster becomes a member, or is elsewhere from now on.
fn admit(
    tx: &mut Transaction<'_>,
    invite: Option<&(u128, [u8; 32])>,
    joined: bool,
    member: &Member,
) -> Outcome {
    let Some(identity) = tx.get::<Identity>(())? else { return refused(OverlayRefusal::NoIdentity) };
    if identity.name == member.name {
        return refused(OverlayRefusal::NameTaken);
    }
    let known = tx.get::<Members>(&member.name)?;
    if known.as_ref().is_some_and(|known| known.key != member.key) {
        return refused(OverlayRefusal::NameTaken);
    }
    let members: Vec<Member> =
        tx.scan_under::<Members>(())?.map(|row| row.map(|(_, member)| member)).collect::<Result<_, _>>()?;
    if members.iter().any(|other| other.key == member.key && other.name != member.name) {
        return refused(OverlayRefusal::KeyTaken);
    }
    if known.is_none() && OVERLAY_MEMBERS_MAX <= members.len() {
        return refused(OverlayRefusal::TooMany);
    }
    if let Some((id, secret_sha256)) = invite {
        let good = tx.get::<Invites>(*id)?;
        if good.is_none_or(|invite| invite.secret_sha256 != *secret_sha256 || invite.expires <= tx.now) {
            return refused(OverlayRefusal::BadInvite);
        }
        tx.delete::<Invites>(*id);
    }
    let invited = joined || invite.is_some();
    if let Some(via) = member.via.as_ref().filter(|_| !invited)
        && !is_member(tx, via)?
    {
        return refused(OverlayRefusal::NotMember);
    }
    let is_news = known.as_ref().is_none_or(|known| known.serial < member.serial);
    let row = match known.map(|known| (known.standing, known)) {
        Some((Standing::Removed, _)) if !invited => return refused(OverlayRefusal::Gone),
        Some((Standing::Left, _)) if !invited && !is_news => return refused(OverlayRefusal::Gone),
        Some((Standing::In, _)) if !is_news => return Ok(Done::Nothing),
        Some((Standing::In, known)) => Member { via: known.via, since: known.since, ..member.clone() },
        Some(_) | None => Member { since: tx.now, ..member.clone() },
    };
    tx.put::<Members>(&member.name, &Member { standing: Standing::In, ..row });
    Ok(Done::Nothing)
}

/// A cluster may act for a user.
fn give(tx: &mut Transaction<'_>, grant: &OverlayGrant) -> Outcome {
    if !is_member(tx, &grant.cluster)? {
        return refused(OverlayRefusal::NotMember);
    }
    let key = (&grant.cluster, user_text(&grant.user));
    if tx.get::<OverlayGrants>(key.clone())?.is_none()
        && OVERLAY_GRANTS_MAX <= tx.scan_under::<OverlayGrants>(())?.count()
    {
        return refused(OverlayRefusal::TooMany);
    }
    tx.put::<OverlayGrants>(key, &OverlayGrant { since: tx.now, ..grant.clone() });
    Ok(Done::Nothing)
}

/// How the row of a grant names the user: no user has the name `*`.
fn user_text(user: &GrantedUser) -> String {
    match user {
        GrantedUser::One(name) => name.to_string(),
        GrantedUser::All => "*".to_string(),
    }
}

pub(super) fn refused(why: OverlayRefusal) -> Outcome {
    Err(Reject::Overlay(why).into())
}
