//! The lifecycle of a bucket as clients write and see it: which rules may be, and what answers say of them.

use std::collections::BTreeSet;

use consensus::meta::lifecycle::{
    Expiration, FilterForm, Lifecycle, LifecycleFilter, LifecycleRule, NoncurrentExpiration, Subject,
    Transition, TransitionMinimum, TransitionWhen,
};
use consensus::meta::model::{BucketSetting, ClusterMs, Object, Stored, Tags};
use consensus::meta::names::ObjectKey;
use fabric::limits::{KEY_BYTES_MAX, LIFECYCLE_RULES_MAX};
use http::HeaderMap;

use super::classes;
use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::request::header_text;
use super::response::Response;
use super::tags;
use super::time::{http_date, iso8601, parse_iso8601};
use super::xml::{
    AbortElement, ConditionsElement, ExpirationElement, NoncurrentElement, NoncurrentTransitionElement,
    RuleElement, TransitionElement, XmlWriter, url_encoded,
};

const MINIMUM: &str = "x-amz-transition-default-minimum-object-size";
const ID_CHARS_MAX: usize = 255;
const NEWER_VERSIONS_MAX: u32 = 100;
/// The length of a day in the calendar.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The rules of a document, if they may be. `name` makes the ids of those that have none; a day has `day_ms`.
pub fn check(
    rules: Vec<RuleElement>,
    transition_minimum: TransitionMinimum,
    day_ms: u64,
    name: impl Fn() -> String,
) -> S3Result<Lifecycle> {
    if rules.is_empty() || LIFECYCLE_RULES_MAX < rules.len() {
        return Err(Code::MalformedXML.into());
    }
    let filters = rules.iter().filter(|rule| rule.filter.is_some()).count();
    if filters != 0 && rules.iter().any(|rule| rule.prefix.is_some()) {
        return Err(Code::InvalidRequest.says(
            "Base level prefix cannot be used in Lifecycle V2, prefixes are only supported in the Filter.",
        ));
    }
    let checked = |rule| checked(rule, &name);
    let (rules, moves): (Vec<_>, Vec<_>) =
        rules.into_iter().map(checked).collect::<S3Result<Vec<_>>>()?.into_iter().unzip();
    let transitions = (0..).zip(moves).flat_map(|(rule, moves): (u16, Vec<Move>)| {
        moves.into_iter().map(move |(when, class)| Transition { rule, when, class })
    });
    let mut ids = BTreeSet::new();
    if !rules.iter().all(|rule| ids.insert(rule.id.as_str())) {
        return Err(
            Code::InvalidArgument.says("Rule ID must be unique. Found same ID for more than one rule")
        );
    }
    Ok(Lifecycle { transitions: transitions.collect(), rules, day_ms, transition_minimum })
}

/// When a rule moves objects, and to which class.
type Move = (TransitionWhen, String);

fn checked(rule: RuleElement, name: impl Fn() -> String) -> S3Result<(LifecycleRule, Vec<Move>)> {
    let id = rule.id.filter(|id| !id.is_empty()).unwrap_or_else(name);
    if ID_CHARS_MAX < id.chars().count() {
        return Err(Code::InvalidArgument.says("ID length should not exceed allowed limit of 255"));
    }
    let enabled = match rule.status.as_deref() {
        Some("Enabled") => true,
        Some("Disabled") => false,
        _ => return Err(Code::MalformedXML.into()),
    };
    let filter = match (rule.prefix, rule.filter) {
        (Some(prefix), None) => {
            let conditions = ConditionsElement { prefix: Some(prefix), ..ConditionsElement::default() };
            filter(FilterForm::Prefix, conditions)?
        }
        (None, Some(found)) => {
            filter(if found.and { FilterForm::And } else { FilterForm::Filter }, found.conditions)?
        }
        _ => return Err(Code::MalformedXML.into()),
    };
    let mut moves = rule.transitions.iter().map(transition).collect::<S3Result<Vec<_>>>()?;
    only_one("Transition", &moves)?;
    let others = rule.noncurrent_transitions.iter().map(|found| noncurrent_transition(found, &filter));
    let others = others.collect::<S3Result<Vec<_>>>()?;
    only_one("NoncurrentVersionTransition", &others)?;
    moves.extend(others);
    let rule = LifecycleRule {
        expiration: rule.expiration.map(|found| expiration(&found, &filter)).transpose()?,
        noncurrent: rule
            .noncurrent
            .map(|found| noncurrent(&found, &filter, "NoncurrentVersionExpiration", 1))
            .transpose()?,
        abort_uploads_days: rule.abort.map(|found| abort(&found, &filter)).transpose()?,
        id,
        enabled,
        filter,
    };
    let acts = rule.expiration.is_some() || rule.noncurrent.is_some() || rule.abort_uploads_days.is_some();
    if !acts && moves.is_empty() {
        return Err(Code::InvalidRequest.says("At least one action needs to be specified in a rule"));
    }
    moves.iter().try_for_each(|(when, _)| moves_before_it_goes(*when, &rule))?;
    Ok((rule, moves))
}

/// There is one class to move to, so a second move in a rule is to the same.
fn only_one(action: &str, moves: &[Move]) -> S3Result<()> {
    match moves {
        [] | [_] => Ok(()),
        _ => Err(Code::InvalidRequest
            .says(format!("'StorageClass' must be different for '{action}' actions in same 'Rule'"))),
    }
}

/// What a rule removes moves before that, if it moves.
fn moves_before_it_goes(when: TransitionWhen, rule: &LifecycleRule) -> S3Result<()> {
    let late = |name: &str, action: &str, before: &str| {
        let message =
            format!("'{name}' in the {action} action must be greater than '{name}' in the {before} action");
        Err(Code::InvalidArgument.says(message))
    };
    match (when, rule.expiration, rule.noncurrent) {
        (TransitionWhen::Days(days), Some(Expiration::Days(until)), _) if until <= days => {
            late("Days", "Expiration", "Transition")
        }
        (TransitionWhen::Date(date), Some(Expiration::Date(until)), _) if until <= date => {
            late("Date", "Expiration", "Transition")
        }
        (TransitionWhen::Days(_), Some(Expiration::Date(_)), _)
        | (TransitionWhen::Date(_), Some(Expiration::Days(_)), _) => Err(Code::InvalidRequest
            .says("Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule")),
        (TransitionWhen::Noncurrent(moved), _, Some(removed)) if removed.days <= moved.days => {
            late("NoncurrentDays", "NoncurrentVersionExpiration", "NoncurrentVersionTransition")
        }
        _ => Ok(()),
    }
}

fn filter(form: FilterForm, conditions: ConditionsElement) -> S3Result<LifecycleFilter> {
    if conditions.prefix.as_ref().is_some_and(|prefix| KEY_BYTES_MAX < prefix.len()) {
        return Err(Code::InvalidRequest.says("The maximum size of a prefix is 1024."));
    }
    let keys: BTreeSet<&str> = conditions.tags.iter().map(|(key, _)| key.as_str()).collect();
    if keys.len() != conditions.tags.len() {
        return Err(Code::InvalidRequest.says("Duplicate Tag Keys are not allowed."));
    }
    let bytes = |text: Option<String>| match text.map(|text| text.trim().parse::<i64>()).transpose() {
        Ok(Some(bytes)) if bytes < 0 => {
            Err(Code::InvalidRequest.says("The size of an object is not negative."))
        }
        Ok(bytes) => Ok(bytes.map(i64::unsigned_abs)),
        Err(_) => Err(Code::MalformedXML.into()),
    };
    let (larger_than, smaller_than) = (bytes(conditions.larger_than)?, bytes(conditions.smaller_than)?);
    if let (Some(larger), Some(smaller)) = (larger_than, smaller_than)
        && smaller <= larger
    {
        return Err(Code::InvalidRequest
            .says("'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'."));
    }
    let tags = tags::of_object(conditions.tags)?;
    Ok(LifecycleFilter { form, prefix: conditions.prefix, tags, larger_than, smaller_than })
}

/// Refuses an action that knows neither tags nor sizes.
fn only_of_keys(action: &str, filter: &LifecycleFilter) -> S3Result<()> {
    let what = match filter {
        LifecycleFilter { tags, .. } if !tags.is_empty() => "Tags",
        LifecycleFilter { larger_than: None, smaller_than: None, .. } => return Ok(()),
        _ => "Object Size",
    };
    Err(Code::InvalidRequest.says(format!("{action} cannot be specified with {what}.")))
}

/// A number of days or versions: what is no number is malformed, and one that is not positive an argument.
fn positive(text: &str, name: &str, action: &str) -> S3Result<u32> {
    number(text, name, action, 1)
}

/// The same with its least value, 0 or 1.
fn number(text: &str, name: &str, action: &str, least: u32) -> S3Result<u32> {
    let number: i64 = text.trim().parse().map_err(|_| Code::MalformedXML)?;
    let number = u32::try_from(number).ok().filter(|number| (least..=i32::MAX as u32).contains(number));
    number.ok_or_else(|| {
        let kind = if least == 0 { "nonnegative" } else { "positive" };
        S3Error::argument(name, text, format!("'{name}' for {action} action must be a {kind} integer"))
    })
}

fn transition(found: &TransitionElement) -> S3Result<Move> {
    let when = match (&found.days, &found.date) {
        (Some(days), None) => TransitionWhen::Days(number(days, "Days", "Transition", 0)?),
        (None, Some(date)) => TransitionWhen::Date(midnight(date)?),
        _ => return Err(Code::MalformedXML.into()),
    };
    Ok((when, class(found.class.as_deref())?))
}

fn noncurrent_transition(found: &NoncurrentTransitionElement, filter: &LifecycleFilter) -> S3Result<Move> {
    let when = noncurrent(&found.when, filter, "NoncurrentVersionTransition", 0)?;
    Ok((TransitionWhen::Noncurrent(when), class(found.class.as_deref())?))
}

/// A class that objects can move to.
fn class(name: Option<&str>) -> S3Result<String> {
    let name = name.ok_or(Code::MalformedXML)?;
    match classes::by_name(name) {
        Ok(Some(class)) => Ok(class),
        Ok(None) | Err(_) => Err(Code::InvalidStorageClass
            .says("The storage class that objects can move to here is STANDARD_IA")
            .field("StorageClassRequested", name)),
    }
}

fn expiration(found: &ExpirationElement, filter: &LifecycleFilter) -> S3Result<Expiration> {
    match (&found.days, &found.date, &found.delete_marker) {
        (Some(days), None, None) => Ok(Expiration::Days(positive(days, "Days", "Expiration")?)),
        (None, Some(date), None) => Ok(Expiration::Date(midnight(date)?)),
        (None, None, Some(text)) => {
            only_of_keys("ExpiredObjectDeleteMarker", filter)?;
            match text.trim() {
                "true" => Ok(Expiration::DeleteMarkers(true)),
                "false" => Ok(Expiration::DeleteMarkers(false)),
                _ => Err(Code::MalformedXML.into()),
            }
        }
        _ => Err(Code::MalformedXML.into()),
    }
}

/// A date, with or without its midnight.
fn midnight(text: &str) -> S3Result<ClusterMs> {
    let time = parse_iso8601(text).or_else(|| parse_iso8601(&format!("{}T00:00:00Z", text.trim())));
    match time {
        Some(ms) if ms.is_multiple_of(DAY_MS) => Ok(ClusterMs(ms)),
        Some(_) => Err(S3Error::argument("Date", text, "'Date' must be at midnight GMT")),
        None => Err(Code::MalformedXML.into()),
    }
}

/// When versions that are not current are removed or moved, as early as the least number of days.
fn noncurrent(
    found: &NoncurrentElement,
    filter: &LifecycleFilter,
    action: &str,
    least: u32,
) -> S3Result<NoncurrentExpiration> {
    let days = found.days.as_deref().ok_or(Code::MalformedXML)?;
    let days = number(days, "NoncurrentDays", action, least)?;
    let Some(text) = &found.newer_versions else {
        return Ok(NoncurrentExpiration { days, newer_versions: None });
    };
    let number = positive(text, "NewerNoncurrentVersions", action)?;
    if NEWER_VERSIONS_MAX < number {
        let message = "'NewerNoncurrentVersions' must be less than or equal to 100";
        return Err(S3Error::argument("NewerNoncurrentVersions", text, message));
    }
    if filter.form == FilterForm::Prefix {
        return Err(Code::InvalidRequest.says("NewerNoncurrentVersions can only be specified with a Filter."));
    }
    Ok(NoncurrentExpiration { days, newer_versions: Some(number as u8) })
}

fn abort(found: &AbortElement, filter: &LifecycleFilter) -> S3Result<u32> {
    let action = "AbortIncompleteMultipartUpload";
    only_of_keys(action, filter)?;
    positive(found.days.as_deref().ok_or(Code::MalformedXML)?, "DaysAfterInitiation", action)
}

/// What a request says of the least size of objects that move to other classes.
pub fn minimum_of_headers(headers: &HeaderMap) -> S3Result<TransitionMinimum> {
    match header_text(headers, MINIMUM)? {
        None | Some("all_storage_classes_128K") => Ok(TransitionMinimum::AllClasses128K),
        Some("varies_by_storage_class") => Ok(TransitionMinimum::VariesByClass),
        Some(other) => {
            Err(S3Error::argument(MINIMUM, other, "Invalid transition default minimum object size."))
        }
    }
}

/// Says it in an answer.
pub fn show_minimum(response: Response, minimum: TransitionMinimum) -> Response {
    response.amz(
        MINIMUM,
        match minimum {
            TransitionMinimum::AllClasses128K => "all_storage_classes_128K",
            TransitionMinimum::VariesByClass => "varies_by_storage_class",
        },
    )
}

/// The document of rules.
pub fn document(lifecycle: &Lifecycle) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("LifecycleConfiguration");
    for (place, rule) in (0..).zip(&lifecycle.rules) {
        let moves = lifecycle.transitions.iter().filter(|transition| transition.rule == place);
        xml.element("Rule", |xml| {
            write_rule(xml, rule);
            moves.for_each(|transition| write_transition(xml, transition));
        });
    }
    xml.close("LifecycleConfiguration");
    xml
}

fn write_rule(xml: &mut XmlWriter, rule: &LifecycleRule) {
    xml.text("ID", &rule.id);
    match rule.filter.form {
        FilterForm::Prefix => write_conditions(xml, &rule.filter),
        FilterForm::Filter => xml.element("Filter", |xml| write_conditions(xml, &rule.filter)),
        FilterForm::And => {
            xml.element("Filter", |xml| xml.element("And", |xml| write_conditions(xml, &rule.filter)));
        }
    }
    xml.text("Status", if rule.enabled { "Enabled" } else { "Disabled" });
    if let Some(expiration) = rule.expiration {
        xml.element("Expiration", |xml| match expiration {
            Expiration::Days(days) => xml.value("Days", days),
            Expiration::Date(date) => xml.text("Date", &iso8601(date.0)),
            Expiration::DeleteMarkers(removed) => xml.value("ExpiredObjectDeleteMarker", removed),
        });
    }
    if let Some(when) = rule.noncurrent {
        xml.element("NoncurrentVersionExpiration", |xml| write_noncurrent(xml, when));
    }
    if let Some(days) = rule.abort_uploads_days {
        xml.element("AbortIncompleteMultipartUpload", |xml| xml.value("DaysAfterInitiation", days));
    }
}

fn write_transition(xml: &mut XmlWriter, transition: &Transition) {
    let name = match transition.when {
        TransitionWhen::Days(_) | TransitionWhen::Date(_) => "Transition",
        TransitionWhen::Noncurrent(_) => "NoncurrentVersionTransition",
    };
    xml.element(name, |xml| {
        match transition.when {
            TransitionWhen::Days(days) => xml.value("Days", days),
            TransitionWhen::Date(date) => xml.text("Date", &iso8601(date.0)),
            TransitionWhen::Noncurrent(when) => write_noncurrent(xml, when),
        }
        xml.text("StorageClass", &transition.class);
    });
}

fn write_noncurrent(
    xml: &mut XmlWriter,
    NoncurrentExpiration { days, newer_versions }: NoncurrentExpiration,
) {
    xml.value("NoncurrentDays", days);
    if let Some(number) = newer_versions {
        xml.value("NewerNoncurrentVersions", number);
    }
}

fn write_conditions(xml: &mut XmlWriter, filter: &LifecycleFilter) {
    xml.optional("Prefix", filter.prefix.as_deref());
    for (key, value) in &filter.tags {
        xml.element("Tag", |xml| {
            xml.text("Key", key);
            xml.text("Value", value);
        });
    }
    if let Some(bytes) = filter.larger_than {
        xml.value("ObjectSizeGreaterThan", bytes);
    }
    if let Some(bytes) = filter.smaller_than {
        xml.value("ObjectSizeLessThan", bytes);
    }
}

fn rules_of(settings: &[BucketSetting]) -> Option<&Lifecycle> {
    settings.iter().find_map(|setting| match setting {
        // Where they move objects, no answer says.
        BucketSetting::Lifecycle(rules) | BucketSetting::Transitions(rules, _) => Some(rules),
        _ => None,
    })
}

/// Says when the current version of a key expires, and by which rule.
pub async fn tell(cx: &Context, key: &ObjectKey, object: &Object, response: Response) -> S3Result<Response> {
    Ok(match rules_of(&cx.recent_settings().await?) {
        Some(rules) => show(response, rules, Subject::of(key.as_str(), object)),
        None => response,
    })
}

/// The same to who wrote it, with these tags. It is written whatever comes: where the rules are not to be had, nothing is
/// said.
pub async fn tell_writer(
    cx: &Context,
    key: &ObjectKey,
    stored: &Stored,
    tags: &Tags,
    response: Response,
) -> Response {
    let Ok(settings) = cx.recent_settings().await else { return response };
    let subject = Subject { key: key.as_str(), modified: stored.modified, bytes: stored.bytes, tags };
    match rules_of(&settings) {
        Some(rules) => show(response, rules, subject),
        None => response,
    }
}

fn show(response: Response, rules: &Lifecycle, object: Subject<'_>) -> Response {
    match rules.current(object) {
        Some((due, rule)) => {
            let (date, id) = (http_date(due.0), url_encoded(&rule.id));
            response.amz("x-amz-expiration", format!("expiry-date=\"{date}\", rule-id=\"{id}\""))
        }
        None => response,
    }
}

/// Says when an upload that nobody completes is aborted, and by which rule.
pub async fn tell_abort(
    cx: &Context,
    key: &ObjectKey,
    initiated: ClusterMs,
    response: Response,
) -> S3Result<Response> {
    Ok(match rules_of(&cx.recent_settings().await?) {
        Some(rules) => show_abort(response, rules, key.as_str(), initiated),
        None => response,
    })
}

fn show_abort(response: Response, rules: &Lifecycle, key: &str, initiated: ClusterMs) -> Response {
    match rules.upload(key, initiated) {
        Some((due, rule)) => response
            .amz("x-amz-abort-date", http_date(due.0))
            .amz("x-amz-abort-rule-id", url_encoded(&rule.id)),
        None => response,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::xml::lifecycle_rules;

    fn configure(rules: &str) -> S3Result<Lifecycle> {
        let text = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        let rules = lifecycle_rules(text.as_bytes())?;
        check(rules, TransitionMinimum::AllClasses128K, DAY_MS, || "made".to_string())
    }

    fn rule(inner: &str) -> String {
        format!("<Rule>{inner}</Rule>")
    }

    const ON: &str = "<Status>Enabled</Status>";
    const DAYS: &str = "<Expiration><Days>1</Days></Expiration>";
    const CLASS: &str = "STANDARD_IA";

    fn moved(when: &str, class: &str) -> String {
        format!("<Transition>{when}<StorageClass>{class}</StorageClass></Transition>")
    }

    fn others_moved(when: &str, class: &str) -> String {
        moved(when, class).replace("Transition>", "NoncurrentVersionTransition>")
    }

    #[test]
    fn documents_come_back_as_they_went() {
        let days = "<Expiration><Days>30</Days></Expiration>";
        let date = "<Expiration><Date>2030-01-01T00:00:00.000Z</Date></Expiration>";
        let marker = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>";
        let others = "<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays>\
                      <NewerNoncurrentVersions>100</NewerNoncurrentVersions></NoncurrentVersionExpiration>";
        let abort = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>\
                     </AbortIncompleteMultipartUpload>";
        let tag = "<Tag><Key>k</Key><Value>v</Value></Tag>";
        let sizes =
            "<ObjectSizeGreaterThan>0</ObjectSizeGreaterThan><ObjectSizeLessThan>9</ObjectSizeLessThan>";
        for inner in [
            format!("<ID>i</ID><Prefix></Prefix>{ON}{days}"),
            format!("<ID>i</ID><Filter></Filter><Status>Disabled</Status>{date}"),
            format!("<ID>i</ID><Filter><Prefix>a/&amp;</Prefix></Filter>{ON}{marker}{others}{abort}"),
            format!("<ID>i</ID><Filter>{tag}</Filter>{ON}{days}"),
            format!("<ID>i</ID><Filter></Filter>{ON}{days}{}", moved("<Days>0</Days>", CLASS)),
            format!(
                "<ID>i</ID><Filter></Filter>{ON}{}",
                moved("<Date>2030-01-01T00:00:00.000Z</Date>", CLASS)
            ),
            format!(
                "<ID>i</ID><Filter></Filter>{ON}{}",
                others_moved(
                    "<NoncurrentDays>0</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions>",
                    CLASS
                )
            ),
            format!("<ID>i</ID><Filter><And><Prefix>p</Prefix>{tag}{sizes}</And></Filter>{ON}{days}{others}"),
        ] {
            let document = document(&configure(&rule(&inner)).unwrap()).finish();
            assert!(document.contains(&rule(&inner)), "{document} lacks {inner}");
        }
        let named = configure(&rule(&format!("<Filter/>{ON}{DAYS}"))).unwrap();
        assert_eq!(named.rules[0].id, "made");
    }

    #[test]
    fn rules_are_checked() {
        let of = |inner: &str| rule(&format!("<Filter/>{ON}{inner}"));
        let with = |filter: &str, inner: &str| rule(&format!("<Filter>{filter}</Filter>{ON}{inner}"));
        let tag = "<Tag><Key>k</Key><Value>v</Value></Tag>";
        let others =
            |inner: &str| format!("<NoncurrentVersionExpiration>{inner}</NoncurrentVersionExpiration>");
        let abort = |days: &str| {
            format!(
                "<AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation>\
                 </AbortIncompleteMultipartUpload>"
            )
        };
        let expiration = |inner: &str| format!("<Expiration>{inner}</Expiration>");
        let newer = |number: &str| {
            others(&format!(
                "<NoncurrentDays>1</NoncurrentDays><NewerNoncurrentVersions>{number}</NewerNoncurrentVersions>"
            ))
        };
        let marker = expiration("<ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker>");
        let same = rule(&format!("<ID>same</ID><Filter/>{ON}{DAYS}"));
        for (rules, code) in [
            (String::new(), Code::MalformedXML),
            (of(DAYS).repeat(1001), Code::MalformedXML),
            (rule(&format!("<Filter/>{DAYS}")), Code::MalformedXML),
            (rule(&format!("<Filter/><Status>enabled</Status>{DAYS}")), Code::MalformedXML),
            (rule(&format!("{ON}{DAYS}")), Code::MalformedXML),
            (rule(&format!("<Prefix/><Filter/>{ON}{DAYS}")), Code::InvalidRequest),
            (format!("{}{}", rule(&format!("<Prefix/>{ON}{DAYS}")), of(DAYS)), Code::InvalidRequest),
            (of(""), Code::InvalidRequest),
            (rule(&format!("<ID>{}</ID><Filter/>{ON}{DAYS}", "i".repeat(256))), Code::InvalidArgument),
            (same.repeat(2), Code::InvalidArgument),
            (with(&format!("<Prefix>{}</Prefix>", "p".repeat(1025)), DAYS), Code::InvalidRequest),
            (with(&format!("<And>{tag}{tag}</And>"), DAYS), Code::InvalidRequest),
            (with("<Tag><Key></Key><Value>v</Value></Tag>", DAYS), Code::InvalidTag),
            (with("<ObjectSizeGreaterThan>x</ObjectSizeGreaterThan>", DAYS), Code::MalformedXML),
            (with("<ObjectSizeGreaterThan>-1</ObjectSizeGreaterThan>", DAYS), Code::InvalidRequest),
            (
                with(
                    "<And><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan><ObjectSizeLessThan>5</ObjectSizeLessThan></And>",
                    DAYS,
                ),
                Code::InvalidRequest,
            ),
            (of(&expiration("")), Code::MalformedXML),
            (of(&expiration("<Days>0</Days>")), Code::InvalidArgument),
            (of(&expiration("<Days>-1</Days>")), Code::InvalidArgument),
            (of(&expiration("<Days>4294967296</Days>")), Code::InvalidArgument),
            (of(&expiration("<Days>soon</Days>")), Code::MalformedXML),
            (of(&expiration("<Days>1</Days><Date>2030-01-01T00:00:00Z</Date>")), Code::MalformedXML),
            (of(&expiration("<Date>2030-01-01T00:00:01Z</Date>")), Code::InvalidArgument),
            (of(&expiration("<Date>20200101</Date>")), Code::MalformedXML),
            (
                of(&expiration("<ExpiredObjectDeleteMarker>maybe</ExpiredObjectDeleteMarker>")),
                Code::MalformedXML,
            ),
            (with(tag, &marker), Code::InvalidRequest),
            (with("<ObjectSizeLessThan>5</ObjectSizeLessThan>", &marker), Code::InvalidRequest),
            (of(&others("")), Code::MalformedXML),
            (of(&others("<NoncurrentDays>0</NoncurrentDays>")), Code::InvalidArgument),
            (of(&newer("0")), Code::InvalidArgument),
            (of(&newer("101")), Code::InvalidArgument),
            (rule(&format!("<Prefix/>{ON}{}", newer("1"))), Code::InvalidRequest),
            (of(&abort("0")), Code::InvalidArgument),
            (of(&abort("x")), Code::MalformedXML),
            (of("<AbortIncompleteMultipartUpload/>"), Code::MalformedXML),
            (with(tag, &abort("1")), Code::InvalidRequest),
            (with("<ObjectSizeGreaterThan>5</ObjectSizeGreaterThan>", &abort("1")), Code::InvalidRequest),
            (of("<Transition><Days>1</Days></Transition>"), Code::MalformedXML),
            (
                of("<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"),
                Code::InvalidStorageClass,
            ),
            (of(&moved("<Days>1</Days>", "STANDARD")), Code::InvalidStorageClass),
            (of(&moved("", CLASS)), Code::MalformedXML),
            (of(&moved("<Days>-1</Days>", CLASS)), Code::InvalidArgument),
            (of(&moved("<Date>2030-01-01T00:00:01Z</Date>", CLASS)), Code::InvalidArgument),
            (of(&moved("<Days>1</Days><Date>2030-01-01</Date>", CLASS)), Code::MalformedXML),
            (of(&moved("<Days>1</Days>", CLASS).repeat(2)), Code::InvalidRequest),
            (of(&format!("{DAYS}{}", moved("<Days>1</Days>", CLASS))), Code::InvalidArgument),
            (of(&format!("{DAYS}{}", moved("<Date>2030-01-01</Date>", CLASS))), Code::InvalidRequest),
            (of(&others_moved("", CLASS)), Code::MalformedXML),
            (of(&others_moved("<NoncurrentDays>1</NoncurrentDays>", "GLACIER")), Code::InvalidStorageClass),
            (
                of(&format!(
                    "{}{}",
                    others("<NoncurrentDays>1</NoncurrentDays>"),
                    others_moved("<NoncurrentDays>1</NoncurrentDays>", CLASS)
                )),
                Code::InvalidArgument,
            ),
        ] {
            let short: String = rules.chars().take(200).collect();
            assert_eq!(configure(&rules).unwrap_err().code(), code, "{short}");
        }
        for good in ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00.000Z", "2030-01-01"] {
            configure(&of(&expiration(&format!("<Date>{good}</Date>")))).unwrap();
        }
    }

    #[test]
    fn answers_say_when_and_by_which_rule() {
        let inner = format!(
            "<ID>old logs</ID><Filter><Prefix>logs/</Prefix></Filter>{ON}{DAYS}<AbortIncompleteMultipartUpload>\
             <DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
        );
        let rules = configure(&rule(&inner)).unwrap();
        let modified = ClusterMs(1_369_353_600_999);
        let tags = Vec::new();
        let subject = |key| Subject { key, modified, bytes: 1, tags: &tags };
        let header = |response: &Response, name: &str| {
            response.headers.get(name).map(|value| value.to_str().unwrap().to_string())
        };
        let shown = show(Response::ok(), &rules, subject("logs/a"));
        let expected = "expiry-date=\"Sun, 26 May 2013 00:00:00 GMT\", rule-id=\"old+logs\"";
        assert_eq!(header(&shown, "x-amz-expiration").as_deref(), Some(expected));
        assert_eq!(header(&show(Response::ok(), &rules, subject("a")), "x-amz-expiration"), None);
        let shown = show_abort(Response::ok(), &rules, "logs/a", modified);
        assert_eq!(header(&shown, "x-amz-abort-date").as_deref(), Some("Mon, 27 May 2013 00:00:00 GMT"));
        assert_eq!(header(&shown, "x-amz-abort-rule-id").as_deref(), Some("old+logs"));
    }
}
