//! In which cluster a new bucket is made: the one that its creator names; else here, unless this cluster is above a mark
//! and another one that offers room takes it.

use std::sync::Arc;

use bytes::Bytes;
use consensus::meta::model::PlacedWhy;
use http::header::CONTENT_LENGTH;
use http::{StatusCode, request};
use http_body::Body as _;

use super::error::{Code, S3Result};
use super::federation::Way;
use super::response::Response;
use super::service::S3Service;
use super::xml::create_bucket_location;
use crate::http::{ResponseBody as HttpBody, collect};
use crate::overlay::Overlay;
use crate::overlay::forward::{Kind, Onward, body_of, forward};
use crate::overlay::link::Link;

/// A document that says where a bucket is to be is not longer.
const LOCATION_BYTES_MAX: usize = 64 << 10;

/// What a request says of where its bucket is to be.
enum Wanted {
    /// Nothing.
    Anywhere,
    /// In the cluster of this name.
    In(String),
    /// It is refused where it is read in earnest.
    Unreadable,
}

impl S3Service {
    /// Makes a bucket elsewhere, or has it made here.
    pub(super) async fn place(&self, overlay: &Overlay, onward: Onward<'_>, body: HttpBody) -> S3Result<Way> {
        let (wanted, bytes) = match read(onward.head, body).await? {
            Ok(read) => read,
            Err(body) => return Ok(Way::Here(body)),
        };
        if let Wanted::In(name) = &wanted
            && let Some(link) = overlay.cluster(name)
        {
            return made_at(overlay, &link, onward, PlacedWhy::Asked, bytes).await.map(Way::There);
        }
        if let Wanted::Anywhere = wanted
            && let Some(why) = overlay.pressed()
            && overlay.reserves(onward.bucket).is_none()
            && !self.is_here(onward.bucket).await?
            && let Some(answer) = made_where_room_is(overlay, &onward, why, &bytes).await?
        {
            return Ok(Way::There(answer));
        }
        Ok(Way::Here(body_of(bytes)))
    }
}

/// Has a bucket made in the first of the clusters that offer room and take it; `None`: none does.
async fn made_where_room_is(
    overlay: &Overlay,
    onward: &Onward<'_>,
    why: PlacedWhy,
    bytes: &Bytes,
) -> S3Result<Option<Response>> {
    for link in overlay.with_room() {
        let (cluster, reason) = (link.name.to_string(), why.name());
        match made_at(overlay, &link, onward.clone(), why, bytes.clone()).await {
            Ok(answer) if is_taken(&answer) => {
                metrics::counter!("fluffy_overlay_placed_total", "cluster" => cluster, "why" => reason)
                    .increment(1);
                return Ok(Some(answer));
            }
            Ok(answer) => tracing::debug!(cluster, status = %answer.status, "a new bucket is not taken"),
            // It may be there now.
            Err(error) if error.code() == Code::InternalError => return Err(error),
            Err(error) => tracing::debug!(cluster, %error, "a new bucket is not taken"),
        }
    }
    Ok(None)
}

/// Has a bucket made in another cluster, and knows of it from then on.
async fn made_at(
    overlay: &Overlay,
    link: &Arc<Link>,
    onward: Onward<'_>,
    why: PlacedWhy,
    bytes: Bytes,
) -> S3Result<Response> {
    let bucket = onward.bucket;
    let answer = forward(link, Onward { kind: Kind::NewBucket(why), ..onward }, body_of(bytes)).await?;
    if answer.status.is_success() {
        overlay.note_made(link, bucket).await;
    }
    Ok(answer)
}

/// Whether the answer is good for the client: the bucket is there, or can be nowhere. What is refused for who asks, or
/// for lack of anything, is asked of the next.
fn is_taken(answer: &Response) -> bool {
    !matches!(
        answer.status,
        StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE
    )
}

/// What the document of a new bucket wants, and its bytes. What is too long for such a document is not read here.
async fn read(head: &request::Parts, body: HttpBody) -> S3Result<Result<(Wanted, Bytes), HttpBody>> {
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let bytes = match length {
        None if body.is_end_stream() => Bytes::new(),
        Some(bytes) if bytes <= LOCATION_BYTES_MAX => {
            collect(body, LOCATION_BYTES_MAX).await.map_err(|error| Code::IncompleteBody.caused(error))?
        }
        _ => return Ok(Err(body)),
    };
    let wanted = match create_bucket_location(&bytes) {
        Ok(Some(location)) => Wanted::In(location),
        Ok(None) => Wanted::Anywhere,
        Err(_) => Wanted::Unreadable,
    };
    Ok(Ok((wanted, bytes)))
}
