//! Power cuts for real filesystems: every node's data lies in an ext4 of its own in a file, which is shut down without
//! writing anything more, while the processes are killed. Takes root and loop devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::crew::{BUCKET, Crew};
use super::{Options, Row, chosen};
use crate::client::{Client, Request};
use crate::daemons::{Cluster, Daemon, run as run_command};
use crate::verify::say;

/// The name of this episode.
pub const NAME: &str = "power-cut";
/// What it does.
pub const ABOUT: &str = "the filesystems of all nodes lose what was not synced (root only)";
/// The size of a node's filesystem, all of it sparse.
const BYTES: u64 = 2 << 30;
const NODES: usize = 3;
const CUTS: usize = 4;
/// Shuts an ext4 down without flushing its log (`EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`).
const SHUT_DOWN: &str = "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A filesystem in a file, unmounted when dropped.
struct Island {
    image: PathBuf,
    place: PathBuf,
}

impl Island {
    fn new(home: &Path, node: usize) -> Result<Island> {
        let (image, place) = (home.join(format!("node-{node}.img")), home.join(format!("node-{node}")));
        File::create(&image)?.set_len(BYTES)?;
        fs::create_dir_all(&place)?;
        let island = Island { image, place };
        tool("mkfs.ext4", &["-q", &island.image.display().to_string()])?;
        island.mount()?;
        Ok(island)
    }

    fn mount(&self) -> Result<()> {
        tool("mount", &["-o", "loop", &self.image.display().to_string(), &self.place.display().to_string()])
    }

    /// What is not on the disk now never will be.
    fn cut(&self) -> Result<()> {
        tool("python3", &["-c", SHUT_DOWN, &self.place.display().to_string()])
    }

    fn unmount(&self) -> Result<()> {
        tool("umount", &[&self.place.display().to_string()])
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = self.unmount(); // Where it is not mounted there is nothing to do.
    }
}

fn tool(program: &str, args: &[&str]) -> Result<()> {
    run_command(Path::new(program), Path::new("/"), args).map(drop)
}

/// Runs the episode, if it is chosen and possible here.
pub(super) async fn run(options: &Options, round: u64) -> Result<Option<Row>> {
    if !chosen(options, NAME) {
        return Ok(None);
    }
    say(&format!("== {NAME}: {ABOUT}"));
    let store = Cluster::prepare(NODES, 2, "", |daemon| daemon)?;
    let islands = (1..=NODES).map(|node| Island::new(store.directory(), node)).collect::<Result<Vec<_>>>();
    let islands = match islands {
        Ok(islands) => islands,
        Err(error) => {
            say(&format!("   left out: {error:#}"));
            return Ok(None);
        }
    };
    store.start_all().await?;
    let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
    ensure!(created.status == 200, "create a bucket: {}", created.describe());
    let crew = Crew::new(format!("{round}/{NAME}"))?;
    let story = crew.work_during(&store, options.clients, options.seed, cuts(&store, &islands));
    let notes = story.await;
    crew.audit(&store).await;
    store.daemons().for_each(Daemon::kill); // Before their filesystems go.
    let mut row = crew.row(NAME);
    match notes {
        Ok(notes) => row.notes.extend(notes),
        Err(error) => row.violations.push(format!("the story: {error:#}")),
    }
    say(&format!("   {}", row.line().trim_start()));
    Ok(Some(row))
}

/// All nodes lose power together, again and again.
async fn cuts(store: &Cluster, islands: &[Island]) -> Result<Vec<String>> {
    let mut longest = Duration::ZERO;
    for _ in 0..CUTS {
        tokio::time::sleep(Duration::from_secs(4)).await;
        islands.iter().try_for_each(Island::cut)?;
        store.nodes.iter().for_each(Daemon::kill);
        for island in islands {
            island.unmount()?;
            island.mount().context("mount after a power cut")?;
        }
        longest = longest.max(store.start_nodes().await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(vec![format!("{CUTS} cuts of all nodes, start to ready at most {} ms", longest.as_millis())])
}
