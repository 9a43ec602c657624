//! Object lock as clients write and see it.

use consensus::meta::command::{Command, Guard, Guarded};
use consensus::meta::model::{
    ClusterMs, DefaultRetention, Lock, Object, ObjectLock, Retention, RetentionMode, SettingKind,
};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, Query};
use http::HeaderMap;

use super::error::{Code, S3Error, S3Result};
use super::op::{Context, unexpected};
use super::request::header_text;
use super::response::Response;
use super::time::{iso8601, parse_iso8601};
use super::xml::{ObjectLockDocument, RetentionDocument, XmlWriter};

const MODE: &str = "x-amz-object-lock-mode";
const UNTIL: &str = "x-amz-object-lock-retain-until-date";
const HOLD: &str = "x-amz-object-lock-legal-hold";
const BYPASS: &str = "x-amz-bypass-governance-retention";
/// A default retention is no longer (a hundred years).
const DAYS_MAX: u32 = 36_500;
const YEARS_MAX: u32 = 100;
const DAYS_OF_A_YEAR: u32 = 365;

/// The lock that a writer wants.
pub fn of_headers(headers: &HeaderMap) -> S3Result<Lock> {
    let retention = match (header_text(headers, MODE)?, header_text(headers, UNTIL)?) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let unknown = || S3Error::argument(MODE, mode, "Unknown wormMode directive.");
            let undated = || S3Error::argument(UNTIL, until, "The retain until date is no ISO 8601 date.");
            Some(Retention {
                mode: mode_of(mode).ok_or_else(unknown)?,
                until: ClusterMs(parse_iso8601(until).ok_or_else(undated)?),
            })
        }
        (mode, until) => {
            let (name, value) = if mode.is_some() { (MODE, mode) } else { (UNTIL, until) };
            return Err(S3Error::argument(
                name,
                value.unwrap_or(""),
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            ));
        }
    };
    let legal_hold = match header_text(headers, HOLD)? {
        None | Some("OFF") => false,
        Some("ON") => true,
        Some(other) => {
            return Err(S3Error::argument(HOLD, other, "Legal Hold must be either of 'ON' or 'OFF'"));
        }
    };
    Ok(Lock { retention, legal_hold })
}

/// Whether a request wants to end governance. Whoever may delete in a bucket may do that: it is its owner.
pub fn bypass(headers: &HeaderMap) -> S3Result<bool> {
    Ok(header_text(headers, BYPASS)?.is_some_and(|text| text.eq_ignore_ascii_case("true")))
}

/// A command with what object lock says of it, where it says anything.
pub fn guarded(command: Command, guard: Guard) -> Command {
    match guard == Guard::default() {
        true => command,
        false => Command::Guarded(Guarded { guard, command: Box::new(command) }),
    }
}

/// The lock of a version.
pub async fn of_version(cx: &Context, key: &ObjectKey, object: &Object) -> S3Result<Lock> {
    let query = Query::Lock { bucket: cx.bucket()?.id, key: key.clone(), version: object.stamp };
    match cx.ask(query).await? {
        Answer::Lock(lock) => Ok(lock),
        _ => Err(unexpected("Lock")),
    }
}

/// Adds what keeps a version to the answer about it. Only versions in buckets with object lock can be locked.
pub async fn show(cx: &Context, key: &ObjectKey, object: &Object, response: Response) -> S3Result<Response> {
    if !cx.recent_settings().await?.iter().any(|setting| setting.kind() == SettingKind::ObjectLock) {
        return Ok(response);
    }
    let Lock { retention, legal_hold } = of_version(cx, key, object).await?;
    let mut response = response;
    if let Some(Retention { mode, until }) = retention {
        response = response.amz(MODE, mode_name(mode)).amz(UNTIL, iso8601(until.0));
    }
    Ok(if legal_hold { response.amz(HOLD, "ON") } else { response })
}

/// The retention that a document asks for; none where it is empty.
pub fn retention(document: &RetentionDocument) -> S3Result<Option<Retention>> {
    match (document.mode.as_deref(), document.until.as_deref()) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => {
            let mode = mode_of(mode).ok_or(Code::MalformedXML)?;
            let until = parse_iso8601(until).ok_or(Code::MalformedXML)?;
            Ok(Some(Retention { mode, until: ClusterMs(until) }))
        }
        _ => Err(Code::MalformedXML.into()),
    }
}

/// How a document wants the versions of a bucket locked.
pub fn configuration(document: &ObjectLockDocument) -> S3Result<ObjectLock> {
    if document.enabled.as_deref() != Some("Enabled") {
        return Err(Code::MalformedXML.into());
    }
    let Some(default) = &document.default else { return Ok(ObjectLock::default()) };
    let mode = default.mode.as_deref().and_then(mode_of).ok_or(Code::MalformedXML)?;
    let (text, in_years, most) = match (&default.days, &default.years) {
        (Some(days), None) => (days, false, DAYS_MAX),
        (None, Some(years)) => (years, true, YEARS_MAX),
        _ => return Err(Code::MalformedXML.into()),
    };
    let length: i64 = text.trim().parse().map_err(|_| Code::MalformedXML)?;
    if length < 1 {
        return Err(Code::InvalidArgument.says("Default retention period must be a positive integer value."));
    }
    let length = u32::try_from(length).ok().filter(|length| *length <= most);
    let length = length.ok_or_else(|| Code::InvalidArgument.says("Default retention period too large."))?;
    let days = if in_years { length * DAYS_OF_A_YEAR } else { length };
    Ok(ObjectLock { default: Some(DefaultRetention { mode, days, in_years }) })
}

/// The document of a configuration.
pub fn configuration_document(lock: &ObjectLock) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("ObjectLockConfiguration");
    xml.text("ObjectLockEnabled", "Enabled");
    if let Some(default) = lock.default {
        xml.element("Rule", |xml| {
            xml.element("DefaultRetention", |xml| {
                xml.text("Mode", mode_name(default.mode));
                match default.in_years {
                    true => xml.value("Years", default.days / DAYS_OF_A_YEAR),
                    false => xml.value("Days", default.days),
                }
            });
        });
    }
    xml.close("ObjectLockConfiguration");
    xml
}

/// The document of a retention.
pub fn retention_document(retention: &Retention) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("Retention");
    xml.text("Mode", mode_name(retention.mode));
    xml.text("RetainUntilDate", &iso8601(retention.until.0));
    xml.close("Retention");
    xml
}

/// The document of a legal hold.
pub fn legal_hold_document(held: bool) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("LegalHold");
    xml.text("Status", if held { "ON" } else { "OFF" });
    xml.close("LegalHold");
    xml
}

fn mode_of(text: &str) -> Option<RetentionMode> {
    match text {
        "GOVERNANCE" => Some(RetentionMode::Governance),
        "COMPLIANCE" => Some(RetentionMode::Compliance),
        _ => None,
    }
}

fn mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}
