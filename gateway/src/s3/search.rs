//! Searches: what is asked, where the requester may look, and how the answer looks.
//!
//! What always holds: of an object that the requester might not see in a listing nothing is told, not even in a
//! continuation token, which is sealed. Whoever may list a bucket whatever the prefix sees all of it; where policies
//! look at the prefix each hit is asked about.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::client::{Meta, ask};
use consensus::meta::model::Bucket;
use consensus::meta::names::{BucketName, ClusterName, ObjectKey, UserName};
use consensus::meta::query::{Answer, Query as MetaQuery};
use fabric::env::Env;
use fabric::limits::LIST_KEYS_MAX;
use serde_json::{Value, json};
use storage::index::client::Searches;
use storage::index::language::{Search, SyntaxError};
use storage::index::matcher::Matcher;
use storage::index::wire::{BUCKETS_MAX, Hit, Position, SearchFailure, SearchPage, SearchRequest, Sort};

use super::access::{Access, Listing};
use super::error::{Code, S3Error, S3Result};
use super::listing::{Encoding, etag, page_size, user};
use super::op::unexpected;
use super::request::Query;
use super::time::{Iso8601, iso8601};
use super::xml::XmlWriter;
use crate::overlay::wire::Searched;
use crate::secrets::ClusterKey;

const TOKEN_LABEL: &str = "fluffy search token 1";
const TOKEN_VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const WRONG_TOKEN: &str = "The continuation token is not one of this search";
/// Parameters that mean something here, and so are sent once.
const PARAMETERS: &[&str] = &["q", "as-of", "sort", "order", "format", "owned"];

/// What answers searches.
pub struct Searching {
    nodes: Arc<dyn Searches>,
    token_key: [u8; 32],
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the listings of S3.
    Xml(Encoding),
    /// As JSON.
    Json,
}

/// What is asked.
#[derive(Debug)]
pub struct Asked {
    query: String,
    search: Search,
    limit: u32,
    token: Option<String>,
    as_of: u64,
    /// The same of other clusters.
    as_of_others: BTreeMap<ClusterName, u64>,
    sort: Sort,
    descending: bool,
    owned: bool,
    /// How the answer is written.
    pub format: Format,
}

/// A bucket where the requester may look, and how far.
struct Place {
    bucket: Arc<Bucket>,
    listing: Listing,
}

/// Hits that may be shown.
pub struct Found {
    index: u64,
    hits: Vec<Shown>,
    token: Option<String>,
    silent: Vec<ClusterName>,
}

/// A hit with what is told of its bucket.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Name of the bucket.
    pub bucket: BucketName,
    /// Who owns it.
    pub owner: UserName,
    /// Where it is at home, if that is not here.
    pub cluster: Option<ClusterName>,
    /// The object.
    pub hit: Hit,
}

/// Who looks where: in one bucket or in all, as far as that was granted.
pub struct Looking<'a> {
    /// What the requester may do.
    pub access: &'a Access,
    /// `None`: in all.
    pub bucket: Option<Arc<Bucket>>,
    /// Whether the requester may act in a bucket at all, by way of whom it asks.
    pub granted: &'a (dyn Fn(&BucketName) -> bool + Send + Sync),
}

impl Asked {
    /// Reads the parameters, in the cluster of this region.
    pub fn parse(query: &Query, region: &str) -> S3Result<Asked> {
        for name in PARAMETERS {
            if 1 < query.count(name) {
                return Err(S3Error::argument(name, "", "The parameter is given more than once."));
            }
        }
        let owned = match query.non_empty("owned") {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(S3Error::argument("owned", other, "It is true or false.")),
        };
        let format = match query.non_empty("format") {
            None | Some("xml") => Format::Xml(Encoding::parse(query)?),
            Some("json") => Format::Json,
            Some(other) => return Err(S3Error::argument("format", other, "The formats are xml and json.")),
        };
        let (as_of, as_of_others) = as_of(query.get("as-of").unwrap_or(""), region)?;
        let asked = Asked {
            query: query.get("q").unwrap_or("").to_string(),
            search: Search { words: Vec::new() },
            limit: page_size(query, "max-keys")?,
            token: query.get("continuation-token").map(str::to_string),
            as_of,
            as_of_others,
            sort: Sort::Name,
            descending: false,
            owned,
            format,
        };
        asked.with_order(query.get("sort").unwrap_or(""), query.get("order").unwrap_or(""))
    }

    /// What an operator asks, or another cluster.
    pub fn by_operator(document: &Value, region: &str) -> S3Result<Asked> {
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or("").to_string();
        let number = |name: &str| document.get(name).and_then(Value::as_u64);
        let limit = number("max_keys").unwrap_or(u64::from(LIST_KEYS_MAX)).min(u64::from(LIST_KEYS_MAX));
        let (as_of, as_of_others) = match number("as_of") {
            Some(index) => (index, BTreeMap::new()),
            None => as_of(&text("as_of"), region)?,
        };
        let asked = Asked {
            query: text("query"),
            search: Search { words: Vec::new() },
            limit: limit as u32,
            token: Some(text("continuation_token")).filter(|token| !token.is_empty()),
            as_of,
            as_of_others,
            sort: Sort::Name,
            descending: false,
            owned: document.get("owned").and_then(Value::as_bool).unwrap_or(false),
            format: Format::Json,
        };
        asked.with_order(&text("sort"), &text("order"))
    }

    fn with_order(mut self, sort: &str, order: &str) -> S3Result<Asked> {
        self.sort = match sort {
            "" | "name" => Sort::Name,
            "size" => Sort::Size,
            "modified" => Sort::Modified,
            other => {
                return Err(S3Error::argument("sort", other, "Hits are sorted by name, size or modified."));
            }
        };
        self.descending = match order {
            "" | "asc" => false,
            "desc" => true,
            other => return Err(S3Error::argument("order", other, "The order is asc or desc.")),
        };
        let wrong = |error: SyntaxError| S3Error::argument("q", &self.query, error.to_string());
        let search = Search::parse(&self.query).map_err(wrong)?;
        // What no node could search for is known before one is asked.
        Matcher::new(&search).map_err(wrong)?;
        self.search = search;
        Ok(self)
    }

    /// The same for another cluster, which answers a page of its own.
    pub fn for_others(
        &self,
        cluster: &ClusterName,
        user: UserName,
        source: IpAddr,
        token: Option<String>,
    ) -> Searched {
        Searched {
            as_of: self.as_of_others.get(cluster).copied(),
            user,
            source,
            query: self.query.clone(),
            max_keys: self.limit,
            sort: match self.sort {
                Sort::Name => "name",
                Sort::Size => "size",
                Sort::Modified => "modified",
            }
            .to_string(),
            order: if self.descending { "desc" } else { "asc" }.to_string(),
            owned: self.owned,
            continuation_token: token,
        }
    }

    /// Of which other clusters something is to be seen.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.as_of_others.keys()
    }

    /// Where the page before ended.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Hits at most.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Whether one hit comes before another one of another cluster: own ones first, where they are in order of names.
    pub fn is_before(&self, one: &Shown, other: &Shown) -> bool {
        let value = |shown: &Shown| match self.sort {
            Sort::Name => 0,
            Sort::Size => shown.hit.bytes,
            Sort::Modified => shown.hit.modified,
        };
        match self.descending {
            _ if self.sort == Sort::Name => (one.cluster < other.cluster) != self.descending,
            false => (value(one), &one.cluster) < (value(other), &other.cluster),
            true => (value(other), &other.cluster) < (value(one), &one.cluster),
        }
    }

    /// What a token belongs to: the same search, by the same one, in the same place.
    fn belongs(&self, requester: &str, bucket: Option<&Bucket>) -> Vec<u8> {
        let place = bucket.map_or(0, |bucket| bucket.id.0);
        let order = (self.sort as u8, self.descending, self.owned);
        format!("{place}\0{requester}\0{order:?}\0{}", self.query).into_bytes()
    }
}

impl Searching {
    /// Asks these nodes.
    pub fn new(nodes: Arc<dyn Searches>, cluster_key: &ClusterKey) -> Searching {
        Searching { nodes, token_key: cluster_key.derive(TOKEN_LABEL) }
    }

    /// The nodes.
    pub fn nodes(&self) -> &dyn Searches {
        &*self.nodes
    }

    /// A page of hits that the requester may see, in one bucket or in all.
    pub async fn find(
        &self,
        meta: &dyn Meta,
        env: &dyn Env,
        looking: &Looking<'_>,
        asked: &Asked,
        token: Option<&str>,
    ) -> S3Result<Found> {
        let access = looking.access;
        let belongs = asked.belongs(access.requester(), looking.bucket.as_deref());
        let mut places = Vec::new();
        for bucket in candidates(meta, looking.bucket.clone(), &asked.search).await? {
            if asked.owned && bucket.owner.as_str() != access.requester() || !(looking.granted)(&bucket.name)
            {
                continue;
            }
            match access.listing(&bucket).await? {
                Listing::Nothing => {}
                listing => places.push(Place { bucket, listing }),
            }
        }
        self.page(env, access, places, (asked, token), &belongs).await
    }

    /// The same for who runs the store and may see everything.
    pub async fn find_all(&self, meta: &dyn Meta, env: &dyn Env, asked: &Asked) -> S3Result<Found> {
        let buckets = candidates(meta, None, &asked.search).await?;
        let belongs = asked.belongs("\0", None);
        let numbers: Vec<u64> = numbers(buckets.iter());
        let page = self.ask((asked, asked.token()), numbers, &belongs).await?;
        let by_number: BTreeMap<u64, Arc<Bucket>> =
            buckets.into_iter().map(|bucket| (bucket.id.0, bucket)).collect();
        let hits = page.hits.into_iter();
        let hits = hits.filter_map(|hit| Some(shown(by_number.get(&hit.bucket)?, hit))).collect();
        let token = page.next.map(|next| self.seal(env, &next, &belongs));
        Ok(Found { index: page.index, hits, token, silent: Vec::new() })
    }

    async fn page(
        &self,
        env: &dyn Env,
        access: &Access,
        places: Vec<Place>,
        (asked, token): (&Asked, Option<&str>),
        belongs: &[u8],
    ) -> S3Result<Found> {
        let numbers = numbers(places.iter().map(|place| &place.bucket));
        let page = self.ask((asked, token), numbers, belongs).await?;
        let by_number: BTreeMap<u64, Place> =
            places.into_iter().map(|place| (place.bucket.id.0, place)).collect();
        let mut hits = Vec::with_capacity(page.hits.len());
        for hit in page.hits {
            let Some(place) = by_number.get(&hit.bucket) else { continue };
            let is_shown = match place.listing {
                Listing::Everything => true,
                Listing::Nothing => false,
                Listing::ByPrefix => match ObjectKey::try_from(hit.key.clone()) {
                    Ok(key) => access.lists_key(&place.bucket, &key).await?,
                    Err(_) => false,
                },
            };
            if is_shown {
                hits.push(shown(&place.bucket, hit));
            }
        }
        let token = page.next.map(|next| self.seal(env, &next, belongs));
        Ok(Found { index: page.index, hits, token, silent: Vec::new() })
    }

    async fn ask(
        &self,
        (asked, token): (&Asked, Option<&str>),
        buckets: Vec<u64>,
        belongs: &[u8],
    ) -> S3Result<SearchPage> {
        let after = token.map(|token| {
            let opened = self.open(token, belongs);
            opened.ok_or_else(|| S3Error::argument("continuation-token", token, WRONG_TOKEN))
        });
        let request = SearchRequest {
            query: asked.query.clone(),
            buckets,
            after: after.transpose()?,
            limit: asked.limit,
            sort: asked.sort,
            descending: asked.descending,
            as_of: asked.as_of,
        };
        self.nodes.search(&request).await.map_err(|failure| match failure {
            SearchFailure::Malformed(why) => S3Error::argument("q", &asked.query, why),
            SearchFailure::TooMany(_) => S3Error::argument(
                "sort",
                match asked.sort {
                    Sort::Name => "name",
                    Sort::Size => "size",
                    Sort::Modified => "modified",
                },
                format!("{failure}; ask for less, or for the order of names."),
            ),
            failure => Code::SlowDown.says(format!("The search cannot be answered now: {failure}.")),
        })
    }

    /// Where the page behind a hit of one's own begins, for who asked in all buckets.
    pub fn behind(&self, env: &dyn Env, requester: &str, asked: &Asked, hit: &Hit) -> String {
        let value = match asked.sort {
            Sort::Name => 0,
            Sort::Size => hit.bytes,
            Sort::Modified => hit.modified,
        };
        let position = Position { value, bucket: hit.bucket, key: hit.key.clone() };
        self.seal(env, &position, &asked.belongs(requester, None))
    }

    fn seal(&self, env: &dyn Env, position: &Position, belongs: &[u8]) -> String {
        let mut nonce = [0; NONCE_BYTES];
        env.random(&mut nonce);
        let mut text = Vec::with_capacity(16 + position.key.len());
        text.extend_from_slice(&position.value.to_be_bytes());
        text.extend_from_slice(&position.bucket.to_be_bytes());
        text.extend_from_slice(position.key.as_bytes());
        let payload = Payload { msg: &text, aad: belongs };
        let sealed = Aes256Gcm::new(&self.token_key.into())
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a key is shorter than the 64 GiB that GCM can seal");
        URL_SAFE_NO_PAD.encode([&[TOKEN_VERSION][..], &nonce, &sealed].concat())
    }

    fn open(&self, token: &str, belongs: &[u8]) -> Option<Position> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (&version, rest) = bytes.split_first()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        if version != TOKEN_VERSION {
            return None;
        }
        let payload = Payload { msg: sealed, aad: belongs };
        let text = Aes256Gcm::new(&self.token_key.into()).decrypt(&Nonce::from(*nonce), payload).ok()?;
        let (value, rest) = text.split_first_chunk::<8>()?;
        let (bucket, key) = rest.split_first_chunk::<8>()?;
        Some(Position {
            value: u64::from_be_bytes(*value),
            bucket: u64::from_be_bytes(*bucket),
            key: String::from_utf8(key.to_vec()).ok()?,
        })
    }
}

fn shown(bucket: &Bucket, hit: Hit) -> Shown {
    Shown { bucket: bucket.name.clone(), owner: bucket.owner.clone(), cluster: None, hit }
}

fn numbers<'a>(buckets: impl Iterator<Item = &'a Arc<Bucket>>) -> Vec<u64> {
    let mut numbers: Vec<u64> = buckets.map(|bucket| bucket.id.0).collect();
    numbers.sort_unstable();
    numbers
}

/// The buckets that a query can mean.
async fn candidates(
    meta: &dyn Meta,
    bucket: Option<Arc<Bucket>>,
    search: &Search,
) -> S3Result<Vec<Arc<Bucket>>> {
    let wanted = |bucket: &Arc<Bucket>| search.wants_bucket(bucket.name.as_str(), bucket.owner.as_str());
    if let Some(bucket) = bucket {
        return Ok(Some(bucket).into_iter().filter(wanted).collect());
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = MetaQuery::Buckets { owner: None, prefix: String::new(), after, limit: LIST_KEYS_MAX };
        let Answer::Buckets { buckets, more } = ask(meta, query).await? else {
            return Err(unexpected("Buckets"));
        };
        after = buckets.last().map(|bucket| bucket.name.to_string());
        found.extend(buckets.into_iter().map(Arc::new).filter(wanted));
        if BUCKETS_MAX < found.len() {
            let why = format!("More than {BUCKETS_MAX} buckets would be searched; name some by `bucket:`.");
            return Err(Code::InvalidRequest.says(why));
        }
        if !more || after.is_none() {
            return Ok(found);
        }
    }
}

impl Found {
    /// Of several clusters, of which some did not answer.
    pub fn of_all(index: u64, hits: Vec<Shown>, token: Option<String>, silent: Vec<ClusterName>) -> Found {
        Found { index, hits, token, silent }
    }

    /// The hits, and where the next page begins, if there may be one.
    pub fn into_page(self) -> (Vec<Shown>, Option<String>) {
        (self.hits, self.token)
    }

    /// The last entry of the log that the answer certainly shows.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The answer in the way of S3.
    pub fn xml(&self, asked: &Asked, encoding: Encoding) -> XmlWriter {
        let mut xml = XmlWriter::new();
        xml.root("SearchResult");
        xml.text("Query", &asked.query);
        xml.value("Index", self.index);
        xml.value("MaxKeys", asked.limit);
        xml.value("KeyCount", self.hits.len());
        xml.value("IsTruncated", self.token.is_some());
        encoding.announce(&mut xml);
        xml.optional("ContinuationToken", asked.token.as_deref());
        xml.optional("NextContinuationToken", self.token.as_deref());
        for cluster in &self.silent {
            xml.text("NotAnswered", cluster.as_str());
        }
        for Shown { bucket, owner, cluster, hit } in &self.hits {
            xml.element("Contents", |xml| {
                xml.text("Bucket", bucket.as_str());
                xml.optional("Cluster", cluster.as_ref().map(ClusterName::as_str));
                encoding.write(xml, "Key", &hit.key);
                xml.value("LastModified", Iso8601(hit.modified));
                etag(xml, &hit.etag);
                xml.value("Size", hit.bytes);
                user(xml, "Owner", owner.as_str());
                xml.text("StorageClass", hit.storage_class.as_deref().unwrap_or("STANDARD"));
                xml.optional("ContentType", hit.content_type.as_deref());
            });
        }
        xml.close("SearchResult");
        xml
    }

    /// The answer as JSON.
    pub fn json(&self, asked: &Asked) -> Value {
        let hit = |Shown { bucket, owner, cluster, hit }: &Shown| {
            json!({
                "bucket": bucket.as_str(),
                "cluster": cluster.as_ref().map(ClusterName::as_str),
                "key": hit.key,
                "last_modified": iso8601(hit.modified),
                "etag": hit.etag.to_string(),
                "size": hit.bytes,
                "owner": owner.as_str(),
                "storage_class": hit.storage_class.as_deref().unwrap_or("STANDARD"),
                "content_type": hit.content_type,
            })
        };
        json!({
            "query": asked.query,
            "index": self.index,
            "hits": self.hits.iter().map(hit).collect::<Vec<_>>(),
            "truncated": self.token.is_some(),
            "continuation_token": self.token,
            "not_answered": self.silent,
        })
    }
}

/// Searches of a store that has no index, for tests.
#[cfg(test)]
pub struct NoIndex;

#[cfg(test)]
#[async_trait::async_trait]
impl Searches for NoIndex {
    async fn search(&self, _request: &SearchRequest) -> Result<SearchPage, SearchFailure> {
        Err(SearchFailure::Unavailable("there is no index".to_string()))
    }

    async fn status(&self) -> BTreeMap<fabric::ids::NodeId, storage::index::wire::IndexStatus> {
        BTreeMap::new()
    }
}

/// As new as what an answer is to be, as `x-fluffy-index` told it: entries of the log of this cluster, and
/// `CLUSTER/ENTRY` of others, with commas between them.
fn as_of(text: &str, region: &str) -> S3Result<(u64, BTreeMap<ClusterName, u64>)> {
    let wrong = |part: &str| {
        let why = "It is an entry of the log of this cluster, or CLUSTER/ENTRY, or some of them with commas between.";
        S3Error::argument("as-of", part, why)
    };
    let (mut here, mut others) = (0, BTreeMap::new());
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (cluster, entry) = part.split_once('/').unwrap_or((region, part));
        let entry = entry.parse::<u64>().map_err(|_| wrong(part))?;
        let known = match cluster == region {
            true => &mut here,
            false => others.entry(cluster.parse::<ClusterName>().map_err(|_| wrong(part))?).or_default(),
        };
        *known = entry.max(*known);
    }
    Ok((here, others))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::env::SystemEnv;

    use super::*;

    fn asked(text: &str) -> S3Result<Asked> {
        Asked::parse(&Query::parse(text).unwrap(), "east")
    }

    #[test]
    fn entries_are_of_logs_of_clusters() {
        let of = |text| {
            as_of(text, "east").map(|(here, others)| {
                let others: Vec<_> =
                    others.into_iter().map(|(name, entry)| (name.to_string(), entry)).collect();
                (here, others)
            })
        };
        assert_eq!(of("").unwrap(), (0, vec![]));
        assert_eq!(of("7").unwrap(), (7, vec![]));
        let expected = (9, vec![("north".to_string(), 1), ("west".to_string(), 4)]);
        assert_eq!(of("7,west/4,east/9,west/3,8,north/1").unwrap(), expected);
        for bad in [",", "7,", "west", "west/", "/7", "west/4/5", "WEST/4", "-1", "18446744073709551616"] {
            assert_eq!(of(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn parameters() {
        let good =
            asked("search&q=cat+size:%3E1MB&max-keys=7&sort=size&order=desc&as-of=9&format=json").unwrap();
        assert_eq!((good.limit, good.sort, good.descending, good.as_of), (7, Sort::Size, true, 9));
        assert_eq!(good.format, Format::Json);
        for bad in [
            "search",
            "q=",
            "q=%22a",
            "q=a&q=b",
            "q=a&sort=colour",
            "q=a&order=up",
            "q=a&format=csv",
            "q=a&owned=perhaps",
            "q=a&as-of=-1",
            "q=a&as-of=18446744073709551616",
            "q=a&max-keys=x",
            "q=name:/(/",
            "q=name:/(a{1000}){1000}/",
        ] {
            assert_eq!(asked(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        assert!(asked(&format!("q={}", "a".repeat(1 << 20))).unwrap_err().message().contains("1024"));
    }

    #[test]
    fn tokens_are_of_one_search_and_tell_nothing() {
        let searching = Searching::new(Arc::new(NoIndex), &ClusterKey::from_bytes([7; 32]));
        let position = Position { value: 1, bucket: 2, key: "secret".to_string() };
        let (one, other) = (asked("q=a").unwrap(), asked("q=b").unwrap());
        let belongs = one.belongs("anna", None);
        let token = searching.seal(&SystemEnv::default(), &position, &belongs);
        assert_eq!(searching.open(&token, &belongs), Some(position));
        for wrong in [other.belongs("anna", None), one.belongs("bert", None)] {
            assert_eq!(searching.open(&token, &wrong), None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(searching.open(&URL_SAFE_NO_PAD.encode(bad), &belongs), None);
        }
        for bad in ["", "A", "!", &"A".repeat(1 << 20)] {
            assert_eq!(searching.open(bad, &belongs), None);
        }
    }
}
