//! Reads the notification configuration of a bucket. An element that is not known, or comes twice where it may not, is an
//! error; what the texts say is checked by who asked.

use consensus::meta::model::NotificationForm;

use super::reader::{Node, malformed, parse};
use crate::s3::error::S3Result;

/// The document, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotificationDocument {
    /// Its rules.
    pub rules: Vec<NotificationElement>,
    /// Whether `EventBridgeConfiguration` is there.
    pub event_bridge: bool,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationElement {
    /// Which element it was.
    pub form: NotificationForm,
    /// `Id`.
    pub id: Option<String>,
    /// `Queue`, `Topic` or `CloudFunction`.
    pub arn: Option<String>,
    /// `Event`.
    pub events: Vec<String>,
    /// Name and value of each `FilterRule`.
    pub filter: Vec<(String, String)>,
}

/// The notification configuration as it came.
pub fn notification(body: &[u8]) -> S3Result<NotificationDocument> {
    let mut document = NotificationDocument::default();
    for child in parse(body, "NotificationConfiguration")?.children {
        let form = match child.name.as_str() {
            "QueueConfiguration" => NotificationForm::Queue,
            "TopicConfiguration" => NotificationForm::Topic,
            "CloudFunctionConfiguration" => NotificationForm::Function,
            "EventBridgeConfiguration" if child.children.is_empty() && !document.event_bridge => {
                document.event_bridge = true;
                continue;
            }
            _ => return Err(malformed()),
        };
        document.rules.push(rule(child, form)?);
    }
    Ok(document)
}

fn rule(node: Node, form: NotificationForm) -> S3Result<NotificationElement> {
    let mut rule = NotificationElement { form, id: None, arn: None, events: Vec::new(), filter: Vec::new() };
    for child in node.children {
        match (child.name.as_str(), form) {
            ("Id", _) => child.text_into(&mut rule.id)?,
            ("Queue", NotificationForm::Queue)
            | ("Topic", NotificationForm::Topic)
            | ("CloudFunction", NotificationForm::Function) => child.text_into(&mut rule.arn)?,
            ("Event", _) => {
                let mut event = None;
                child.text_into(&mut event)?;
                rule.events.extend(event);
            }
            ("Filter", _) if rule.filter.is_empty() => rule.filter = filter(child)?,
            _ => return Err(malformed()),
        }
    }
    Ok(rule)
}

fn filter(node: Node) -> S3Result<Vec<(String, String)>> {
    let mut rules = Vec::new();
    for key in node.children {
        if key.name != "S3Key" {
            return Err(malformed());
        }
        for rule in key.children {
            let (mut name, mut value) = (None, None);
            if rule.name != "FilterRule" {
                return Err(malformed());
            }
            for child in rule.children {
                match child.name.as_str() {
                    "Name" => child.text_into(&mut name)?,
                    "Value" => child.text_into(&mut value)?,
                    _ => return Err(malformed()),
                }
            }
            rules.push((name.ok_or_else(malformed)?, value.unwrap_or_default()));
        }
    }
    Ok(rules)
}
