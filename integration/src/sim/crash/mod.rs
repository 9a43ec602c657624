//! Crash images: what a power cut in the middle of anything leaves, opened by the production code and judged
//! by a plain model.
//!
//! A *story* comes from one seed: a disk and several lives of a process on it. Each life opens what the one
//! before left, checks it, and works on until the machine dies in the middle of a random change, often while
//! it still recovers. Then the power cut keeps a random part of what was not synced, torn at any byte; or only
//! the process was killed, and nothing is lost. Each death is one image.

mod chunks;
mod log;
mod process;
mod rows;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fabric::Seams;
use fabric::env::panic_message;
use fabric::net::LocalNet;

use super::disk::{DiskFaults, SimDisks};
use super::random::SimRandom;
use crate::history::Violation;
use process::Process;

const DISK_BYTES: u64 = 1 << 40;
/// Streams of random numbers.
const PLOT: &str = "plot";
const DISK: &str = "disk";
/// Of a told story: lives, deaths and rot.
const PLOT_BYTES: usize = 64;

/// What is crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The write-ahead log of Raft.
    Log,
    /// A redb database over the files it has in production.
    Rows,
    /// A chunk store with its volumes.
    Chunks,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 3] = [Target::Log, Target::Rows, Target::Chunks];

    /// As in the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::Log => "log",
            Target::Rows => "rows",
            Target::Chunks => "chunks",
        }
    }
}

/// Bugs that can be planted, what each does, and the stories that show it.
pub const PLANTED: &[(&str, &str, Target)] = &[
    ("batch_before_sync", "the log writes a batch before the one before it is synced", Target::Log),
    ("rot_as_torn_tail", "rot in the log is taken for the end of it", Target::Log),
    ("chunk_move_before_sync", "compaction removes chunks before their new place is synced", Target::Chunks),
];

/// What stories came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Deaths of a machine or a process, each followed by opening what it left.
    pub images: u64,
    /// Of these: before the process had opened what was there.
    pub in_recovery: u64,
    /// Of these: the process alone.
    pub kills: u64,
    /// Bits flipped.
    pub rots: u64,
    /// Of these: reported as rot when opened or read, and repaired where there is another copy.
    pub rots_reported: u64,
    /// Of these: something stored is not found any more, as on a disk that lost it.
    pub rots_missing: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Tally) {
        self.images += other.images;
        self.in_recovery += other.in_recovery;
        self.kills += other.kills;
        self.rots += other.rots;
        self.rots_reported += other.rots_reported;
        self.rots_missing += other.rots_missing;
    }
}

/// What one life may report beside a broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lived {
    /// The machine died before the process had checked what is there.
    Opening,
    /// It had.
    Working,
}

/// How a flipped bit showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rot {
    Harmless,
    Missing,
    Reported,
}

/// Something with a model that lives on a disk.
trait Subject {
    /// The files that rot, if what is above them can tell.
    const SUFFIX: Option<&'static str>;
    /// Changes to the disk in a life, about: deaths are drawn up to these.
    const CHANGES: &'static [u64];

    /// One life: open, check, and unless `last` work until the machine dies or the work is done.
    async fn live(&mut self, seams: &Seams, last: bool) -> Result<Lived, Violation>;

    /// One life after everything was synced and one bit was flipped.
    async fn live_rotten(&mut self, seams: &Seams) -> Result<Rot, Violation>;
}

/// What a story is told with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setting {
    /// Faults of the disk.
    pub faults: DiskFaults,
    /// A bug of [`PLANTED`].
    pub planted: Option<&'static str>,
}

/// Runs the story of one seed.
pub fn story(target: Target, seed: u64, setting: Setting) -> (Tally, Result<(), Violation>) {
    run(target, |name| SimRandom::new(seed, name), setting)
}

/// Runs the story whose choices are told: those of the plot by the first bytes, of what happens to the target by the
/// rest. For whoever varies a story in small steps.
pub fn told_story(target: Target, choices: &[u8]) -> (Tally, Result<(), Violation>) {
    let (plot, deeds) = choices.split_at(choices.len().min(PLOT_BYTES));
    let random = |name: &str| match name {
        PLOT => SimRandom::told(plot, name),
        DISK => SimRandom::new(0, name),
        _ => SimRandom::told(deeds, name),
    };
    run(target, random, Setting::default())
}

fn run(
    target: Target,
    random: impl Fn(&str) -> SimRandom,
    setting: Setting,
) -> (Tally, Result<(), Violation>) {
    let mut tally = Tally::default();
    let told = catch_unwind(AssertUnwindSafe(|| {
        let deeds = random(target.name());
        let chance = (Arc::new(random(PLOT)), Arc::new(random(DISK)));
        match target {
            Target::Log => tell(log::LogSubject::new(deeds), chance, setting, &mut tally),
            Target::Rows => tell(rows::RowsSubject::new(deeds), chance, setting, &mut tally),
            Target::Chunks => tell(chunks::ChunksSubject::new(deeds), chance, setting, &mut tally),
        }
    }));
    let told = told.unwrap_or_else(|panic| Err(Violation(format!("panic: {}", panic_message(&*panic)))));
    (tally, told)
}

fn tell<S: Subject>(
    mut subject: S,
    (random, disk): (Arc<SimRandom>, Arc<SimRandom>),
    setting: Setting,
    tally: &mut Tally,
) -> Result<(), Violation> {
    let disks = Arc::new(SimDisks::new(disk, DISK_BYTES));
    for _ in 0..random.between(3, 10) {
        disks.set_faults(setting.faults);
        if random.chance(90) {
            disks.cut_after(random.between(1, *random.pick(S::CHANGES)));
        }
        let lived = life(&disks, &random, setting.planted, async |seams| subject.live(seams, false).await)?;
        tally.images += 1;
        tally.in_recovery += u64::from(lived == Lived::Opening);
        if random.chance(20) {
            disks.kill();
            tally.kills += 1;
        } else {
            disks.power_cut();
        }
    }
    disks.set_faults(DiskFaults::default());
    life(&disks, &random, setting.planted, async |seams| subject.live(seams, true).await)?;
    disks.kill();
    let rotten = S::SUFFIX.filter(|_| random.chance(50)).and_then(|suffix| disks.rot(suffix));
    if rotten.is_some() {
        tally.rots += 1;
        match life(&disks, &random, setting.planted, async |seams| subject.live_rotten(seams).await)? {
            Rot::Harmless => {}
            Rot::Missing => tally.rots_missing += 1,
            Rot::Reported => tally.rots_reported += 1,
        }
    }
    Ok(())
}

/// Runs a process on the disk until it is done or dead.
fn life<T>(
    disks: &Arc<SimDisks>,
    random: &Arc<SimRandom>,
    planted: Option<&'static str>,
    live: impl AsyncFnOnce(&Seams) -> Result<T, Violation>,
) -> Result<T, Violation> {
    let process = Process::start(random.clone(), planted);
    let seams = Seams { env: process.env(), net: Arc::new(LocalNet::default()), disks: disks.clone() };
    let lived = process.run(live(&seams));
    drop(seams);
    let dead = disks.is_dead();
    let ended = process.end();
    match lived {
        None if dead => Err(Violation("a process on a dead disk waits for ever".to_string())),
        None => Err(Violation("a process waits for ever".to_string())),
        Some(lived) => {
            ended.judge(dead)?;
            lived
        }
    }
}
