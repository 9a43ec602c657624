//! Who looks all the time at what the overlay promises.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::clients::{Everywhere, FIXED, MIRROR, fixed};
use super::plan::{CLUSTERS, Cluster, Machine};
use super::shared::{RECOVERY, Shared, Weather, now};
use super::stories::{self, TWIN, TWIN_KEY, twin_body};
use crate::client::{Request, Response};
use crate::sim::random::SimRandom;
use crate::sim::workload::Ended;
use crate::worker::Scene as _;

/// What is away is answered within this, and what is here, too.
const DEADLINE: Duration = Duration::from_millis(2_200);

/// Looks through one gateway at all buckets, for ever.
pub async fn watch(shared: Arc<Shared>, gateway: Machine) -> Ended {
    let random = SimRandom::new(shared.plan().seed, &format!("watch {gateway}"));
    let mut is_copied = false;
    loop {
        let home = *random.pick(&CLUSTERS);
        look(&shared, gateway, home).await;
        if shared.plan().mirrored.others()[0] == gateway.cluster() {
            look_at_mirror(&shared, gateway, &mut is_copied).await;
        }
        look_at_twins(&shared, gateway).await;
        if random.chance(20) {
            list(&shared, gateway).await;
        }
        sleep(Duration::from_micros(random.below(400_000))).await;
    }
}

/// Reads from the mirror here what was copied once: it is served whatever becomes of its source.
async fn look_at_mirror(shared: &Shared, gateway: Machine, is_copied: &mut bool) {
    let here = gateway.cluster();
    let before = expected(shared, gateway, here, RECOVERY);
    let began = now();
    let owner = Everywhere::of(shared.plan(), here);
    let answer = owner.send(gateway, Request::object("GET", MIRROR, FIXED)).await;
    let after = expected(shared, gateway, here, now() - began);
    let served = answer.as_ref().is_some_and(|answer| answer.status == 200);
    let is_right = answer.is_some_and(|answer| answer.body == fixed(shared.plan().mirrored).as_bytes());
    if served && !is_right {
        shared.violate(format!("the mirror has other bytes at {gateway}"));
    }
    if *is_copied && before.here_is_well && after.here_is_well && !served {
        shared.violate(format!("the mirror is not served at {gateway}, where it is at home"));
    }
    *is_copied |= served;
}

/// Reads, where no twin is at home, one of the two that are there: it never does not exist. It may be refused: the other
/// one, which is of somebody else, may be the only one that is known here, or have been made here meanwhile.
async fn look_at_twins(shared: &Shared, gateway: Machine) {
    let homes = shared.twins();
    let Some(home) = homes.first().filter(|_| !homes.contains(&gateway.cluster())) else { return };
    let before = shared.are_strangers(gateway.cluster(), *home);
    let owner = Everywhere::of(shared.plan(), *home);
    let Some(answer) = owner.send(gateway, Request::object("GET", TWIN, TWIN_KEY)).await else { return };
    let strangers = before || shared.are_strangers(gateway.cluster(), *home);
    shared.note(&format!("{gateway} reads a twin: {} {}", answer.status, answer.code()));
    let is_flawed = match answer.status {
        200 => answer.body != twin_body(*home).as_bytes(),
        404 => !strangers,
        _ => false,
    };
    if is_flawed {
        shared.violate(format!("{gateway} reads a twin of {homes:?}: {}", answer.describe()));
    }
}

/// Lists the buckets of the user here: none is there twice, and none lacks that is at home here.
async fn list(shared: &Shared, gateway: Machine) {
    let here = gateway.cluster();
    let wanted = stories::names_of(shared, here, here);
    let Some(names) = stories::listed(shared, gateway, here).await else { return };
    shared.note(&format!("{gateway} lists {names:?}"));
    let is_double = names.windows(2).any(|pair| pair[0] == pair[1]);
    if is_double || wanted.iter().any(|name| !names.contains(name)) {
        shared.violate(format!("{gateway} lists {names:?}, and there are {wanted:?}"));
    }
}

/// What may be expected of a request to a gateway for a bucket of a cluster.
struct Expected {
    /// The gateway and its cluster are well.
    here_is_well: bool,
    /// So are those of the home and all ways there.
    there_is_well: bool,
    /// The home answers other clusters, but cannot answer itself.
    there_is_sick: bool,
    /// The clusters need not know each other.
    strangers: bool,
}

fn expected(shared: &Shared, gateway: Machine, home: Cluster, window: Duration) -> Expected {
    let (plan, weather, now) = (shared.plan(), shared.weather(), now());
    let gateways = |cluster: Cluster| {
        plan.machines_of(cluster)
            .into_iter()
            .filter(|machine| matches!(machine, Machine::Gateway(..)))
            .collect::<Vec<_>>()
    };
    let here = [plan.nodes_of(gateway.cluster()), vec![gateway]].concat();
    let ways = |weather: &Weather| {
        gateway.cluster() == home || weather.are_open(&[gateway], &gateways(home), window, now)
    };
    let some_up = gateways(home).into_iter().any(|gateway| weather.is_up(gateway));
    Expected {
        here_is_well: weather.are_quiet(&here, window, now),
        there_is_well: weather.are_quiet(&plan.machines_of(home), window, now) && ways(&weather),
        there_is_sick: some_up && !weather.are_quiet(&plan.nodes_of(home), RECOVERY, now),
        strangers: shared.are_strangers(gateway.cluster(), home),
    }
}

/// Reads what is in a bucket from the beginning.
async fn look(shared: &Shared, gateway: Machine, home: Cluster) {
    let before = expected(shared, gateway, home, RECOVERY);
    let began = now();
    let everywhere = Everywhere::of(shared.plan(), home);
    let answer = everywhere.send(gateway, Request::object("GET", &home.bucket(), FIXED)).await;
    let took = now() - began;
    // Nothing changed meanwhile.
    let after = expected(shared, gateway, home, took);
    let words = match &answer {
        Some(answer) => format!("{} {}", answer.status, answer.code()),
        None => "no answer".to_string(),
    };
    let flaw = judge(&before, &after, home, answer.as_ref(), took);
    shared.note(&format!("{gateway} reads of {home}: {words} after {took:?}"));
    if gateway.cluster() != home && answer.as_ref().is_some_and(|answer| answer.status == 503) {
        shared.reach("a bucket of a cluster that is away was 503");
    }
    if let Some(flaw) = flaw {
        shared.violate(format!("{gateway} reads the bucket of {home}: {words} after {took:?}: {flaw}"));
    }
}

fn judge(
    before: &Expected,
    after: &Expected,
    home: Cluster,
    answer: Option<&Response>,
    took: Duration,
) -> Option<&'static str> {
    let here_is_well = before.here_is_well && after.here_is_well;
    let all_is_well = here_is_well && before.there_is_well && after.there_is_well;
    let strangers = before.strangers || after.strangers;
    let is_sick = before.there_is_sick || after.there_is_sick;
    match answer.map(|answer| answer.status) {
        Some(200) if answer.is_some_and(|answer| answer.body != fixed(home).as_bytes()) => {
            return Some("wrong bytes");
        }
        Some(200) | None | Some(500..=599) => {}
        Some(_) if strangers => {}
        Some(404) => return Some("what is there is said not to exist"),
        Some(_) => return Some("what may be read is refused"),
    }
    let is_slow = answer.is_none() || DEADLINE < took;
    if all_is_well && !strangers && (is_slow || answer.is_none_or(|answer| answer.status != 200)) {
        return Some("nothing is wrong, and it is not served");
    }
    if here_is_well && !is_sick && is_slow {
        return Some("somebody waits for a cluster that is away");
    }
    None
}
