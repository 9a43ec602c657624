//! What a gateway does otherwise where its options say so: two stores, restarted with others.

use anyhow::Result;

use super::sites::{ANNA, Site, expect};
use super::{PATIENCE, joined, sees_soon, wait};
use crate::client::Request;
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
async fn restarted(site: &mut Site, option: (&str, &str)) -> Result<(), String> {
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
