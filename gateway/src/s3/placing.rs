//! In which cluster a new bucket is made: the one that its creator names; else here, unless this cluster is above a mark
//! and another one that offers room takes it.

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
        let sent = |why| Onward { kind: Kind::NewBucket(why), ..onward.clone() };
        if let Wanted::In(name) = &wanted
            && let Some(link) = overlay.cluster(name)
        {
            let answer = forward(&link, sent(PlacedWhy::Asked), body_of(bytes)).await?;
            if answer.status.is_success() {
                overlay.note_made(&link, onward.bucket).await;
            }
            return Ok(Way::There(answer));
        }
        if let Wanted::Anywhere = wanted
            && let Some(why) = overlay.pressed()
            && overlay.reserves(onward.bucket).is_none()
            && !self.is_here(onward.bucket).await?
        {
            for link in overlay.with_room() {
                match forward(&link, sent(why), body_of(bytes.clone())).await {
                    Ok(answer) if is_taken(&answer) => {
                        metrics::counter!("fluffy_overlay_placed_total", "cluster" => link.name.to_string(), "why" => why.name()).increment(1);
                        if answer.status.is_success() {
                            overlay.note_made(&link, onward.bucket).await;
                        }
                        return Ok(Way::There(answer));
                    }
                    Ok(answer) => {
                        tracing::debug!(cluster = %link.name, status = %answer.status, "a new bucket is not taken");
                    }
                    Err(error) if error.code() != Code::InternalError => {
                        tracing::debug!(cluster = %link.name, %error, "a new bucket is not taken");
                    }
                    // It may be there now.
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Way::Here(body_of(bytes)))
    }
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
