//! XML: a writer for answers and a strict reader of the few documents that clients send.

mod reader;
mod writer;

pub use writer::{XmlWriter, url_encoded};
