//! The S3 dialect: routing, authentication, bodies, errors, XML, and one file per operation.
//!
//! A request is parsed once into types that cannot be wrong, routed to exactly one operation, verified, allowed,
//! and only then run. The body streams past every digest and signature before anything becomes visible.

pub mod access;
pub mod access_log;
pub mod acl;
mod afar;
pub mod annotations;
pub mod appending;
pub mod auth;
pub mod bodies;
pub mod changes;
pub mod checksum;
mod chunked;
pub mod classes;
pub mod conditions;
pub mod copying;
pub mod cors;
pub mod encryption;
pub mod error;
mod federation;
pub mod form;
pub mod headers;
pub mod lifecycle;
pub mod listing;
pub mod locks;
pub mod notification;
pub mod op;
pub mod ops;
pub mod path;
pub mod payload;
mod placing;
pub mod policy;
pub mod proxies;
pub mod range;
pub mod reading;
pub mod replicas;
pub mod replication;
pub mod request;
pub mod response;
pub mod route;
pub mod search;
pub mod searching_all;
pub mod service;
pub mod tags;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod uploads;
pub mod versions;
pub mod website;
pub mod xml;

pub use error::{BoxError, Code, S3Error, S3Result};
pub use op::{Action, BodyRule, Context, Op};
pub use payload::{Digests, Payload};
pub use request::{Query, Request};
pub use response::{Response, ResponseBody};
pub use route::{Route, Router};
pub use service::{Backend, S3Service, Settings};
