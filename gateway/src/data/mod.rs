//! Bodies of objects: bytes to extents and back. Never imports [`crate::s3`].

/// Placeholder until the data paths land.
pub struct Data;
