//! The simulator of overlays: three clusters in one thread, from one seed.
//!
//! Each cluster is a storage node (one cluster has three in some seeds) and one or two gateways, of production code behind
//! the three seams, with users, keys and a region of its own. An operator lets them join; clients reach the buckets of all through all gateways;
//! what happens between clusters (and to whole ones) is drawn from the seed. Beside the history, which is judged as
//! in one cluster, somebody looks (`watch`) all the time at what the overlay promises: what is at home is served, what is
//! away is 503 and soon, a copy is never ahead of its source; and the audit behind the faults, that every bucket is
//! known once everywhere and every copy is whole.
//!
//! What a seed draws and does is the same each time, with one exception: gossip. The library that gateways gossip
//! with (chitchat) chooses whom to tell, and in which order, by randomness of the operating system, which no seam
//! reaches. So a plan says whether gateways gossip (where they do not, names resolve to nothing, as with a dead name
//! service, and clusters hear of each other only when they ask each other for members). Seeds without gossip give the
//! same trace each time; those with it give the same faults and requests at the same times, but the network may
//! deliver in another order. The bytes of TLS are not from the seed either, but their number is, and they change nothing.

mod audit;
pub mod campaign;
mod clients;
mod copies;
mod machines;
mod operator;
pub mod plan;
mod shared;
mod stories;
mod watch;
pub mod world;
