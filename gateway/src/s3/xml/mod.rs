//! XML: a writer for answers and a strict reader of the few documents that clients send.

mod reader;
mod writer;

pub use reader::{
    CompleteDocument, CompletePartElement, DeleteDocument, DeleteElement, create_bucket_location,
};
pub use writer::{NAMESPACE, XmlWriter, url_encoded};
