//! Conditional requests: on reads in the order of RFC 9110, on writes as what must be there for the write to happen.
//!
//! Conditions on writes are decided where the write is applied. A look at what is there before its body is read only
//! spares the client to send a body for nothing.

use consensus::meta::command::{EtagCondition, Expect, ReadConditions, Reject};
use consensus::meta::model::{Etag, Object};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::Want;
use http::{HeaderMap, StatusCode};

use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::reading::version_in;
use super::request::header_text;
use super::time::parse_http_date;

/// What conditions say about a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer.
    Proceed,
    /// 304: the client has it.
    NotModified,
    /// 412.
    Failed,
}

impl Verdict {
    /// The status of an answer that is none; `None` to proceed.
    pub fn status(self) -> Option<StatusCode> {
        match self {
            Verdict::Proceed => None,
            Verdict::NotModified => Some(StatusCode::NOT_MODIFIED),
            Verdict::Failed => Some(StatusCode::PRECONDITION_FAILED),
        }
    }
}

/// The conditions of a GET or HEAD, and those of a rename on what is at its new key.
pub fn of_read(headers: &HeaderMap) -> S3Result<ReadConditions> {
    read_conditions(headers, ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"])
}

/// The conditions on the source of a copy.
pub fn of_copy_source(headers: &HeaderMap) -> S3Result<ReadConditions> {
    read_conditions(
        headers,
        [
            "x-amz-copy-source-if-match",
            "x-amz-copy-source-if-none-match",
            "x-amz-copy-source-if-modified-since",
            "x-amz-copy-source-if-unmodified-since",
        ],
    )
}

/// The conditions on the source of a rename.
pub fn of_rename_source(headers: &HeaderMap) -> S3Result<ReadConditions> {
    read_conditions(
        headers,
        [
            "x-amz-rename-source-if-match",
            "x-amz-rename-source-if-none-match",
            "x-amz-rename-source-if-modified-since",
            "x-amz-rename-source-if-unmodified-since",
        ],
    )
}

/// The condition on the object whose annotation changes.
pub fn of_annotated(headers: &HeaderMap) -> S3Result<Option<EtagCondition>> {
    let condition = header_text(headers, "x-amz-object-if-match")?;
    Ok(condition.map(|text| etags(text, Comparison::Strong)))
}

/// A date that is none is as if it were not there (RFC 9110).
fn read_conditions(headers: &HeaderMap, names: [&str; 4]) -> S3Result<ReadConditions> {
    let [if_match, if_none_match, if_modified_since, if_unmodified_since] = names;
    let date = |name: &str| Ok::<_, S3Error>(header_text(headers, name)?.and_then(parse_http_date));
    Ok(ReadConditions {
        if_match: header_text(headers, if_match)?.map(|text| etags(text, Comparison::Strong)),
        if_none_match: header_text(headers, if_none_match)?.map(|text| etags(text, Comparison::Weak)),
        if_modified_since: date(if_modified_since)?,
        if_unmodified_since: date(if_unmodified_since)?,
    })
}

/// How tags marked as weak compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// They match nothing.
    Strong,
    /// They compare by their text.
    Weak,
}

/// `*` or a list of tags. Texts that are no tags of ours match nothing and are left out.
fn etags(text: &str, comparison: Comparison) -> EtagCondition {
    if text == "*" {
        return EtagCondition::Any;
    }
    let tags = text.split(',').map(str::trim).filter_map(|tag| match (tag.strip_prefix("W/"), comparison) {
        (Some(_), Comparison::Strong) => None,
        (Some(weak), Comparison::Weak) => weak.parse::<Etag>().ok(),
        (None, _) => tag.parse::<Etag>().ok(),
    });
    EtagCondition::OneOf(tags.collect())
}

/// Decides a read of this version.
pub fn decide(conditions: &ReadConditions, object: &Object) -> Verdict {
    decide_on(conditions, &object.etag, object.modified.0 / 1000)
}

/// Decides a read of what has this tag and was stored then, in seconds since 1970.
pub fn decide_on(conditions: &ReadConditions, etag: &Etag, modified: u64) -> Verdict {
    let matches = |condition: &EtagCondition| condition.meets(etag);
    // An If-Match that holds makes If-Unmodified-Since irrelevant; an If-None-Match does so with If-Modified-Since.
    match (&conditions.if_match, conditions.if_unmodified_since) {
        (Some(tags), _) if !matches(tags) => return Verdict::Failed,
        (None, Some(since)) if since < modified => return Verdict::Failed,
        _ => {}
    }
    match (&conditions.if_none_match, conditions.if_modified_since) {
        (Some(tags), _) if matches(tags) => Verdict::NotModified,
        (None, Some(since)) if modified <= since => Verdict::NotModified,
        _ => Verdict::Proceed,
    }
}

/// The conditions of PutObject, CopyObject and CompleteMultipartUpload on what is there.
pub fn of_write(headers: &HeaderMap) -> S3Result<Expect> {
    let not_implemented = |header: &str| S3Error::from(Code::NotImplemented).field("Header", header);
    for name in ["if-modified-since", "if-unmodified-since"] {
        if headers.contains_key(name) {
            return Err(not_implemented(name));
        }
    }
    let if_match = header_text(headers, "if-match")?;
    match header_text(headers, "if-none-match")? {
        None => {}
        Some("*") if if_match.is_none() => return Ok(Expect { absent: true, ..Expect::default() }),
        Some(_) => return Err(not_implemented("If-None-Match")),
    }
    let etag = if_match.map(|text| etags(text, Comparison::Strong));
    Ok(Expect { etag, ..Expect::default() })
}

/// Refuses a write whose condition fails already, by a linearizable look at what is there. For use before the body is
/// read; that it does not refuse decides nothing.
pub async fn refuse_early(cx: &Context, key: &ObjectKey, expect: &Expect) -> S3Result<()> {
    if *expect == Expect::default() {
        return Ok(());
    }
    let found = match version_in(cx, cx.bucket()?.id, key, None, Want::Row).await? {
        Ok(view) => Some(view.object),
        Err(Reject::NoSuchKey) => None,
        Err(reject) => return Err(reject.into()),
    };
    Ok(expect.check(found.as_ref())?)
}

/// The conditions of DeleteObject.
pub fn of_delete(headers: &HeaderMap) -> S3Result<Expect> {
    expect_delete(
        header_text(headers, "if-match")?,
        header_text(headers, "x-amz-if-match-size")?,
        header_text(headers, "x-amz-if-match-last-modified-time")?,
    )
}

/// The conditions of one key of DeleteObjects, by the texts of its elements.
pub fn expect_delete(etag: Option<&str>, size: Option<&str>, modified: Option<&str>) -> S3Result<Expect> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| S3Error::argument("x-amz-if-match-size", text, "The size is not a number."))
    };
    let seconds = |text: &str| {
        parse_http_date(text).ok_or_else(|| {
            S3Error::argument("x-amz-if-match-last-modified-time", text, "The time is not an HTTP date.")
        })
    };
    Ok(Expect {
        absent: false,
        etag: etag.map(|text| etags(text, Comparison::Strong)),
        bytes: size.map(number).transpose()?,
        modified_seconds: modified.map(seconds).transpose()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use consensus::meta::model::{Attributes, Body, ClusterMs};
    use fabric::ids::Stamp;

    use super::*;

    const TAG: &str = "\"900150983cd24fb0d6963f7d28e17f72\"";
    const OTHER: &str = "\"00000000000000000000000000000000\"";
    const BEFORE: &str = "Fri, 24 May 2013 00:00:00 GMT";
    const AT: &str = "Fri, 24 May 2013 00:00:10 GMT";
    const AFTER: &str = "Fri, 24 May 2013 00:00:20 GMT";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn object() -> Object {
        Object {
            stamp: Stamp { epoch: 0, index: 1, ordinal: 0 },
            null_version: true,
            modified: ClusterMs(1_369_353_610_500),
            bytes: 3,
            etag: TAG.parse().unwrap(),
            body: Body::Empty,
            checksum: None,
            attributes: Attributes { headers: BTreeMap::new(), ..Attributes::default() },
        }
    }

    #[test]
    fn reads() {
        let weak = format!("W/{TAG}");
        let list = format!("{OTHER}, {TAG}");
        for (pairs, expected) in [
            (&[][..], Verdict::Proceed),
            (&[("if-match", TAG)], Verdict::Proceed),
            (&[("if-match", TAG.trim_matches('"'))], Verdict::Proceed),
            (&[("if-match", "*")], Verdict::Proceed),
            (&[("if-match", &list)], Verdict::Proceed),
            (&[("if-match", OTHER)], Verdict::Failed),
            (&[("if-match", &weak)], Verdict::Failed),
            (&[("if-match", "\"nonsense\"")], Verdict::Failed),
            (&[("if-none-match", TAG)], Verdict::NotModified),
            (&[("if-none-match", &weak)], Verdict::NotModified),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", OTHER)], Verdict::Proceed),
            (&[("if-modified-since", BEFORE)], Verdict::Proceed),
            (&[("if-modified-since", AT)], Verdict::NotModified),
            (&[("if-modified-since", AFTER)], Verdict::NotModified),
            (&[("if-modified-since", "no date")], Verdict::Proceed),
            (&[("if-unmodified-since", BEFORE)], Verdict::Failed),
            (&[("if-unmodified-since", AT)], Verdict::Proceed),
            (&[("if-unmodified-since", "no date")], Verdict::Proceed),
            (&[("if-match", TAG), ("if-unmodified-since", BEFORE)], Verdict::Proceed),
            (&[("if-match", OTHER), ("if-unmodified-since", AFTER)], Verdict::Failed),
            (&[("if-none-match", TAG), ("if-modified-since", BEFORE)], Verdict::NotModified),
            (&[("if-none-match", OTHER), ("if-modified-since", AFTER)], Verdict::Proceed),
            (&[("if-match", OTHER), ("if-none-match", TAG)], Verdict::Failed),
        ] {
            let conditions = of_read(&headers(pairs)).unwrap();
            assert_eq!(decide(&conditions, &object()), expected, "{pairs:?}");
        }
    }

    #[test]
    fn writes() {
        let absent = Expect { absent: true, ..Expect::default() };
        let tag = |etag| Expect { etag: Some(etag), ..Expect::default() };
        for (pairs, expected) in [
            (&[][..], Ok(Expect::default())),
            (&[("if-none-match", "*")], Ok(absent)),
            (&[("if-match", TAG)], Ok(tag(EtagCondition::OneOf(vec![TAG.parse().unwrap()])))),
            (&[("if-match", "*")], Ok(tag(EtagCondition::Any))),
            (&[("if-match", "nonsense")], Ok(tag(EtagCondition::OneOf(vec![])))),
            (&[("if-none-match", TAG)], Err(Code::NotImplemented)),
            (&[("if-none-match", "*"), ("if-match", TAG)], Err(Code::NotImplemented)),
            (&[("if-modified-since", AT)], Err(Code::NotImplemented)),
        ] {
            assert_eq!(of_write(&headers(pairs)).map_err(|error| error.code()), expected, "{pairs:?}");
        }
    }

    #[test]
    fn deletes() {
        let got = of_delete(&headers(&[
            ("if-match", TAG),
            ("x-amz-if-match-size", "3"),
            ("x-amz-if-match-last-modified-time", AT),
        ]));
        let got = got.unwrap();
        assert_eq!((got.bytes, got.modified_seconds), (Some(3), Some(1_369_353_610)));
        assert!(of_delete(&headers(&[("x-amz-if-match-size", "-3")])).is_err());
    }
}
