//! Where the copies of an extent belong: layouts map partitions to nodes.
//!
//! A layout is metadata: versioned, committed through the log. This file is pure arithmetic.

use serde::{Deserialize, Serialize};

use crate::ids::{ExtentId, LayoutVersion, NodeId};

/// One version of the map from partitions to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Its number; layouts ascend.
    pub version: LayoutVersion,
    /// For each partition its owners in order, at most [`crate::limits::OWNERS_MAX`]; copies use the first three.
    /// The length is a power of two.
    pub partitions: Vec<Vec<NodeId>>,
}

impl Layout {
    /// Partition of an extent: the upper bits of its hash.
    pub fn partition_of(&self, extent: ExtentId) -> usize {
        let bits = self.partitions.len().trailing_zeros();
        if bits == 0 { 0 } else { usize::from(extent.hash() >> (16 - bits)) }
    }

    /// Owners of an extent in order. Bit i of a mask of confirmed copies is owner i.
    pub fn owners_of(&self, extent: ExtentId) -> &[NodeId] {
        &self.partitions[self.partition_of(extent)]
    }
}
