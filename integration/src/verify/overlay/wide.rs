//! Clusters of different sizes: one of three machines and two gateways joins a store in one process. Gateways and machines
//! of it die, and nobody notices.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::sites::{ANNA, BOB, Site, command, expect, signer, versioning};
use super::{PATIENCE, RECORDS_LAST, sees_soon, wait};
use crate::client::{Pattern, Request, Response, Target as _, exchange};
use crate::daemons::{Cluster, free_port};
use crate::verify::Tally;

/// Requests are answered within this while a gateway of their home dies.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Another gateway copies within this.
const TAKEN_OVER: Duration = Duration::from_secs(60);

pub(super) async fn run(tally: &mut Tally) {
    let (wide, west) = match tokio::try_join!(Wide::start(), Site::start("west")) {
        Ok(started) => started,
        Err(error) => return tally.check("a cluster of two gateways starts", Err(format!("{error:#}"))),
    };
    tally.check("all gateways of a cluster join with one", joined(&wide, &west).await);
    tally.check("through each of them everything is reached", reached(&wide, &west).await);
    tally.check("what one of them is told all go by", told(&wide, &west).await);
    tally.check("a gateway dies, and its cluster stays", gateway_dies(&wide, &west).await);
    tally.check("so it does when a machine dies", machine_dies(&wide, &west).await);
    tally.check("another gateway copies when one dies", copier_dies(&wide, &west).await);
    tally.check("all gateways of a cluster leave with one", left(&wide, &west).await);
}

/// The cluster of three machines and two gateways.
struct Wide {
    cluster: Cluster,
}

impl Wide {
    async fn start() -> anyhow::Result<Wide> {
        let mut cluster = Cluster::prepare(3, 2, "", |daemon| daemon)?;
        for gateway in &mut cluster.gateways {
            gateway.daemon.set_option("--region", "wide");
            gateway.daemon.set_option("--overlay-listen", &format!("127.0.0.1:{}", free_port()?));
        }
        cluster.start_all().await?;
        Ok(Wide { cluster })
    }

    /// `fluffy-gateway …` at one of the gateways; an error is what it says.
    fn command(&self, gateway: usize, words: &[&str]) -> Result<String, String> {
        let admin = self.cluster.gateways[gateway].admin.to_string();
        let words = [words, &["--config", "config.yaml", "--admin", &admin]].concat();
        command(self.cluster.directory(), &words)
    }

    async fn send(&self, gateway: usize, keys: (&str, &str), request: Request) -> Result<Response, String> {
        let wire = signer(&self.cluster, gateway, "wide", keys).sign(request);
        let stream = self.cluster.connect(gateway).await.map_err(|error| error.to_string())?;
        exchange(stream, &wire, None).await.map_err(|error| error.to_string())
    }

    /// Whether a gateway sees the west like this.
    fn sees_west(&self, gateway: usize, up: bool) -> Result<(), String> {
        let said = self.command(gateway, &["overlay", "list", "--json"])?;
        let list: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let is = |cluster: &Value| cluster["name"] == "west" && cluster["up"] == up;
        let found = list["clusters"].as_array().is_some_and(|clusters| clusters.iter().any(is));
        if found { Ok(()) } else { Err(format!("gateway {}: {said}", gateway + 1)) }
    }
}

/// How many gateways of the wide cluster the west hears of.
fn gateways(west: &Site) -> Result<u64, String> {
    let list = west.json(&["list", "--json"])?;
    let clusters = list["clusters"].as_array().cloned().unwrap_or_default();
    let wide = clusters.iter().find(|cluster| cluster["name"] == "wide");
    Ok(wide.map_or(0, |wide| wide["gateways"].as_u64().unwrap_or(0)))
}

async fn joined(wide: &Wide, west: &Site) -> Result<(), String> {
    let token = wide.command(0, &["overlay", "invite"])?;
    let said = west.overlay(&["join", token.trim()])?;
    if said != "joined wide\n" {
        return Err(said);
    }
    sees_soon(west, "wide", "up").await?;
    for gateway in 0..2 {
        wait("each gateway knows", PATIENCE, async || wide.sees_west(gateway, true)).await?;
    }
    wait("both are heard of", PATIENCE, async || match gateways(west)? {
        2 => Ok(()),
        other => Err(format!("{other} gateways")),
    })
    .await
}

async fn reached(wide: &Wide, west: &Site) -> Result<(), String> {
    wide.command(1, &["user", "add", "anna", "--access-key", ANNA.0, "--secret-key", ANNA.1])?;
    wide.command(1, &["overlay", "grant", "west", "anna"])?;
    west.add_user("bob", BOB)?;
    west.overlay(&["grant", "wide", "bob"])?;
    expect(200, &wide.send(1, ANNA, Request::bucket("PUT", "photos")).await?)?;
    expect(200, &west.send(BOB, Request::bucket("PUT", "bobs")).await?)?;
    let large = Pattern::new(3, 9 << 20);
    let put = || Request::object("PUT", "photos", "large").generated(large);
    wait("anna in the west", PATIENCE, async || expect(200, &west.send(ANNA, put()).await?)).await?;
    expect(200, &west.send(BOB, Request::object("PUT", "bobs", "k").body("bob")).await?)?;
    for gateway in 0..2 {
        let own = wide.send(gateway, ANNA, Request::object("GET", "photos", "large")).await?;
        expect(200, &own)?;
        if own.body != large.bytes() {
            return Err(format!("gateway {} gives other bytes", gateway + 1));
        }
        wait("bob in the wide cluster", PATIENCE, async || {
            let his = wide.send(gateway, BOB, Request::object("GET", "bobs", "k")).await?;
            expect(200, &his)?;
            if his.body == b"bob" { Ok(()) } else { Err(his.describe()) }
        })
        .await?;
    }
    Ok(())
}

async fn told(wide: &Wide, west: &Site) -> Result<(), String> {
    let read = || Request::object("GET", "photos", "large").header("range", "bytes=0-9");
    wide.command(0, &["overlay", "revoke", "west", "anna"])?;
    // Requests come to either of the gateways: none lets her in after this.
    tokio::time::sleep(RECORDS_LAST).await;
    for _ in 0..20 {
        expect(403, &west.send(ANNA, read()).await?)?;
    }
    wide.command(1, &["overlay", "grant", "west", "anna"])?;
    tokio::time::sleep(RECORDS_LAST).await;
    for _ in 0..20 {
        expect(206, &west.send(ANNA, read()).await?)?;
    }
    Ok(())
}

/// Anna reads and writes in the west for some time; she repeats what fails, as SDKs do, and never waits for long.
async fn goes_on(west: &Site, name: &str) -> Result<(), String> {
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        let key = format!("{name}/{written}");
        loop {
            let put = Request::object("PUT", "photos", &key).body(key.clone());
            let put = west.send(ANNA, put).await?;
            let got = west.send(ANNA, Request::object("GET", "photos", &key)).await?;
            if put.status == 200 && got.status == 200 && got.body == key.as_bytes() {
                break;
            }
            if PAUSE_MAX < asked.elapsed() {
                return Err(format!("after {:?}: {}, {}", asked.elapsed(), put.describe(), got.describe()));
            }
            for answer in [put, got] {
                if !matches!(answer.status, 200 | 404 | 500 | 502 | 503) {
                    return Err(answer.describe());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        written += 1;
    }
    if 20 < written { Ok(()) } else { Err(format!("{written} objects")) }
}

async fn gateway_dies(wide: &Wide, west: &Site) -> Result<(), String> {
    for gateway in 0..2 {
        let daemon = &wide.cluster.gateways[gateway].daemon;
        daemon.kill();
        goes_on(west, &format!("without-gateway-{gateway}")).await?;
        wide.cluster.gateways[gateway].start().await.map_err(|error| format!("{error:#}"))?;
        wait("it is back", PATIENCE, async || wide.sees_west(gateway, true)).await?;
    }
    Ok(())
}

async fn machine_dies(wide: &Wide, west: &Site) -> Result<(), String> {
    wide.cluster.nodes[0].kill();
    // While voters agree on another leader, requests wait or are repeated.
    wait("a write", PATIENCE, async || {
        expect(200, &west.send(ANNA, Request::object("PUT", "photos", "k").body("x")).await?)
    })
    .await?;
    goes_on(west, "without-machine").await?;
    wide.cluster.restart_node(0).await.map_err(|error| format!("{error:#}"))
}

async fn copier_dies(wide: &Wide, west: &Site) -> Result<(), String> {
    expect(200, &west.send(BOB, Request::bucket("PUT", "source")).await?)?;
    expect(200, &west.send(BOB, versioning("source", "Enabled")).await?)?;
    expect(200, &wide.send(0, ANNA, Request::bucket("PUT", "copy")).await?)?;
    expect(200, &wide.send(0, ANNA, versioning("copy", "Enabled")).await?)?;
    expect(200, &west.send(BOB, Request::object("PUT", "source", "first").body("x")).await?)?;
    wide.command(0, &["overlay", "follow", "west/source", "copy"])?;
    let copied = async |key: &'static str, gateway: usize| {
        wait("a copy", TAKEN_OVER, async || {
            expect(200, &wide.send(gateway, ANNA, Request::object("GET", "copy", key)).await?)
        })
        .await
    };
    copied("first", 0).await?;
    for (gateway, key) in [(0, "second"), (1, "third")] {
        wide.cluster.gateways[gateway].daemon.kill();
        expect(200, &west.send(BOB, Request::object("PUT", "source", key).body("x")).await?)?;
        copied(key, 1 - gateway).await?;
        wide.cluster.gateways[gateway].start().await.map_err(|error| format!("{error:#}"))?;
    }
    Ok(())
}

async fn left(wide: &Wide, west: &Site) -> Result<(), String> {
    wide.command(1, &["overlay", "leave"])?;
    sees_soon(west, "wide", "left").await?;
    for gateway in 0..2 {
        wait("each gateway left", PATIENCE, async || {
            let answer = wide.send(gateway, ANNA, Request::object("GET", "bobs--west", "k")).await?;
            expect(404, &answer)
        })
        .await?;
    }
    expect(404, &west.send(ANNA, Request::object("GET", "photos--wide", "k")).await?).or_else(|error| {
        // Her keys are not known there any more.
        if error.contains("403") { Ok(()) } else { Err(error) }
    })
}
