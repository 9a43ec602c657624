//! The suite through a gateway of another cluster: all that its clients make is at home elsewhere.

use std::io;

use anyhow::Result;
use async_trait::async_trait;
use fabric::net::BoxStream;
use serde_json::Value;

use super::sites::{Site, command};
use super::{PATIENCE, wait};
use crate::client::{Credentials, Target};
use crate::conformance;
use crate::daemons::{Embedded, free_port};
use crate::verify::Tally;

/// A store, and another one that is above its mark, so that buckets that are made there are at home in the first.
struct Through {
    home: Embedded,
    near: Site,
}

pub(super) async fn run(tally: &mut Tally) -> Result<()> {
    let overlay = format!("127.0.0.1:{}", free_port()?);
    let reached = ["--data", "fluffy-data", "--overlay-listen", &overlay];
    // However full the disk of this machine is.
    let takes = ["--overlay-takes-buckets", "--overlay-space-mark", "99"];
    let home = Embedded::start(&[&reached[..], &takes, &["--lifecycle-day-seconds", "2"]].concat()).await?;
    home.add_other_user()?;
    let near = Site::start_with("west", &["--overlay-space-mark", "1"]).await?;
    let through = Through { home, near };
    tally.check("a cluster without room, and one that takes buckets", through.prepare().await);
    conformance::run(&through, |name, outcome| {
        tally.check(&format!("through another gateway: {name}"), outcome)
    })
    .await;
    Ok(())
}

impl Through {
    fn at_home(&self, words: &[&str]) -> Result<String, String> {
        let admin = self.home.gateway.admin.to_string();
        let place = ["--data", "fluffy-data", "--admin", &admin];
        command(self.home.directory(), &[&["overlay"], words, &place[..]].concat())
    }

    async fn prepare(&self) -> Result<(), String> {
        let token = self.at_home(&["invite"])?;
        self.near.overlay(&["join", token.trim()])?;
        for user in ["root", "other"] {
            self.at_home(&["grant", "west", user])?;
            self.near.overlay(&["grant", "us-east-1", &format!("us-east-1/{user}")])?;
        }
        wait("new buckets go home", PATIENCE, async || {
            let list: Value = self.near.json(&["list", "--json"])?;
            let offered = &list["clusters"][0]["room"]["offered"];
            if list["mark_passed"] == "space" && offered == true { Ok(()) } else { Err(list.to_string()) }
        })
        .await
    }
}

#[async_trait]
impl Target for Through {
    fn gateways(&self) -> usize {
        1
    }

    async fn connect(&self, _gateway: usize) -> io::Result<BoxStream> {
        self.near.store.connect(0).await
    }

    async fn connect_websites(&self, _gateway: usize) -> io::Result<Option<BoxStream>> {
        self.near.store.connect_websites(0).await
    }

    fn host(&self, _gateway: usize) -> String {
        self.near.store.host(0)
    }

    fn region(&self, _gateway: usize) -> String {
        self.near.name.to_string()
    }

    fn wall_ms(&self) -> u64 {
        self.near.store.wall_ms()
    }

    fn root(&self) -> Credentials {
        self.home.root()
    }

    fn other_user(&self) -> Option<Credentials> {
        self.home.other_user()
    }

    fn domain(&self) -> Option<String> {
        self.near.store.domain()
    }
}
