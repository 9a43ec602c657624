//! The processes of the simulated machines: the daemons of production over the simulated seams.

use std::rc::Rc;

use fabric::Seams;

use super::plan::{Machine, Plan};

/// Runs the process of a machine until the machine dies or the process ends itself.
pub async fn run(seams: Seams, plan: Rc<Plan>, machine: Machine) -> Result<(), Box<dyn std::error::Error>> {
    let _ = (seams, plan, machine);
    std::future::pending().await
}
