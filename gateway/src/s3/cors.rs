//! Which pages of other origins may use a bucket: the rules of its owner, the browser's question before a request, and
//! what answers tell the browser.

use consensus::client::{Meta, ask};
use consensus::meta::model::{BucketSetting, CorsRule};
use consensus::meta::names::BucketName;
use consensus::meta::query::{Answer, Query};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::access::settings;
use super::error::{Code, S3Result};
use super::request::header_text;
use super::xml::XmlWriter;

/// Rules of one configuration.
const RULES_MAX: usize = 100;
const ID_CHARS_MAX: usize = 255;
const METHODS: &[&str] = &["GET", "PUT", "POST", "DELETE", "HEAD"];

/// Rules as they came, if they may be.
pub fn check(rules: Vec<CorsRule>) -> S3Result<Vec<CorsRule>> {
    if rules.is_empty() || RULES_MAX < rules.len() {
        return Err(Code::MalformedXML.into());
    }
    rules.iter().try_for_each(check_rule)?;
    Ok(rules)
}

fn check_rule(rule: &CorsRule) -> S3Result<()> {
    if rule.origins.is_empty() || rule.methods.is_empty() {
        return Err(Code::MalformedXML.into());
    }
    if rule.id.as_ref().is_some_and(|id| ID_CHARS_MAX < id.chars().count()) {
        return Err(Code::InvalidArgument.says("The ID of a rule has at most 255 characters."));
    }
    if let Some(method) = rule.methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        return Err(Code::InvalidRequest.says(format!(
            "Found unsupported HTTP method in CORS config. Unsupported method is {method:.40}"
        )));
    }
    let wild = |text: &&String| 1 < text.matches('*').count();
    if let Some(origin) = rule.origins.iter().find(wild) {
        return Err(Code::InvalidRequest
            .says(format!("AllowedOrigin \"{origin:.200}\" can not have more than one wildcard.")));
    }
    if let Some(header) = rule.headers.iter().find(wild) {
        return Err(Code::InvalidRequest
            .says(format!("AllowedHeader \"{header:.200}\" can not have more than one wildcard.")));
    }
    let unusable = |header: &&String| header.contains('*') || header.parse::<HeaderName>().is_err();
    if let Some(header) = rule.expose.iter().find(unusable) {
        return Err(Code::InvalidRequest.says(format!(
            "ExposeHeader \"{header:.200}\" is no name of a header; wildcards are not supported."
        )));
    }
    Ok(())
}

/// The document that shows rules.
pub fn document(rules: &[CorsRule]) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("CORSConfiguration");
    for rule in rules {
        xml.element("CORSRule", |xml| {
            xml.optional("ID", rule.id.as_deref());
            rule.methods.iter().for_each(|text| xml.text("AllowedMethod", text));
            rule.origins.iter().for_each(|text| xml.text("AllowedOrigin", text));
            rule.headers.iter().for_each(|text| xml.text("AllowedHeader", text));
            rule.expose.iter().for_each(|text| xml.text("ExposeHeader", text));
            if let Some(seconds) = rule.max_age_seconds {
                xml.value("MaxAgeSeconds", seconds);
            }
        });
    }
    xml.close("CORSConfiguration");
    xml
}

/// The rules of a bucket; none where there is no such bucket either.
pub async fn rules_of(meta: &dyn Meta, bucket: &BucketName) -> S3Result<Vec<CorsRule>> {
    let Answer::Bucket(Some(bucket)) = ask(meta, Query::Bucket(bucket.clone())).await? else {
        return Ok(Vec::new());
    };
    let settings = settings(meta, &bucket).await?;
    let rules = settings.iter().find_map(|setting| match setting {
        BucketSetting::Cors(rules) => Some(rules.clone()),
        _ => None,
    });
    Ok(rules.unwrap_or_default())
}

/// What a browser asks before a request.
struct Preflight<'a> {
    origin: &'a str,
    method: &'a str,
    headers: Vec<&'a str>,
}

impl Preflight<'_> {
    fn parse(headers: &HeaderMap) -> S3Result<Preflight<'_>> {
        let origin = header_text(headers, "origin")?.ok_or_else(|| {
            Code::BadRequest.says("Insufficient information. Origin request header needed.")
        })?;
        let method = header_text(headers, "access-control-request-method")?.unwrap_or("null");
        if !METHODS.contains(&method) {
            return Err(Code::BadRequest.says(format!("Invalid Access-Control-Request-Method: {method:.40}")));
        }
        let wanted = header_text(headers, "access-control-request-headers")?.unwrap_or("");
        let wanted = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        Ok(Preflight { origin, method, headers: wanted })
    }
}

/// Answers a preflight: the headers that allow what is asked, or a refusal.
pub fn preflight(rules: &[CorsRule], headers: &HeaderMap) -> S3Result<Vec<(HeaderName, String)>> {
    let asked = Preflight::parse(headers)?;
    if rules.is_empty() {
        return Err(Code::AccessForbidden.says("CORSResponse: CORS is not enabled for this bucket."));
    }
    let allows = |rule: &&CorsRule| {
        rule.methods.iter().any(|method| method == asked.method)
            && asked
                .headers
                .iter()
                .all(|name| rule.headers.iter().any(|pattern| matches(pattern, name, true)))
    };
    let found = rules.iter().filter(allows).find_map(|rule| Some((rule, origin_of(rule, asked.origin)?)));
    let Some((rule, origin)) = found else {
        return Err(Code::AccessForbidden.says(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request \
             method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the \
             resource's CORS spec.",
        ));
    };
    let mut answer = told(rule, origin);
    if !asked.headers.is_empty() {
        answer.push((ACCESS_CONTROL_ALLOW_HEADERS, asked.headers.join(", ").to_ascii_lowercase()));
    }
    Ok(answer)
}

/// What the answer to a request of a page tells its browser; nothing where no rule matches.
pub fn answer(rules: &[CorsRule], origin: &str, method: &str) -> Vec<(HeaderName, String)> {
    let rules = rules.iter().filter(|rule| rule.methods.iter().any(|allowed| allowed == method));
    let found = rules.filter_map(|rule| Some((rule, origin_of(rule, origin)?))).next();
    found.map_or_else(Vec::new, |(rule, origin)| told(rule, origin))
}

/// Adds headers to those of an answer.
pub fn add(headers: &mut HeaderMap, told: Vec<(HeaderName, String)>) {
    for (name, text) in told {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

fn told(rule: &CorsRule, origin: &str) -> Vec<(HeaderName, String)> {
    let mut told = vec![
        (ACCESS_CONTROL_ALLOW_ORIGIN, origin.to_string()),
        (ACCESS_CONTROL_ALLOW_METHODS, rule.methods.join(", ")),
        (VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method".to_string()),
    ];
    if origin != "*" {
        told.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_string()));
    }
    if !rule.expose.is_empty() {
        told.push((ACCESS_CONTROL_EXPOSE_HEADERS, rule.expose.join(", ")));
    }
    if let Some(seconds) = rule.max_age_seconds {
        told.push((ACCESS_CONTROL_MAX_AGE, seconds.to_string()));
    }
    told
}

/// How a rule names an origin that it allows: as it came, or `*` where all are allowed alike.
fn origin_of<'a>(rule: &CorsRule, origin: &'a str) -> Option<&'a str> {
    let pattern = rule.origins.iter().find(|pattern| matches(pattern, origin, false))?;
    Some(if pattern == "*" { "*" } else { origin })
}

/// Whether a text fits a pattern with at most one `*`.
fn matches(pattern: &str, text: &str, ignore_case: bool) -> bool {
    let same = |left: &str, right: &str| match ignore_case {
        true => left.eq_ignore_ascii_case(right),
        false => left == right,
    };
    let Some((before, after)) = pattern.split_once('*') else { return same(pattern, text) };
    let (Some(head), Some(tail)) =
        (text.get(..before.len()), text.len().checked_sub(after.len()).and_then(|at| text.get(at..)))
    else {
        return false;
    };
    before.len() + after.len() <= text.len() && same(before, head) && same(after, tail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| text.to_string()).collect()
    }

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> CorsRule {
        CorsRule {
            origins: texts(origins),
            methods: texts(methods),
            headers: texts(headers),
            ..CorsRule::default()
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "https://a", true),
            ("https://*.example.org", "https://a.b.example.org", true),
            ("https://*.example.org", "https://.example.org", true),
            ("https://*.example.org", "https://example.org", false),
            ("https://*.example.org", "https://x.example.org.evil", false),
            ("https://a", "https://A", false),
            ("ab*ba", "aba", false),
            ("ä*ü", "äxü", true),
            ("a*", "ä", false),
        ] {
            assert_eq!(matches(pattern, text, false), fits, "{pattern} {text}");
        }
        assert!(matches("x-amz-*", "X-Amz-Date", true));
    }

    #[test]
    fn rules_are_checked() {
        let good = rule(&["https://*.a"], &["GET", "PUT"], &["*"]);
        assert!(check(vec![good.clone()]).is_ok());
        let many = vec![good.clone(); 101];
        let exposed = CorsRule { expose: texts(&["x-*y "]), ..good.clone() };
        for (rules, code) in [
            (vec![], Code::MalformedXML),
            (many, Code::MalformedXML),
            (vec![rule(&[], &["GET"], &[])], Code::MalformedXML),
            (vec![rule(&["*"], &[], &[])], Code::MalformedXML),
            (vec![rule(&["*"], &["PATCH"], &[])], Code::InvalidRequest),
            (vec![rule(&["*.*"], &["GET"], &[])], Code::InvalidRequest),
            (vec![rule(&["*"], &["GET"], &["**"])], Code::InvalidRequest),
            (vec![exposed], Code::InvalidRequest),
            (vec![CorsRule { id: Some("i".repeat(256)), ..good }], Code::InvalidArgument),
        ] {
            assert_eq!(check(rules).unwrap_err().code(), code);
        }
    }

    #[test]
    fn only_what_a_rule_allows_is_told() {
        let rules = [rule(&["https://a"], &["PUT"], &["x-amz-*"]), rule(&["*"], &["GET"], &[])];
        let told = |origin: &str, method: &str| {
            let told = answer(&rules, origin, method);
            told.into_iter().find(|(name, _)| name == ACCESS_CONTROL_ALLOW_ORIGIN).map(|(_, value)| value)
        };
        assert_eq!(told("https://a", "PUT").as_deref(), Some("https://a"));
        assert_eq!(told("https://b", "PUT"), None);
        assert_eq!(told("null", "GET").as_deref(), Some("*"));
        let ask = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            pairs.iter().for_each(|(name, value)| {
                headers.insert(*name, value.parse().unwrap());
            });
            preflight(&rules, &headers).map(|told| told.len()).map_err(|error| error.code())
        };
        let (origin, method) = (("origin", "https://a"), ("access-control-request-method", "PUT"));
        let wanted = |names| ("access-control-request-headers", names);
        assert!(ask(&[origin, method, wanted("X-Amz-Date, x-amz-acl")]).is_ok());
        assert_eq!(ask(&[origin, method, wanted("authorization")]), Err(Code::AccessForbidden));
        assert_eq!(ask(&[method]), Err(Code::BadRequest));
        assert_eq!(ask(&[origin]), Err(Code::BadRequest));
        assert_eq!(ask(&[("origin", "https://b"), method]), Err(Code::AccessForbidden));
    }
}
