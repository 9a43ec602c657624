//! The stage of replication: two stores, buckets of one of which follow those of the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use serde_json::Value;

use super::sites::{ANNA, Site, expect, versioning};
use super::{PATIENCE, joined, wait};
use crate::client::{Pattern, Request};
use crate::conformance::encryption::{CUSTOMER, with_key};
use crate::conformance::multipart::complete;
use crate::verify::{Tally, block_on};

/// A copy has caught up within this, whatever happened.
const CAUGHT_UP: Duration = Duration::from_secs(120);
/// Requests of a writer that are on their way at once.
const WRITERS: u64 = 24;
/// Objects of the figures.
const MANY: u64 = 12_000;
/// Events a second while the lag is looked at.
const HALF: u64 = 500;

pub(in crate::verify) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let (east, west) = tokio::try_join!(Site::start("east"), Site::start("west"))?;
        tally.check("two clusters, and users in them", prepared(&east, &west).await);
        tally.check("what cannot be copied is refused", refused(&east, &west).await);
        tally.check("a bucket follows another one, from its first version on", mirrored(&east, &west).await);
        tally.check("nobody else writes to it", read_only(&west).await);
        tally.check("tags follow their versions", tagged(&east, &west).await);
        tally.check("locks follow their versions", relocked(&east, &west).await);
        tally.check("copies keep the parts of their versions", in_parts(&east, &west).await);
        tally.check("both sides are killed under load", killed(&east, &west).await);
        tally.check("a cut is caught up", cut(&east, &west).await);
        let figures = figures(&east, &west).await;
        if let Ok(text) = &figures {
            tally.note(text.clone());
        }
        tally.check("1,000 small objects a second, and a lag of 2 s at half of that", figures.map(drop));
        tally.check(
            "promotion under load: the copy has everything and is written to, its home is read-only",
            promoted(&east, &west).await,
        );
        tally.check("what was missed is compared", compared(&east, &west).await);
        tally.check("PutBucketReplication: what its rules say", replicated(&east, &west).await);
        tally.check(
            "the source is lost, the copy goes on; when it is back it is read-only and says what it took meanwhile",
            lost(&east, &west).await,
        );
        tally.check("the old home follows the new one", followed_back(&east, &west).await);
        Ok(())
    })
}

async fn versioned(site: &Site, keys: (&str, &str), bucket: &str) -> Result<(), String> {
    expect(200, &site.send(keys, Request::bucket("PUT", bucket)).await?)?;
    expect(200, &site.send(keys, versioning(bucket, "Enabled")).await?)
}

async fn prepared(east: &Site, west: &Site) -> Result<(), String> {
    joined(east, west).await?;
    east.add_user("anna", ANNA)?;
    versioned(east, ANNA, "photos").await?;
    versioned(east, ANNA, "rules").await?;
    expect(200, &east.send(ANNA, Request::bucket("PUT", "plain")).await?)?;
    versioned(west, west.root(), "mirror").await?;
    let locks =
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
    let locks = |bucket| Request::bucket("PUT", bucket).flag("object-lock").body(locks).content_md5();
    expect(200, &east.send(ANNA, locks("photos")).await?)?;
    expect(200, &west.send(west.root(), locks("mirror")).await?)?;
    versioned(west, west.root(), "copies").await?;
    expect(200, &west.send(west.root(), Request::bucket("PUT", "unversioned")).await?)
}

const FILTERED: &str = "<Rule><ID>a</ID><Priority>1</Priority><Filter><Prefix>a/</Prefix></Filter><Status>Enabled</Status>\
    <Destination><Bucket>arn:aws:s3:::TO</Bucket></Destination>\
    <DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication></Rule>";

fn configuration(bucket: &str, rules: &str) -> Request {
    let document = format!(
        "<ReplicationConfiguration><Role>arn:aws:iam::1:role/r</Role>{rules}</ReplicationConfiguration>"
    );
    Request::bucket("PUT", bucket).flag("replication").body(document).content_md5()
}

async fn refused(east: &Site, west: &Site) -> Result<(), String> {
    let to = |name: &str| FILTERED.replace("TO", name);
    let cases = [
        ("plain", to("copies"), "InvalidRequest", "Versioning must be"),
        ("rules", to("nowhere"), "InvalidRequest", "must exist"),
        ("rules", to("photos"), "InvalidRequest", "in this cluster"),
        ("rules", to("unversioned"), "InvalidRequest", "must have versioning"),
        ("rules", to("copies"), "InvalidRequest", "overlay grant"),
        ("rules", "<Rule/>".to_string(), "MalformedXML", ""),
    ];
    for (bucket, rules, code, words) in cases {
        let answer = east.send(ANNA, configuration(bucket, &rules)).await?;
        expect(400, &answer)?;
        if answer.code() != code || !String::from_utf8_lossy(&answer.body).contains(words) {
            return Err(format!("not {code} {words}: {}", answer.describe()));
        }
    }
    let none = east.send(ANNA, Request::bucket("GET", "rules").flag("replication")).await?;
    expect(404, &none)?;
    for (source, bucket, words) in [
        ("east/photos", "mirror", "overlay grant"),
        ("east/nothing", "mirror", "no bucket nothing"),
        ("north/photos", "mirror", "no such cluster"),
        ("photos", "mirror", "CLUSTER/BUCKET"),
        ("east/photos", "nothing", "no bucket nothing"),
    ] {
        match west.overlay(&["follow", source, bucket]) {
            Err(why) if why.contains(words) => {}
            other => return Err(format!("follow {source} {bucket}: {other:?}")),
        }
    }
    east.overlay(&["grant", "west", "anna"])?;
    match west.overlay(&["follow", "east/photos", "unversioned"]) {
        Err(why) if why.contains("versioning") => {}
        other => return Err(format!("{other:?}")),
    }
    match west.overlay(&["promote", "mirror"]) {
        Err(why) if why.contains("follows no") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// All versions of a bucket in order: key, tag, bytes, whether it is the latest, and when it was stored to the second.
async fn versions(site: &Site, keys: (&str, &str), bucket: &str) -> Result<Vec<String>, String> {
    Ok(listed(site, keys, bucket).await?.into_iter().map(|(version, _)| version).collect())
}

/// The same with their ids.
async fn listed(site: &Site, keys: (&str, &str), bucket: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut markers: Option<(String, String)> = None;
    loop {
        let mut request = Request::bucket("GET", bucket).flag("versions");
        if let Some((key, version)) = &markers {
            request = request.query("key-marker", key).query("version-id-marker", version);
        }
        let answer = site.send(keys, request).await?;
        expect(200, &answer)?;
        let xml = answer.xml()?;
        for child in &xml.children {
            let what = match child.name.as_str() {
                "Version" => format!("{} {}", child.text_of("ETag"), child.text_of("Size")),
                "DeleteMarker" => "marker".to_string(),
                _ => continue,
            };
            let (latest, modified) = (child.text_of("IsLatest"), child.text_of("LastModified"));
            let version = format!("{} {what} {latest} {modified}", child.text_of("Key"));
            found.push((version, child.text_of("VersionId").to_string()));
        }
        if xml.text_of("IsTruncated") != "true" {
            return Ok(found);
        }
        markers =
            Some((xml.text_of("NextKeyMarker").to_string(), xml.text_of("NextVersionIdMarker").to_string()));
    }
}

/// The copy has the same versions with the same ids in the same order.
async fn same(east: &Site, west: &Site, buckets: (&str, &str), patience: Duration) -> Result<usize, String> {
    wait("the copy catches up", patience, async || {
        let there = listed(east, ANNA, buckets.0).await?;
        let here = listed(west, west.root(), buckets.1).await?;
        if there == here {
            return Ok(here.len());
        }
        let differs = there.iter().zip(&here).find(|(there, here)| there != here);
        Err(format!(
            "{} versions there, {} here; the first that differs: {differs:?}",
            there.len(),
            here.len()
        ))
    })
    .await
}

async fn mirrored(east: &Site, west: &Site) -> Result<(), String> {
    let sizes = [0, 1, 16 << 10, (16 << 10) + 1, 300_000, 9 << 20];
    for (index, bytes) in (0..).zip(sizes) {
        let put = Request::object("PUT", "photos", &format!("of {bytes} bytes"))
            .generated(Pattern::new(index, bytes));
        let put =
            put.header("x-amz-meta-a", "b").header("content-type", "image/x").header("x-amz-tagging", "k=v");
        expect(200, &east.send(ANNA, put).await?)?;
    }
    for body in ["one", "two"] {
        expect(200, &east.send(ANNA, Request::object("PUT", "photos", "k").body(body)).await?)?;
    }
    expect(204, &east.send(ANNA, Request::object("DELETE", "photos", "k")).await?)?;
    let locked = Request::object("PUT", "photos", "locked").body("x").content_md5();
    let locked = locked
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2100-01-01T00:00:00Z")
        .header("x-amz-object-lock-legal-hold", "ON");
    expect(200, &east.send(ANNA, locked).await?)?;
    west.overlay(&["follow", "east/photos", "mirror"])?;
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "k").body("three")).await?)?;
    let count = same(east, west, ("photos", "mirror"), PATIENCE).await?;
    if count != 11 {
        return Err(format!("{count} versions"));
    }
    let locked = head(west, west.root(), "mirror", "locked").await?;
    let is_locked = locked[6..].iter().map(Option::as_deref).eq([Some("GOVERNANCE"), Some("ON")]);
    if !is_locked || locked != head(east, ANNA, "photos", "locked").await? {
        return Err(format!("{locked:?}"));
    }
    let statuses =
        (status(east, ANNA, "photos", "k").await?, status(west, west.root(), "mirror", "k").await?);
    if statuses != (None, Some("REPLICA".to_string())) {
        return Err(format!("{statuses:?}"));
    }
    for (index, bytes) in (0..).zip(sizes) {
        let key = format!("of {bytes} bytes");
        let got = west.send(west.root(), Request::object("GET", "mirror", &key)).await?;
        expect(200, &got)?;
        let headers = ["x-amz-meta-a", "content-type", "x-amz-tagging-count"].map(|name| got.header(name));
        if got.body != Pattern::new(index, bytes).bytes()
            || headers != [Some("b"), Some("image/x"), Some("1")]
        {
            return Err(format!("{key}: {} bytes, {headers:?}", got.body.len()));
        }
        let head = |site, keys, bucket| head(site, keys, bucket, &key);
        let (there, here) = (head(east, ANNA, "photos").await?, head(west, west.root(), "mirror").await?);
        if there != here {
            return Err(format!("{key}: {there:?} {here:?}"));
        }
    }
    Ok(())
}

async fn head(
    site: &Site,
    keys: (&str, &str),
    bucket: &str,
    key: &str,
) -> Result<Vec<Option<String>>, String> {
    let request = Request::object("HEAD", bucket, key).header("x-amz-checksum-mode", "ENABLED");
    let answer = site.send(keys, request).await?;
    expect(200, &answer)?;
    let names = [
        "etag",
        "last-modified",
        "content-length",
        "x-amz-checksum-crc64nvme",
        "x-amz-version-id",
        "x-amz-object-lock-retain-until-date",
        "x-amz-object-lock-mode",
        "x-amz-object-lock-legal-hold",
    ];
    Ok(names.map(|name| answer.header(name).map(str::to_string)).to_vec())
}

/// What is told of the copies of an object, by GET as by HEAD.
async fn status(site: &Site, keys: (&str, &str), bucket: &str, key: &str) -> Result<Option<String>, String> {
    let mut told = Vec::new();
    for method in ["HEAD", "GET"] {
        let answer = site.send(keys, Request::object(method, bucket, key)).await?;
        expect(200, &answer)?;
        told.push(answer.header("x-amz-replication-status").map(str::to_string));
    }
    match told.iter().all(|status| *status == told[0]) {
        true => Ok(told.swap_remove(0)),
        false => Err(format!("{told:?}")),
    }
}

async fn becomes(site: &Site, keys: (&str, &str), of: (&str, &str), expected: &str) -> Result<(), String> {
    // Who copied may have died: until another one goes on nobody tells how far the copy is.
    wait(expected, CAUGHT_UP, async || match status(site, keys, of.0, of.1).await? {
        Some(status) if status == expected => Ok(()),
        other => Err(format!("{}: {other:?}", of.1)),
    })
    .await
}

async fn read_only(west: &Site) -> Result<(), String> {
    let bodied = |method| Request::object(method, "mirror", "k").body("x");
    let tagging = "<Tagging><TagSet/></Tagging>";
    for (status, request) in [
        (403, bodied("PUT")),
        (403, Request::object("DELETE", "mirror", "k")),
        (403, Request::object("POST", "mirror", "k").flag("uploads")),
        (403, Request::object("PUT", "mirror", "k").flag("tagging").body(tagging).content_md5()),
        (409, versioning("mirror", "Suspended")),
    ] {
        expect(status, &west.send(west.root(), request).await?)?;
    }
    Ok(())
}

async fn tagged(east: &Site, west: &Site) -> Result<(), String> {
    let tagging = "<Tagging><TagSet><Tag><Key>new</Key><Value>tag</Value></Tag></TagSet></Tagging>";
    let set = Request::object("PUT", "photos", "k").flag("tagging").body(tagging).content_md5();
    expect(200, &east.send(ANNA, set).await?)?;
    wait("the tags", PATIENCE, async || {
        let got = west.send(west.root(), Request::object("GET", "mirror", "k").flag("tagging")).await?;
        expect(200, &got)?;
        let text = String::from_utf8_lossy(&got.body).into_owned();
        if text.contains("<Key>new</Key>") { Ok(()) } else { Err(text) }
    })
    .await
}

async fn relocked(east: &Site, west: &Site) -> Result<(), String> {
    let change = |what, document: &str| {
        let set = Request::object("PUT", "photos", "locked").flag(what).body(document).content_md5();
        set.header("x-amz-bypass-governance-retention", "true")
    };
    let retention = |mode, until| {
        let document =
            format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>");
        change("retention", &document)
    };
    let locked = async |expected: &[Option<&str>]| {
        wait("the lock", PATIENCE, async || {
            let (there, here) = (
                head(east, ANNA, "photos", "locked").await?,
                head(west, west.root(), "mirror", "locked").await?,
            );
            let is = here[5..].iter().map(Option::as_deref).eq(expected.iter().copied());
            if is && there == here { Ok(()) } else { Err(format!("{there:?} {here:?}")) }
        })
        .await
    };
    let hold = change("legal-hold", "<LegalHold><Status>OFF</Status></LegalHold>");
    expect(200, &east.send(ANNA, hold).await?)?;
    locked(&[Some("2100-01-01T00:00:00.000Z"), Some("GOVERNANCE"), None]).await?;
    // Less, by somebody who may, and then another mode.
    expect(200, &east.send(ANNA, retention("GOVERNANCE", "2099-01-01T00:00:00Z")).await?)?;
    locked(&[Some("2099-01-01T00:00:00.000Z"), Some("GOVERNANCE"), None]).await?;
    expect(200, &east.send(ANNA, retention("COMPLIANCE", "2099-02-01T00:00:00Z")).await?)?;
    locked(&[Some("2099-02-01T00:00:00.000Z"), Some("COMPLIANCE"), None]).await
}

/// Bytes of the parts of an upload, by number.
const PARTS: [(u32, u64); 3] = [(1, 5 << 20), (3, 6 << 20), (7, 1000)];

/// Stores an object in parts.
async fn upload(site: &Site, bucket: &str, key: &str) -> Result<(), String> {
    let begin = Request::object("POST", bucket, key).flag("uploads");
    let begun = site.send(ANNA, begin.header("x-amz-checksum-algorithm", "SHA256")).await?;
    expect(200, &begun)?;
    let id = begun.xml()?.text_of("UploadId").to_string();
    let mut tags = Vec::new();
    for (number, bytes) in PARTS {
        let part = Request::object("PUT", bucket, key).query("partNumber", number).query("uploadId", &id);
        let answer = site.send(ANNA, part.generated(Pattern::new(number.into(), bytes))).await?;
        expect(200, &answer)?;
        tags.push((number, answer.etag().to_string()));
    }
    expect(200, &site.send(ANNA, complete(bucket, key, &id, &tags)).await?)
}

/// What is told of the parts of an object, and of each of them.
async fn parts(site: &Site, keys: (&str, &str), bucket: &str, key: &str) -> Result<Vec<String>, String> {
    let attributes = Request::object("GET", bucket, key).flag("attributes");
    let attributes = attributes.header("x-amz-object-attributes", "ETag,Checksum,ObjectParts,ObjectSize");
    let answer = site.send(keys, attributes).await?;
    expect(200, &answer)?;
    let mut told = vec![String::from_utf8_lossy(&answer.body).into_owned()];
    for method in ["HEAD", "GET"] {
        for (number, bytes) in PARTS {
            let part = Request::object(method, bucket, key).query("partNumber", number);
            let answer = site.send(keys, part.header("x-amz-checksum-mode", "ENABLED")).await?;
            expect(206, &answer)?;
            let is_part = method == "HEAD" || answer.body == Pattern::new(number.into(), bytes).bytes();
            let names = ["x-amz-mp-parts-count", "content-range", "x-amz-checksum-sha256", "etag"];
            told.push(format!("{is_part} {:?}", names.map(|name| answer.header(name))));
        }
    }
    Ok(told)
}

/// Both sides tell the same of the parts of an object.
async fn same_parts(
    (east, bucket): (&Site, &str),
    (west, copy): (&Site, &str),
    key: &str,
) -> Result<(), String> {
    let there = parts(east, ANNA, bucket, key).await?;
    let are_parts = there[0].contains("<PartNumber>7</PartNumber>")
        && there[1..].iter().all(|part| part.starts_with("true [Some(\"3\"), Some(\"bytes "));
    if !are_parts {
        return Err(format!("{there:#?}"));
    }
    wait("the copy", PATIENCE, async || match parts(west, west.root(), copy, key).await? {
        here if here == there => Ok(()),
        here => Err(format!("{there:#?} {here:#?}")),
    })
    .await
}

async fn in_parts(east: &Site, west: &Site) -> Result<(), String> {
    upload(east, "photos", "in parts").await?;
    same_parts((east, "photos"), (west, "mirror"), "in parts").await
}

/// Writes to the source for as long as it is let; what a killed gateway did not answer may have happened or not.
struct Load<'a> {
    east: &'a Site,
    /// With what keys begin.
    prefix: &'static str,
    /// At most so many, if there is a bound.
    most: u64,
    /// So many a second, if there is a bound.
    pace: Option<u64>,
    stopped: AtomicBool,
    begun: AtomicU64,
    done: AtomicU64,
}

impl<'a> Load<'a> {
    fn new(east: &'a Site, prefix: &'static str, most: u64, pace: Option<u64>) -> Load<'a> {
        let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Load { east, prefix, most, pace, stopped: AtomicBool::new(false), begun, done }
    }

    async fn run(&self) {
        let begin = Instant::now();
        join_all((0..WRITERS).map(|_| self.write(begin))).await;
    }

    async fn write(&self, begin: Instant) {
        while !self.stopped.load(Ordering::Relaxed) {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if self.most <= number {
                return;
            }
            if let Some(pace) = self.pace {
                let due = begin + Duration::from_micros(number * 1_000_000 / pace);
                tokio::time::sleep_until(due.into()).await;
            }
            let key = format!("{}{}", self.prefix, number % 5000);
            let request = match number % 10 {
                9 => Request::object("DELETE", "photos", &key),
                5 if self.pace.is_none() && self.most == u64::MAX => {
                    Request::object("PUT", "photos", &key).generated(Pattern::new(number, 100_000))
                }
                _ => Request::object("PUT", "photos", &key).generated(Pattern::new(number, 1024)),
            };
            match self.east.send(ANNA, request).await {
                Ok(answer) if answer.status < 300 => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn killed(east: &Site, west: &Site) -> Result<(), String> {
    let failed = |error: anyhow::Error| error.to_string();
    let load = Load::new(east, "load/", u64::MAX, None);
    let killing = async {
        for site in [west, east, west, east] {
            tokio::time::sleep(Duration::from_secs(3)).await;
            site.store.gateway.daemon.kill();
            site.store.gateway.start().await.map_err(failed)?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        load.stopped.store(true, Ordering::Relaxed);
        Ok::<(), String>(())
    };
    let (outcome, ()) = tokio::join!(killing, load.run());
    load.stopped.store(true, Ordering::Relaxed);
    outcome?;
    same(east, west, ("photos", "mirror"), CAUGHT_UP).await?;
    let done = load.done.load(Ordering::Relaxed);
    if done < 100 { Err(format!("only {done} requests were answered")) } else { Ok(()) }
}

async fn cut(east: &Site, west: &Site) -> Result<(), String> {
    west.store.gateway.daemon.kill();
    Load::new(east, "cut/", 3000, None).run().await;
    west.store.gateway.start().await.map_err(|error| error.to_string())?;
    // And the other way: the source is away for a while.
    east.store.gateway.daemon.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    east.store.gateway.start().await.map_err(|error| error.to_string())?;
    Load::new(east, "cut/", 300, None).run().await;
    same(east, west, ("photos", "mirror"), CAUGHT_UP).await.map(drop)
}

/// What the copy says of itself.
fn follow(west: &Site, bucket: &str) -> Result<Value, String> {
    let list = west.json(&["list", "--json"])?;
    let follows = list["follows"].as_array().cloned().unwrap_or_default();
    follows.into_iter().find(|follow| follow["bucket"] == bucket).ok_or(format!("{bucket} follows nothing"))
}

async fn figures(east: &Site, west: &Site) -> Result<String, String> {
    let copied = || Ok::<u64, String>(follow(west, "mirror")?["objects"].as_u64().unwrap_or(0));
    let before = copied()?;
    west.store.gateway.daemon.kill();
    Load::new(east, "many/", MANY, None).run().await;
    west.store.gateway.start().await.map_err(|error| error.to_string())?;
    let expected = before + MANY / 10 * 9;
    let first = wait("it begins", CAUGHT_UP, async || match copied()? {
        some if before < some => Ok((Instant::now(), some)),
        none => Err(format!("{none} copied")),
    })
    .await?;
    wait("it ends", CAUGHT_UP, async || match copied()? {
        some if expected <= some => Ok(()),
        some => Err(format!("{some} of {expected}")),
    })
    .await?;
    let rate = (expected - first.1) as f64 / first.0.elapsed().as_secs_f64().max(0.001);
    same(east, west, ("photos", "mirror"), CAUGHT_UP).await?;

    let load = Load::new(east, "half/", HALF * 15, Some(HALF));
    let looking = async {
        let (mut lags, begin) = (Vec::new(), Instant::now());
        while begin.elapsed() < Duration::from_secs(15) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // As far behind as it was when it was looked at, and what passed since.
            let follow = follow(west, "mirror")?;
            let number = |name: &str| follow[name].as_u64().ok_or(format!("{name}: {follow}"));
            lags.push(number("lag_ms")? + number("seen_ms_ago")?);
        }
        Ok::<Vec<u64>, String>(lags)
    };
    let begin = Instant::now();
    let (lags, ()) = tokio::join!(looking, load.run());
    let (mut lags, took) = (lags?, begin.elapsed());
    same(east, west, ("photos", "mirror"), CAUGHT_UP).await?;
    lags.sort_unstable();
    let (median, worst) = (lags[lags.len() / 2], lags[lags.len() - 1]);
    let written = load.done.load(Ordering::Relaxed) as f64 / took.as_secs_f64();
    let text = format!(
        "{rate:.0} objects/s of 1 KiB are caught up; at {written:.0} changes/s the copy is {median} ms behind, {worst} ms at most"
    );
    if rate < 1000.0 || 2000 < worst { Err(text) } else { Ok(text) }
}

async fn promoted(east: &Site, west: &Site) -> Result<(), String> {
    let load = Load::new(east, "last/", u64::MAX, Some(300));
    let promoting = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let said = west.overlay_meanwhile(&["promote", "mirror"]).await;
        load.stopped.store(true, Ordering::Relaxed);
        said
    };
    let (said, ()) = tokio::join!(promoting, load.run());
    let said = said?;
    if !said.contains("has all of east/photos") {
        return Err(said);
    }
    same(east, west, ("photos", "mirror"), Duration::ZERO).await?;
    superseded(east, &[]).await?;
    let newest = listed(west, west.root(), "mirror").await?.into_iter().map(|(_, id)| id).max();
    let put = west.send(west.root(), Request::object("PUT", "mirror", "own").body("x")).await?;
    expect(200, &put)?;
    if put.header("x-amz-version-id") <= newest.as_deref() {
        return Err(format!("the first version of its own is not the newest: {}", put.describe()));
    }
    expect(204, &west.send(west.root(), Request::object("DELETE", "mirror", "k")).await?)?;
    // Two that are written to are two buckets from then on.
    east.overlay(&["reopen", "photos"])?;
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "k").body("east")).await?)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    expect(404, &west.send(west.root(), Request::object("GET", "mirror", "k")).await?)
}

/// Nobody writes to the bucket in the east, and what the one in the west does not have of it is known.
async fn superseded(east: &Site, missed: &[&str]) -> Result<(), String> {
    for request in [
        Request::object("PUT", "photos", "k").body("x"),
        Request::object("DELETE", "photos", "k"),
        Request::object("POST", "photos", "k").flag("uploads"),
    ] {
        let answer = east.send(ANNA, request).await?;
        expect(403, &answer)?;
        if !String::from_utf8_lossy(&answer.body).contains("the bucket mirror of the cluster west") {
            return Err(answer.describe());
        }
    }
    let shown = east.json(&["superseded", "photos", "--json"])?;
    let found = shown["missed"].as_array().cloned().unwrap_or_default();
    let text = |change: &Value| {
        format!("{} {}", change["kind"].as_str().unwrap_or("?"), change["key"].as_str().unwrap_or("?"))
    };
    let found: Vec<String> = found.iter().map(text).collect();
    if shown["cluster"] != "west" || shown["by"] != "mirror" || shown["more"] != false || found != missed {
        return Err(shown.to_string());
    }
    let listed = east.overlay(&["list"])?;
    let line =
        format!("photos is read-only: west/mirror took its place, which lacks {} changes", missed.len());
    if listed.contains(&line) { Ok(()) } else { Err(listed) }
}

/// Keys and tags of current versions.
async fn current(site: &Site, keys: (&str, &str), bucket: &str) -> Result<Vec<String>, String> {
    let all = versions(site, keys, bucket).await?;
    let is_current = |text: &String| text.contains(" true ") && !text.contains(" marker ");
    Ok(all.into_iter().filter(is_current).collect())
}

/// A copy that was written to follows again: what differs is copied, the rest stays.
async fn compared(east: &Site, west: &Site) -> Result<(), String> {
    expect(204, &east.send(ANNA, Request::object("DELETE", "photos", "of 1 bytes")).await?)?;
    let before = versions(west, west.root(), "mirror").await?.len();
    west.overlay(&["follow", "east/photos", "mirror"])?;
    wait("both sides are equal", PATIENCE, async || {
        let (there, here) =
            (current(east, ANNA, "photos").await?, current(west, west.root(), "mirror").await?);
        if there == here { Ok(()) } else { Err(format!("{} there, {} here", there.len(), here.len())) }
    })
    .await?;
    // The new version of one key, and delete markers of two.
    let after = versions(west, west.root(), "mirror").await?.len();
    if after != before + 3 {
        return Err(format!("{before} versions became {after}"));
    }
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "k").body("again")).await?)?;
    wait("it goes on", PATIENCE, async || {
        let got = west.send(west.root(), Request::object("GET", "mirror", "k")).await?;
        if got.body == b"again" { Ok(()) } else { Err(got.describe()) }
    })
    .await
}

async fn replicated(east: &Site, west: &Site) -> Result<(), String> {
    expect(200, &east.send(ANNA, Request::object("PUT", "rules", "a/before").body("x")).await?)?;
    west.overlay(&["grant", "east", "root", "--bucket", "copies"])?;
    let rules = FILTERED.replace("TO", "copies--west");
    wait("the grant", PATIENCE, async || {
        expect(200, &east.send(ANNA, configuration("rules", &rules)).await?)
    })
    .await?;
    let shown = east.send(ANNA, Request::bucket("GET", "rules").flag("replication")).await?;
    expect(200, &shown)?;
    if !String::from_utf8_lossy(&shown.body).contains("<Bucket>arn:aws:s3:::copies--west</Bucket>") {
        return Err(shown.describe());
    }
    for (method, key, status) in [
        ("PUT", "b/other", 200),
        ("PUT", "a/one", 200),
        ("PUT", "a/two", 200),
        ("DELETE", "a/one", 204),
        ("PUT", "a/last", 200),
    ] {
        expect(status, &east.send(ANNA, Request::object(method, "rules", key)).await?)?;
    }
    let expected = ["a/last", "a/one marker", "a/one", "a/two"];
    wait("what the rules say", PATIENCE, async || {
        let found = versions(west, west.root(), "copies").await?;
        let is = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        if is { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await?;
    // Others write there, too.
    expect(200, &west.send(west.root(), Request::object("PUT", "copies", "own").body("x")).await?)?;
    replication_status(east, west).await?;
    expect(409, &east.send(ANNA, versioning("rules", "Suspended")).await?)?;
    expect(204, &east.send(ANNA, Request::bucket("DELETE", "rules").flag("replication")).await?)?;
    wait("it ends", PATIENCE, async || match follow(west, "copies") {
        Err(_) => Ok(()),
        Ok(follow) => Err(follow.to_string()),
    })
    .await
}

/// What each side tells of the copies that the rules want.
async fn replication_status(east: &Site, west: &Site) -> Result<(), String> {
    for key in ["a/two", "a/last"] {
        becomes(east, ANNA, ("rules", key), "COMPLETED").await?;
    }
    for (site, keys, bucket, key, expected) in [
        (east, ANNA, "rules", "a/before", None),
        (east, ANNA, "rules", "b/other", None),
        (west, west.root(), "copies", "a/two", Some("REPLICA")),
        (west, west.root(), "copies", "own", None),
        // Through the gateway of another cluster.
        (west, ANNA, "rules", "a/two", Some("COMPLETED")),
    ] {
        let told = status(site, keys, bucket, key).await?;
        if told.as_deref() != expected {
            return Err(format!("{bucket}/{key}: {told:?}"));
        }
    }
    // The bucket of the copies encrypts.
    let encryption = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
        <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    let encryption = Request::bucket("PUT", "copies").flag("encryption").body(encryption).content_md5();
    expect(200, &west.send(west.root(), encryption).await?)?;
    upload(east, "rules", "a/in parts").await?;
    same_parts((east, "rules"), (west, "copies"), "a/in parts").await?;
    // What is made of a copy is none.
    let copy = Request::object("PUT", "copies", "made").header("x-amz-copy-source", "copies/a/two");
    expect(200, &west.send(west.root(), copy).await?)?;
    let made = status(west, west.root(), "copies", "made").await?;
    if made.is_some() {
        return Err(format!("made of a copy: {made:?}"));
    }
    // Only its customer can read it.
    let sealed = |method| with_key(Request::object(method, "rules", "a/sealed"), CUSTOMER, 7);
    expect(200, &east.send(ANNA, sealed("PUT").body("x")).await?)?;
    let failed = east.send(ANNA, sealed("HEAD")).await?;
    if failed.header("x-amz-replication-status") != Some("FAILED") {
        return Err(format!("what cannot be copied: {}", failed.describe()));
    }
    west.store.gateway.daemon.kill();
    expect(200, &east.send(ANNA, Request::object("PUT", "rules", "a/pending").body("x")).await?)?;
    let pending = status(east, ANNA, "rules", "a/pending").await;
    west.store.gateway.start().await.map_err(|error| error.to_string())?;
    if pending.as_ref().map(Option::as_deref) != Ok(Some("PENDING")) {
        return Err(format!("{pending:?}"));
    }
    becomes(east, ANNA, ("rules", "a/pending"), "COMPLETED").await
}

/// What a home took that the copy never saw.
const MISSED: [&str; 3] = ["Put k", "Put late", "DeleteMarker own"];

async fn lost(east: &Site, west: &Site) -> Result<(), String> {
    let failed = |error: anyhow::Error| error.to_string();
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "own").body("x")).await?)?;
    same_current(east, west).await?;
    west.store.gateway.daemon.kill();
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "k").body("unseen")).await?)?;
    expect(200, &east.send(ANNA, Request::object("PUT", "photos", "late").body("unseen")).await?)?;
    expect(204, &east.send(ANNA, Request::object("DELETE", "photos", "own")).await?)?;
    east.store.gateway.daemon.kill();
    west.store.gateway.start().await.map_err(failed)?;
    wait("it is known to be away", PATIENCE, async || match west.overlay(&["promote", "mirror"]) {
        Err(why) if why.contains("away") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let said = west.overlay(&["promote", "mirror", "--home-is-lost"])?;
    if !said.contains("What came later is not in mirror") {
        return Err(said);
    }
    expect(200, &west.send(west.root(), Request::object("PUT", "mirror", "own").body("west")).await?)?;
    let listed = west.overlay(&["list"])?;
    let untold = "mirror took the place of east/photos, whose cluster does not know yet";
    if !listed.contains(untold) {
        return Err(listed);
    }
    // That it is still to be told outlives whoever promoted it.
    west.store.gateway.daemon.kill();
    west.store.gateway.start().await.map_err(failed)?;
    east.store.gateway.start().await.map_err(failed)?;
    // Who copied died, too: until another one goes on nobody tells.
    wait("the old home hears of it", CAUGHT_UP, async || east.overlay(&["superseded", "photos"]).map(drop))
        .await?;
    superseded(east, &MISSED).await?;
    wait("it is told once", PATIENCE, async || {
        let listed = west.overlay(&["list"])?;
        if listed.contains(untold) { Err(listed) } else { Ok(()) }
    })
    .await
}

/// The old home follows the new one: what it had alone stays among its old versions.
async fn followed_back(east: &Site, west: &Site) -> Result<(), String> {
    west.overlay(&["grant", "east", "root"])?;
    wait("the grant", PATIENCE, async || east.overlay(&["follow", "west/mirror", "photos"]).map(drop))
        .await?;
    expect(200, &west.send(west.root(), Request::object("PUT", "mirror", "k").body("west")).await?)?;
    same_current(east, west).await?;
    expect(403, &east.send(ANNA, Request::object("PUT", "photos", "k").body("x")).await?)?;
    let kept = versions(east, ANNA, "photos").await?;
    for key in ["k", "late"] {
        let of_key = |text: &&String| text.starts_with(&format!("{key} ")) && text.contains(" 6 false ");
        if kept.iter().filter(of_key).count() == 0 {
            return Err(format!("{key}: {kept:?}"));
        }
    }
    Ok(())
}

async fn same_current(east: &Site, west: &Site) -> Result<(), String> {
    wait("both sides are equal", PATIENCE, async || {
        let (there, here) =
            (current(east, ANNA, "photos").await?, current(west, west.root(), "mirror").await?);
        if there == here { Ok(()) } else { Err(format!("{} there, {} here", there.len(), here.len())) }
    })
    .await
}
