//! Hot objects of other clusters in memory.
//!
//! What always holds: the home is asked at every read whether the object is still the one that is here, and whether the
//! requester may read it; only bytes are taken from here. An entry is at most an eighth of the budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use consensus::meta::names::{BucketName, ClusterName};
use futures::StreamExt as _;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};

use crate::data::segment::{Segment, Weigh};
use crate::s3::response::{ByteStream, Response, ResponseBody};

/// Parameters of a GET that leave the bytes of the answer as they are; those of signatures are beside them.
const HARMLESS: [&str; 1] = ["x-id"];
/// Headers of a GET with which another answer is wanted, or the bytes are not for others.
const SPECIAL: [&str; 6] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
];

/// Objects by place. Shared; every call is short.
pub struct ObjectCache {
    entries: Mutex<Segment<Place, Entry>>,
    entry_bytes_max: usize,
}

/// An object, as a GET names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    cluster: ClusterName,
    bucket: BucketName,
    path: String,
    version: Option<String>,
    /// Whether checksums are told with it.
    with_checksum: bool,
}

/// What a GET was answered with.
#[derive(Debug, Clone)]
pub struct Entry {
    headers: HeaderMap,
    body: Bytes,
}

impl Weigh for Entry {
    fn bytes(&self) -> usize {
        // What a map of headers takes is guessed.
        self.body.len() + 64 * self.headers.len()
    }
}

impl Place {
    /// Of a request that asks for a whole object and nothing else; `None`: it asks for something else.
    pub fn of(
        cluster: &ClusterName,
        bucket: &BucketName,
        is_get_object: bool,
        head: &request::Parts,
    ) -> Option<Place> {
        let special =
            head.headers.contains_key(RANGE) || SPECIAL.iter().any(|name| head.headers.contains_key(*name));
        if !is_get_object || head.method != Method::GET || special {
            return None;
        }
        let mut version = None;
        for pair in head.uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let of_signature = name.to_ascii_lowercase().starts_with("x-amz-");
            match name {
                "versionId" => version = Some(value.to_string()),
                name if of_signature || HARMLESS.contains(&name) => {}
                _ => return None,
            }
        }
        Some(Place {
            cluster: cluster.clone(),
            bucket: bucket.clone(),
            path: head.uri.path().to_string(),
            version,
            with_checksum: head.headers.contains_key("x-amz-checksum-mode"),
        })
    }
}

impl ObjectCache {
    /// A cache of at most `bytes`; 0 keeps nothing.
    pub fn new(bytes: usize) -> ObjectCache {
        ObjectCache { entries: Mutex::new(Segment::new(bytes)), entry_bytes_max: bytes / 8 }
    }

    /// What is here.
    pub fn get(&self, place: &Place) -> Option<Entry> {
        self.lock().get(place).cloned()
    }

    /// The answer to a read, which is kept when all of it came.
    pub fn keep(self: &Arc<Self>, place: Place, mut response: Response) -> Response {
        let ResponseBody::Stream { bytes, stream } = response.body else { return response };
        let worth = response.status == StatusCode::OK && response.headers.contains_key(ETAG);
        response.body = match worth && bytes <= self.entry_bytes_max as u64 {
            false => ResponseBody::Stream { bytes, stream },
            true => {
                let entry = Entry { headers: response.headers.clone(), body: Bytes::new() };
                ResponseBody::Stream { bytes, stream: self.collect(place, entry, bytes, stream) }
            }
        };
        response
    }

    fn collect(self: &Arc<Self>, place: Place, entry: Entry, bytes: u64, stream: ByteStream) -> ByteStream {
        let (cache, mut taken) = (self.clone(), Some((place, entry)));
        let mut body = BytesMut::new();
        stream
            .inspect(move |piece| {
                let Ok(piece) = piece else { return };
                body.extend_from_slice(piece);
                if body.len() as u64 == bytes
                    && let Some((place, entry)) = taken.take()
                {
                    cache.put(place, Entry { body: std::mem::take(&mut body).freeze(), ..entry });
                }
            })
            .boxed()
    }

    fn put(&self, place: Place, entry: Entry) {
        let mut entries = self.lock();
        entries.put(place, entry);
        while entries.overflow().is_some() {}
        metrics::gauge!("fluffy_overlay_cache_bytes").set(entries.bytes() as f64);
    }

    fn lock(&self) -> MutexGuard<'_, Segment<Place, Entry>> {
        // A panic between two lines of arithmetic leaves a cache that is still only a cache.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Asks only for another object than this.
    pub fn ask_for_others(&self, headers: &mut HeaderMap) {
        if let Some(etag) = self.headers.get(ETAG) {
            headers.insert(IF_NONE_MATCH, etag.clone());
        }
    }

    /// The answer, after the home said that it is still the same object: with its headers, which may have changed.
    pub fn answer(&self, mut said: HeaderMap) -> Response {
        let of_body =
            |name: &HeaderName| *name == ACCEPT_RANGES || name.as_str().starts_with("x-amz-checksum-");
        for (name, value) in self.headers.iter().filter(|(name, _)| of_body(name)) {
            said.insert(name.clone(), value.clone());
        }
        said.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        let mut response = Response::ok();
        response.headers = said;
        response.bytes(self.body.clone())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;

    fn place(uri: &str, header: Option<&'static str>) -> Option<Place> {
        let mut request = Request::get(uri).body(()).unwrap();
        if let Some(name) = header {
            request.headers_mut().insert(name, HeaderValue::from_static("x"));
        }
        let (head, ()) = request.into_parts();
        Place::of(&"east".parse().unwrap(), &"photos".parse().unwrap(), true, &head)
    }

    #[test]
    fn only_whole_objects_are_kept() {
        let plain = place("/photos/k", None);
        assert!(plain.is_some());
        assert_eq!(place("/photos/k?x-id=GetObject&X-Amz-Signature=1", None), plain);
        assert_ne!(place("/photos/k?versionId=1", None), plain);
        assert_ne!(place("/photos/k", Some("x-amz-checksum-mode")), plain);
        for special in ["/photos/k?partNumber=1", "/photos/k?response-content-type=x"] {
            assert_eq!(place(special, None), None, "{special}");
        }
        for special in ["range", "if-match", "x-amz-server-side-encryption-customer-key"] {
            assert_eq!(place("/photos/k", Some(special)), None, "{special}");
        }
    }

    #[tokio::test]
    async fn what_came_whole_is_here_until_others_need_the_room() {
        let cache = Arc::new(ObjectCache::new(8 * 1000));
        let read = async |path: &str, pieces: &[&'static str], bytes: u64| {
            let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from(*piece))).collect();
            let mut response =
                Response::ok().header(ETAG, "\"e\"").stream(bytes, futures::stream::iter(pieces).boxed());
            response = cache.keep(place(path, None).unwrap(), response);
            let ResponseBody::Stream { stream, .. } = response.body else { return };
            stream.collect::<Vec<_>>().await;
        };
        read("/photos/a", &["he", "llo"], 5).await;
        read("/photos/half", &["he"], 5).await;
        read("/photos/large", &["x"], 1001).await;
        let entry = cache.get(&place("/photos/a", None).unwrap()).unwrap();
        assert_eq!(entry.body, "hello");
        for absent in ["/photos/half", "/photos/large"] {
            assert!(cache.get(&place(absent, None).unwrap()).is_none(), "{absent}");
        }
        let mut said = HeaderMap::new();
        said.insert("x-amz-meta-new", HeaderValue::from_static("1"));
        let answer = entry.answer(said);
        assert_eq!((answer.status, answer.headers[CONTENT_LENGTH].to_str().unwrap()), (StatusCode::OK, "5"));
        for number in 0..2000 {
            read(&format!("/photos/{number}"), &["hello"], 5).await;
        }
        assert!(cache.get(&place("/photos/a", None).unwrap()).is_none());
        assert!(cache.lock().bytes() <= 8 * 1000);
    }
}
