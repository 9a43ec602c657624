//! `cargo verify upgrade`: a cluster of an earlier release becomes one of this build, process by process, under load; and
//! a cluster of an earlier release and one of this build form an overlay.
//!
//! The earlier release is the newest tag, or the revision in `FLUFFY_UPGRADE_FROM`. Its daemons are built once and kept
//! under `.verify/releases`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::campaign::{BUCKET, all_there, under_load};
use super::{Tally, block_on, overlay, say};
use crate::client::{Client, Pattern, PatternCheck, Request, Response, Target};
use crate::daemons::{Cluster, Daemon, Embedded, repository, run as run_program};

/// The revision to begin with.
const FROM: &str = "FLUFFY_UPGRADE_FROM";
const DAEMONS: [&str; 2] = ["fluffy-gateway", "fluffy-storage"];
/// A bucket that keeps versions.
const VERSIONED: &str = "upgraded-versions";
const VERSIONS: u64 = 5;
/// Bytes of the first part of an upload that is completed by the new release, and of a large object.
const PART_BYTES: u64 = 5 << 20;
const LARGE_BYTES: u64 = 20 << 20;

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    let release = Release::find()?;
    tally.note(format!("the earlier release is {}", release.name));
    block_on(async {
        cluster(&release, tally).await?;
        embedded(&release, tally).await?;
        overlay::mixed(tally, |daemon| release.of(daemon)).await
    })
}

/// Daemons of an earlier revision.
struct Release {
    name: String,
    programs: PathBuf,
}

impl Release {
    fn find() -> Result<Release> {
        let from = match std::env::var(FROM) {
            Ok(from) => from,
            Err(_) => git(&["describe", "--tags", "--abbrev=0", "HEAD^"])
                .with_context(|| format!("there is no earlier release: name a revision in {FROM}"))?,
        };
        let name = git(&["rev-parse", "--short=12", &format!("{from}^{{commit}}")])?;
        let releases = repository().join(".verify/releases");
        let release = Release { programs: releases.join(&name), name };
        if !DAEMONS.iter().all(|daemon| release.programs.join(daemon).is_file()) {
            release.build(&releases)?;
        }
        Ok(release)
    }

    /// Builds the daemons in a checkout of their own, of which only they are kept.
    fn build(&self, releases: &Path) -> Result<()> {
        say(&format!("  building the daemons of {}", self.name));
        let (source, target) = (releases.join("source"), releases.join("target"));
        let shown = source.display().to_string();
        git(&["worktree", "add", "--force", "--detach", &shown, &self.name])?;
        // The earlier release chooses its compiler itself.
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--workspace"]).current_dir(&source).env_remove("RUSTUP_TOOLCHAIN");
        cargo.args(DAEMONS.iter().flat_map(|daemon| ["--bin", daemon])).env("CARGO_TARGET_DIR", &target);
        let built = cargo.status().context("build the earlier release")?;
        git(&["worktree", "remove", "--force", &shown])?;
        ensure!(built.success(), "the earlier release {} does not build", self.name);
        fs::create_dir_all(&self.programs)?;
        for daemon in DAEMONS {
            fs::copy(target.join("release").join(daemon), self.programs.join(daemon))?;
        }
        fs::remove_dir_all(&target).context("remove what the build left")
    }

    fn of(&self, daemon: Daemon) -> Daemon {
        daemon.from_directory(&self.programs)
    }
}

/// What git says, in one line.
fn git(args: &[&str]) -> Result<String> {
    Ok(run_program(Path::new("git"), &repository(), args)?.trim().to_string())
}

async fn cluster(release: &Release, tally: &mut Tally) -> Result<()> {
    let mut store = Cluster::start_changed(3, 2, "", |daemon| release.of(daemon)).await?;
    let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
    ensure!(created.status == 200, "create a bucket: {}", created.describe());
    let old = Old::write(&store).await.context("write with the earlier release")?;
    let mut histories = under_load(&store, 0, async { Ok(()) }).await?;

    for index in 0..store.nodes.len() {
        store.nodes[index].renew()?;
        let begin = Instant::now();
        let restart = async {
            store.nodes[index].terminate().await?;
            store.restart_node(index).await
        };
        histories.extend(under_load(&store, index + 1, restart).await?);
        let refused: usize = histories.iter().map(|history| history.refused).sum();
        let took = begin.elapsed().as_millis();
        tally.note(format!(
            "node {} of three is new after {took} ms, {refused} requests refused so far",
            index + 1
        ));
        tally.check(
            &format!("nothing is lost with {} new nodes", index + 1),
            all_there(&store, &histories).await,
        );
        tally.check(
            &format!("what the earlier release wrote, with {} new nodes", index + 1),
            old.is_there(&store).await,
        );
    }
    for index in 0..store.gateways.len() {
        let gateway = &mut store.gateways[index];
        gateway.daemon.renew()?;
        gateway.daemon.terminate().await?;
        gateway.start().await?;
        tally.check(
            &format!("what the earlier release wrote, with {} new gateways", index + 1),
            old.is_there(&store).await,
        );
    }
    tally.check("an upload goes on where the earlier release left it", old.complete(&store).await);
    histories.extend(under_load(&store, 9, async { Ok(()) }).await?);

    for node in &store.nodes {
        node.kill();
    }
    store.start_nodes().await?;
    tally.check("nothing is lost after kill -9 of all nodes", all_there(&store, &histories).await);
    tally.check("nor of what the earlier release wrote", old.is_there(&store).await);
    let whole = tokio::task::spawn_blocking(store.operation(&["verify"])).await?;
    tally.check("every copy is there", whole.map(drop).map_err(|error| format!("{error:#}")));
    Ok(())
}

async fn embedded(release: &Release, tally: &mut Tally) -> Result<()> {
    let mut store = Embedded::start_changed(&[], |daemon| release.of(daemon)).await?;
    let old = Old::write(&store).await.context("write with the earlier release")?;
    store.gateway.daemon.terminate().await?;
    store.gateway.daemon.renew()?;
    store.gateway.start().await?;
    tally.check("a store of one process is there", old.is_there(&store).await);
    tally.check("and its upload goes on", old.complete(&store).await);
    Ok(())
}

/// What the earlier release wrote.
struct Old {
    upload: String,
    part: String,
    /// Ids of versions, oldest first.
    versions: Vec<String>,
}

impl Old {
    async fn write(store: &dyn Target) -> Result<Old> {
        let client = Client::new(store, 0);
        ok(&client, Request::bucket("PUT", VERSIONED)).await?;
        let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        ok(&client, Request::bucket("PUT", VERSIONED).flag("versioning").body(on).content_md5()).await?;
        let mut versions = Vec::new();
        for number in 0..VERSIONS {
            let put = Request::object("PUT", VERSIONED, "key").header("x-amz-meta-number", number);
            let put = ok(&client, put.header("x-amz-tagging", "kind=old").body(words(number))).await?;
            versions.push(put.header("x-amz-version-id").context("no version id")?.to_string());
        }
        ok(&client, Request::object("DELETE", VERSIONED, "key")).await?;
        ok(&client, Request::object("PUT", VERSIONED, "large").generated(Pattern::new(1, LARGE_BYTES)))
            .await?;
        let begun = ok(&client, Request::object("POST", VERSIONED, "upload").flag("uploads")).await?;
        let begun = begun.xml().map_err(anyhow::Error::msg)?;
        let upload = begun.text_of("UploadId").to_string();
        let part = part(&upload, 1).generated(Pattern::new(2, PART_BYTES));
        let part = ok(&client, part).await?.etag().to_string();
        Ok(Old { upload, part, versions })
    }

    async fn is_there(&self, store: &dyn Target) -> Result<(), String> {
        for gateway in 0..store.gateways() {
            self.seen_by(&Client::new(store, gateway)).await.map_err(|error| format!("{error:#}"))?;
        }
        Ok(())
    }

    async fn seen_by(&self, client: &Client<'_>) -> Result<()> {
        for (number, version) in self.versions.iter().enumerate() {
            let get = Request::object("GET", VERSIONED, "key").query("versionId", version);
            let get = ok(client, get).await?;
            ensure!(get.body == words(number as u64).into_bytes(), "version {number} has other bytes");
            let told = (get.header("x-amz-meta-number"), get.header("x-amz-tagging-count"));
            ensure!(
                told == (Some(number.to_string().as_str()), Some("1")),
                "version {number} has other metadata"
            );
        }
        let gone = client.send(Request::object("GET", VERSIONED, "key")).await?;
        ensure!(gone.status == 404, "the delete marker is gone: {}", gone.describe());
        let mut check = PatternCheck::new(Pattern::new(1, LARGE_BYTES));
        let large = client.send_checking(Request::object("GET", VERSIONED, "large"), &mut check).await?;
        ensure!(large.status == 200, "the large object: {}", large.describe());
        check.finish().map_err(anyhow::Error::msg)
    }

    /// The new release writes the second part and completes the upload.
    async fn complete(&self, store: &dyn Target) -> Result<(), String> {
        let work = async {
            let client = Client::new(store, 0);
            let last = ok(&client, part(&self.upload, 2).body("the end")).await?;
            let parts = [(1, self.part.as_str()), (2, last.etag())];
            let parts: String = parts
                .iter()
                .map(|(number, etag)| {
                    format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
                })
                .collect();
            let done = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
            let done =
                Request::object("POST", VERSIONED, "upload").query("uploadId", &self.upload).body(done);
            ok(&client, done).await?;
            let head = ok(&client, Request::object("HEAD", VERSIONED, "upload")).await?;
            let (found, sent) = (head.header("content-length"), (PART_BYTES + 7).to_string());
            ensure!(found == Some(sent.as_str()), "the object has {found:?} bytes, {sent} were sent");
            anyhow::Ok(())
        };
        work.await.map_err(|error| format!("{error:#}"))
    }
}

fn part(upload: &str, number: u32) -> Request {
    Request::object("PUT", VERSIONED, "upload").query("uploadId", upload).query("partNumber", number)
}

fn words(number: u64) -> String {
    format!("version {number}")
}

async fn ok(client: &Client<'_>, request: Request) -> Result<Response> {
    let answer = client.send(request).await?;
    ensure!(answer.status < 300, "{}", answer.describe());
    Ok(answer)
}
