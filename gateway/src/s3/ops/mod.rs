//! The operations, one file each, and the list of them.

use super::op::Op;

/// Every operation. A new one is a file beside this one and a line here.
pub static OPS: &[&dyn Op] = &[];
