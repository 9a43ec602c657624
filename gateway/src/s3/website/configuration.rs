//! What an owner sets: checked as it comes in, and shown.

use consensus::meta::names::ObjectKey;
use consensus::meta::website::{Protocol, Redirect, Replace, RoutingRule, Website};

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::xml::{ConditionElement, RedirectElement, RoutingRuleElement, WebsiteDocument, XmlWriter};

/// Rules of one website.
const RULES_MAX: usize = 50;
/// Characters of a host with its port.
const HOST_BYTES_MAX: usize = 255;
/// Bytes that take the place of a key or of its prefix.
const REPLACEMENT_BYTES_MAX: usize = 1024;

/// A document as what it says, if that may be.
pub fn check(document: WebsiteDocument) -> S3Result<Website> {
    let WebsiteDocument { elsewhere, index, error, rules } = document;
    if let Some(to) = elsewhere {
        if index.is_some() || error.is_some() || rules.is_some() {
            let why = "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules.";
            return Err(S3Error::argument("RedirectAllRequestsTo", "not null", why));
        }
        return check_elsewhere(to);
    }
    let Some(index) = index else {
        let why = "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty";
        return Err(S3Error::argument("IndexDocument", "null", why));
    };
    if index.contains('/') || index.parse::<ObjectKey>().is_err() {
        let why = "The IndexDocument Suffix is not well formed";
        return Err(S3Error::argument("IndexDocument", &index, why));
    }
    if error.as_ref().is_some_and(|key| key.parse::<ObjectKey>().is_err()) {
        return Err(Code::MalformedXML.into());
    }
    Ok(Website::Pages { index, error, rules: rules.map(check_rules).transpose()?.unwrap_or_default() })
}

fn check_elsewhere(to: RedirectElement) -> S3Result<Website> {
    let RedirectElement { host, protocol, status, replace_prefix, replace_key } = to;
    let more = status.is_some() || replace_prefix.is_some() || replace_key.is_some();
    match host {
        Some(host) if !more => {
            Ok(Website::Elsewhere { host: check_host(host)?, protocol: check_protocol(protocol)? })
        }
        _ => Err(Code::MalformedXML.into()),
    }
}

fn check_rules(rules: Vec<RoutingRuleElement>) -> S3Result<Vec<RoutingRule>> {
    if rules.is_empty() {
        return Err(Code::MalformedXML.into());
    }
    if RULES_MAX < rules.len() {
        let many = rules.len();
        return Err(Code::InvalidRequest.says(format!(
            "{many} routing rules provided, the number of routing rules in a website configuration is limited to {RULES_MAX}."
        )));
    }
    rules.into_iter().map(check_rule).collect()
}

fn check_rule(rule: RoutingRuleElement) -> S3Result<RoutingRule> {
    let condition = match rule.condition {
        Some(condition) if condition == ConditionElement::default() => {
            return Err(Code::InvalidRequest.says(
                "Condition cannot be empty. To redirect all requests without a condition, the condition element shouldn't be present.",
            ));
        }
        condition => condition.unwrap_or_default(),
    };
    if rule.redirect == RedirectElement::default() {
        return Err(Code::MalformedXML.into());
    }
    let RedirectElement { host, status, protocol, replace_prefix, replace_key } = rule.redirect;
    let replace = match (replace_prefix, replace_key) {
        (Some(_), Some(_)) => {
            return Err(
                Code::InvalidRequest.says("You can only define ReplaceKeyPrefix or ReplaceKey but not both.")
            );
        }
        (Some(prefix), None) => Some(Replace::Prefix(check_replacement(prefix)?)),
        (None, Some(key)) => Some(Replace::Key(check_replacement(key)?)),
        (None, None) => None,
    };
    let errors = |status| (400..=599).contains(&status);
    let redirects = |status| (301..=399).contains(&status);
    Ok(RoutingRule {
        prefix: condition.prefix,
        status: check_status(condition.status, errors, "error code", "4XX or 5XX")?,
        redirect: Redirect {
            host: host.map(check_host).transpose()?,
            status: check_status(status, redirects, "redirect code", "3XX except 300")?,
            protocol: check_protocol(protocol)?,
            replace,
        },
    })
}

/// What goes into `Location` is printable, so that nothing else gets into the head of an answer.
fn check_host(host: String) -> S3Result<String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !br#"<>"\/?#@"#.contains(&byte);
    match (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(allowed) {
        true => Ok(host),
        false => Err(Code::InvalidRequest.says("The host name of a redirect is not valid.")),
    }
}

fn check_replacement(text: String) -> S3Result<String> {
    if REPLACEMENT_BYTES_MAX < text.len() { Err(Code::MalformedXML.into()) } else { Ok(text) }
}

fn check_protocol(text: Option<String>) -> S3Result<Option<Protocol>> {
    match text.as_deref() {
        None => Ok(None),
        Some("http") => Ok(Some(Protocol::Http)),
        Some("https") => Ok(Some(Protocol::Https)),
        Some(_) => Err(Code::InvalidRequest.says(
            "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected automatically.",
        )),
    }
}

fn check_status(
    text: Option<String>,
    valid: impl Fn(u16) -> bool,
    what: &str,
    which: &str,
) -> S3Result<Option<u16>> {
    let Some(text) = text else { return Ok(None) };
    match text.trim().parse() {
        Ok(status) if valid(status) => Ok(Some(status)),
        _ => Err(Code::InvalidRequest
            .says(format!("The provided HTTP {what} ({text:.20}) is not valid. Valid codes are {which}."))),
    }
}

/// The document that shows it.
pub fn document(website: &Website) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("WebsiteConfiguration");
    match website {
        Website::Elsewhere { host, protocol } => xml.element("RedirectAllRequestsTo", |xml| {
            xml.text("HostName", host);
            xml.optional("Protocol", protocol.map(scheme));
        }),
        Website::Pages { index, error, rules } => {
            xml.element("IndexDocument", |xml| xml.text("Suffix", index));
            if let Some(key) = error {
                xml.element("ErrorDocument", |xml| xml.text("Key", key));
            }
            if !rules.is_empty() {
                xml.element("RoutingRules", |xml| rules.iter().for_each(|rule| show_rule(xml, rule)));
            }
        }
    }
    xml.close("WebsiteConfiguration");
    xml
}

fn show_rule(xml: &mut XmlWriter, rule: &RoutingRule) {
    xml.element("RoutingRule", |xml| {
        if rule.prefix.is_some() || rule.status.is_some() {
            xml.element("Condition", |xml| {
                xml.optional("KeyPrefixEquals", rule.prefix.as_deref());
                if let Some(status) = rule.status {
                    xml.value("HttpErrorCodeReturnedEquals", status);
                }
            });
        }
        xml.element("Redirect", |xml| {
            let Redirect { host, status, protocol, replace } = &rule.redirect;
            xml.optional("HostName", host.as_deref());
            if let Some(status) = status {
                xml.value("HttpRedirectCode", status);
            }
            xml.optional("Protocol", protocol.map(scheme));
            match replace {
                Some(Replace::Prefix(prefix)) => xml.text("ReplaceKeyPrefixWith", prefix),
                Some(Replace::Key(key)) => xml.text("ReplaceKeyWith", key),
                None => {}
            }
        });
    });
}

/// How addresses name a protocol.
pub fn scheme(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Https => "https",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(inner: &str) -> Result<Website, Code> {
        let document = format!("<WebsiteConfiguration>{inner}</WebsiteConfiguration>");
        let document = WebsiteDocument::parse(document.as_bytes());
        document.and_then(check).map_err(|error| error.code())
    }

    #[test]
    fn what_is_set_is_shown() {
        for inner in [
            "<RedirectAllRequestsTo><HostName>a.b:80</HostName><Protocol>https</Protocol></RedirectAllRequestsTo>",
            "<IndexDocument><Suffix>i</Suffix></IndexDocument>",
            "<IndexDocument><Suffix>i</Suffix></IndexDocument><ErrorDocument><Key>e/404</Key></ErrorDocument>\
             <RoutingRules><RoutingRule><Condition><KeyPrefixEquals>a/</KeyPrefixEquals>\
             <HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition><Redirect><HostName>h</HostName>\
             <HttpRedirectCode>302</HttpRedirectCode><Protocol>http</Protocol>\
             <ReplaceKeyPrefixWith>b/</ReplaceKeyPrefixWith></Redirect></RoutingRule><RoutingRule><Redirect>\
             <ReplaceKeyWith>k</ReplaceKeyWith></Redirect></RoutingRule></RoutingRules>",
        ] {
            let shown = document(&parsed(inner).unwrap()).finish();
            assert!(shown.contains(inner), "{shown}");
        }
    }

    #[test]
    fn what_a_website_may_not_be() {
        let index = "<IndexDocument><Suffix>i</Suffix></IndexDocument>";
        let all = "<RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>";
        let rules = |rule: &str| format!("{index}<RoutingRules>{rule}</RoutingRules>");
        let rule = |inner: &str| rules(&format!("<RoutingRule>{inner}</RoutingRule>"));
        let to = |inner: &str| rule(&format!("<Redirect>{inner}</Redirect>"));
        let good = "<Redirect><HostName>h</HostName></Redirect>";
        let status = |status: &str| {
            rule(&format!(
                "<Condition><HttpErrorCodeReturnedEquals>{status}</HttpErrorCodeReturnedEquals></Condition>{good}"
            ))
        };
        let many = |count| rules(&format!("<RoutingRule>{good}</RoutingRule>").repeat(count));
        assert!(parsed(&many(50)).is_ok());
        for (inner, code) in [
            (String::new(), Code::InvalidArgument),
            (format!("{all}{index}"), Code::InvalidArgument),
            (format!("{all}{all}"), Code::MalformedXML),
            (format!("{index}{index}"), Code::MalformedXML),
            ("<IndexDocument><Suffix>a/b</Suffix></IndexDocument>".to_string(), Code::InvalidArgument),
            ("<IndexDocument><Suffix/></IndexDocument>".to_string(), Code::InvalidArgument),
            ("<IndexDocument/>".to_string(), Code::InvalidArgument),
            (format!("{index}<ErrorDocument><Key/></ErrorDocument>"), Code::MalformedXML),
            (format!("{index}<ErrorDocument><Suffix>e</Suffix></ErrorDocument>"), Code::MalformedXML),
            ("<RedirectAllRequestsTo/>".to_string(), Code::MalformedXML),
            (all.replace(">h<", ">h&#10;x: y<"), Code::InvalidRequest),
            (all.replace(">h<", ">h/p<"), Code::InvalidRequest),
            (all.replace("</HostName>", "</HostName><Protocol>ftp</Protocol>"), Code::InvalidRequest),
            (all.replace("</HostName>", "</HostName><ReplaceKeyWith>k</ReplaceKeyWith>"), Code::MalformedXML),
            (rules(""), Code::MalformedXML),
            (many(51), Code::InvalidRequest),
            (rule(""), Code::MalformedXML),
            (rule("<Redirect/>"), Code::MalformedXML),
            (rule(&format!("<Condition/>{good}")), Code::InvalidRequest),
            (status("399"), Code::InvalidRequest),
            (status("600"), Code::InvalidRequest),
            (status("often"), Code::InvalidRequest),
            (to("<HttpRedirectCode>300</HttpRedirectCode>"), Code::InvalidRequest),
            (to("<HttpRedirectCode>200</HttpRedirectCode>"), Code::InvalidRequest),
            (to("<Protocol>javascript</Protocol>"), Code::InvalidRequest),
            (
                to("<ReplaceKeyWith>k</ReplaceKeyWith><ReplaceKeyPrefixWith>p</ReplaceKeyPrefixWith>"),
                Code::InvalidRequest,
            ),
            (to("<Unknown>k</Unknown>"), Code::MalformedXML),
        ] {
            assert_eq!(parsed(&inner), Err(code), "{inner:.200}");
        }
    }
}
