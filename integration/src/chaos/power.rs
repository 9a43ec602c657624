//! Power cuts for real filesystems: every node's data lies in an ext4 of its own in a file, which is shut down without
//! writing anything more, while the processes are killed. Takes root and loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::arena::Arena;
use super::wires::node_name;
use crate::daemons::Daemon;
use crate::lent::{Mount, tool};

/// The size of a node's filesystem, all of it sparse.
const BYTES: u64 = 2 << 30;
const CUTS: usize = 4;
/// Shuts an ext4 down without flushing its log (`EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`).
const SHUT_DOWN: &str = "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A filesystem in a file.
pub struct Island {
    image: PathBuf,
    place: PathBuf,
    mount: Mutex<Option<Mount>>,
}

impl Island {
    /// A new one below `home`.
    pub fn new(home: &Path, node: u16) -> Result<Island> {
        let name = node_name(node);
        let (image, place) = (home.join(format!("{name}.img")), home.join(&name));
        File::create(&image)?.set_len(BYTES)?;
        tool("mkfs.ext4", &["-q", &image.display().to_string()])?;
        let mount = Mutex::new(Some(Mount::image(&image, &place)?));
        Ok(Island { image, place, mount })
    }

    /// Where its node has its data.
    pub fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// What is not on the disk now never will be.
    fn cut(&self) -> Result<()> {
        tool("python3", &["-c", SHUT_DOWN, &self.place.display().to_string()])
    }

    /// Mounts what is on the disk. Nobody uses it now.
    fn power_up(&self) -> Result<()> {
        let mut mount = self.mount.lock().unwrap_or_else(PoisonError::into_inner);
        mount.take().map_or(Ok(()), Mount::unmount)?;
        *mount = Some(Mount::image(&self.image, &self.place).context("mount after a power cut")?);
        Ok(())
    }
}

/// All nodes lose power together, again and again.
pub(super) async fn cuts(arena: &Arena) -> Result<Vec<String>> {
    let islands = &arena.footing.islands;
    let mut longest = Duration::ZERO;
    for _ in 0..CUTS {
        tokio::time::sleep(Duration::from_secs(4)).await;
        islands.iter().try_for_each(Island::cut)?;
        arena.store.nodes.iter().for_each(Daemon::kill);
        islands.iter().try_for_each(Island::power_up)?;
        longest = longest.max(arena.store.start_nodes().await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(vec![format!("{CUTS} cuts of all nodes, start to ready at most {} ms", longest.as_millis())])
}
