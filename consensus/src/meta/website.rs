//! How a bucket is served as a website, by the word of its owner. Checked by the gateway that takes it.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Website {
    /// Whoever asks for anything is sent to another host.
    Elsewhere {
        /// The host, with its port where there is one.
        host: String,
        /// How to talk to it; as the request came where there is none.
        protocol: Option<Protocol>,
    },
    /// Its objects are pages.
    Pages {
        /// What stands behind a path that ends in `/`.
        index: String,
        /// The key of the page that tells of errors.
        error: Option<String>,
        /// At most 50; the first that fits counts.
        rules: Vec<RoutingRule>,
    },
}

/// How a browser talks to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Protocol {
    Http,
    Https,
}

/// Sends some requests elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingRule {
    /// Only where the key begins with this.
    pub prefix: Option<String>,
    /// Only where the page has this error; without it, before anybody looks for the page.
    pub status: Option<u16>,
    /// Where to.
    pub redirect: Redirect,
}

/// Where a [`RoutingRule`] sends to; what it does not name stays as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Redirect {
    /// The host, with its port where there is one.
    pub host: Option<String>,
    /// 301 to 399; 301 where there is none.
    pub status: Option<u16>,
    /// How to talk to the host.
    pub protocol: Option<Protocol>,
    /// What becomes of the key.
    pub replace: Option<Replace>,
}

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replace {
    /// The prefix of the rule is exchanged for this.
    Prefix(String),
    /// It is this.
    Key(String),
}
