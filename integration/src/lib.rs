//! Integration: what tests, simulates and measures the whole. May import everything.

pub mod sim;
