//! The model as its users see it: commands in, replies, answers and rows out.

mod acls;
mod annotations;
mod appends;
mod format;
mod lifecycle;
mod listing;
mod locks;
mod moves;
mod quota;
mod random;
mod recoding;
mod renames;
mod replication;
mod rules;
mod salvage;
mod sealing;
mod world;
