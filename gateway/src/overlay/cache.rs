//! Hot objects of other clusters in memory.
//!
//! What always holds: the home is asked at every read whether the object is still the one that is here, and whether the
//! requester may read it; only bytes are taken from here. An entry is at most an eighth of the budget.
//!
//! While the home is away, and where the bucket allows that, a requester whom the home let read this object a short while
//! ago reads it from here ([`Stale`]). Who that was is remembered by [`Reader`].

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::meta::model::Etag;
use consensus::meta::names::{BucketName, ClusterName};
use fabric::limits::OVERLAY_READS_MAX;
use futures::StreamExt as _;
use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, IF_NONE_MATCH, LAST_MODIFIED, RANGE, VARY,
    WARNING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};
use lru::LruCache;

use crate::data::segment::{Segment, Weigh};
use crate::s3::auth::Claimed;
use crate::s3::conditions::{self, Verdict};
use crate::s3::request::header_text;
use crate::s3::response::{ByteStream, Response, ResponseBody};
use crate::s3::time::parse_http_date;
use crate::s3::{Code, S3Result, range};

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

/// How headers with keys of customers begin.
const CUSTOMER_KEY: &str = "x-amz-server-side-encryption-customer-";

/// Objects by place. Shared; every call is short.
pub struct ObjectCache {
    entries: Mutex<Segment<Place, Entry>>,
    entry_bytes_max: usize,
    /// When a home let somebody read something, and what that was.
    reads: Mutex<LruCache<(Place, Reader), Read>>,
}

/// A requester, as far as policies look at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reader {
    /// Whose signature the request has, if it has one.
    pub claimed: Option<Claimed>,
    /// From where it comes.
    pub source: IpAddr,
    /// Whether that was over TLS.
    pub secure: bool,
    /// What it says of itself.
    pub agent: [Option<HeaderValue>; 2],
}

/// That a home let somebody read an object.
#[derive(Debug, Clone)]
struct Read {
    etag: HeaderValue,
    /// Monotonic time.
    at: Duration,
}

/// An object that may be out of date.
pub struct Stale {
    entry: Entry,
    age: Duration,
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
        Place::named(cluster, bucket, head)
    }

    /// Of a request that asks for an object, or a part of it, or whether it is another one than the requester has.
    pub fn of_any(
        cluster: &ClusterName,
        bucket: &BucketName,
        is_read: bool,
        head: &request::Parts,
    ) -> Option<Place> {
        let is_customers = head.headers.keys().any(|name| name.as_str().starts_with(CUSTOMER_KEY));
        if !is_read || is_customers { None } else { Place::named(cluster, bucket, head) }
    }

    fn named(cluster: &ClusterName, bucket: &BucketName, head: &request::Parts) -> Option<Place> {
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
        let reads = NonZeroUsize::new(OVERLAY_READS_MAX).unwrap_or(NonZeroUsize::MIN);
        ObjectCache {
            entries: Mutex::new(Segment::new(bytes)),
            entry_bytes_max: bytes / 8,
            reads: Mutex::new(LruCache::new(reads)),
        }
    }

    /// A home answered a reader at this time. Whom it refuses does not read it from here any more.
    pub fn note(&self, place: &Place, reader: Reader, answer: &Response, at: Duration) {
        let mut reads = self.lock_reads();
        let was_read = matches!(answer.status, StatusCode::OK | StatusCode::NOT_MODIFIED);
        match answer.headers.get(ETAG).filter(|_| was_read) {
            Some(etag) => {
                reads.put((place.clone(), reader), Read { etag: etag.clone(), at });
            }
            None => {
                reads.pop(&(place.clone(), reader));
            }
        }
        drop(reads);
        if answer.status == StatusCode::NOT_FOUND {
            self.lock().remove(place);
        }
    }

    /// What is here of an object that the home let this reader read at most so long ago.
    pub fn stale(&self, place: &Place, reader: &Reader, now: Duration, bound: Duration) -> Option<Stale> {
        // What was asked for with checksums and without is the same object.
        [place.with_checksum, !place.with_checksum].into_iter().find_map(|with_checksum| {
            let place = Place { with_checksum, ..place.clone() };
            let read = self.lock_reads().get(&(place.clone(), reader.clone())).cloned()?;
            let age = now.saturating_sub(read.at);
            let entry = self.get(&place).filter(|entry| entry.headers.get(ETAG) == Some(&read.etag))?;
            (age <= bound).then_some(Stale { entry, age })
        })
    }

    /// The headers of what is here are these from now on.
    fn renew(&self, place: &Place, entry: &Entry, headers: HeaderMap) {
        let mut entries = self.lock();
        if entries.contains(place) {
            entries.put(place.clone(), Entry { headers, body: entry.body.clone() });
        }
    }

    fn lock_reads(&self) -> MutexGuard<'_, LruCache<(Place, Reader), Read>> {
        // Each change is a single call, so poison means nothing here.
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut body = BytesMut::with_capacity(usize::try_from(bytes).unwrap_or_default());
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
    fn answer(&self, mut said: HeaderMap) -> Response {
        let of_body = |name: &HeaderName| *name == ACCEPT_RANGES || is_checksum(name);
        for (name, value) in self.headers.iter().filter(|(name, _)| of_body(name)) {
            said.insert(name.clone(), value.clone());
        }
        said.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        let mut response = Response::ok();
        response.headers = said;
        response.bytes(self.body.clone())
    }
}

impl ObjectCache {
    /// The same, which is kept.
    pub fn confirmed(&self, place: &Place, entry: &Entry, said: HeaderMap) -> Response {
        let answer = entry.answer(said);
        self.renew(place, entry, answer.headers.clone());
        answer
    }
}

impl Stale {
    /// The answer to a GET or HEAD: whole or in part, or that the requester has it.
    pub fn answer(&self, head: &request::Parts) -> S3Result<Response> {
        let text = |name: &HeaderName| self.entry.headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text(&ETAG).and_then(|text| text.parse::<Etag>().ok());
        let modified = text(&LAST_MODIFIED).and_then(parse_http_date);
        let (Some(etag), Some(modified)) = (etag, modified) else {
            return Err(Code::ServiceUnavailable.into());
        };
        let size = self.entry.body.len() as u64;
        let mut response = Response::ok();
        response.headers = self.headers();
        match conditions::decide_on(&conditions::of_read(&head.headers)?, &etag, modified) {
            Verdict::Failed => return Err(Code::PreconditionFailed.into()),
            Verdict::NotModified => {
                response.status = StatusCode::NOT_MODIFIED;
                response.headers.remove(CONTENT_LENGTH);
                return Ok(response);
            }
            Verdict::Proceed => {}
        }
        let if_range = header_text(&head.headers, "if-range")?;
        let applies = if_range.is_none_or(|text| match parse_http_date(text) {
            Some(since) => modified <= since,
            None => text.parse() == Ok(etag),
        });
        let range = header_text(&head.headers, "range")?.filter(|_| applies);
        let bytes = match range::parse(range, size)? {
            None => self.entry.body.clone(),
            Some(range) => {
                response.status = StatusCode::PARTIAL_CONTENT;
                response = response.header(CONTENT_RANGE, range.content_range(size));
                let start = range.start as usize;
                self.entry.body.slice(start..start + range.bytes as usize)
            }
        };
        if response.status == StatusCode::PARTIAL_CONTENT || !head.headers.contains_key("x-amz-checksum-mode")
        {
            let checksums: Vec<HeaderName> =
                response.headers.keys().filter(|name| is_checksum(name)).cloned().collect();
            checksums.iter().for_each(|name| drop(response.headers.remove(name)));
        }
        response.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Ok(response.bytes(bytes))
    }

    /// Those of the last answer of the home, without what was about that answer or another page.
    fn headers(&self) -> HeaderMap {
        let of_answer = |name: &HeaderName| {
            *name == DATE || *name == VARY || name.as_str().starts_with("access-control-")
        };
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in self.entry.headers.iter().filter(|(name, _)| !of_answer(name)) {
            headers.append(name.clone(), value.clone());
        }
        headers.insert(AGE, HeaderValue::from(self.age.as_secs()));
        headers.insert(WARNING, HeaderValue::from_static("110 fluffy \"Response is Stale\""));
        headers
    }
}

fn is_checksum(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-amz-checksum-")
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

    fn reader(agent: &'static str) -> Reader {
        let agent = [Some(HeaderValue::from_static(agent)), None];
        Reader { claimed: None, source: IpAddr::from([127, 0, 0, 1]), secure: false, agent }
    }

    /// A cache with an object that a reader read after a second.
    async fn with_one(place: &Place) -> Arc<ObjectCache> {
        let cache = Arc::new(ObjectCache::new(8 * 1000));
        let bytes = futures::stream::iter([Ok(Bytes::from("0123456789"))]).boxed();
        let response = Response::ok()
            .header(ETAG, "\"0123456789abcdef0123456789abcdef\"")
            .header(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT")
            .header(DATE, "Sun, 06 Nov 1994 08:49:37 GMT")
            .amz("x-amz-checksum-crc32", "AAAAAA==")
            .amz("access-control-allow-origin", "https://page")
            .stream(10, bytes);
        cache.note(place, reader("a"), &response, Duration::from_secs(1));
        let ResponseBody::Stream { stream, .. } = cache.keep(place.clone(), response).body else {
            return cache;
        };
        stream.collect::<Vec<_>>().await;
        cache
    }

    #[tokio::test]
    async fn only_who_read_it_a_short_while_ago_reads_it_from_memory() {
        let bound = Duration::from_secs(10);
        let at = Duration::from_secs;
        let (plain, with_checksum) =
            (place("/photos/k", None).unwrap(), place("/photos/k", Some("x-amz-checksum-mode")).unwrap());
        let cache = with_one(&plain).await;
        assert_eq!(cache.stale(&plain, &reader("a"), at(11), bound).unwrap().age, at(10));
        assert!(cache.stale(&with_checksum, &reader("a"), at(11), bound).is_some());
        assert!(cache.stale(&plain, &reader("a"), at(12), bound).is_none());
        assert!(cache.stale(&plain, &reader("b"), at(2), bound).is_none());
        assert!(cache.stale(&place("/photos/other", None).unwrap(), &reader("a"), at(2), bound).is_none());
        // The home refuses, or has another object.
        cache.note(&plain, reader("a"), &Response::new(StatusCode::FORBIDDEN), at(3));
        assert!(cache.stale(&plain, &reader("a"), at(4), bound).is_none());
        let cache = with_one(&plain).await;
        cache.note(&plain, reader("a"), &Response::ok().header(ETAG, "\"other\""), at(3));
        assert!(cache.stale(&plain, &reader("a"), at(4), bound).is_none());
        let cache = with_one(&plain).await;
        cache.note(&plain, reader("b"), &Response::new(StatusCode::NOT_FOUND), at(3));
        assert!(cache.stale(&plain, &reader("a"), at(4), bound).is_none());
    }

    #[tokio::test]
    async fn stale_answers_know_conditions_and_ranges() {
        let place = place("/photos/k", None).unwrap();
        let cache = with_one(&place).await;
        let answer = |name: &'static str, value: &'static str| {
            let request = Request::get("/photos/k").header(name, value).body(()).unwrap();
            let now = Duration::from_secs(3);
            cache.stale(&place, &reader("a"), now, now).unwrap().answer(&request.into_parts().0)
        };
        let (etag, date) = ("\"0123456789abcdef0123456789abcdef\"", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (name, value, status, length) in [
            ("x-nothing", "", 200, Some("10")),
            ("range", "bytes=2-4", 206, Some("3")),
            ("range", "bytes=-1", 206, Some("1")),
            ("if-none-match", etag, 304, None),
            ("if-modified-since", date, 304, None),
            ("if-match", etag, 200, Some("10")),
        ] {
            let answer = answer(name, value).unwrap();
            let told = answer.headers.get(CONTENT_LENGTH).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status.as_u16(), told), (status, length), "{name} {value}");
            assert_eq!(answer.headers[AGE], "2");
            assert_eq!(answer.headers[WARNING], "110 fluffy \"Response is Stale\"");
            for name in ["date", "access-control-allow-origin"] {
                assert!(!answer.headers.contains_key(name), "{name}");
            }
        }
        assert!(
            answer("x-amz-checksum-mode", "ENABLED").unwrap().headers.contains_key("x-amz-checksum-crc32")
        );
        assert!(!answer("x-nothing", "").unwrap().headers.contains_key("x-amz-checksum-crc32"));
        for (name, value, code) in [
            ("if-match", "\"00000000000000000000000000000000\"", Code::PreconditionFailed),
            ("range", "bytes=10-", Code::InvalidRange),
        ] {
            assert_eq!(answer(name, value).err().unwrap().code(), code, "{name}");
        }
    }
}
