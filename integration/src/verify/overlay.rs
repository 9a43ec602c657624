//! The stage of the overlay: three stores that join, through each of whose gateways the buckets of all are reached.

mod mixed;
mod options;
mod replication;
mod room;
pub(crate) mod sites;
mod strangers;
mod suite;
mod walk;
mod wide;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use self::sites::{ANNA, BOB, Site, expect};
use super::{Tally, block_on, clients};
use crate::client::{Pattern, Payload, Request};

/// What clusters tell each other is known within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// A cluster that is away is known to be within this.
const AWAY_DEADLINE: Duration = Duration::from_secs(2);
/// Gateways go by what they know of users and grants for no longer.
const RECORDS_LAST: Duration = Duration::from_secs(6);

pub(super) use mixed::run as mixed;
pub(super) use replication::run as replicate;

/// The suite through a gateway of another cluster.
pub(super) fn through(tally: &mut Tally) -> Result<()> {
    block_on(suite::run(tally))
}

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let (east, west, north) =
            tokio::try_join!(Site::start("east"), Site::start("west"), Site::start("north"))?;
        tally.check("clusters that did not join know nothing of each other", alone(&east).await);
        tally.check("join: by a token, once", joined(&east, &west).await);
        tally.check("who joins one knows all", introduced(&east, &west, &north).await);
        tally.check("a user reaches its bucket through another cluster", reached(&east, &west).await);
        tally.check("bodies of all kinds go through", bodies(&west).await);
        tally.check("what is read again is as new as at its home", read_again(&east, &west).await);
        tally.check("lists show where buckets are", listed(&east, &west).await);
        tally.check("nothing without a grant", granted(&east, &west).await);
        tally.check("users of other clusters, as policies let them", visitors(&east, &west).await);
        tally.check("a bucket is made where it is wanted", located(&west).await);
        tally.check("names mean one bucket", names(&east, &west).await);
        strangers::run(tally, &east, &west).await;
        tally.check("a user of another cluster has a bucket here", guest(&west).await);
        tally.check("who may not read the source copies nothing", not_copied(&east, &west).await);
        let endpoint = format!("http://{}", west.store.gateway.listen);
        let variables = [
            ("AWS_ACCESS_KEY_ID", ANNA.0),
            ("AWS_SECRET_ACCESS_KEY", ANNA.1),
            ("AWS_DEFAULT_REGION", west.name),
            ("BUCKET", "photos"),
            ("HOME_REGION", east.name),
            ("NEAR_BUCKET", "near"),
        ];
        clients::overlay("overlay", &endpoint, &variables, tally)?;
        tally.check("searches find objects of all clusters", searched(&east, &west).await);
        tally.check("all files of a user are one list", files(&east, &west).await);
        tally.check("a cluster that is away takes only its buckets with it", away(&east, &west).await);
        tally.check("two buckets of one name stay two", disputed(&east, &west, &north).await);
        tally.check("leave: known by all", left(&east, &west, &north).await);
        Ok(())
    })
}

/// The rest of what clusters do together, each with stores of its own.
pub(super) fn run_wide(tally: &mut Tally) -> Result<()> {
    block_on(async {
        wide::run(tally).await;
        options::run(tally).await?;
        room::run(tally).await?;
        tally.check("the walk in the documentation, line by line", walk::run());
        Ok(())
    })
}

/// Tries until it holds.
async fn wait<T>(
    what: &str,
    patience: Duration,
    tried: impl AsyncFn() -> Result<T, String>,
) -> Result<T, String> {
    let begin = Instant::now();
    loop {
        match tried().await {
            Ok(value) => return Ok(value),
            Err(error) if patience < begin.elapsed() => return Err(format!("{what}: {error}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Whether a cluster sees another one like this.
fn sees(site: &Site, other: &str, state: &str) -> Result<(), String> {
    let list: Value = site.json(&["list", "--json"])?;
    let clusters = list["clusters"].as_array().cloned().unwrap_or_default();
    let found = clusters.iter().find(|cluster| cluster["name"] == other);
    let is = found.map_or("unknown", |cluster| match (&cluster["standing"], &cluster["up"]) {
        (Value::String(standing), Value::Bool(true)) if standing == "in" => "up",
        (Value::String(standing), _) if standing == "in" => "away",
        (standing, _) => standing.as_str().unwrap_or_default(),
    });
    if is == state { Ok(()) } else { Err(format!("{} sees {other} {is}, not {state}", site.name)) }
}

async fn sees_soon(site: &Site, other: &str, state: &str) -> Result<(), String> {
    wait("clusters see each other", PATIENCE, async || sees(site, other, state)).await
}

async fn alone(east: &Site) -> Result<(), String> {
    let list = east.json(&["list", "--json"])?;
    if list["name"].is_null() && list["clusters"] == serde_json::json!([]) {
        Ok(())
    } else {
        Err(list.to_string())
    }
}

async fn joined(east: &Site, west: &Site) -> Result<(), String> {
    let token = east.overlay(&["invite"])?;
    let said = west.overlay(&["join", token.trim()])?;
    if said != "joined east\n" {
        return Err(said);
    }
    sees_soon(east, "west", "up").await?;
    sees_soon(west, "east", "up").await
}

async fn introduced(east: &Site, west: &Site, north: &Site) -> Result<(), String> {
    let token = west.overlay(&["invite"])?;
    north.overlay(&["join", token.trim()])?;
    for (site, other) in [(north, "west"), (north, "east"), (east, "north"), (west, "north")] {
        sees_soon(site, other, "up").await?;
    }
    Ok(())
}

async fn reached(east: &Site, west: &Site) -> Result<(), String> {
    east.add_user("anna", ANNA)?;
    east.overlay(&["grant", "west", "anna"])?;
    expect(200, &east.send(ANNA, Request::bucket("PUT", "photos")).await?)?;
    let at_east = east.send(ANNA, Request::object("PUT", "photos", "a b").body("hello")).await?;
    expect(200, &at_east)?;
    // It is found at once, though no catalog told of it yet.
    let head = west.send(ANNA, Request::bucket("HEAD", "photos")).await?;
    expect(200, &head)?;
    if head.header("x-amz-bucket-region") != Some("east") {
        return Err(head.describe());
    }
    let got = west.send(ANNA, Request::object("GET", "photos", "a b")).await?;
    expect(200, &got)?;
    if got.body != b"hello" || got.etag() != at_east.etag() {
        return Err(got.describe());
    }
    // Signatures for the home of the bucket are good, too: SDKs follow the region that they hear.
    let signed_for_east = west.send_signed_for("east", ANNA, Request::object("GET", "photos", "a b")).await?;
    expect(200, &signed_for_east)?;
    let wrong = west.send_signed_for("south", ANNA, Request::object("GET", "photos", "a b")).await?;
    expect(400, &wrong)?;
    let condition = Request::object("PUT", "photos", "a b").body("x").header("if-none-match", "*");
    expect(412, &west.send(ANNA, condition).await?)?;
    expect(404, &west.send(ANNA, Request::object("GET", "photos", "none")).await?)?;
    let range = Request::object("GET", "photos", "a b").header("range", "bytes=1-3");
    let range = west.send(ANNA, range).await?;
    expect(206, &range)?;
    let list = west.send(ANNA, Request::bucket("GET", "photos").query("list-type", 2)).await?;
    expect(200, &list)?;
    if range.body != b"ell" || list.xml()?.text_of("Name") != "photos" {
        return Err(format!("{}\n{}", range.describe(), list.describe()));
    }
    expect(204, &west.send(ANNA, Request::object("DELETE", "photos", "a b")).await?)?;
    expect(404, &east.send(ANNA, Request::object("HEAD", "photos", "a b")).await?)
}

async fn bodies(west: &Site) -> Result<(), String> {
    let put = |key: &str| Request::object("PUT", "photos", key);
    let large = Pattern::new(7, 9 << 20);
    let cases = [
        ("empty", put("empty")),
        ("signed chunks", put("chunks").body(vec![7; 200_000]).payload(Payload::SignedChunks(65_536))),
        ("unsigned", put("unsigned").body("x").payload(Payload::Unsigned)),
        ("large", put("large").generated(large)),
    ];
    for (name, request) in cases {
        let answer = west.send(ANNA, request).await?;
        expect(200, &answer).map_err(|error| format!("{name}: {error}"))?;
    }
    let bad = put("bad").body("hello").header("x-amz-checksum-crc32", "AAAAAA==");
    expect(400, &west.send(ANNA, bad).await?)?;
    let got = west.send(ANNA, Request::object("GET", "photos", "large")).await?;
    expect(200, &got)?;
    if got.body != large.bytes() {
        return Err(format!("{} bytes came back of {}", got.body.len(), 9 << 20));
    }
    let altered = west.send_altered(ANNA, put("altered").body("hello"), b"hullo").await?;
    expect(400, &altered)?;
    expect(404, &west.send(ANNA, Request::object("HEAD", "photos", "altered")).await?)
}

async fn read_again(east: &Site, west: &Site) -> Result<(), String> {
    let put = |body: Vec<u8>| Request::object("PUT", "photos", "hot").body(body);
    let get = || Request::object("GET", "photos", "hot");
    let hits = async || -> Result<f64, String> {
        let text = crate::daemons::get(west.store.gateway.admin, "/metrics")
            .await
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text.body).into_owned();
        let line =
            text.lines().find_map(|line| line.strip_prefix("fluffy_overlay_cache_total{outcome=\"hit\"} "));
        Ok(line.and_then(|count| count.parse().ok()).unwrap_or(0.0))
    };
    expect(200, &east.send(ANNA, put(vec![b'a'; 300_000]).header("x-amz-meta-n", "1")).await?)?;
    let before = hits().await?;
    for _ in 0..5 {
        let got = west.send(ANNA, get()).await?;
        expect(200, &got)?;
        if got.body != vec![b'a'; 300_000] || got.header("x-amz-meta-n") != Some("1") {
            return Err(got.describe());
        }
    }
    let counted = hits().await? - before;
    if counted != 4.0 {
        return Err(format!("{counted} of 4 reads came from memory"));
    }
    // The same bytes with another description, then other bytes, then nothing.
    expect(200, &east.send(ANNA, put(vec![b'a'; 300_000]).header("x-amz-meta-n", "2")).await?)?;
    let got = west.send(ANNA, get()).await?;
    if got.status != 200 || got.header("x-amz-meta-n") != Some("2") {
        return Err(got.describe());
    }
    expect(200, &east.send(ANNA, put(b"other".to_vec())).await?)?;
    let got = west.send(ANNA, get()).await?;
    if got.body != b"other" {
        return Err(got.describe());
    }
    let range = west.send(ANNA, get().header("range", "bytes=1-2")).await?;
    if range.status != 206 || range.body != b"th" {
        return Err(range.describe());
    }
    expect(304, &west.send(ANNA, get().header("if-none-match", got.etag())).await?)?;
    // Who may not read gets nothing from memory.
    expect(403, &west.send(west.root(), get()).await?)?;
    expect(204, &east.send(ANNA, Request::object("DELETE", "photos", "hot")).await?)?;
    expect(404, &west.send(ANNA, get()).await?)
}

/// Names and regions of what a user sees at a gateway.
async fn buckets(site: &Site, keys: (&str, &str), query: &str) -> Result<Vec<(String, String)>, String> {
    let mut request = Request::new("GET", "/");
    if let Some((name, value)) = query.split_once('=') {
        request = request.query(name, value);
    }
    let list = site.send(keys, request).await?;
    expect(200, &list)?;
    let xml = list.xml()?;
    let buckets = xml.child("Buckets").ok_or("no buckets")?;
    let shown = |bucket: &crate::client::Element| {
        (bucket.text_of("Name").to_string(), bucket.text_of("BucketRegion").to_string())
    };
    Ok(buckets.all("Bucket").map(shown).collect())
}

async fn listed(east: &Site, west: &Site) -> Result<(), String> {
    let expected = vec![("photos".to_string(), "east".to_string())];
    for site in [east, west] {
        wait("ListBuckets", PATIENCE, async || {
            let shown = buckets(site, ANNA, "").await?;
            if shown == expected { Ok(()) } else { Err(format!("{}: {shown:?}", site.name)) }
        })
        .await?;
    }
    let here = buckets(west, ANNA, "bucket-region=west").await?;
    let there = buckets(west, ANNA, "bucket-region=east").await?;
    if !here.is_empty() || there != expected {
        return Err(format!("{here:?} {there:?}"));
    }
    let catalog = west.json(&["catalog", "--json"])?;
    let row = catalog["buckets"].as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "photos"));
    let row = row.ok_or_else(|| catalog.to_string())?;
    if row["cluster"] == "east" && row["owner"] == "east/anna" && row["up"] == true {
        Ok(())
    } else {
        Err(row.to_string())
    }
}

async fn granted(east: &Site, west: &Site) -> Result<(), String> {
    let read = || Request::object("GET", "photos", "unsigned");
    let root = west.send(east.root(), read()).await?;
    expect(403, &root)?;
    if !String::from_utf8_lossy(&root.body).contains("may not act for the user") {
        return Err(root.describe());
    }
    east.overlay(&["grant", "west", "anna", "--bucket", "other"])?;
    wait("a grant for another bucket", RECORDS_LAST, async || expect(403, &west.send(ANNA, read()).await?))
        .await?;
    east.overlay(&["revoke", "west", "anna"])?;
    expect(403, &west.send(ANNA, read()).await?)?;
    expect(200, &east.send(ANNA, read()).await?)?;
    east.overlay(&["grant", "west", "anna"])?;
    wait("the grant again", RECORDS_LAST, async || expect(200, &west.send(ANNA, read()).await?)).await
}

async fn visitors(east: &Site, west: &Site) -> Result<(), String> {
    west.add_user("bob", BOB)?;
    let read = || Request::object("GET", "photos", "unsigned");
    // West does not let east know what verifies his signatures.
    expect(403, &west.send(BOB, read()).await?)?;
    west.overlay(&["grant", "east", "bob"])?;
    wait("his key, without a grant in the east", RECORDS_LAST * 2, async || {
        let answer = west.send(BOB, read()).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 403 && text.contains("west/bob") { Ok(()) } else { Err(answer.describe()) }
    })
    .await?;
    east.overlay(&["grant", "west", "*"])?;
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":
        {"AWS":"arn:aws:iam:::user/west/bob"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::photos/*"}]}"#;
    let set = Request::bucket("PUT", "photos").flag("policy").body(policy).content_md5();
    expect(204, &east.send(ANNA, set).await?)?;
    wait("what a policy lets him", RECORDS_LAST, async || expect(200, &west.send(BOB, read()).await?))
        .await?;
    expect(403, &west.send(BOB, Request::object("PUT", "photos", "his").body("x")).await?)?;
    // He may come to the gateway of the east himself, too.
    wait("at the gateway of the east", RECORDS_LAST, async || expect(200, &east.send(BOB, read()).await?))
        .await
}

async fn located(west: &Site) -> Result<(), String> {
    let document = "<CreateBucketConfiguration><LocationConstraint>east</LocationConstraint></CreateBucketConfiguration>";
    let make = Request::bucket("PUT", "made-there").body(document);
    expect(200, &west.send(BOB, make).await?)?;
    wait("his bucket in the east", PATIENCE, async || {
        let shown = buckets(west, BOB, "").await?;
        let expected = vec![("made-there".to_string(), "east".to_string())];
        if shown == expected { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await?;
    expect(200, &west.send(BOB, Request::object("PUT", "made-there", "k").body("x")).await?)?;
    let elsewhere = document.replace("east", "south");
    expect(400, &west.send(BOB, Request::bucket("PUT", "made-nowhere").body(elsewhere)).await?)
}

async fn guest(west: &Site) -> Result<(), String> {
    west.overlay(&["grant", "east", "east/anna"])?;
    wait("her bucket in the west", RECORDS_LAST, async || {
        expect(200, &west.send(ANNA, Request::bucket("PUT", "near")).await?)
    })
    .await
}

async fn not_copied(east: &Site, west: &Site) -> Result<(), String> {
    let source = |source: &str| Request::object("PUT", "near", "stolen").header("x-amz-copy-source", source);
    expect(200, &east.send(east.root(), Request::bucket("PUT", "private")).await?)?;
    expect(200, &east.send(east.root(), Request::object("PUT", "private", "k").body("x")).await?)?;
    expect(403, &west.send(ANNA, source("private/k")).await?)?;
    // Who may write to the copy has no grant of the home of the source.
    let copy = Request::object("PUT", "x--south", "stolen").header("x-amz-copy-source", "photos/large");
    expect(403, &west.send(west.root(), copy).await?)?;
    expect(404, &west.send(ANNA, Request::object("HEAD", "near", "stolen")).await?)
}

async fn names(east: &Site, west: &Site) -> Result<(), String> {
    expect(409, &west.send(west.root(), Request::bucket("PUT", "photos")).await?)?;
    for name in ["x--east", "x--west"] {
        expect(400, &west.send(west.root(), Request::bucket("PUT", name)).await?)?;
    }
    expect(200, &west.send(west.root(), Request::bucket("PUT", "x--south")).await?)?;
    expect(200, &west.send(ANNA, Request::object("GET", "photos--east", "unsigned")).await?)?;
    expect(404, &west.send(ANNA, Request::object("GET", "photosx", "unsigned")).await?)?;
    // A request is sent on once: west does not send back what east sends.
    expect(404, &east.send(ANNA, Request::object("GET", "nothing--west", "k")).await?)
}

async fn search(site: &Site, keys: (&str, &str), more: &[(&str, &str)]) -> Result<Value, String> {
    let mut request = Request::new("GET", "/").flag("search").query("format", "json");
    for (name, value) in more {
        request = request.query(name, value);
    }
    let answer = site.send(keys, request).await?;
    expect(200, &answer)?;
    serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", answer.describe()))
}

/// Clusters, buckets and keys of hits.
fn found(answer: &Value) -> Vec<String> {
    let word = |hit: &Value, name: &str| hit[name].as_str().unwrap_or("here").to_string();
    let hits = answer["hits"].as_array().cloned().unwrap_or_default();
    hits.iter()
        .map(|hit| format!("{}:{}/{}", word(hit, "cluster"), word(hit, "bucket"), word(hit, "key")))
        .collect()
}

async fn searched(east: &Site, west: &Site) -> Result<(), String> {
    // Bob has a bucket at home and one in the east.
    expect(200, &west.send(BOB, Request::bucket("PUT", "bobs")).await?)?;
    for (bucket, key, bytes) in [
        ("bobs", "find-1", 3),
        ("bobs", "find-2", 1),
        ("made-there", "find-3", 2),
        ("made-there", "find-4", 4),
    ] {
        let put = Request::object("PUT", bucket, key).body(vec![b'x'; bytes]);
        expect(200, &west.send(BOB, put).await?)?;
    }
    let by_name =
        ["here:bobs/find-1", "here:bobs/find-2", "east:made-there/find-3", "east:made-there/find-4"];
    let by_size =
        ["here:bobs/find-2", "east:made-there/find-3", "here:bobs/find-1", "east:made-there/find-4"];
    wait("the search", PATIENCE, async || {
        let answer = search(west, BOB, &[("q", "find-")]).await?;
        if found(&answer) == by_name { Ok(()) } else { Err(answer.to_string()) }
    })
    .await?;
    for (order, expected) in [("name", by_name), ("size", by_size)] {
        let (mut all, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut more = vec![("q", "find-"), ("max-keys", "1"), ("sort", order)];
            more.extend(token.as_deref().map(|token| ("continuation-token", token)));
            let answer = search(west, BOB, &more).await?;
            all.extend(found(&answer));
            token = answer["continuation_token"].as_str().map(str::to_string);
            if token.is_none() || 8 < all.len() {
                break;
            }
        }
        if all != expected {
            return Err(format!("by {order}, one by one: {all:?}"));
        }
    }
    // Anna sees nothing of it, wherever she asks.
    for (site, keys) in [(west, ANNA), (east, ANNA)] {
        let answer = search(site, keys, &[("q", "find-")]).await?;
        if !found(&answer).is_empty() {
            return Err(format!("{} at {}: {answer}", keys.0, site.name));
        }
    }
    let bad = west
        .send(BOB, Request::new("GET", "/").flag("search").query("q", "x").query("continuation-token", "x"));
    expect(400, &bad.await?)
}

async fn files(east: &Site, west: &Site) -> Result<(), String> {
    let expected = [
        "bobs/find-1",
        "bobs/find-2",
        "east:made-there/find-3",
        "east:made-there/find-4",
        "east:made-there/k",
    ];
    let shown = west.command(&["files", "bob"])?;
    if shown.lines().count() != expected.len() || expected.iter().any(|line| !shown.contains(line)) {
        return Err(shown);
    }
    let owned = search(west, BOB, &[("q", "name:*"), ("owned", "true")]).await?;
    if found(&owned).len() != expected.len() {
        return Err(owned.to_string());
    }
    let elsewhere = east.command(&["files", "west/bob", "--json"])?;
    if elsewhere.contains("made-there") && elsewhere.contains("bobs") { Ok(()) } else { Err(elsewhere) }
}

async fn away(east: &Site, west: &Site) -> Result<(), String> {
    let own = || Request::object("PUT", "x--south", "k").body("own");
    expect(200, &west.send(west.root(), own()).await?)?;
    east.store.gateway.daemon.kill();
    let begin = Instant::now();
    let mut answers = 0;
    while begin.elapsed() < AWAY_DEADLINE * 2 {
        let asked = Instant::now();
        let answer = west.send(ANNA, Request::object("GET", "photos", "unsigned")).await?;
        expect(503, &answer)?;
        if AWAY_DEADLINE < asked.elapsed() {
            return Err(format!("the answer came after {:?}", asked.elapsed()));
        }
        expect(200, &west.send(west.root(), own()).await?)?;
        answers += 1;
    }
    sees(west, "east", "away")?;
    let partly = search(west, BOB, &[("q", "find-")]).await?;
    if found(&partly).len() != 2 || partly["not_answered"] != serde_json::json!(["east"]) {
        return Err(partly.to_string());
    }
    let shown = buckets(west, BOB, "").await?;
    if answers < 10 || shown.is_empty() {
        return Err(format!("{answers} answers, {shown:?}"));
    }
    // A gateway that knows nothing yet says nothing of what it cannot know.
    west.store.gateway.daemon.kill();
    west.store.gateway.start().await.map_err(|error| error.to_string())?;
    wait("after a restart", PATIENCE, async || {
        expect(503, &west.send(ANNA, Request::object("GET", "photos", "unsigned")).await?)
    })
    .await?;
    expect(503, &west.send(("SOMEBODYSKEY", BOB.1), own()).await?)?;
    // And it remembers what was told before.
    let remembered = buckets(west, BOB, "").await?;
    if remembered != shown {
        return Err(format!("{remembered:?}, before {shown:?}"));
    }
    remembers(west, "photos", "east")?;
    east.store.gateway.start().await.map_err(|error| error.to_string())?;
    wait("when it is back", PATIENCE, async || {
        expect(200, &west.send(ANNA, Request::object("GET", "photos", "unsigned")).await?)
    })
    .await
}

/// A cluster knows a bucket of another one that is away, and how old that is.
fn remembers(site: &Site, name: &str, home: &str) -> Result<(), String> {
    let catalog = site.json(&["catalog", "--json"])?;
    let buckets = catalog["buckets"].as_array().cloned().unwrap_or_default();
    let found = buckets.iter().find(|bucket| bucket["name"] == name && bucket["cluster"] == home);
    let is_kept = found.is_some_and(|bucket| bucket["up"] == false && bucket["age_ms"].as_u64() > Some(0));
    if is_kept { Ok(()) } else { Err(catalog.to_string()) }
}

async fn disputed(east: &Site, west: &Site, north: &Site) -> Result<(), String> {
    let failed = |error: anyhow::Error| error.to_string();
    east.store.gateway.daemon.kill();
    north.store.gateway.daemon.kill();
    expect(200, &west.send(west.root(), Request::bucket("PUT", "twin")).await?)?;
    expect(200, &west.send(west.root(), Request::object("PUT", "twin", "k").body("west")).await?)?;
    west.store.gateway.daemon.kill();
    east.store.gateway.start().await.map_err(failed)?;
    // It does not know what west made meanwhile.
    expect(200, &east.send(east.root(), Request::bucket("PUT", "twin")).await?)?;
    expect(200, &east.send(east.root(), Request::object("PUT", "twin", "k").body("east")).await?)?;
    west.store.gateway.start().await.map_err(failed)?;
    north.store.gateway.start().await.map_err(failed)?;
    for site in [east, west] {
        site.overlay(&["grant", "north", "root"])?;
        site.overlay(&["grant", if site.name == "east" { "west" } else { "east" }, "root"])?;
    }
    for (site, other) in [(north, "east"), (north, "west"), (east, "west"), (west, "east")] {
        sees_soon(site, other, "up").await?;
    }
    let read = |bucket: &str| Request::object("GET", bucket, "k");
    let conflict = wait("the conflict", PATIENCE, async || {
        let answer = north.send(west.root(), read("twin")).await?;
        expect(409, &answer).map(|()| answer)
    })
    .await?;
    let text = String::from_utf8_lossy(&conflict.body).into_owned();
    if !text.contains("twin--east") || !text.contains("twin--west") {
        return Err(text);
    }
    for (site, keys, bucket, body) in [
        (north, west.root(), "twin--west", "west"),
        (north, east.root(), "twin--east", "east"),
        (east, east.root(), "twin", "east"),
        (west, west.root(), "twin", "west"),
        (east, west.root(), "twin--west", "west"),
    ] {
        let got = wait("each of the two", PATIENCE, async || {
            let answer = site.send(keys, read(bucket)).await?;
            expect(200, &answer).map(|()| answer)
        })
        .await?;
        if got.body != body.as_bytes() {
            return Err(format!("{bucket} at {}: {}", site.name, got.describe()));
        }
    }
    Ok(())
}

async fn left(east: &Site, west: &Site, north: &Site) -> Result<(), String> {
    north.overlay(&["leave"])?;
    for site in [east, west] {
        sees_soon(site, "north", "left").await?;
    }
    // It stays away until it is invited again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for site in [east, west] {
        sees(site, "north", "left")?;
    }
    let token = east.overlay(&["invite"])?;
    north.overlay(&["join", token.trim()])?;
    sees_soon(north, "west", "up").await?;
    west.overlay(&["remove", "north"])?;
    sees(west, "north", "removed")?;
    // What others say does not bring it back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    sees(west, "north", "removed")
}
