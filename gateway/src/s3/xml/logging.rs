//! Reads the logging status of a bucket. An element that is not known, or comes twice where it may not, is an error; what
//! the texts say is checked by who asked.

use super::reader::{Node, malformed, parse};
use crate::s3::error::S3Result;

/// `LoggingEnabled`, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggingElement {
    /// `TargetBucket`.
    pub bucket: Option<String>,
    /// `TargetPrefix`.
    pub prefix: Option<String>,
    /// Whether there is any grant in `TargetGrants`.
    pub grants: bool,
    /// `PartitionDateSource`, where the keys are partitioned.
    pub partitioned: Option<String>,
}

/// The logging status as it came; `None`: there is to be no log.
pub fn logging(body: &[u8]) -> S3Result<Option<LoggingElement>> {
    let mut children = parse(body, "BucketLoggingStatus")?.children.into_iter();
    let enabled = match (children.next(), children.next()) {
        (None, _) => return Ok(None),
        (Some(enabled), None) if enabled.name == "LoggingEnabled" => enabled,
        _ => return Err(malformed()),
    };
    let mut element = LoggingElement::default();
    let mut formats = 0;
    for child in enabled.children {
        match child.name.as_str() {
            "TargetBucket" => child.text_into(&mut element.bucket)?,
            "TargetPrefix" => child.text_into(&mut element.prefix)?,
            "TargetGrants" => element.grants |= !child.children.is_empty(),
            "TargetObjectKeyFormat" if formats == 0 => {
                formats += 1;
                element.partitioned = key_format(child)?;
            }
            _ => return Err(malformed()),
        }
    }
    Ok(Some(element))
}

/// The source of dates in keys; an empty one where none is named.
fn key_format(node: Node) -> S3Result<Option<String>> {
    let mut children = node.children.into_iter();
    let format = match (children.next(), children.next()) {
        (Some(format), None) => format,
        _ => return Err(malformed()),
    };
    match format.name.as_str() {
        "SimplePrefix" if format.children.is_empty() => Ok(None),
        "PartitionedPrefix" => {
            let mut source = None;
            for child in format.children {
                match child.name.as_str() {
                    "PartitionDateSource" => child.text_into(&mut source)?,
                    _ => return Err(malformed()),
                }
            }
            Ok(Some(source.unwrap_or_default()))
        }
        _ => Err(malformed()),
    }
}
