//! The replication configuration of a bucket: which objects are copied to which buckets of other clusters, by the rules
//! of AWS.

use std::collections::BTreeSet;

use consensus::meta::model::{Bucket, BucketSetting, Object, Tags, Versioning};
use consensus::meta::names::{BucketName, ClusterName, ObjectKey};
use consensus::meta::replication::{Acknowledged, Replication, ReplicationFilter, ReplicationRule, Source};
use fabric::limits::{KEY_BYTES_MAX, REPLICATION_RULES_MAX};

use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::response::Response;
use super::tags;
use super::xml::{ReplicationDocument, ReplicationElement, XmlWriter};
use crate::overlay::feed::{acknowledged, is_left};

const ID_CHARS_MAX: usize = 255;
const ROLE_BYTES_MAX: usize = 2048;
const BUCKET_ARN: &str = "arn:aws:s3:::";

/// A rule before its destination was looked for: cluster and bucket of it are still those of nobody.
pub struct Draft {
    /// The bucket as it is named here.
    pub destination: BucketName,
    rule: ReplicationRule,
}

impl Draft {
    /// The rule with its destination.
    pub fn to(self, cluster: ClusterName, bucket: BucketName) -> ReplicationRule {
        ReplicationRule { cluster, bucket, ..self.rule }
    }
}

/// What a document says, if it may: the role, and its rules.
pub fn check(
    document: ReplicationDocument,
    bucket: &Bucket,
    here: &ClusterName,
    mut new_id: impl FnMut() -> String,
) -> S3Result<(String, Vec<Draft>)> {
    let role = document.role.filter(|role| !role.is_empty()).ok_or(Code::MalformedXML)?;
    if ROLE_BYTES_MAX < role.len() || document.rules.is_empty() {
        return Err(Code::MalformedXML.into());
    }
    if REPLICATION_RULES_MAX < document.rules.len() {
        let message = format!("A replication configuration has at most {REPLICATION_RULES_MAX} rules.");
        return Err(Code::InvalidRequest.says(message));
    }
    if bucket.versioning != Versioning::Enabled {
        return Err(Code::InvalidRequest
            .says("Versioning must be 'Enabled' on the bucket to apply a replication configuration"));
    }
    let mut drafts: Vec<Draft> = Vec::new();
    for element in document.rules {
        let draft = check_rule(element, here, &mut new_id)?;
        if drafts.iter().any(|other| other.rule.id == draft.rule.id) {
            return Err(S3Error::argument(
                "ID",
                &draft.rule.id,
                "Rule Id must be unique. Found same Id for more than one rule",
            ));
        }
        let old = |rule: &ReplicationRule| rule.form == ReplicationFilter::Old;
        if drafts.iter().any(|other| !old(&other.rule) && other.rule.priority == draft.rule.priority) {
            let priority = draft.rule.priority;
            return Err(Code::InvalidRequest
                .says(format!("Found duplicate priority {priority} in the replication rules")));
        }
        if drafts.iter().any(|other| old(&other.rule) != old(&draft.rule)) {
            return Err(Code::InvalidRequest.says("Rules with Filter and rules with Prefix cannot be mixed."));
        }
        drafts.push(draft);
    }
    Ok((role, drafts))
}

fn check_rule(
    element: ReplicationElement,
    here: &ClusterName,
    new_id: &mut impl FnMut() -> String,
) -> S3Result<Draft> {
    let id = element.id.filter(|id| !id.is_empty()).unwrap_or_else(new_id);
    if ID_CHARS_MAX < id.chars().count() {
        return Err(S3Error::argument("ID", &id, "The ID of a rule has at most 255 characters."));
    }
    let enabled = switch(element.status.as_deref())?.ok_or(Code::MalformedXML)?;
    let (form, prefix, tags) = (element.form, element.prefix.unwrap_or_default(), element.tags);
    let old = form == ReplicationFilter::Old;
    if KEY_BYTES_MAX < prefix.len() {
        return Err(S3Error::argument("Prefix", &prefix, "The maximum size of a prefix is 1024."));
    }
    tags::check(&tags)?;
    let priority = match element.priority.as_deref() {
        // Rules of the oldest form have none, and only one of them fits an object.
        None if old => 0,
        Some(text) if !old => text
            .trim()
            .parse::<i32>()
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or(Code::MalformedXML)?,
        _ => return Err(Code::MalformedXML.into()),
    };
    let markers = switch(element.markers.as_deref())?;
    // With a filter the rule says what becomes of delete markers, without one it cannot.
    if markers.is_some() == old {
        return Err(Code::MalformedXML.into());
    }
    if markers == Some(true) && !tags.is_empty() {
        return Err(Code::InvalidRequest
            .says("Delete marker replication is not supported if any Tag filter is specified. Please refer to S3 Developer Guide for more information."));
    }
    let existing = switch(element.existing.as_deref())?;
    let arn = element.bucket.ok_or(Code::MalformedXML)?;
    let name =
        arn.strip_prefix(BUCKET_ARN).ok_or_else(|| Code::InvalidRequest.says("Invalid bucket ARN."))?;
    let destination: BucketName =
        name.parse().map_err(|_| Code::InvalidRequest.says("Invalid bucket ARN."))?;
    let rule = ReplicationRule {
        id,
        priority,
        enabled,
        form,
        prefix,
        tags,
        destination: destination.clone(),
        cluster: here.clone(),
        bucket: destination.clone(),
        account: element.account,
        storage_class: element.storage_class,
        markers,
        existing,
    };
    Ok(Draft { destination, rule })
}

/// `Enabled` or `Disabled`.
fn switch(text: Option<&str>) -> S3Result<Option<bool>> {
    match text {
        None => Ok(None),
        Some("Enabled") => Ok(Some(true)),
        Some("Disabled") => Ok(Some(false)),
        Some(_) => Err(Code::MalformedXML.into()),
    }
}

/// The rule that decides about copies of an object with these tags to a bucket of a cluster.
pub fn deciding<'a>(
    replication: &'a Replication,
    (cluster, bucket): (&ClusterName, &BucketName),
    key: &str,
    tags: &Tags,
) -> Option<&'a ReplicationRule> {
    let fits = |rule: &&ReplicationRule| {
        rule.enabled
            && (&rule.cluster, &rule.bucket) == (cluster, bucket)
            && key.starts_with(&rule.prefix)
            && rule.tags.iter().all(|tag| tags.contains(tag))
    };
    replication.rules.iter().filter(fits).max_by_key(|rule| rule.priority)
}

/// Adds how far the copies of a version are to the answer about it. A copy says itself that it is one.
pub async fn show(cx: &Context, key: &ObjectKey, object: &Object, response: Response) -> S3Result<Response> {
    let settings = cx.recent_settings().await?;
    let rules = settings.iter().find_map(|setting| match setting {
        BucketSetting::Replication(rules) => Some(rules),
        _ => None,
    });
    let Some(rules) = rules.filter(|_| !object.attributes.is_replica()) else { return Ok(response) };
    if destinations(rules, key, object).is_empty() {
        return Ok(response);
    }
    let copies = acknowledged(&*cx.meta, cx.bucket()?.id).await?;
    Ok(match status(rules, &copies, key, object) {
        Some(status) => response.amz("x-amz-replication-status", status),
        None => response,
    })
}

/// Where a version is to be copied.
fn destinations(rules: &Replication, key: &ObjectKey, object: &Object) -> BTreeSet<Source> {
    if object.stamp <= rules.since {
        return BTreeSet::new();
    }
    let tags = &object.attributes.tags;
    let all = rules
        .rules
        .iter()
        .map(|rule| (&rule.cluster, &rule.bucket))
        .filter(|to| deciding(rules, *to, key.as_str(), tags).is_some());
    all.map(|(cluster, bucket)| Source { cluster: cluster.clone(), bucket: bucket.clone() }).collect()
}

/// How far the copies of a version are, in AWS's words; `None`: none is wanted, or nobody knows.
fn status(
    rules: &Replication,
    copies: &[(Source, Acknowledged)],
    key: &ObjectKey,
    object: &Object,
) -> Option<&'static str> {
    let mut wanted = destinations(rules, key, object);
    let mut are_there = true;
    // The stamp of a version that was written here is that of its event.
    wanted.retain(|to| match copies.iter().find(|(other, _)| other == to) {
        Some((_, copy)) if object.stamp <= copy.first => false,
        copy => {
            are_there &= copy.is_some_and(|(_, copy)| object.stamp <= copy.upto);
            true
        }
    });
    match (wanted.is_empty(), are_there) {
        (true, _) => None,
        _ if is_left(object) => Some("FAILED"),
        (_, true) => Some("COMPLETED"),
        (_, false) => Some("PENDING"),
    }
}

/// The document of a configuration.
pub fn document(replication: &Replication) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("ReplicationConfiguration");
    xml.text("Role", &replication.role);
    for rule in &replication.rules {
        xml.element("Rule", |xml| rule_into(xml, rule));
    }
    xml.close("ReplicationConfiguration");
    xml
}

fn rule_into(xml: &mut XmlWriter, rule: &ReplicationRule) {
    let switched = |on: bool| if on { "Enabled" } else { "Disabled" };
    xml.text("ID", &rule.id);
    if rule.form == ReplicationFilter::Old {
        xml.text("Prefix", &rule.prefix);
    } else {
        xml.text("Priority", &rule.priority.to_string());
        xml.element("Filter", |xml| match rule.form {
            ReplicationFilter::Old | ReplicationFilter::Empty => {}
            ReplicationFilter::Prefix => xml.text("Prefix", &rule.prefix),
            ReplicationFilter::Tag => rule.tags.iter().for_each(|tag| tag_into(xml, tag)),
            ReplicationFilter::And => xml.element("And", |xml| {
                if !rule.prefix.is_empty() {
                    xml.text("Prefix", &rule.prefix);
                }
                rule.tags.iter().for_each(|tag| tag_into(xml, tag));
            }),
        });
    }
    xml.text("Status", switched(rule.enabled));
    xml.element("Destination", |xml| {
        xml.text("Bucket", &format!("{BUCKET_ARN}{}", rule.destination));
        if let Some(account) = &rule.account {
            xml.text("Account", account);
        }
        if let Some(class) = &rule.storage_class {
            xml.text("StorageClass", class);
        }
    });
    for (name, on) in
        [("DeleteMarkerReplication", rule.markers), ("ExistingObjectReplication", rule.existing)]
    {
        if let Some(on) = on {
            xml.element(name, |xml| xml.text("Status", switched(on)));
        }
    }
}

fn tag_into(xml: &mut XmlWriter, (key, value): &(String, String)) {
    xml.element("Tag", |xml| {
        xml.text("Key", key);
        xml.text("Value", value);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::ClusterMs;
    use fabric::ids::{BucketId, Stamp};

    use super::*;
    use crate::s3::xml::replication;

    fn bucket(versioning: Versioning) -> Bucket {
        Bucket {
            id: BucketId(1),
            name: "photos".parse().unwrap(),
            owner: "anna".parse().unwrap(),
            created: ClusterMs(0),
            epoch: 1,
            versioning,
        }
    }

    fn read(rules: &str) -> S3Result<Replication> {
        let text = format!("<ReplicationConfiguration><Role>r</Role>{rules}</ReplicationConfiguration>");
        let here = "east".parse().unwrap();
        let (role, drafts) =
            check(replication(text.as_bytes())?, &bucket(Versioning::Enabled), &here, || {
                "drawn".to_string()
            })?;
        let there = |draft: Draft| draft.to("west".parse().unwrap(), "copy".parse().unwrap());
        Ok(Replication { role, rules: drafts.into_iter().map(there).collect(), since: Stamp::ZERO })
    }

    const TO: &str = "<Destination><Bucket>arn:aws:s3:::copy</Bucket></Destination>";

    fn rule(id: &str, priority: u32, filter: &str, markers: &str) -> String {
        format!(
            "<Rule><ID>{id}</ID><Priority>{priority}</Priority><Filter>{filter}</Filter><Status>Enabled</Status>{TO}\
             <DeleteMarkerReplication><Status>{markers}</Status></DeleteMarkerReplication></Rule>"
        )
    }

    #[test]
    fn documents_come_back_as_they_were_written() {
        let and = "<And><Prefix>b/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>";
        let tag = "<Tag><Key>k</Key><Value>w</Value></Tag>";
        let rules = [
            rule("a", 1, "", "Enabled"),
            rule("b", 2, "<Prefix>a/</Prefix>", "Enabled"),
            rule("c", 3, and, "Disabled"),
            rule("d", 4, tag, "Disabled"),
        ];
        for rules in [
            rules.concat(),
            format!("<Rule><ID>o</ID><Prefix>p</Prefix><Status>Disabled</Status>{TO}</Rule>"),
        ] {
            let found = read(&rules).unwrap();
            let text = String::from_utf8(document(&found).finish().into_bytes()).unwrap();
            let again = replication(text.as_bytes()).unwrap();
            let sent = format!("<ReplicationConfiguration><Role>r</Role>{rules}</ReplicationConfiguration>");
            assert_eq!(again, replication(sent.as_bytes()).unwrap());
        }
    }

    #[test]
    fn the_rule_of_the_highest_priority_decides() {
        let tagged = "<And><Prefix>a/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>";
        let rules = [
            rule("all", 1, "", "Enabled"),
            rule("tagged", 9, tagged, "Disabled"),
            rule("a", 5, "<Prefix>a/</Prefix>", "Disabled"),
        ];
        let found = read(&rules.concat()).unwrap();
        let (west, north, copy) =
            ("west".parse().unwrap(), "north".parse().unwrap(), "copy".parse().unwrap());
        let tags = vec![("k".to_string(), "v".to_string()), ("l".to_string(), "w".to_string())];
        let id = |key, tags: &Tags| deciding(&found, (&west, &copy), key, tags).map(|rule| rule.id.as_str());
        assert_eq!(
            (id("b", &tags), id("a/b", &Vec::new()), id("a/b", &tags)),
            (Some("all"), Some("a"), Some("tagged"))
        );
        assert!(deciding(&found, (&north, &copy), "b", &tags).is_none());
    }

    #[test]
    fn the_status_is_that_of_all_copies() {
        let and = "<And><Prefix>a/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>";
        let north = TO.replace("copy", "north");
        let rules = rule("all", 1, "", "Enabled") + &rule("two", 2, and, "Disabled").replace(TO, &north);
        let mut found = read(&rules).unwrap();
        found.rules[1].bucket = "north".parse().unwrap();
        let at = |index| Stamp { epoch: 1, index, ordinal: 0 };
        found.since = at(10);
        let copy = |rule: usize, first, upto| {
            let ReplicationRule { cluster, bucket, .. } = found.rules[rule].clone();
            (Source { cluster, bucket }, Acknowledged { first: at(first), upto: at(upto) })
        };
        let status = |copies: &[(Source, Acknowledged)], key: &str, index, bytes| {
            let mut object = crate::s3::reading::tests::object(bytes);
            object.stamp = at(index);
            object.attributes.tags = vec![("k".to_string(), "v".to_string())];
            super::status(&found, copies, &key.parse().unwrap(), &object)
        };
        let (west, far) = (copy(0, 10, 30), copy(1, 10, 20));
        for (copies, key, index, expected) in [
            (&[][..], "b", 10, None),
            (&[], "b", 11, Some("PENDING")),
            (std::slice::from_ref(&west), "b", 30, Some("COMPLETED")),
            (std::slice::from_ref(&west), "b", 31, Some("PENDING")),
            (std::slice::from_ref(&west), "a/b", 20, Some("PENDING")),
            (&[west.clone(), far.clone()], "a/b", 20, Some("COMPLETED")),
            (&[west.clone(), far.clone()], "a/b", 21, Some("PENDING")),
            // Rules that came later say nothing of it.
            (&[copy(0, 15, 30)], "b", 15, None),
            (&[copy(0, 15, 30)], "b", 16, Some("COMPLETED")),
        ] {
            assert_eq!(status(copies, key, index, 1), expected, "{key} {index} {copies:?}");
        }
        assert_eq!(status(&[west], "b", 20, fabric::limits::PUT_BYTES_MAX + 1), Some("FAILED"));
    }

    #[test]
    fn what_aws_refuses_is_refused() {
        let tag = "<Tag><Key>k</Key><Value>v</Value></Tag>";
        let without = |text: &str, gone: &str| text.replace(gone, "");
        let good = rule("a", 1, "", "Enabled");
        for (rules, code) in [
            (String::new(), Code::MalformedXML),
            ("<Rule/>".to_string(), Code::MalformedXML),
            (without(&good, TO), Code::MalformedXML),
            (without(&good, "<Priority>1</Priority>"), Code::MalformedXML),
            (without(&good, "<Filter></Filter>"), Code::MalformedXML),
            (good.replace("Enabled", "On"), Code::MalformedXML),
            (good.replace("<Priority>1<", "<Priority>-1<"), Code::MalformedXML),
            (
                without(&good, "<DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication>"),
                Code::MalformedXML,
            ),
            (good.replace("arn:aws:s3:::copy", "copy"), Code::InvalidRequest),
            (good.replace("arn:aws:s3:::copy", "arn:aws:s3:::C"), Code::InvalidRequest),
            (format!("{good}{good}"), Code::InvalidArgument),
            (format!("{good}{}", rule("b", 1, "", "Enabled")), Code::InvalidRequest),
            (rule("a", 1, tag, "Enabled"), Code::InvalidRequest),
            (format!("{good}<Rule><Prefix/><Status>Enabled</Status>{TO}</Rule>"), Code::InvalidRequest),
            (good.replace("</Destination>", "<Metrics/></Destination>"), Code::NotImplemented),
        ] {
            assert_eq!(read(&rules).unwrap_err().code(), code, "{rules}");
        }
    }
}
