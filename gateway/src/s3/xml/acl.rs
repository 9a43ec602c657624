//! Reads access control lists.

use super::reader::{Node, parse};
use crate::s3::error::{Code, S3Error, S3Result};

/// The body of PutBucketAcl and PutObjectAcl, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AclDocument {
    /// `Owner/ID`.
    pub owner: String,
    /// `AccessControlList`.
    pub grants: Vec<GrantElement>,
}

/// One grant of an [`AclDocument`]. A grantee is one of the three.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct GrantElement {
    pub id: Option<String>,
    pub uri: Option<String>,
    pub email: Option<String>,
    pub permission: String,
}

fn malformed() -> S3Error {
    Code::MalformedACLError.into()
}

impl AclDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<AclDocument> {
        let (mut owner, mut grants) = (None, None);
        for child in parse(body, "AccessControlPolicy").map_err(|_| malformed())?.children {
            match child.name.as_str() {
                "Owner" => named(child, "ID", &mut owner)?,
                "AccessControlList" if grants.is_none() => {
                    grants = Some(child.children.into_iter().map(grant).collect::<S3Result<_>>()?);
                }
                _ => return Err(malformed()),
            }
        }
        match (owner, grants) {
            (Some(owner), Some(grants)) => Ok(AclDocument { owner, grants }),
            _ => Err(malformed()),
        }
    }
}

fn text_into(node: Node, field: &mut Option<String>) -> S3Result<()> {
    node.text_into(field).map_err(|_| malformed())
}

/// Takes a child by its name; what a user is called besides means nothing.
fn named(node: Node, name: &str, field: &mut Option<String>) -> S3Result<()> {
    for child in node.children {
        match child.name.as_str() {
            "DisplayName" => {}
            found if found == name => text_into(child, field)?,
            _ => return Err(malformed()),
        }
    }
    Ok(())
}

fn grant(node: Node) -> S3Result<GrantElement> {
    if node.name != "Grant" {
        return Err(malformed());
    }
    let (mut element, mut permission) = (GrantElement::default(), None);
    for child in node.children {
        match child.name.as_str() {
            "Grantee" => grantee(child, &mut element)?,
            "Permission" => text_into(child, &mut permission)?,
            _ => return Err(malformed()),
        }
    }
    element.permission = permission.ok_or_else(malformed)?;
    Ok(element)
}

fn grantee(node: Node, element: &mut GrantElement) -> S3Result<()> {
    for child in node.children {
        match child.name.as_str() {
            "DisplayName" => {}
            "ID" => text_into(child, &mut element.id)?,
            "URI" => text_into(child, &mut element.uri)?,
            "EmailAddress" => text_into(child, &mut element.email)?,
            _ => return Err(malformed()),
        }
    }
    Ok(())
}
