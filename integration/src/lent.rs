//! What the system lends to a test: mounts and control groups of memory. Each has an owner and is given back when that
//! is dropped, whatever went wrong meanwhile. Takes root; who gets nothing hears an error and goes without.

// This file works with the real system on purpose.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::daemons::{Daemon, run};

/// The file that takes the space of others, see [`Mount::fill`].
const BALLAST: &str = "ballast";

/// A mounted file system.
pub struct Mount {
    place: PathBuf,
}

impl Mount {
    /// A file system in memory of so many bytes.
    pub fn memory(place: &Path, bytes: u64) -> Result<Mount> {
        Mount::new(place, &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
    }

    /// The file system in the file `image`.
    pub fn image(image: &Path, place: &Path) -> Result<Mount> {
        Mount::new(place, &["-o", "loop", &image.display().to_string()])
    }

    fn new(place: &Path, what: &[&str]) -> Result<Mount> {
        fs::create_dir_all(place).with_context(|| format!("create {}", place.display()))?;
        tool("mount", &[what, &[place.display().to_string().as_str()]].concat())?;
        Ok(Mount { place: place.to_path_buf() })
    }

    /// Where it is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Unmounts it while nobody uses it; an error if somebody does.
    pub fn unmount(self) -> Result<()> {
        tool("umount", &[&self.place.display().to_string()])
    }

    /// Fills it to the last byte, with more of one file at each call.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.place.join(BALLAST))
            .context("open ballast")?;
        for piece in [1 << 20, 4096] {
            let zeros = vec![0; piece];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("write ballast"),
                }
            }
        }
        Ok(())
    }

    /// Takes away what [`Mount::fill`] wrote.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.place.join(BALLAST)).context("remove ballast")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that still ends keeps it from nobody, and with its last file goes the loop device, which
        // `mount` marked for that. Where it was unmounted already there is nothing to do.
        let _ = tool("umount", &["-l", &self.place.display().to_string()]);
    }
}

/// Runs a program of the system; an error carries what it said.
pub fn tool(program: &str, args: &[&str]) -> Result<()> {
    run(Path::new(program), Path::new("/"), args).map(drop)
}

/// A control group of the system for the memory of one process.
pub struct MemoryGroup {
    name: String,
    directory: PathBuf,
    files: &'static Files,
}

/// What files are called in a version of control groups.
struct Files {
    root: &'static str,
    limit: &'static str,
    /// Has a line `oom_kill N`.
    events: &'static str,
}

const VERSIONS: &[Files] = &[
    Files { root: "/sys/fs/cgroup", limit: "memory.max", events: "memory.events" },
    Files { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", events: "memory.oom_control" },
];

impl MemoryGroup {
    /// A group that [`MemoryGroup::bound`] puts the process `name` into; the system ends what takes more than `bytes`.
    pub fn new(name: &str, bytes: u64) -> Result<MemoryGroup> {
        let own = format!("fluffy-verify-{}-{name}", std::process::id());
        for files in VERSIONS {
            let directory = Path::new(files.root).join(&own);
            if fs::create_dir(&directory).is_err() {
                continue;
            }
            let group = MemoryGroup { name: name.to_string(), directory, files };
            // Where groups are of another version this is any directory, and there is no such file.
            if group.limit(bytes).is_ok() {
                return Ok(group);
            }
        }
        bail!("no control group of memory can be made here")
    }

    /// The name of its process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets its processes have so many bytes from now on.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        let mut file = File::options().write(true).open(self.directory.join(self.files.limit))?;
        file.write_all(bytes.to_string().as_bytes()).context("limit memory")
    }

    /// How many of its processes the system ended because they took too much.
    pub fn kills(&self) -> Result<u64> {
        let text = fs::read_to_string(self.directory.join(self.files.events)).context("read its events")?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.context("the system does not count whom it ends")
    }

    /// Starts a daemon in this group.
    pub fn bound(&self, daemon: Daemon) -> Daemon {
        daemon.after(&format!("echo $$ > '{}/cgroup.procs'", self.directory.display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // It is empty when its process is gone; an empty group that stays costs nothing.
        let _ = fs::remove_dir(&self.directory);
    }
}
