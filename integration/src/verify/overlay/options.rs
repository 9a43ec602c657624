//! What a gateway does otherwise where its options say so: two stores, restarted with others.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::sites::{ANNA, BOB, Site, expect};
use super::{PATIENCE, joined, sees_soon, wait};
use crate::client::{Request, Response};
use crate::verify::{Tally, clients};

pub(super) async fn run(tally: &mut Tally) -> Result<()> {
    let (mut east, mut west) = tokio::try_join!(Site::start("east"), Site::start("west"))?;
    tally.check("two clusters, and a bucket in the east", prepared(&east, &west).await);
    tally.check("redirected: 307 where the home tells an address", redirected(&mut east, &mut west).await);
    let endpoint = format!("http://{}", west.store.gateway.listen);
    let home = format!("http://{}", east.store.gateway.listen);
    let variables = [
        ("AWS_ACCESS_KEY_ID", ANNA.0),
        ("AWS_SECRET_ACCESS_KEY", ANNA.1),
        ("AWS_DEFAULT_REGION", west.name),
        ("BUCKET", "photos"),
        ("HOME_ENDPOINT", &home),
        ("HOME_REGION", east.name),
    ];
    clients::overlay("redirected", &endpoint, &variables, tally)?;
    tally.check("sent on again where nobody redirects", forwarded(&mut west).await);
    tally.check("read from memory while the home is away, as far as allowed", stale(&east, &west).await);
    tally.check("redirected again", restarted(&mut west, ("--overlay-remote", "redirect")).await);
    tally.check("a home that is away is no place to redirect to", redirected_nowhere(&east, &west).await);
    Ok(())
}

async fn prepared(east: &Site, west: &Site) -> Result<(), String> {
    joined(east, west).await?;
    east.add_user("anna", ANNA)?;
    east.overlay(&["grant", "west", "anna"])?;
    expect(200, &east.send(ANNA, Request::bucket("PUT", "photos")).await?)?;
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "k").body("hello")).await?)
}

/// Restarts a gateway with another value of an option.
pub(super) async fn restarted(site: &mut Site, option: (&str, &str)) -> Result<(), String> {
    let gateway = &mut site.store.gateway;
    gateway.daemon.kill();
    gateway.daemon.set_option(option.0, option.1);
    gateway.start().await.map(drop).map_err(|error| error.to_string())
}

async fn redirected(east: &mut Site, west: &mut Site) -> Result<(), String> {
    let read = || Request::object("GET", "photos--east", "a/k").query("versionId", "null");
    restarted(west, ("--overlay-remote", "redirect")).await?;
    // East tells no address yet.
    wait("the object", PATIENCE, async || {
        expect(200, &west.send(ANNA, Request::object("GET", "photos", "k")).await?)
    })
    .await?;
    let home = east.store.gateway.listen.to_string();
    restarted(east, ("--overlay-s3", &format!("http://{home}"))).await?;
    sees_soon(west, "east", "up").await?;
    let answer = wait("the redirect", PATIENCE, async || {
        let answer = west.send(ANNA, read()).await?;
        expect(307, &answer).map(|()| answer)
    })
    .await?;
    let xml = answer.xml()?;
    let told = ["Code", "Endpoint", "Bucket"].map(|name| xml.text_of(name).to_string());
    let headers = ["location", "x-amz-bucket-region"].map(|name| answer.header(name).unwrap_or_default());
    let location = format!("http://{home}/photos/a/k?versionId=null");
    if told != ["TemporaryRedirect", &home, "photos"] || headers != [&location, "east"] {
        return Err(answer.describe());
    }
    for request in [
        Request::object("PUT", "photos", "k").body("other"),
        Request::object("DELETE", "photos", "k"),
        Request::object("HEAD", "photos", "k"),
        Request::bucket("GET", "photos").query("list-type", 2),
    ] {
        expect(307, &west.send(ANNA, request).await?)?;
    }
    let got = east.send(ANNA, Request::object("GET", "photos", "k")).await?;
    expect(200, &got)?;
    if got.body == b"hello" { Ok(()) } else { Err(got.describe()) }
}

async fn redirected_nowhere(east: &Site, west: &Site) -> Result<(), String> {
    east.store.gateway.daemon.kill();
    wait("the home is away", PATIENCE, async || {
        expect(503, &west.send(ANNA, Request::object("GET", "photos", "k")).await?)
    })
    .await
}

async fn forwarded(west: &mut Site) -> Result<(), String> {
    restarted(west, ("--overlay-remote", "forward")).await?;
    wait("the object", PATIENCE, async || {
        expect(200, &west.send(ANNA, Request::object("GET", "photos", "k")).await?)
    })
    .await
}

/// For so long objects may be read from memory.
const BOUND: Duration = Duration::from_secs(12);

async fn stale(east: &Site, west: &Site) -> Result<(), String> {
    let get = || Request::object("GET", "photos", "hot");
    let stale_answer = |status: u16, answer: &Response| {
        expect(status, answer)?;
        let age = answer.header("age").and_then(|age| age.parse::<u64>().ok());
        let warns = answer.header("warning") == Some("110 fluffy \"Response is Stale\"");
        let is_right = warns && age.is_some_and(|age| age <= BOUND.as_secs());
        if is_right { Ok(()) } else { Err(answer.describe()) }
    };
    for (words, said) in
        [(["staleness", "set", "0"], "1 to 604800"), (["staleness", "set", "604801"], "1 to 604800")]
    {
        match east.overlay(&[&words[..], &["--bucket", "photos"]].concat()) {
            Err(why) if why.contains(said) => {}
            other => return Err(format!("{words:?}: {other:?}")),
        }
    }
    let seconds = BOUND.as_secs().to_string();
    east.overlay(&["staleness", "set", &seconds, "--bucket", "photos"])?;
    let shown = east.overlay(&["staleness", "show", "--bucket", "photos"])?;
    if shown != format!("{seconds} s\n") {
        return Err(shown);
    }
    let put = Request::object("PUT", "photos", "hot").body("0123456789").header("x-amz-meta-n", "1");
    let etag = east.send(ANNA, put).await?.etag().to_string();
    wait("the catalog tells", PATIENCE, async || {
        let catalog = west.json(&["catalog", "--json"])?;
        let buckets = catalog["buckets"].as_array().cloned().unwrap_or_default();
        let told = buckets.iter().any(|bucket| bucket["stale_seconds"] == BOUND.as_secs());
        if told { Ok(()) } else { Err(catalog.to_string()) }
    })
    .await?;
    for _ in 0..3 {
        let answer = west.send(ANNA, get()).await?;
        expect(200, &answer)?;
        if answer.header("age").is_some() || answer.header("warning").is_some() {
            return Err(answer.describe());
        }
        // The key for the day is asked for behind the answer.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    east.store.gateway.daemon.kill();
    let begin = Instant::now();
    let whole = west.send(ANNA, get()).await?;
    stale_answer(200, &whole)?;
    if whole.body != b"0123456789" || whole.header("x-amz-meta-n") != Some("1") || whole.etag() != etag {
        return Err(whole.describe());
    }
    let head = west.send(ANNA, Request::object("HEAD", "photos", "hot")).await?;
    stale_answer(200, &head)?;
    let part = west.send(ANNA, get().header("range", "bytes=2-4")).await?;
    stale_answer(206, &part)?;
    if head.header("content-length") != Some("10")
        || part.body != b"234"
        || part.header("content-range") != Some("bytes 2-4/10")
    {
        return Err(format!("{}\n{}", head.describe(), part.describe()));
    }
    stale_answer(304, &west.send(ANNA, get().header("if-none-match", &etag)).await?)?;
    for (status, request) in [
        (412, get().header("if-match", "\"00000000000000000000000000000000\"")),
        (416, get().header("range", "bytes=10-")),
        (503, Request::object("GET", "photos", "k")),
        (503, get().header("user-agent", "another")),
        (503, get().query("partNumber", 1)),
        (503, Request::object("PUT", "photos", "hot").body("new")),
    ] {
        expect(status, &west.send(ANNA, request).await?)?;
    }
    expect(403, &west.send((ANNA.0, BOB.1), get()).await?)?;
    expect(503, &west.send(west.root(), get()).await?)?;
    expect(503, &west.send_signed_for("east", ANNA, get()).await?)?;
    wait("it is too old", BOUND * 2, async || expect(503, &west.send(ANNA, get()).await?)).await?;
    if begin.elapsed() + Duration::from_secs(3) < BOUND {
        return Err(format!("too old after {:?}", begin.elapsed()));
    }
    east.store.gateway.start().await.map_err(|error| error.to_string())?;
    wait("the home is back", PATIENCE, async || expect(200, &west.send(ANNA, get()).await?)).await?;
    east.overlay(&["staleness", "clear", "--bucket", "photos"])?;
    let shown = east.overlay(&["staleness", "show", "--json", "--bucket", "photos"])?;
    if shown.contains("null") { Ok(()) } else { Err(shown) }
}
