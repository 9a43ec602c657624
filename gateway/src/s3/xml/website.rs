//! Reads the configuration of a website.

use super::reader::{Node, malformed, parse};
use crate::s3::error::S3Result;

/// The body of PutBucketWebsite, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebsiteDocument {
    /// `RedirectAllRequestsTo`.
    pub elsewhere: Option<RedirectElement>,
    /// `IndexDocument/Suffix`.
    pub index: Option<String>,
    /// `ErrorDocument/Key`.
    pub error: Option<String>,
    /// `RoutingRules`.
    pub rules: Option<Vec<RoutingRuleElement>>,
}

/// One rule of a [`WebsiteDocument`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutingRuleElement {
    /// `Condition`.
    pub condition: Option<ConditionElement>,
    /// `Redirect`.
    pub redirect: RedirectElement,
}

/// When a rule holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConditionElement {
    /// `KeyPrefixEquals`.
    pub prefix: Option<String>,
    /// `HttpErrorCodeReturnedEquals`.
    pub status: Option<String>,
}

/// Where a rule sends to, or where everything goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct RedirectElement {
    pub host: Option<String>,
    pub status: Option<String>,
    pub protocol: Option<String>,
    pub replace_prefix: Option<String>,
    pub replace_key: Option<String>,
}

impl WebsiteDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<WebsiteDocument> {
        let mut document = WebsiteDocument::default();
        for child in parse(body, "WebsiteConfiguration")?.children {
            match child.name.as_str() {
                "RedirectAllRequestsTo" if document.elsewhere.is_none() => {
                    document.elsewhere = Some(redirect(child)?);
                }
                "IndexDocument" if document.index.is_none() => document.index = only(child, "Suffix")?,
                "ErrorDocument" if document.error.is_none() => document.error = only(child, "Key")?,
                "RoutingRules" if document.rules.is_none() => {
                    document.rules = Some(child.children.into_iter().map(rule).collect::<S3Result<_>>()?);
                }
                _ => return Err(malformed()),
            }
        }
        Ok(document)
    }
}

/// The text of the one child that an element may have; without it, an empty one.
fn only(node: Node, name: &str) -> S3Result<Option<String>> {
    let mut text = None;
    for child in node.children {
        if child.name != name {
            return Err(malformed());
        }
        child.text_into(&mut text)?;
    }
    Ok(Some(text.unwrap_or_default()))
}

fn rule(node: Node) -> S3Result<RoutingRuleElement> {
    if node.name != "RoutingRule" {
        return Err(malformed());
    }
    let (mut when, mut to) = (None, None);
    for child in node.children {
        match child.name.as_str() {
            "Condition" if when.is_none() => when = Some(condition(child)?),
            "Redirect" if to.is_none() => to = Some(redirect(child)?),
            _ => return Err(malformed()),
        }
    }
    Ok(RoutingRuleElement { condition: when, redirect: to.ok_or_else(malformed)? })
}

fn condition(node: Node) -> S3Result<ConditionElement> {
    let mut condition = ConditionElement::default();
    for child in node.children {
        match child.name.as_str() {
            "KeyPrefixEquals" => child.text_into(&mut condition.prefix)?,
            "HttpErrorCodeReturnedEquals" => child.text_into(&mut condition.status)?,
            _ => return Err(malformed()),
        }
    }
    Ok(condition)
}

fn redirect(node: Node) -> S3Result<RedirectElement> {
    let mut redirect = RedirectElement::default();
    for child in node.children {
        let field = match child.name.as_str() {
            "HostName" => &mut redirect.host,
            "HttpRedirectCode" => &mut redirect.status,
            "Protocol" => &mut redirect.protocol,
            "ReplaceKeyPrefixWith" => &mut redirect.replace_prefix,
            "ReplaceKeyWith" => &mut redirect.replace_key,
            _ => return Err(malformed()),
        };
        child.text_into(field)?;
    }
    Ok(redirect)
}
