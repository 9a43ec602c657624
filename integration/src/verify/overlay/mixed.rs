//! Clusters of different releases: an earlier one, and this one.

use anyhow::Result;

use super::sites::{ANNA, BOB, Site, expect};
use super::{PATIENCE, RECORDS_LAST, bodies, joined, listed, reached, sees_soon, wait};
use crate::client::Request;
use crate::daemons::Daemon;
use crate::verify::Tally;

pub(in crate::verify) async fn run(tally: &mut Tally, earlier: impl FnOnce(Daemon) -> Daemon) -> Result<()> {
    let (mut east, west) = tokio::try_join!(Site::start_changed("east", &[], earlier), Site::start("west"))?;
    tally.check("a cluster of the earlier release and one of this one join", joined(&east, &west).await);
    tally.check("a bucket of the earlier one is reached through this one", reached(&east, &west).await);
    tally.check("bodies of all kinds go through to it", bodies(&west).await);
    tally.check("lists of both show where it is", listed(&east, &west).await);
    tally.check("a bucket of this one is reached through the earlier one", reached_back(&east, &west).await);
    tally.check("the earlier one is copied into this one", copied((&east, ANNA), &west).await);
    tally.check("this one is copied into the earlier one", copied((&west, BOB), &east).await);
    tally.check("both go on when the earlier one is renewed", renewed(&mut east, &west).await);
    Ok(())
}

async fn reached_back(east: &Site, west: &Site) -> Result<(), String> {
    west.add_user("bob", BOB)?;
    west.overlay(&["grant", "east", "bob"])?;
    expect(200, &west.send(BOB, Request::bucket("PUT", "maps")).await?)?;
    let put = || Request::object("PUT", "maps", "k").body("through the east");
    wait("his key", RECORDS_LAST * 2, async || expect(200, &east.send(BOB, put()).await?)).await?;
    has(west, BOB, "maps", "k", "through the east").await?;
    has(east, BOB, "maps", "k", "through the east").await
}

/// Copies a bucket of a user of one cluster into another cluster, and keeps copying.
async fn copied((from, user): (&Site, (&str, &str)), into: &Site) -> Result<(), String> {
    let (source, mirror) = names(from, into);
    for (site, keys, bucket) in [(from, user, &source), (into, into.root(), &mirror)] {
        expect(200, &site.send(keys, Request::bucket("PUT", bucket)).await?)?;
        let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let on = Request::bucket("PUT", bucket).flag("versioning").body(on).content_md5();
        expect(200, &site.send(keys, on).await?)?;
    }
    expect(200, &from.send(user, Request::object("PUT", &source, "first").body("first")).await?)?;
    let followed = format!("{}/{source}", from.name);
    wait("it is known", PATIENCE, async || into.overlay(&["follow", &followed, &mirror]).map(drop)).await?;
    arrives(into, &mirror, "first").await?;
    expect(200, &from.send(user, Request::object("PUT", &source, "second").body("second")).await?)?;
    arrives(into, &mirror, "second").await?;
    expect(204, &from.send(user, Request::object("DELETE", &source, "first")).await?)?;
    wait("the delete marker", PATIENCE, async || {
        expect(404, &into.send(into.root(), Request::object("GET", &mirror, "first")).await?)
    })
    .await
}

/// A bucket of one cluster, and its copy in another one.
fn names(from: &Site, into: &Site) -> (String, String) {
    (format!("kept-{}", from.name), format!("from-{}-{}", from.name, into.name))
}

/// Waits until an object whose bytes are its key is in a copy.
async fn arrives(site: &Site, mirror: &str, key: &str) -> Result<(), String> {
    wait("the copy", PATIENCE, async || has(site, site.root(), mirror, key, key).await).await
}

async fn has(site: &Site, keys: (&str, &str), bucket: &str, key: &str, body: &str) -> Result<(), String> {
    let got = site.send(keys, Request::object("GET", bucket, key)).await?;
    expect(200, &got)?;
    if got.body == body.as_bytes() { Ok(()) } else { Err(got.describe()) }
}

async fn renewed(east: &mut Site, west: &Site) -> Result<(), String> {
    let gateway = &mut east.store.gateway;
    gateway.daemon.terminate().await.map_err(|error| error.to_string())?;
    gateway.daemon.renew().map_err(|error| error.to_string())?;
    gateway.start().await.map_err(|error| error.to_string())?;
    sees_soon(west, "east", "up").await?;
    sees_soon(east, "west", "up").await?;
    for (from, user, into) in [(&*east, ANNA, west), (west, BOB, east)] {
        let (source, mirror) = names(from, into);
        expect(200, &from.send(user, Request::object("PUT", &source, "renewed").body("renewed")).await?)?;
        arrives(into, &mirror, "renewed").await?;
        arrives(into, &mirror, "second").await?;
    }
    has(east, BOB, "maps", "k", "through the east").await?;
    has(west, ANNA, "photos", "unsigned", "x").await
}
