//! Reads the lifecycle configuration of a bucket. An element that is not known, or comes twice where it may not, is an
//! error; what the texts say is checked by who asked.

use consensus::meta::model::Tags;

use super::reader::{Node, malformed, parse, tag};
use crate::s3::error::S3Result;

/// One rule, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleElement {
    /// `ID`.
    pub id: Option<String>,
    /// `Status`.
    pub status: Option<String>,
    /// `Prefix` of the rule itself.
    pub prefix: Option<String>,
    /// `Filter`.
    pub filter: Option<FilterElement>,
    /// `Expiration`.
    pub expiration: Option<ExpirationElement>,
    /// `NoncurrentVersionExpiration`.
    pub noncurrent: Option<NoncurrentElement>,
    /// `AbortIncompleteMultipartUpload`.
    pub abort: Option<AbortElement>,
    /// Each `Transition`.
    pub transitions: Vec<TransitionElement>,
    /// Each `NoncurrentVersionTransition`.
    pub noncurrent_transitions: Vec<NoncurrentTransitionElement>,
}

/// The filter of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterElement {
    /// Whether its conditions stand in an `And`.
    pub and: bool,
    /// The conditions.
    pub conditions: ConditionsElement,
}

/// Conditions of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct ConditionsElement {
    pub prefix: Option<String>,
    pub tags: Tags,
    pub larger_than: Option<String>,
    pub smaller_than: Option<String>,
}

/// See [`RuleElement`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct ExpirationElement {
    pub days: Option<String>,
    pub date: Option<String>,
    pub delete_marker: Option<String>,
}

/// See [`RuleElement`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct NoncurrentElement {
    pub days: Option<String>,
    pub newer_versions: Option<String>,
}

/// See [`RuleElement`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct TransitionElement {
    pub days: Option<String>,
    pub date: Option<String>,
    pub class: Option<String>,
}

/// See [`RuleElement`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct NoncurrentTransitionElement {
    pub when: NoncurrentElement,
    pub class: Option<String>,
}

/// See [`RuleElement`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct AbortElement {
    pub days: Option<String>,
}

/// The rules of a lifecycle configuration, as they came.
pub fn lifecycle_rules(body: &[u8]) -> S3Result<Vec<RuleElement>> {
    parse(body, "LifecycleConfiguration")?.children.into_iter().map(rule).collect()
}

fn rule(node: Node) -> S3Result<RuleElement> {
    if node.name != "Rule" {
        return Err(malformed());
    }
    let mut rule = RuleElement::default();
    for child in node.children {
        match child.name.as_str() {
            "ID" => child.text_into(&mut rule.id)?,
            "Status" => child.text_into(&mut rule.status)?,
            "Prefix" => child.text_into(&mut rule.prefix)?,
            "Filter" => once(&mut rule.filter, filter(child)?)?,
            "Expiration" => once(&mut rule.expiration, expiration(child)?)?,
            "NoncurrentVersionExpiration" => once(&mut rule.noncurrent, noncurrent(child)?)?,
            "AbortIncompleteMultipartUpload" => once(&mut rule.abort, abort(child)?)?,
            "Transition" => rule.transitions.push(transition(child)?),
            "NoncurrentVersionTransition" => {
                rule.noncurrent_transitions.push(noncurrent_transition(child)?);
            }
            _ => return Err(malformed()),
        }
    }
    Ok(rule)
}

fn once<T>(field: &mut Option<T>, value: T) -> S3Result<()> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed()),
    }
}

/// At most one condition, or an `And` of some.
fn filter(node: Node) -> S3Result<FilterElement> {
    if 1 < node.children.len() {
        return Err(malformed());
    }
    match node.children.first().is_some_and(|child| child.name == "And") {
        false => Ok(FilterElement { and: false, conditions: conditions(node)? }),
        true => {
            let inner = node.children.into_iter().next().filter(|inner| !inner.children.is_empty());
            Ok(FilterElement { and: true, conditions: conditions(inner.ok_or_else(malformed)?)? })
        }
    }
}

fn conditions(node: Node) -> S3Result<ConditionsElement> {
    let mut found = ConditionsElement::default();
    for child in node.children {
        match child.name.as_str() {
            "Prefix" => child.text_into(&mut found.prefix)?,
            "Tag" => found.tags.push(tag(child)?),
            "ObjectSizeGreaterThan" => child.text_into(&mut found.larger_than)?,
            "ObjectSizeLessThan" => child.text_into(&mut found.smaller_than)?,
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

fn expiration(node: Node) -> S3Result<ExpirationElement> {
    let mut found = ExpirationElement::default();
    for child in node.children {
        match child.name.as_str() {
            "Days" => child.text_into(&mut found.days)?,
            "Date" => child.text_into(&mut found.date)?,
            "ExpiredObjectDeleteMarker" => child.text_into(&mut found.delete_marker)?,
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

fn noncurrent(node: Node) -> S3Result<NoncurrentElement> {
    let mut found = NoncurrentElement::default();
    for child in node.children {
        match child.name.as_str() {
            "NoncurrentDays" => child.text_into(&mut found.days)?,
            "NewerNoncurrentVersions" => child.text_into(&mut found.newer_versions)?,
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

fn abort(node: Node) -> S3Result<AbortElement> {
    let mut found = AbortElement::default();
    for child in node.children {
        match child.name.as_str() {
            "DaysAfterInitiation" => child.text_into(&mut found.days)?,
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

fn transition(node: Node) -> S3Result<TransitionElement> {
    let mut found = TransitionElement::default();
    for child in node.children {
        match child.name.as_str() {
            "Days" => child.text_into(&mut found.days)?,
            "Date" => child.text_into(&mut found.date)?,
            "StorageClass" => child.text_into(&mut found.class)?,
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

fn noncurrent_transition(mut node: Node) -> S3Result<NoncurrentTransitionElement> {
    let mut class = None;
    let (classes, rest): (Vec<_>, Vec<_>) =
        node.children.into_iter().partition(|child| child.name == "StorageClass");
    node.children = rest;
    classes.into_iter().try_for_each(|child| child.text_into(&mut class))?;
    Ok(NoncurrentTransitionElement { when: noncurrent(node)?, class })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::error::Code;

    fn read(rule: &str) -> Result<RuleElement, Code> {
        let text = format!("<LifecycleConfiguration><Rule>{rule}</Rule></LifecycleConfiguration>");
        let rules = lifecycle_rules(text.as_bytes()).map_err(|error| error.code())?;
        Ok(rules.into_iter().next().unwrap())
    }

    #[test]
    fn rules_as_they_come() {
        let rule = read(
            "<ID>i</ID><Status>Enabled</Status><Filter><And><Prefix>p/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag>\
             <Tag><Key>l</Key><Value/></Tag><ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></And></Filter>\
             <Expiration><Days>3</Days></Expiration><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass>\
             </Transition><NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays><StorageClass>GLACIER</StorageClass>\
             </NoncurrentVersionTransition><NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays>\
             <NewerNoncurrentVersions>5</NewerNoncurrentVersions></NoncurrentVersionExpiration>\
             <AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
        )
        .unwrap();
        let conditions = rule.filter.unwrap().conditions;
        assert_eq!((conditions.tags.len(), conditions.larger_than.as_deref()), (2, Some("1")));
        let (one, class) = (|| Some("1".to_string()), || Some("GLACIER".to_string()));
        assert_eq!(rule.transitions, [TransitionElement { days: one(), date: None, class: class() }]);
        let when = NoncurrentElement { days: one(), newer_versions: None };
        assert_eq!(rule.noncurrent_transitions, [NoncurrentTransitionElement { when, class: class() }]);
        assert_eq!(rule.noncurrent.unwrap().newer_versions.as_deref(), Some("5"));
        assert_eq!(rule.abort.unwrap().days.as_deref(), Some("7"));
        assert_eq!(read("<Filter/>").unwrap().filter, Some(FilterElement::default()));
    }

    #[test]
    fn what_is_not_known_or_comes_twice_is_refused() {
        for rule in [
            "<Unknown/>",
            "<ID>a</ID><ID>b</ID>",
            "<Filter/><Filter/>",
            "<Filter><Prefix>a</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></Filter>",
            "<Filter><And/></Filter>",
            "<Filter><And><Prefix>a</Prefix><Prefix>b</Prefix></And></Filter>",
            "<Filter><And><And/></And></Filter>",
            "<Expiration><Days>1</Days><Days>2</Days></Expiration>",
            "<Expiration><Days>1</Days></Expiration><Expiration/>",
            "<Expiration><Hours>1</Hours></Expiration>",
            "<NoncurrentVersionExpiration><Days>1</Days></NoncurrentVersionExpiration>",
            "<AbortIncompleteMultipartUpload><Days>1</Days></AbortIncompleteMultipartUpload>",
            "<Transition><Weeks>1</Weeks></Transition>",
            "<Transition><NoncurrentDays>1</NoncurrentDays></Transition>",
            "<NoncurrentVersionTransition><Date>2030-01-01</Date></NoncurrentVersionTransition>",
            "<NoncurrentVersionTransition><StorageClass>A</StorageClass><StorageClass>A</StorageClass>\
             </NoncurrentVersionTransition>",
        ] {
            assert_eq!(read(rule), Err(Code::MalformedXML), "{rule}");
        }
        assert!(lifecycle_rules(b"<LifecycleConfiguration><Other/></LifecycleConfiguration>").is_err());
    }
}
