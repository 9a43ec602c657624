//! New buckets go to where there is room: a store whose disks are above its mark, one that takes buckets, and one that
//! does not.

use anyhow::Result;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::options::restarted;
use super::sites::{ANNA, BOB, Site, expect};
use super::{PATIENCE, joined, sees_soon, wait};
use crate::client::{Request, Response};
use crate::verify::{Tally, clients};

/// Uploads at once that make a gateway busy.
const UPLOADS: usize = 24;

pub(super) async fn run(tally: &mut Tally) -> Result<()> {
    let (mut east, west, north) = tokio::try_join!(
        // However full the disk of this machine is.
        Site::start_with("east", &["--overlay-space-mark", "99"]),
        Site::start_with("west", &["--overlay-takes-buckets", "--overlay-space-mark", "99"]),
        Site::start("north"),
    )?;
    tally.check("room: three clusters, one of which takes buckets", prepared(&east, &west, &north).await);
    tally.check("below its mark a cluster keeps new buckets", kept(&east).await);
    tally.check("while a gateway is busy they go to who takes them", busy(&mut east).await);
    tally.check("above it they go to who takes them", moved(&mut east, &west).await);
    let endpoint = format!("http://{}", east.store.gateway.listen);
    let variables = [
        ("AWS_ACCESS_KEY_ID", ANNA.0),
        ("AWS_SECRET_ACCESS_KEY", ANNA.1),
        ("AWS_DEFAULT_REGION", east.name),
        ("ROOMY_REGION", west.name),
    ];
    clients::overlay("room", &endpoint, &variables, tally)?;
    tally.check("not of those who may not come there", refused(&east).await);
    tally.check("and stay where nobody takes them", nowhere(&east, &west).await);
    Ok(())
}

async fn prepared(east: &Site, west: &Site, north: &Site) -> Result<(), String> {
    joined(east, west).await?;
    joined(east, north).await?;
    east.add_user("anna", ANNA)?;
    east.add_user("bob", BOB)?;
    for other in [west, north] {
        east.overlay(&["grant", other.name, "anna"])?;
        other.overlay(&["grant", "east", "east/anna"])?;
    }
    offers(east, &[("west", true), ("north", false)]).await
}

/// Waits until a cluster knows what room others offer.
async fn offers(east: &Site, expected: &[(&str, bool)]) -> Result<(), String> {
    wait("the others tell what room they have", PATIENCE, async || {
        let list = east.json(&["list", "--json"])?;
        let is_as_told = expected.iter().all(|(name, offered)| {
            let mut clusters = list["clusters"].as_array().into_iter().flatten();
            let room = clusters.find(|cluster| cluster["name"] == *name).map(|found| &found["room"]);
            room.is_some_and(|room| room["offered"] == *offered && room["free_bytes"].as_u64() > Some(0))
        });
        if is_as_told { Ok(()) } else { Err(list.to_string()) }
    })
    .await
}

fn create(name: &str) -> Request {
    Request::bucket("PUT", name)
}

/// Where a bucket is as the catalog of a cluster says, and why.
fn place(site: &Site, name: &str) -> Result<(String, Value), String> {
    let catalog = site.json(&["catalog", "--json"])?;
    let mut buckets = catalog["buckets"].as_array().into_iter().flatten();
    let found = buckets.find(|bucket| bucket["name"] == name).ok_or_else(|| catalog.to_string())?;
    Ok((found["cluster"].as_str().unwrap_or_default().to_string(), found["placed"].clone()))
}

async fn is_at(site: &Site, name: &str, cluster: &str, placed: Value) -> Result<(), String> {
    wait("the catalog tells where and why", PATIENCE, async || {
        let found = place(site, name)?;
        if found == (cluster.to_string(), placed.clone()) {
            Ok(())
        } else {
            Err(format!("{name}: {found:?}"))
        }
    })
    .await
}

async fn kept(east: &Site) -> Result<(), String> {
    expect(200, &east.send(ANNA, create("kept")).await?)?;
    is_at(east, "kept", "east", Value::Null).await
}

/// A few uploads that stand still are more than one percent of what goes on at once.
async fn busy(east: &mut Site) -> Result<(), String> {
    restarted(east, ("--overlay-load-mark", "1")).await?;
    offers(east, &[("west", true)]).await?;
    let upload = |number: usize| Request::object("PUT", "kept", &format!("slow-{number}"));
    let begun = (0..UPLOADS).map(|number| east.begin_upload(ANNA, upload(number), 8 << 20));
    let begun = try_join_all(begun).await?;
    let listed = async |expected: bool| match east.overlay(&["list"])? {
        list if list.contains("its gateway is above its mark") == expected => Ok(()),
        list => Err(list),
    };
    wait("the mark of load is passed", PATIENCE, async || listed(true).await).await?;
    expect(200, &east.send(ANNA, create("busy")).await?)?;
    is_at(east, "busy", "west", json!({ "via": "east", "why": "load" })).await?;
    let catalog = east.overlay(&["catalog"])?;
    if !catalog.contains("east was too busy") {
        return Err(catalog);
    }
    drop(begun);
    wait("the load is over", PATIENCE, async || listed(false).await).await?;
    expect(200, &east.send(ANNA, create("calm")).await?)?;
    is_at(east, "calm", "east", Value::Null).await?;
    restarted(east, ("--overlay-load-mark", "90")).await
}

async fn moved(east: &mut Site, west: &Site) -> Result<(), String> {
    restarted(east, ("--overlay-space-mark", "1")).await?;
    offers(east, &[("west", true)]).await?;
    wait("the mark is passed", PATIENCE, async || {
        let list = east.overlay(&["list"])?;
        if list.contains("its disks are above their mark") { Ok(()) } else { Err(list) }
    })
    .await?;
    let answer = east.send(ANNA, create("moved")).await?;
    expect(200, &answer)?;
    if answer.header("location") != Some("/moved") {
        return Err(answer.describe());
    }
    is_at(east, "moved", "west", json!({ "via": "east", "why": "space" })).await?;
    let catalog = east.overlay(&["catalog"])?;
    if !catalog.contains("east had too little space") {
        return Err(catalog);
    }
    // It is a bucket like any other, at both.
    expect(200, &east.send(ANNA, Request::object("PUT", "moved", "k").body("hello")).await?)?;
    expect(200, &west.send(ANNA, Request::object("HEAD", "moved", "k")).await?)?;
    let head = east.send(ANNA, Request::bucket("HEAD", "moved")).await?;
    if head.header("x-amz-bucket-region") != Some("west") {
        return Err(head.describe());
    }
    let code = |answer: Response| answer.xml().map(|xml| xml.text_of("Code").to_string());
    let again = east.send(ANNA, create("moved")).await?;
    expect(409, &again)?;
    let of_other = east.send(BOB, create("moved")).await?;
    expect(409, &of_other)?;
    let codes = (code(again)?, code(of_other)?);
    if codes != ("BucketAlreadyOwnedByYou".to_string(), "BucketAlreadyExists".to_string()) {
        return Err(format!("{codes:?}"));
    }
    // Who says where it is to be gets it there.
    let body = "<CreateBucketConfiguration><LocationConstraint>REGION</LocationConstraint></CreateBucketConfiguration>";
    let located = |name: &str, region: &str| create(name).body(body.replace("REGION", region));
    expect(200, &east.send(ANNA, located("staying", "east")).await?)?;
    is_at(east, "staying", "east", Value::Null).await?;
    expect(200, &east.send(ANNA, located("asked", "north")).await?)?;
    is_at(east, "asked", "north", json!({ "via": "east", "why": "asked" })).await?;
    expect(400, &east.send(ANNA, create("unreadable").body("<CreateBucket")).await?)
}

async fn refused(east: &Site) -> Result<(), String> {
    expect(200, &east.send(BOB, create("of-bob")).await?)?;
    is_at(east, "of-bob", "east", Value::Null).await?;
    let stranger = (ANNA.0, BOB.1);
    expect(403, &east.send(stranger, create("of-nobody")).await?)?;
    let catalog = east.overlay(&["catalog"])?;
    if catalog.contains("of-nobody") { Err(catalog) } else { Ok(()) }
}

async fn nowhere(east: &Site, west: &Site) -> Result<(), String> {
    west.store.gateway.daemon.kill();
    // Whether it is known to be away already or not.
    expect(200, &east.send(ANNA, create("stays")).await?)?;
    is_at(east, "stays", "east", Value::Null).await?;
    sees_soon(east, "west", "away").await?;
    expect(200, &east.send(ANNA, create("stays-too")).await?)?;
    is_at(east, "stays-too", "east", Value::Null).await
}
