//! Mutual TLS between processes: the cluster's own certificate authority, and what a certificate proves.

/// Certificate, key and authority of this process, loaded and checked.
pub struct Certificates {}
