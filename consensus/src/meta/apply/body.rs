//! Bodies of versions: stored, shared by copies, moved out of the metadata, released.

use bytes::Bytes;
use fabric::ids::Stamp;
use fabric::limits::{INLINE_BYTES_MAX, PACK_PAYLOADS_MAX};

use super::extent::Copies;
use super::transaction::Transaction;
use super::{Outcome, Stop, extent, malformed};
use crate::meta::command::{Done, NewBody, PackInline, PackedPayload, Reject};
use crate::meta::model::{Body, BodyRow, Garbage, Home, Object, Slice, Version};
use crate::meta::sealing::sealed;
use crate::meta::store::Fault;
use crate::meta::tables::{Bodies, Descending, Inline, Objects, Versions};

/// Checks a body that comes with a write.
pub(super) fn check_new(tx: &Transaction<'_>, home: &Home, body: &NewBody) -> Result<Copies, Stop> {
    match body {
        NewBody::Inline(payload) if INLINE_BYTES_MAX < payload.len() => {
            malformed("the inline body is too large")
        }
        NewBody::Inline(_) => Ok(Copies::default()),
        NewBody::Extent(extent) => extent::check_new(tx, home, extent),
    }
}

/// Stores a body that was checked, for the version `stamp` of `home`.
pub(super) fn store(
    tx: &mut Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    body: &NewBody,
    copies: &Copies,
) -> Result<Body, Fault> {
    match body {
        NewBody::Inline(payload) => Ok(store_inline(tx, home, stamp, payload)),
        NewBody::Extent(extent) => {
            extent::name(tx, home, extent, 1, copies)?;
            Ok(Body::Extent { id: extent.id, home: None })
        }
    }
}

fn store_inline(tx: &mut Transaction<'_>, home: &Home, stamp: Stamp, payload: &Bytes) -> Body {
    if payload.is_empty() {
        return Body::Empty;
    }
    tx.put::<Inline>((home, stamp), payload);
    tx.cluster.inline_bytes += payload.len() as u64;
    Body::Inline(stamp)
}

/// Stores a body of slices whose extents are named already: each slice takes over one reference.
pub(super) fn store_slices(tx: &mut Transaction<'_>, home: &Home, stamp: Stamp, slices: Vec<Slice>) -> Body {
    tx.put::<Bodies>((home, stamp), &BodyRow { slices, references: 1 });
    Body::Slices { id: stamp, home: None }
}

/// Gives the body `source` of a version of `from` to the version `stamp` of `to` as well. One that is encrypted stays as
/// it is.
pub(super) fn share(
    tx: &mut Transaction<'_>,
    from: &Home,
    source: &Body,
    to: &Home,
    stamp: Stamp,
) -> Result<Body, Fault> {
    // A copy names the first owner, never another copy; its own rows it does not name.
    let named = |home: &Option<Home>| home.clone().unwrap_or_else(|| from.clone());
    let foreign = |home: Home| (home != *to).then_some(home);
    match source {
        Body::Empty => Ok(Body::Empty),
        Body::Inline(id) => {
            let payload = tx.get::<Inline>((from, *id))?.ok_or_else(|| missing("payload", *id))?;
            Ok(store_inline(tx, to, stamp, &payload))
        }
        Body::Extent { id, home } => {
            let home = named(home);
            extent::retain(tx, &home, *id)?;
            Ok(Body::Extent { id: *id, home: foreign(home) })
        }
        Body::Slices { id, home } => {
            let home = named(home);
            let mut row = tx.get::<Bodies>((&home, *id))?.ok_or_else(|| missing("body", *id))?;
            row.references += 1;
            tx.put::<Bodies>((&home, *id), &row);
            Ok(Body::Slices { id: *id, home: foreign(home) })
        }
        Body::Packed { id, offset, home } => {
            let home = named(home);
            extent::retain(tx, &home, *id)?;
            Ok(Body::Packed { id: *id, offset: *offset, home: foreign(home) })
        }
        Body::Sealed { sealing, body } => {
            let shared = share(tx, from, body, to, stamp)?;
            Ok(sealed(Some(sealing.clone()), shared))
        }
    }
}

/// Releases the body of a version of `own` that is going away.
pub(super) fn release(tx: &mut Transaction<'_>, own: &Home, object: &Object) -> Result<(), Fault> {
    match object.body.place() {
        Body::Empty => Ok(()),
        Body::Inline(id) => {
            tx.delete::<Inline>((own, *id));
            tx.cluster.inline_bytes = tx.cluster.inline_bytes.saturating_sub(object.stored_bytes());
            Ok(())
        }
        Body::Extent { id, home } | Body::Packed { id, home, .. } => {
            extent::release(tx, home.as_ref().unwrap_or(own), *id)
        }
        Body::Slices { id, home } => release_slices(tx, home.as_ref().unwrap_or(own), *id),
        Body::Sealed { .. } => Err(Fault::new("release body", format!("{own:?} is sealed twice"))),
    }
}

fn release_slices(tx: &mut Transaction<'_>, home: &Home, id: Stamp) -> Result<(), Fault> {
    let mut row = tx.get::<Bodies>((home, id))?.ok_or_else(|| missing("body", id))?;
    row.references = row.references.checked_sub(1).ok_or_else(|| missing("body", id))?;
    if row.references != 0 {
        tx.put::<Bodies>((home, id), &row);
        return Ok(());
    }
    tx.delete::<Bodies>((home, id));
    let extents: Vec<_> =
        row.slices.iter().filter(|slice| slice.bytes != 0).map(|slice| slice.extent).collect();
    if !extents.is_empty() {
        tx.add_garbage(home.bucket, &Garbage::Body { home: home.clone(), extents });
    }
    Ok(())
}

/// Moves inline payloads into an extent. Each of them is one reference to it.
pub(super) fn pack(tx: &mut Transaction<'_>, command: &PackInline) -> Outcome {
    let PackInline { home, extent, payloads } = command;
    if PACK_PAYLOADS_MAX < payloads.len() {
        return malformed("too many payloads");
    }
    let place = |payload: &PackedPayload| (payload.key.clone(), payload.version);
    if payloads.windows(2).any(|pair| place(&pair[1]) <= place(&pair[0])) {
        return malformed("the payloads do not ascend");
    }
    let copies = extent::check_new(tx, home, extent)?;
    let mut moving = Vec::new();
    for payload in payloads {
        let own = Home { bucket: home.bucket, key: payload.key.clone() };
        let Some(version) = inline_version(tx, &own, payload.version)? else { continue };
        if extent.bytes.saturating_sub(payload.offset) < version.object().stored_bytes() {
            return malformed("a payload ends after the extent");
        }
        moving.push((own, payload, version));
    }
    if moving.is_empty() {
        return Err(Reject::SourceChanged.into());
    }

    extent::name(tx, home, extent, moving.len() as u32, &copies)?;
    for (own, payload, version) in moving {
        tx.delete::<Inline>((&own, payload.version));
        let packed = version.object();
        tx.cluster.inline_bytes = tx.cluster.inline_bytes.saturating_sub(packed.stored_bytes());
        let foreign = (own != *home).then(|| home.clone());
        let place = Body::Packed { id: extent.id, offset: payload.offset, home: foreign };
        let body = sealed(packed.body.sealing().cloned(), place);
        match version {
            InlineVersion::Current(object) => tx.put::<Objects>(&own, &Object { body, ..object }),
            InlineVersion::Other(object) => {
                let key = (&own, Descending(object.stamp));
                tx.put::<Versions>(key, &Version::Object(Object { body, ..object }));
            }
        }
    }
    Ok(Done::Nothing)
}

/// A version whose body is inline, and the table that has it.
enum InlineVersion {
    Current(Object),
    Other(Object),
}

impl InlineVersion {
    fn object(&self) -> &Object {
        match self {
            InlineVersion::Current(object) | InlineVersion::Other(object) => object,
        }
    }
}

fn inline_version(tx: &Transaction<'_>, own: &Home, stamp: Stamp) -> Result<Option<InlineVersion>, Fault> {
    let version = match tx.get::<Objects>(own)?.filter(|object| object.stamp == stamp) {
        Some(object) => Some(InlineVersion::Current(object)),
        None => match tx.get::<Versions>((own, Descending(stamp)))? {
            Some(Version::Object(object)) => Some(InlineVersion::Other(object)),
            Some(Version::DeleteMarker { .. }) | None => None,
        },
    };
    Ok(version.filter(|version| *version.object().body.place() == Body::Inline(stamp)))
}

fn missing(what: &str, id: Stamp) -> Fault {
    Fault::new("read body", format!("{what} {id} has no row"))
}
