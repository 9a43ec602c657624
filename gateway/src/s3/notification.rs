//! The notification configuration of a bucket: which events go to whom, by the rules of AWS.
//!
//! Targets are the webhooks of the gateway's own configuration: the last part of an ARN is the name of one.

use consensus::meta::model::{Event, NotificationForm, NotificationRule};
use fabric::limits::{KEY_BYTES_MAX, NOTIFICATION_RULES_MAX};

use super::changes::name;
use super::error::{Code, S3Error, S3Result};
use super::xml::{NotificationDocument, NotificationElement, XmlWriter};

const ID_CHARS_MAX: usize = 255;
const ARN_BYTES_MAX: usize = 1024;

/// Every event that a rule may name. Those that never happen here are taken, as on AWS in buckets where they do not.
const EVENTS: &[&str] = &[
    "s3:IntelligentTiering",
    "s3:LifecycleExpiration:*",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
    "s3:LifecycleTransition",
    "s3:ObjectAcl:Put",
    "s3:ObjectCreated:*",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Put",
    "s3:ObjectRemoved:*",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectRestore:*",
    "s3:ObjectRestore:Completed",
    "s3:ObjectRestore:Delete",
    "s3:ObjectRestore:Post",
    "s3:ObjectTagging:*",
    "s3:ObjectTagging:Delete",
    "s3:ObjectTagging:Put",
    "s3:ReducedRedundancyLostObject",
    "s3:Replication:*",
    "s3:Replication:OperationFailedReplication",
    "s3:Replication:OperationMissedThreshold",
    "s3:Replication:OperationNotTracked",
    "s3:Replication:OperationReplicatedAfterThreshold",
];

/// The name of the target that an ARN means: `arn:PARTITION:SERVICE:REGION:ACCOUNT:NAME`, of a function with a word before
/// the name.
pub fn target(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':');
    let (scheme, _, _, _, _) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let name = parts.next()?.rsplit(':').next()?;
    (scheme == "arn" && !name.is_empty()).then_some(name)
}

/// The rules in a document, if they may be. `new_id` gives a name to those that have none; `known` says whether there is
/// such a target.
pub fn check(
    document: NotificationDocument,
    known: impl Fn(&str) -> bool,
    mut new_id: impl FnMut() -> String,
) -> S3Result<Vec<NotificationRule>> {
    if document.event_bridge {
        return Err(Code::NotImplemented.says("There is no EventBridge here."));
    }
    if NOTIFICATION_RULES_MAX < document.rules.len() {
        let message = format!("A bucket has at most {NOTIFICATION_RULES_MAX} notification configurations.");
        return Err(Code::InvalidArgument.says(message));
    }
    let mut rules: Vec<NotificationRule> = Vec::new();
    for element in document.rules {
        let rule = check_rule(element, &mut new_id)?;
        if rules.iter().any(|other| other.id == rule.id) {
            return Err(S3Error::argument("Id", &rule.id, "The Id of each configuration must be unique."));
        }
        if rules.iter().any(|other| is_ambiguous(other, &rule)) {
            return Err(Code::InvalidArgument.says(
                "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the prefixes \
                 are overlapping for the same event type.",
            ));
        }
        rules.push(rule);
    }
    match rules.iter().find(|rule| !target(&rule.arn).is_some_and(&known)) {
        Some(rule) => Err(unusable(rule, "does not exist")),
        None => Ok(rules),
    }
}

/// A target that cannot be had, in AWS's words.
pub fn unusable(rule: &NotificationRule, why: &str) -> S3Error {
    let what = match rule.form {
        NotificationForm::Queue => "queue",
        NotificationForm::Topic => "topic",
        NotificationForm::Function => "function",
    };
    Code::InvalidArgument
        .says("Unable to validate the following destination configurations")
        .field("ArgumentName", rule.arn.clone())
        .field("ArgumentValue", format!("The destination {what} {why}"))
}

fn check_rule(
    element: NotificationElement,
    new_id: &mut impl FnMut() -> String,
) -> S3Result<NotificationRule> {
    let id = element.id.filter(|id| !id.is_empty()).unwrap_or_else(new_id);
    if ID_CHARS_MAX < id.chars().count() {
        return Err(S3Error::argument("Id", &id, "The Id of a configuration has at most 255 characters."));
    }
    let arn = element.arn.ok_or(Code::MalformedXML)?;
    if ARN_BYTES_MAX < arn.len() || target(&arn).is_none() {
        return Err(S3Error::argument("ARN", &arn, "The ARN is not well formed"));
    }
    if element.events.is_empty() {
        return Err(Code::MalformedXML.into());
    }
    let mut events: Vec<String> = Vec::new();
    for event in element.events {
        if !EVENTS.contains(&event.as_str()) {
            let message = "A specified event is not supported for notifications.";
            return Err(S3Error::argument("Event", &event, message));
        }
        if events.iter().any(|other| covers(other, &event) || covers(&event, other)) {
            return Err(Code::InvalidArgument.says("Events in one configuration must not overlap."));
        }
        events.push(event);
    }
    let (mut prefix, mut suffix) = (None, None);
    for (name, value) in element.filter {
        let field = match name.to_ascii_lowercase().as_str() {
            "prefix" => &mut prefix,
            "suffix" => &mut suffix,
            _ => {
                return Err(S3Error::argument(
                    "FilterRule.Name",
                    &name,
                    "filter rule name must be either prefix or suffix",
                ));
            }
        };
        if KEY_BYTES_MAX < value.len() {
            return Err(S3Error::argument(
                "FilterRule.Value",
                &value,
                "Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation",
            ));
        }
        if field.replace(value).is_some() {
            let word = name.to_ascii_lowercase();
            return Err(
                Code::InvalidArgument.says(format!("Cannot specify more than one {word} rule in a filter."))
            );
        }
    }
    Ok(NotificationRule { form: element.form, id, arn, events, prefix, suffix })
}

/// Whether one name of events stands for another, too.
fn covers(name: &str, other: &str) -> bool {
    match name.strip_suffix('*') {
        Some(start) => other.starts_with(start),
        None => name == other,
    }
}

/// Whether some event would go by both rules.
fn is_ambiguous(left: &NotificationRule, right: &NotificationRule) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (left_prefix, right_prefix) = (text(&left.prefix), text(&right.prefix));
    let (left_suffix, right_suffix) = (text(&left.suffix), text(&right.suffix));
    let events = left
        .events
        .iter()
        .any(|event| right.events.iter().any(|other| covers(event, other) || covers(other, event)));
    events
        && (left_prefix.starts_with(&right_prefix) || right_prefix.starts_with(&left_prefix))
        && (left_suffix.ends_with(&right_suffix) || right_suffix.ends_with(&left_suffix))
}

/// Whether an event goes by a rule.
pub fn matches(rule: &NotificationRule, event: &Event) -> bool {
    let told = name(event.kind);
    let key = event.key.as_str();
    rule.events.iter().any(|name| name.strip_prefix("s3:").is_some_and(|name| covers(name, told)))
        && rule.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_str()))
        && rule.suffix.as_ref().is_none_or(|suffix| key.ends_with(suffix.as_str()))
}

/// The document that shows rules.
pub fn document(rules: &[NotificationRule]) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("NotificationConfiguration");
    for (form, element, arn) in [
        (NotificationForm::Topic, "TopicConfiguration", "Topic"),
        (NotificationForm::Queue, "QueueConfiguration", "Queue"),
        (NotificationForm::Function, "CloudFunctionConfiguration", "CloudFunction"),
    ] {
        for rule in rules.iter().filter(|rule| rule.form == form) {
            xml.element(element, |xml| {
                xml.text("Id", &rule.id);
                xml.text(arn, &rule.arn);
                rule.events.iter().for_each(|event| xml.text("Event", event));
                filter(xml, rule);
            });
        }
    }
    xml.close("NotificationConfiguration");
    xml
}

fn filter(xml: &mut XmlWriter, rule: &NotificationRule) {
    let rules: Vec<(&str, &String)> = [("Prefix", &rule.prefix), ("Suffix", &rule.suffix)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
        .collect();
    if rules.is_empty() {
        return;
    }
    xml.element("Filter", |xml| {
        xml.element("S3Key", |xml| {
            for (name, value) in rules {
                xml.element("FilterRule", |xml| {
                    xml.text("Name", name);
                    xml.text("Value", value);
                });
            }
        });
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::{ClusterMs, EventKind, Origin};
    use fabric::ids::Stamp;

    use super::*;
    use crate::s3::xml::notification;

    fn rules(configurations: &str) -> Result<Vec<NotificationRule>, Code> {
        let text = format!("<NotificationConfiguration>{configurations}</NotificationConfiguration>");
        let document = notification(text.as_bytes()).map_err(|error| error.code())?;
        let mut count = 0;
        let new_id = || {
            count += 1;
            format!("id-{count}")
        };
        check(document, |name| name == "hook", new_id).map_err(|error| error.code())
    }

    fn queue(events: &[&str], filter: &[(&str, &str)]) -> String {
        let events: String = events.iter().map(|event| format!("<Event>s3:{event}</Event>")).collect();
        let rule = |(name, value): &(&str, &str)| {
            format!("<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>")
        };
        let filter: String = filter.iter().map(rule).collect();
        format!(
            "<QueueConfiguration><Queue>arn:aws:sqs:::hook</Queue>{events}<Filter><S3Key>{filter}</S3Key></Filter>\
             </QueueConfiguration>"
        )
    }

    #[test]
    fn arns_name_targets() {
        for (arn, name) in [
            ("arn:aws:sqs:::hook", Some("hook")),
            ("arn:fluffy:sqs:us-east-1:1234:hook", Some("hook")),
            ("arn:aws:lambda:us-east-1:1:function:hook", Some("hook")),
            ("arn:aws:sqs:::", None),
            ("arn:aws:sqs:hook", None),
            ("urn:aws:sqs:::hook", None),
            ("", None),
        ] {
            assert_eq!(target(arn), name, "{arn}");
        }
    }

    #[test]
    fn configurations_are_checked() {
        let put = ["ObjectCreated:Put"];
        let created = ["ObjectCreated:*"];
        for (text, expected) in [
            (String::new(), Ok(0)),
            (queue(&put, &[]), Ok(1)),
            (
                queue(&["ObjectCreated:*", "ObjectRemoved:Delete"], &[("prefix", "a/"), ("Suffix", ".jpg")]),
                Ok(1),
            ),
            (queue(&put, &[("prefix", "a")]) + &queue(&created, &[("prefix", "b")]), Ok(2)),
            (queue(&put, &[("suffix", "a")]) + &queue(&created, &[("suffix", "b")]), Ok(2)),
            (queue(&put, &[]) + &queue(&["ObjectRemoved:*"], &[]), Ok(2)),
            (
                queue(&put, &[("prefix", "a")]) + &queue(&created, &[("prefix", "ab")]),
                Err(Code::InvalidArgument),
            ),
            (queue(&put, &[]) + &queue(&put, &[("suffix", "x")]), Err(Code::InvalidArgument)),
            (queue(&["ObjectCreated:*", "ObjectCreated:Put"], &[]), Err(Code::InvalidArgument)),
            (queue(&["ObjectCreated:Delete"], &[]), Err(Code::InvalidArgument)),
            (queue(&["*"], &[]), Err(Code::InvalidArgument)),
            (queue(&[], &[]), Err(Code::MalformedXML)),
            (queue(&put, &[("prefix", "a"), ("Prefix", "b")]), Err(Code::InvalidArgument)),
            (queue(&put, &[("infix", "a")]), Err(Code::InvalidArgument)),
            (queue(&put, &[]).replace(":hook", ":other"), Err(Code::InvalidArgument)),
            (queue(&put, &[]).replace("arn:", ""), Err(Code::InvalidArgument)),
            (queue(&put, &[]).replace("<Filter>", "<Colour/><Filter>"), Err(Code::MalformedXML)),
            ("<EventBridgeConfiguration/>".to_string(), Err(Code::NotImplemented)),
        ] {
            assert_eq!(rules(&text).map(|rules| rules.len()), expected, "{text}");
        }
    }

    #[test]
    fn documents_come_back() {
        let text = queue(&["ObjectCreated:*"], &[("prefix", "a/"), ("suffix", ".jpg")]);
        let found = rules(&text).unwrap();
        let shown = document(&found).finish();
        let again = notification(shown.as_bytes()).unwrap();
        assert_eq!(check(again, |_| true, String::new).unwrap(), found);
    }

    #[test]
    fn events_go_by_name_prefix_and_suffix() {
        let rule =
            rules(&queue(&["ObjectCreated:*", "ObjectTagging:Put"], &[("prefix", "a/"), ("suffix", ".jpg")]));
        let rule = rule.unwrap().remove(0);
        for (kind, key, expected) in [
            (EventKind::Put, "a/1.jpg", true),
            (EventKind::Complete, "a/.jpg", true),
            (EventKind::Tags, "a/1.jpg", true),
            (EventKind::DeleteTags, "a/1.jpg", false),
            (EventKind::Delete, "a/1.jpg", false),
            (EventKind::Put, "b/1.jpg", false),
            (EventKind::Put, "a/1.png", false),
        ] {
            let event = Event {
                kind,
                key: key.parse().unwrap(),
                version: Stamp::ZERO,
                bytes: 0,
                etag: None,
                at: ClusterMs(0),
                origin: Origin::default(),
            };
            assert_eq!(matches(&rule, &event), expected, "{kind:?} {key}");
        }
    }
}
