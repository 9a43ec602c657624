//! Hostile bytes for everything that reads what others wrote: parsers of requests, bodies, documents, tokens, records.
//!
//! Inputs are made from a corpus: bits flip, pieces are cut, repeated, swapped with those of other inputs or with words of
//! the dialect. A target says what came of an input; what has not come before is new, and its input joins the corpus. So
//! the corpus in `integration/corpus` grows with what was ever seen, and every verification replays it.

// The corpus is files of the repository, and a campaign has so much time.
#![allow(clippy::disallowed_methods)]

mod stored;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::daemons::repository;
use crate::sim::random::SimRandom;

pub use targets::TARGETS;

/// The longest input.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// Outcomes of a target that are told apart.
const OUTCOMES_MAX: usize = 400;

/// Something that reads bytes of others.
pub struct Target {
    /// Its name, and that of its directory in the corpus.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// Inputs to begin with.
    seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something there.
    words: &'static [&'static str],
    /// Reads an input; says in a few words what came of it. A panic, or an error, is a finding.
    read: fn(&[u8]) -> Result<String, String>,
}

/// What came of running a target.
#[derive(Debug, Default)]
pub struct Findings {
    /// Inputs that were read.
    pub inputs: u64,
    /// Different outcomes.
    pub outcomes: usize,
    /// Inputs that broke it, and how.
    pub broken: Vec<(Vec<u8>, String)>,
}

impl Target {
    /// Reads the corpus, then `inputs` made ones, or as many as `time` allows. New outcomes are kept if `keep`.
    pub fn run(&self, seed: u64, inputs: u64, time: Duration, keep: bool) -> Result<Findings> {
        let (mut found, mut known) = (Findings::default(), BTreeMap::new());
        let mut corpus = self.corpus()?;
        for input in &corpus {
            self.take(input, &mut found, &mut known);
        }
        let random = SimRandom::new(seed, self.name);
        let begin = Instant::now();
        while found.inputs < inputs && begin.elapsed() < time && found.broken.is_empty() {
            let input = self.make(&corpus, &random);
            if self.take(&input, &mut found, &mut known) && corpus.len() < OUTCOMES_MAX {
                if keep {
                    self.keep(&input)?;
                }
                corpus.push(input);
            }
        }
        found.outcomes = known.len();
        Ok(found)
    }

    /// Whether what came of `input` is new.
    fn take(&self, input: &[u8], found: &mut Findings, known: &mut BTreeMap<String, u64>) -> bool {
        found.inputs += 1;
        let read = catch_unwind(AssertUnwindSafe(|| (self.read)(input)));
        match read.unwrap_or_else(|_| Err("it panicked".to_string())) {
            Ok(outcome) => {
                let count = known.entry(outcome).or_insert(0);
                *count += 1;
                *count == 1
            }
            Err(why) => {
                found.broken.push((input.to_vec(), why));
                false
            }
        }
    }

    fn make(&self, corpus: &[Vec<u8>], random: &SimRandom) -> Vec<u8> {
        let mut input = random.pick(corpus).clone();
        for _ in 0..random.between(1, 4) {
            self.change(&mut input, corpus, random);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&self, input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &SimRandom) {
        let place = |input: &[u8]| random.below(input.len() as u64 + 1) as usize;
        let span = |input: &[u8]| {
            let from = place(input);
            from..(from + random.below(17) as usize).min(input.len())
        };
        match random.below(8) {
            0 | 1 => {
                let at = place(input);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => drop(input.drain(span(input))),
            3 => {
                let piece = input[span(input)].to_vec();
                let times = random.between(1, 40) as usize;
                let at = place(input);
                input.splice(at..at, piece.repeat(times));
            }
            4 => {
                let other = random.pick(corpus);
                let piece = other[span(other)].to_vec();
                input.splice(span(input), piece);
            }
            5 | 6 => {
                let word = if self.words.is_empty() { "0" } else { random.pick(self.words) };
                input.splice(span(input), word.bytes());
            }
            _ => {
                let at = place(input);
                input.insert(at, random.below(256) as u8);
            }
        }
    }

    fn directory(&self) -> PathBuf {
        repository().join("integration/corpus").join(self.name)
    }

    /// What was kept, and the seeds.
    fn corpus(&self) -> Result<Vec<Vec<u8>>> {
        let mut inputs = (self.seeds)();
        let Ok(entries) = fs::read_dir(self.directory()) else { return Ok(inputs) };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        paths.sort();
        for path in paths {
            inputs.push(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        Ok(inputs)
    }

    fn keep(&self, input: &[u8]) -> Result<()> {
        fs::create_dir_all(self.directory())?;
        let name = format!("{:08x}", fabric::codec::crc32c(&[input]));
        fs::write(self.directory().join(name), input).context("keep an input")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_and_what_is_made_of_it_break_nothing() {
        for target in TARGETS {
            let found = target.run(1, 4_000, Duration::from_secs(20), false).unwrap();
            let broken = found.broken.first().map(|(input, why)| (String::from_utf8_lossy(input), why));
            assert!(broken.is_none(), "{}: {broken:?}", target.name);
            assert!(found.outcomes > 1, "{}: nothing but {} outcomes", target.name, found.outcomes);
        }
    }

    #[test]
    fn what_breaks_is_found() {
        let target = Target {
            name: "planted",
            about: "",
            seeds: || vec![b"harmless".to_vec()],
            words: &["boom"],
            read: |input| {
                assert!(!input.windows(4).any(|word| word == b"boom"));
                Ok(String::new())
            },
        };
        let found = target.run(1, 10_000, Duration::from_secs(20), false).unwrap();
        assert_eq!(found.broken.len(), 1);
    }
}
