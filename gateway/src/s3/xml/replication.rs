//! Reads the replication configuration of a bucket. An element that is not known, or comes twice where it may not, is an
//! error; what the texts say is checked by who asked.

use consensus::meta::model::Tags;
use consensus::meta::replication::ReplicationFilter;

use super::reader::{Node, malformed, parse, tag};
use crate::s3::error::{Code, S3Error, S3Result};

/// The document, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicationDocument {
    /// `Role`.
    pub role: Option<String>,
    /// Its rules.
    pub rules: Vec<ReplicationElement>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationElement {
    /// `ID`.
    pub id: Option<String>,
    /// `Priority`.
    pub priority: Option<String>,
    /// `Status`.
    pub status: Option<String>,
    /// How the filter was written.
    pub form: ReplicationFilter,
    /// `Prefix`, wherever it was.
    pub prefix: Option<String>,
    /// Each `Tag`.
    pub tags: Tags,
    /// `Bucket` of the destination.
    pub bucket: Option<String>,
    /// `Account` of the destination.
    pub account: Option<String>,
    /// `StorageClass` of the destination.
    pub storage_class: Option<String>,
    /// `Status` of `DeleteMarkerReplication`.
    pub markers: Option<String>,
    /// `Status` of `ExistingObjectReplication`.
    pub existing: Option<String>,
}

/// The replication configuration as it came.
pub fn replication(body: &[u8]) -> S3Result<ReplicationDocument> {
    let mut document = ReplicationDocument::default();
    for child in parse(body, "ReplicationConfiguration")?.children {
        match child.name.as_str() {
            "Role" => child.text_into(&mut document.role)?,
            "Rule" => document.rules.push(rule(child)?),
            _ => return Err(malformed()),
        }
    }
    Ok(document)
}

fn rule(node: Node) -> S3Result<ReplicationElement> {
    let mut rule = ReplicationElement {
        id: None,
        priority: None,
        status: None,
        form: ReplicationFilter::Old,
        prefix: None,
        tags: Tags::new(),
        bucket: None,
        account: None,
        storage_class: None,
        markers: None,
        existing: None,
    };
    let mut filtered = false;
    for child in node.children {
        match child.name.as_str() {
            "ID" => child.text_into(&mut rule.id)?,
            "Priority" => child.text_into(&mut rule.priority)?,
            "Status" => child.text_into(&mut rule.status)?,
            "Prefix" if !filtered => {
                filtered = true;
                child.text_into(&mut rule.prefix)?;
            }
            "Filter" if !filtered => {
                filtered = true;
                filter(child, &mut rule)?;
            }
            "Destination" if rule.bucket.is_none() => destination(child, &mut rule)?,
            "DeleteMarkerReplication" => status(child, &mut rule.markers)?,
            "ExistingObjectReplication" => status(child, &mut rule.existing)?,
            "SourceSelectionCriteria" => return Err(lacking(&child)),
            _ => return Err(malformed()),
        }
    }
    if filtered { Ok(rule) } else { Err(malformed()) }
}

fn filter(node: Node, rule: &mut ReplicationElement) -> S3Result<()> {
    let mut children = node.children.into_iter();
    let (first, None) = (children.next(), children.next()) else { return Err(malformed()) };
    let Some(child) = first else {
        rule.form = ReplicationFilter::Empty;
        return Ok(());
    };
    match child.name.as_str() {
        "Prefix" => {
            rule.form = ReplicationFilter::Prefix;
            child.text_into(&mut rule.prefix)
        }
        "Tag" => {
            rule.form = ReplicationFilter::Tag;
            rule.tags.push(tag(child)?);
            Ok(())
        }
        "And" => {
            rule.form = ReplicationFilter::And;
            for part in child.children {
                match part.name.as_str() {
                    "Prefix" => part.text_into(&mut rule.prefix)?,
                    "Tag" => rule.tags.push(tag(part)?),
                    _ => return Err(malformed()),
                }
            }
            Ok(())
        }
        _ => Err(malformed()),
    }
}

fn destination(node: Node, rule: &mut ReplicationElement) -> S3Result<()> {
    for child in node.children {
        match child.name.as_str() {
            "Bucket" => child.text_into(&mut rule.bucket)?,
            "Account" => child.text_into(&mut rule.account)?,
            "StorageClass" => child.text_into(&mut rule.storage_class)?,
            "AccessControlTranslation" | "EncryptionConfiguration" | "Metrics" | "ReplicationTime" => {
                return Err(lacking(&child));
            }
            _ => return Err(malformed()),
        }
    }
    Ok(())
}

fn status(node: Node, into: &mut Option<String>) -> S3Result<()> {
    for child in node.children {
        match child.name.as_str() {
            "Status" => child.text_into(into)?,
            _ => return Err(malformed()),
        }
    }
    if into.is_some() { Ok(()) } else { Err(malformed()) }
}

/// What AWS has and is not had here.
fn lacking(node: &Node) -> S3Error {
    Code::NotImplemented.says(format!("{} is not implemented in replication rules.", node.name))
}
