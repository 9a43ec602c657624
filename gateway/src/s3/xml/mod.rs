//! XML: a writer for answers and a strict reader of the few documents that clients send.

mod reader;
mod writer;

pub use reader::{
    CompleteDocument, CompletePartElement, DeleteDocument, DeleteElement, VersioningDocument, cors_rules,
    create_bucket_location, tagging,
};
pub use writer::{NAMESPACE, XmlWriter, url_encoded};
