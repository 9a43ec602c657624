//! What another gateway costs: `cargo bench-s3 --overlay`.
//!
//! Two stores of one node, joined. Objects of the first are read at its own gateway, and through the second one: many of
//! them, which do not fit into its memory, and few, which do. Then what clients of the second store see of the death of
//! the first.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::Options;
use super::calibration::calibrate;
use super::cell::Cell;
use super::report::{self, Report, Row};
use super::target;
use super::workload::{Kind, Workload};
use crate::verify::overlay::sites::{ANNA, Site};

/// Objects of 1 MiB that do not fit, and that do.
const MANY: u64 = 400;
const FEW: u64 = 8;
const CONNECTIONS: usize = 8;
/// Small objects of the second store.
const OWN: u64 = 2_000;

/// Measures and prints a row for each way.
pub async fn run(options: &Options) -> Result<()> {
    let mut report = Report::begin(calibrate().await?);
    report.print_head();
    let (east, west) = tokio::try_join!(Site::start("east"), Site::start("west"))?;
    join(&east, &west).map_err(|error| anyhow!(error))?;
    let at = |site: &Site, name| target::embedded_as(&site.store, name, ANNA, site.name);
    let (direct, foreign) = (at(&east, "direct"), at(&west, "foreign"));
    let mut medians = Vec::new();
    for (name, objects) in [("get-1m-many", MANY), ("get-1m-few", FEW)] {
        let workload = Workload {
            name,
            kind: Kind::Get,
            bytes: 1 << 20,
            connections: CONNECTIONS,
            objects,
            encrypted: false,
            class: None,
        };
        Cell::over(options, &direct, workload, name.to_string()).fill_bucket().await?;
        let mut rows: [Vec<Row>; 2] = Default::default();
        let (warm_up, time) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.seconds));
        for _ in 0..options.rounds.max(1) {
            for (rows, target) in rows.iter_mut().zip([&direct, &foreign]) {
                let cell = Cell::over(options, target, workload, name.to_string());
                rows.push(cell.run(warm_up, time).await?);
            }
        }
        let [direct, foreign] = rows.map(report::median);
        println!("{direct}\n{foreign}");
        println!(
            "{name}: through another gateway {:.0} % of the direct throughput",
            100.0 * foreign.megabytes_per_s / direct.megabytes_per_s
        );
        medians.extend([direct, foreign]);
    }
    report.rows.extend(medians);
    report.rows.extend(beside(options, &east, &west).await?);
    super::write_json(options, &report)
}

/// Own objects of the second store, while the first one answers and when it is dead; twice each, in turn.
async fn beside(options: &Options, east: &Site, west: &Site) -> Result<Vec<Row>> {
    let own = target::embedded_as(&west.store, "own", west.root(), west.name);
    let workload = |name, kind| Workload {
        name,
        kind,
        bytes: 4 << 10,
        connections: CONNECTIONS,
        objects: OWN,
        encrypted: false,
        class: None,
    };
    Cell::over(options, &own, workload("own", Kind::Get), "own".to_string()).fill_bucket().await?;
    let (warm_up, time) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.seconds));
    let mut rows: [Vec<Row>; 2] = Default::default();
    for round in 0..4 {
        let is_away = round % 2 == 1;
        match is_away {
            true => east.store.gateway.daemon.kill(),
            false if 0 < round => drop(east.store.gateway.start().await?),
            false => {}
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let name = if is_away { "get-4k-one-away" } else { "get-4k-all-there" };
        let cell = Cell::over(options, &own, workload(name, Kind::Get), "own".to_string());
        rows[usize::from(is_away)].push(cell.run(warm_up, time).await?);
    }
    let [there, away] = rows.map(report::median);
    println!("{there}\n{away}");
    println!(
        "own objects: p99 {:+.0} % while another cluster is away",
        100.0 * (away.p99_ms / there.p99_ms - 1.0)
    );
    Ok(vec![there, away])
}

fn join(east: &Site, west: &Site) -> Result<(), String> {
    let token = east.overlay(&["invite"])?;
    west.overlay(&["join", token.trim()])?;
    east.add_user("anna", ANNA)?;
    east.overlay(&["grant", "west", "anna"])?;
    Ok(())
}
