//! Tables: which documents are policies, and what they say.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

const BUCKET: Kind<'_> = Kind::Bucket("photos");

/// A request by what is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(pub(super) Vec<(String, Vec<String>)>);

impl Known {
    pub(super) fn of(pairs: &[(&str, &[&str])]) -> Known {
        let owned = |values: &[&str]| values.iter().map(|value| value.to_string()).collect();
        Known(pairs.iter().map(|(key, values)| (key.to_string(), owned(values))).collect())
    }
}

impl Context for Known {
    fn values(&self, key: &str) -> Option<Vec<Cow<'_, str>>> {
        let (_, values) = self.0.iter().find(|(known, _)| known == key)?;
        Some(values.iter().map(|value| Cow::Borrowed(value.as_str())).collect())
    }
}

/// A statement that allows everybody to read every object, with other fields in place of or beside its own. A field
/// that is null is left out.
fn statement(fields: Value) -> Value {
    let mut statement = json!({
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::photos/*",
    });
    for (name, value) in fields.as_object().unwrap() {
        statement[name] = value.clone();
    }
    statement.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    statement
}

fn of_bucket(statements: Value) -> Result<Policy, Malformed> {
    let document = json!({"Version": "2012-10-17", "Statement": statements});
    Policy::parse(&document.to_string(), BUCKET)
}

fn of_user(fields: Value) -> Result<Policy, Malformed> {
    let mut fields = fields;
    fields["Principal"] = Value::Null;
    let document = json!({"Version": "2012-10-17", "Statement": statement(fields)});
    Policy::parse(&document.to_string(), Kind::User)
}

fn judge(policy: &Policy, who: Principal<'_>, action: &str, resource: &str, context: &Known) -> Verdict {
    let resource = format!("arn:aws:s3:::{resource}");
    policy.judge(&Asked { principal: who, action, resource: &resource, context })
}

/// What a policy says to alice who reads an object.
fn read_of(policy: &Policy, key: &str, context: &Known) -> Verdict {
    judge(policy, Principal::User("alice"), "s3:GetObject", &format!("photos/{key}"), context)
}

fn check_refused(result: Result<Policy, Malformed>, part: &str, case: &str) {
    let sentence = result.expect_err(case).to_string();
    assert!(sentence.contains(part), "{case}: {sentence}");
}

#[test]
fn documents_that_are_no_policies() {
    let good = statement(json!({})).to_string();
    let deep = format!(r#"{{"Id": {}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let large = format!(r#"{{"Id": "{}", "Statement": {good}}}"#, "x".repeat(POLICY_BYTES_MAX));
    for (text, part) in [
        ("", "valid JSON"),
        ("{", "valid JSON"),
        ("null", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ("\u{feff}{}", "valid JSON"),
        ("{}", "Missing required field Statement"),
        (r#"{"Statement": []}"#, "no statement"),
        (r#"{"Statement": "x"}"#, "must be a JSON object"),
        (r#"{"Statement": [[]]}"#, "must be a JSON object"),
        (r#"{"Statement": [{"a": 1, "a": 2}]}"#, "twice"),
        (r#"{"Statement": [{"a": 1, "\u0061": 2}]}"#, "twice"),
        (r#"{"Version": "2012-10-17", "Version": "2012-10-17"}"#, "twice"),
        (r#"{"Version": "2012-10-18", "Statement": []}"#, "valid version"),
        (r#"{"Version": 20121017, "Statement": []}"#, "Version must be a string"),
        (r#"{"Id": 1, "Statement": []}"#, "Id must be a string"),
        (r#"{"statement": []}"#, "Unknown field statement"),
        (r#"{"Statement": [], "Extra": 1}"#, "Unknown field Extra"),
        (&format!(r#"{{"Statement": {good}}} x"#), "valid JSON"),
        (&format!(r#"{{"Statement": {good}}}{{}}"#), "valid JSON"),
        (&format!(r#"{{"Statement": {good},}}"#), "valid JSON"),
        (&deep, "too deeply"),
        (&large, "the limit is 20480"),
    ] {
        check_refused(Policy::parse(text, BUCKET), part, text.get(..80).unwrap_or(text));
    }
}

#[test]
fn statements_of_buckets_that_are_refused() {
    let arn = |text: &str| json!({"AWS": text});
    for (fields, part) in [
        (json!({"Effect": null}), "Missing required field Effect"),
        (json!({"Effect": "allow"}), "Invalid effect: allow"),
        (json!({"Effect": ["Allow"]}), "Effect must be a string"),
        (json!({"effect": "Allow"}), "Unknown field effect"),
        (json!({"Sid": 1}), "Sid must be a string"),
        (json!({"Sid": "a\nb"}), "alpha-numeric"),
        (json!({"Principal": null}), "Missing required field Principal"),
        (json!({"NotPrincipal": "*"}), "both Principal and NotPrincipal"),
        (json!({"Principal": "alice"}), "must be a JSON object"),
        (json!({"Principal": ["*"]}), "must be a JSON object"),
        (json!({"Principal": {}}), "nobody is named"),
        (json!({"Principal": {"AWS": []}}), "must not be empty"),
        (json!({"Principal": {"AWS": 1}}), "must be a string"),
        (json!({"Principal": {"aws": "*"}}), "Invalid principal in policy: aws"),
        (json!({"Principal": {"Service": "s3.amazonaws.com"}}), "Service is not supported"),
        (json!({"Principal": {"Federated": "example.org"}}), "Federated is not supported"),
        (json!({"Principal": {"CanonicalUser": "*"}}), "is not a user"),
        (json!({"Principal": arn("")}), "is not a user"),
        (json!({"Principal": arn("al*ce")}), "is not a user"),
        (json!({"Principal": arn("123456789012")}), "is not a user"),
        (json!({"Principal": arn("arn:aws:iam::123456789012:root")}), "is not a user"),
        (json!({"Principal": arn("arn:aws:iam::123456789012:role/x")}), "is not a user"),
        (json!({"Principal": arn("arn:aws:iam::123456789012:user/*")}), "is not a user"),
        (json!({"Principal": arn("arn:aws:iam::123456789012:user/")}), "is not a user"),
        (json!({"Principal": arn("arn:aws:sts::123456789012:user/x")}), "is not a user"),
        (json!({"Principal": arn(&"x".repeat(65))}), "is not a user"),
        (json!({"Action": null}), "Missing required field Action"),
        (json!({"NotAction": "s3:PutObject"}), "both Action and NotAction"),
        (json!({"Action": []}), "must not be empty"),
        (json!({"Action": [["s3:GetObject"]]}), "must be a string"),
        (json!({"Action": "GetObject"}), "invalid action"),
        (json!({"Action": "s3:GetObjekt"}), "invalid action: s3:GetObjekt"),
        (json!({"Action": "s3:"}), "invalid action"),
        (json!({"Action": "s3:Fetch*"}), "invalid action"),
        (json!({"Action": "s3:GetObject?"}), "invalid action"),
        (json!({"Action": "iam:*"}), "invalid action"),
        (json!({"Action": "s*:GetObject"}), "invalid action"),
        (json!({"Action": ["s3:GetObject", "ec2:RunInstances"]}), "invalid action: ec2:RunInstances"),
        (json!({"Action": "s3:${s3:prefix}"}), "invalid action"),
        (json!({"Action": null, "NotAction": "s3:Nothing"}), "invalid action"),
        (json!({"Action": "s3:ListBucket"}), "Action does not apply"),
        (json!({"Action": "s3:ListAllMyBuckets"}), "Action does not apply"),
        (json!({"Resource": "arn:aws:s3:::photos"}), "Action does not apply"),
        (json!({"Resource": null}), "Missing required field Resource"),
        (json!({"NotResource": "arn:aws:s3:::photos/*"}), "both Resource and NotResource"),
        (json!({"Resource": []}), "must not be empty"),
        (json!({"Resource": "*"}), "invalid resource"),
        (json!({"Resource": ""}), "invalid resource"),
        (json!({"Resource": "photos/*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::photo"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::photo*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::photos2/*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::photos?"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::photos${s3:prefix}"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::${aws:username}/*"}), "invalid resource"),
        (json!({"Resource": ["arn:aws:s3:::photos/*", "arn:aws:s3:::other/*"]}), "invalid resource"),
        (json!({"Resource": null, "NotResource": "arn:aws:s3:::other/*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:iam:::photos/*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:s3:::photos/${aws:username"}), "invalid variable"),
        (json!({"Resource": "arn:aws:s3:::photos/${}"}), "invalid variable"),
        (json!({"Resource": "arn:aws:s3:::photos/${username}"}), "invalid variable"),
        (json!({"Resource": "arn:aws:s3:::photos/${aws:username, x}"}), "invalid variable"),
        (json!({"Resource": "arn:aws:s3:::photos/${aws:username, 'x'"}), "invalid variable"),
        (json!({"Condition": []}), "must be a JSON object"),
        (json!({"Condition": {"StringEquals": {}}}), "has no key"),
        (json!({"Condition": {"StringEquals": []}}), "must be a JSON object"),
        (json!({"Condition": {"StringEquals": {"s3:prefix": []}}}), "must not be empty"),
        (json!({"Condition": {"StringEquals": {"s3:prefix": null}}}), "must be a string"),
        (json!({"Condition": {"StringEquals": {"s3:prefix": {"a": "b"}}}}), "must be a string"),
        (json!({"Condition": {"StringEquals": {"s3:prefixes": "a"}}}), "invalid condition key: s3:prefixes"),
        (json!({"Condition": {"StringEquals": {"prefix": "a"}}}), "invalid condition key"),
        (json!({"Condition": {"StringEquals": {"aws:FooBar": "a"}}}), "invalid condition key"),
        (json!({"Condition": {"StringEquals": {"s3:ExistingObjectTag/": "a"}}}), "invalid condition key"),
        (json!({"Condition": {"StringEquals": {"s3:prefix": "a", "S3:Prefix": "b"}}}), "stands twice"),
        (json!({"Condition": {"StringEquals": {"s3:prefix": "${nothing}"}}}), "invalid variable"),
        (json!({"Condition": {"StringMatches": {"s3:prefix": "a"}}}), "Invalid condition operator"),
        (json!({"Condition": {"stringequals": {"s3:prefix": "a"}}}), "Invalid condition operator"),
        (
            json!({"Condition": {"ForSomeValues:StringEquals": {"s3:prefix": "a"}}}),
            "Invalid condition operator",
        ),
        (
            json!({"Condition": {"StringEqualsIfExistsIfExists": {"s3:prefix": "a"}}}),
            "Invalid condition operator",
        ),
        (json!({"Condition": {"NullIfExists": {"s3:prefix": "true"}}}), "Invalid condition operator"),
        (json!({"Condition": {"ForAllValues:Null": {"s3:prefix": "true"}}}), "Invalid condition operator"),
        (json!({"Condition": {"Null": {"s3:prefix": "yes"}}}), "no value for the condition Null"),
        (json!({"Condition": {"Bool": {"aws:SecureTransport": "1"}}}), "no value"),
        (json!({"Condition": {"NumericEquals": {"s3:max-keys": "ten"}}}), "no value"),
        (json!({"Condition": {"NumericEquals": {"s3:max-keys": "${s3:max-keys}"}}}), "no value"),
        (json!({"Condition": {"NumericEquals": {"s3:max-keys": true}}}), "no value"),
        (json!({"Condition": {"DateLessThan": {"aws:CurrentTime": "tomorrow"}}}), "no value"),
        (json!({"Condition": {"IpAddress": {"aws:SourceIp": "1.2.3.4/33"}}}), "no value"),
        (json!({"Condition": {"IpAddress": {"aws:SourceIp": ["1.2.3.4", "*"]}}}), "no value"),
        (json!({"Condition": {"BinaryEquals": {"s3:prefix": "%"}}}), "no value"),
        (json!({"Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:s3"}}}), "is not an ARN"),
    ] {
        check_refused(of_bucket(statement(fields.clone())), part, &fields.to_string());
    }
}

#[test]
fn statements_of_users_that_are_refused() {
    for (fields, part) in [
        (json!({"NotPrincipal": "*"}), "must not specify a principal"),
        (json!({"Sid": "with space"}), "alpha-numeric"),
        (json!({"Resource": "**"}), "invalid resource"),
        (json!({"Resource": "arn:aws:*"}), "invalid resource"),
        (json!({"Resource": "arn:aws:sqs:::x"}), "invalid resource"),
        (json!({"Action": "iam:ListUsers"}), "invalid action"),
        (json!({"Action": "*:*"}), "invalid action"),
    ] {
        check_refused(of_user(fields.clone()), part, &fields.to_string());
    }
    let with_principal = json!({"Statement": statement(json!({}))}).to_string();
    check_refused(Policy::parse(&with_principal, Kind::User), "must not specify a principal", "Principal");
}

#[test]
fn statements_that_are_taken() {
    for fields in [
        json!({}),
        json!({"Sid": ""}),
        json!({"Sid": "Readers may read, and nothing else."}),
        json!({"Effect": "Deny"}),
        json!({"Principal": null, "NotPrincipal": {"AWS": "alice"}}),
        json!({"Principal": {"AWS": ["*"], "CanonicalUser": "alice"}}),
        json!({"Principal": {"AWS": ["alice", "arn:aws:iam:::user/b.o_b@x-y+z=,", "arn:aws:iam::me:user/c"]}}),
        json!({"Action": "*"}),
        json!({"Action": ["s3:Get*", "S3:PUTOBJECT", "s3:*Tagging", "s3:List?ucket"]}),
        json!({"Action": ["s3:GetObject", "s3:ListBucket"]}),
        json!({"Action": "s3:ListBucket", "Resource": ["arn:aws:s3:::photos", "arn:aws:s3:::photos/*"]}),
        json!({"Action": "s3:ListBucket", "Resource": "arn:aws:s3:::photos*"}),
        json!({"Action": null, "NotAction": ["s3:ListBucket"]}),
        json!({"Action": "s3:ListBucket", "Resource": null, "NotResource": "arn:aws:s3:::photos/*"}),
        json!({"Resource": "arn:aws:s3:::photos/${aws:PrincipalTag/a b, 'none'}/${*}${?}${$}$x"}),
        json!({"Condition": {}}),
        json!({"Condition": {"NumericLessThan": {"s3:max-keys": 10.5}, "Bool": {"aws:SecureTransport": [true]}}}),
        json!({"Condition": {"ForAnyValue:StringLikeIfExists": {"s3:RequestObjectTagKeys": ["a*", "b"]}}}),
        json!({"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1"}, "Null": {"S3:VersionId": "true"}}}),
    ] {
        of_bucket(statement(fields.clone())).unwrap_or_else(|error| panic!("{fields}: {error}"));
    }
    for text in [
        format!(r#" {{"Id": "x", "Statement": {}}}"#, statement(json!({}))),
        format!(r#"{{"Statement": [{0}, {0}], "Version": "2008-10-17"}}"#, statement(json!({"Sid": ""}))),
        // Not a variable in this version.
        format!(r#"{{"Statement": {}}}"#, statement(json!({"Resource": "arn:aws:s3:::photos/${x"}))),
    ] {
        Policy::parse(&text, BUCKET).expect(&text);
    }
    for resource in ["*", "arn:aws:s3:::*", "arn:aws:s3:::pho*/x", "arn:aws:s3:::${aws:username}"] {
        of_user(json!({"Resource": resource, "Action": "s3:ListBucket"})).expect(resource);
    }
}

#[test]
fn sids_are_unique() {
    let (one, two) = (statement(json!({"Sid": "a"})), statement(json!({"Sid": "A"})));
    assert!(of_bucket(json!([one, two])).is_ok());
    check_refused(of_bucket(json!([one, two, one])), "must be unique", "a, A, a");
}

#[test]
fn who() {
    let (alice, bob) = (Principal::User("alice"), Principal::User("bob"));
    for (fields, yes, no) in [
        (json!({}), vec![alice, bob, Principal::Anonymous], vec![]),
        (json!({"Principal": {"AWS": "*"}}), vec![alice, Principal::Anonymous], vec![]),
        (json!({"Principal": {"AWS": "alice"}}), vec![alice], vec![bob, Principal::Anonymous]),
        (json!({"Principal": {"AWS": "Alice"}}), vec![], vec![alice]),
        (
            json!({"Principal": {"AWS": "arn:aws:iam::1:user/alice"}}),
            vec![alice],
            vec![bob, Principal::Anonymous],
        ),
        (
            json!({"Principal": {"CanonicalUser": ["alice", "bob"]}}),
            vec![alice, bob],
            vec![Principal::Anonymous],
        ),
        (json!({"Principal": {"AWS": "alice", "CanonicalUser": "bob"}}), vec![alice, bob], vec![]),
        (
            json!({"Principal": null, "NotPrincipal": {"AWS": "alice"}}),
            vec![bob, Principal::Anonymous],
            vec![alice],
        ),
        (json!({"Principal": null, "NotPrincipal": "*"}), vec![], vec![alice, Principal::Anonymous]),
        (
            json!({"Principal": null, "NotPrincipal": {"AWS": ["*", "bob"]}}),
            vec![],
            vec![alice, bob, Principal::Anonymous],
        ),
    ] {
        let policy = of_bucket(statement(fields.clone())).unwrap();
        let verdict = |who| judge(&policy, who, "s3:GetObject", "photos/x", &Known::default());
        assert!(yes.iter().all(|who| verdict(*who) == Verdict::Allow), "{fields}");
        assert!(no.iter().all(|who| verdict(*who) == Verdict::Silent), "{fields}");
    }
    // A user's policy is the user's, whoever asks.
    let policy = of_user(json!({})).unwrap();
    assert_eq!(judge(&policy, bob, "s3:GetObject", "photos/x", &Known::default()), Verdict::Allow);
}

#[test]
fn what() {
    let not_action = |names: Value| json!({"Action": null, "NotAction": names});
    for (fields, yes, no) in [
        (json!({}), vec!["s3:GetObject", "S3:getobject"], vec!["s3:GetObjectVersion", "s3:PutObject"]),
        (json!({"Action": "*"}), vec!["s3:GetObject", "s3:BypassGovernanceRetention"], vec![]),
        (json!({"Action": "s3:*"}), vec!["s3:GetObject", "s3:PutObjectAcl"], vec![]),
        (json!({"Action": "s3:GETOBJECT*"}), vec!["s3:GetObject", "s3:GetObjectAcl"], vec!["s3:PutObject"]),
        (json!({"Action": "s3:?etObject"}), vec!["s3:GetObject"], vec!["s3:GetObjectAcl"]),
        (json!({"Action": ["s3:PutObject", "s3:*Acl"]}), vec!["s3:GetObjectAcl"], vec!["s3:GetObject"]),
        (not_action(json!("s3:GetObject")), vec!["s3:PutObject", "s3:ListBucket"], vec!["s3:GetObject"]),
        (
            not_action(json!(["s3:Get*", "s3:Put*"])),
            vec!["s3:DeleteObject"],
            vec!["s3:GetObject", "s3:PutObject"],
        ),
        (not_action(json!("*")), vec![], vec!["s3:GetObject", "s3:PutObject"]),
    ] {
        let policy = of_bucket(statement(fields.clone())).unwrap();
        let verdict = |action| judge(&policy, Principal::Anonymous, action, "photos/x", &Known::default());
        assert!(yes.iter().all(|action| verdict(action) == Verdict::Allow), "{fields}");
        assert!(no.iter().all(|action| verdict(action) == Verdict::Silent), "{fields}");
    }
}

#[test]
fn on_what() {
    for (fields, yes, no) in [
        (json!({}), vec!["photos/x", "photos/a/b", "photos/*", "photos/"], vec!["photos", "photos2/x"]),
        (
            json!({"Resource": "arn:aws:s3:::photos/a*"}),
            vec!["photos/a", "photos/a/b"],
            vec!["photos/A", "photos/ba"],
        ),
        (
            json!({"Resource": "arn:aws:s3:::photos/*.jpg"}),
            vec!["photos/.jpg", "photos/a/b.jpg"],
            vec!["photos/jpg"],
        ),
        (
            json!({"Resource": "arn:aws:s3:::photos/a?c"}),
            vec!["photos/abc", "photos/a/c", "photos/aéc"],
            vec!["photos/ac", "photos/abbc"],
        ),
        (
            json!({"Resource": "arn:aws:s3:::photos/a*b*c"}),
            vec!["photos/abc", "photos/a/b/b/c"],
            vec!["photos/acb", "photos/ab"],
        ),
        (json!({"Resource": "arn:aws:s3:::photos*"}), vec!["photos", "photos/x"], vec!["pho"]),
        (
            json!({"Resource": ["arn:aws:s3:::photos/a", "arn:aws:s3:::photos/b"]}),
            vec!["photos/a", "photos/b"],
            vec!["photos/c"],
        ),
        (
            json!({"Resource": null, "NotResource": "arn:aws:s3:::photos/a*"}),
            vec!["photos/b", "photos"],
            vec!["photos/a", "photos/ab"],
        ),
        (json!({"Resource": "arn:aws:s3:::photos/a:b"}), vec!["photos/a:b"], vec!["photos/a"]),
        (json!({"Resource": "arn:aws:s3:::photos/${*}${?}${$}"}), vec!["photos/*?$"], vec!["photos/ab$"]),
        (json!({"Resource": "arn:aws:s3:::photos/$a"}), vec!["photos/$a"], vec!["photos/a"]),
    ] {
        let policy = of_bucket(statement(fields.clone())).unwrap();
        let verdict = |name| judge(&policy, Principal::Anonymous, "s3:GetObject", name, &Known::default());
        assert!(yes.iter().all(|name| verdict(name) == Verdict::Allow), "{fields}");
        assert!(no.iter().all(|name| verdict(name) == Verdict::Silent), "{fields}");
    }
    for (resource, yes, no) in [
        ("*", vec!["photos", "photos/x", "*"], vec![]),
        ("arn:aws:s3:::*", vec!["photos", "photos/x", "*"], vec![]),
        ("arn:aws:s3:::p*", vec!["photos", "p/x"], vec!["other", "*"]),
        ("arn:aws:s3:::*/x", vec!["photos/x", "a/b/x"], vec!["photos"]),
    ] {
        let policy = of_user(json!({"Resource": resource})).unwrap();
        let verdict = |name| judge(&policy, Principal::User("a"), "s3:GetObject", name, &Known::default());
        assert!(yes.iter().all(|name| verdict(name) == Verdict::Allow), "{resource}");
        assert!(no.iter().all(|name| verdict(name) == Verdict::Silent), "{resource}");
    }
    let policy = of_user(json!({"Resource": "arn:aws:s3:::*"})).unwrap();
    let asked = Asked {
        principal: Principal::User("alice"),
        action: "s3:GetObject",
        resource: "photos/x",
        context: &Known::default(),
    };
    assert_eq!(policy.judge(&asked), Verdict::Silent, "a resource that is no ARN is matched by * only");
}

const MISSING: &[&str] = &[];

#[test]
fn conditions() {
    let ip = "aws:SourceIp";
    for (operator, key, values, found, holds) in [
        ("StringEquals", "s3:prefix", json!("a"), &["a"][..], true),
        ("StringEquals", "S3:PREFIX", json!("a"), &["a"], true),
        ("StringEquals", "s3:prefix", json!("a"), &["A"], false),
        ("StringEquals", "s3:prefix", json!("a*"), &["ab"], false),
        ("StringEquals", "s3:prefix", json!("a*"), &["a*"], true),
        ("StringEquals", "s3:prefix", json!(["a", "b"]), &["b"], true),
        ("StringEquals", "s3:prefix", json!(""), &[""], true),
        ("StringEquals", "s3:prefix", json!("a"), MISSING, false),
        ("StringEquals", "s3:prefix", json!(""), MISSING, false),
        ("StringEquals", "s3:max-keys", json!(7), &["7"], true),
        ("StringEquals", "s3:RequestObjectTagKeys", json!("b"), &["a", "b"], true),
        ("StringNotEquals", "s3:prefix", json!("a"), &["b"], true),
        ("StringNotEquals", "s3:prefix", json!("a"), &["a"], false),
        ("StringNotEquals", "s3:prefix", json!(["a", "b"]), &["b"], false),
        ("StringNotEquals", "s3:prefix", json!(["a", "b"]), &["c"], true),
        ("StringNotEquals", "s3:prefix", json!("a"), MISSING, true),
        ("StringNotEquals", "s3:RequestObjectTagKeys", json!("b"), &["a", "b"], false),
        ("StringEqualsIgnoreCase", "aws:Referer", json!("ÄbC"), &["äBc"], true),
        ("StringEqualsIgnoreCase", "aws:Referer", json!("a*"), &["ab"], false),
        ("StringNotEqualsIgnoreCase", "aws:Referer", json!("abc"), &["ABC"], false),
        ("StringNotEqualsIgnoreCase", "aws:Referer", json!("abc"), &["x"], true),
        ("StringLike", "s3:prefix", json!("home/*"), &["home/a/b"], true),
        ("StringLike", "s3:prefix", json!("home/*"), &["Home/a"], false),
        ("StringLike", "s3:prefix", json!("h?me"), &["home"], true),
        ("StringLike", "s3:prefix", json!("*"), &[""], true),
        ("StringLike", "s3:prefix", json!("*"), MISSING, false),
        ("StringNotLike", "s3:prefix", json!("home/*"), &["home/a"], false),
        ("StringNotLike", "s3:prefix", json!(["a*", "b*"]), &["c"], true),
        ("StringNotLike", "s3:prefix", json!("a*"), MISSING, true),
        ("NumericEquals", "s3:max-keys", json!("10"), &["10.0"], true),
        ("NumericEquals", "s3:max-keys", json!(10), &["11"], false),
        ("NumericEquals", "s3:max-keys", json!("10"), &["ten"], false),
        ("NumericEquals", "s3:max-keys", json!("9007199254740993"), &["9007199254740992"], false),
        ("NumericNotEquals", "s3:max-keys", json!([10, 20]), &["20"], false),
        ("NumericNotEquals", "s3:max-keys", json!([10, 20]), &["30"], true),
        ("NumericNotEquals", "s3:max-keys", json!("10"), MISSING, true),
        ("NumericLessThan", "s3:max-keys", json!("10"), &["9.9"], true),
        ("NumericLessThan", "s3:max-keys", json!("10"), &["10"], false),
        ("NumericLessThanEquals", "s3:max-keys", json!("10"), &["10"], true),
        ("NumericLessThanEquals", "s3:max-keys", json!("10"), &["11"], false),
        ("NumericLessThanEquals", "s3:max-keys", json!("10"), MISSING, false),
        ("NumericGreaterThan", "s3:signatureAge", json!("600000"), &["600001"], true),
        ("NumericGreaterThan", "s3:signatureAge", json!("600000"), &["600000"], false),
        ("NumericGreaterThanEquals", "s3:signatureAge", json!(["5", "9"]), &["5"], true),
        ("NumericGreaterThanEquals", "s3:signatureAge", json!("-5"), &["-6"], false),
        ("NumericLessThan", "s3:TlsVersion", json!("1.2"), &["1.1"], true),
        ("DateEquals", "aws:CurrentTime", json!("2013-05-24T00:00:00Z"), &["1369353600"], true),
        ("DateNotEquals", "aws:CurrentTime", json!("2013-05-24"), &["2013-05-24T00:00:00Z"], false),
        ("DateNotEquals", "aws:CurrentTime", json!("2013-05-24"), MISSING, true),
        ("DateLessThan", "aws:CurrentTime", json!("2013-05-24"), &["2013-05-23T23:59:59Z"], true),
        ("DateLessThan", "aws:CurrentTime", json!("2013-05-24"), &["2013-05-24T00:00:00Z"], false),
        ("DateLessThan", "aws:CurrentTime", json!("2013-05-24"), &["soon"], false),
        ("DateLessThanEquals", "aws:CurrentTime", json!("2013-05-24"), &["2013-05-24T00:00:00Z"], true),
        ("DateGreaterThan", "aws:EpochTime", json!("1369353600"), &["1369353601"], true),
        ("DateGreaterThan", "aws:EpochTime", json!(1369353600), &["1369353600"], false),
        ("DateGreaterThanEquals", "aws:EpochTime", json!("2013-05-24T02:00+02:00"), &["1369353600"], true),
        ("Bool", "aws:SecureTransport", json!("true"), &["true"], true),
        ("Bool", "aws:SecureTransport", json!(false), &["false"], true),
        ("Bool", "aws:SecureTransport", json!("False"), &["true"], false),
        ("Bool", "aws:SecureTransport", json!("false"), &["no"], false),
        ("Bool", "aws:SecureTransport", json!("false"), MISSING, false),
        ("BoolIfExists", "aws:MultiFactorAuthPresent", json!("false"), MISSING, true),
        ("BinaryEquals", "s3:prefix", json!("YWI="), &["YWI="], true),
        ("BinaryEquals", "s3:prefix", json!("YWI="), &["YWM="], false),
        ("BinaryEquals", "s3:prefix", json!("YWI="), &["ab"], false),
        ("IpAddress", ip, json!("203.0.113.0/24"), &["203.0.113.9"], true),
        ("IpAddress", ip, json!("203.0.113.0/24"), &["203.0.114.9"], false),
        ("IpAddress", ip, json!(["1.2.3.4", "2001:db8::/32"]), &["2001:DB8::7"], true),
        ("IpAddress", ip, json!("1.2.3.4"), &["::ffff:1.2.3.4"], true),
        ("IpAddress", ip, json!("1.2.3.4"), &["1.2.3.4:80"], false),
        ("IpAddress", ip, json!("0.0.0.0/0"), MISSING, false),
        ("NotIpAddress", ip, json!(["1.2.3.0/24", "5.6.7.8"]), &["5.6.7.8"], false),
        ("NotIpAddress", ip, json!(["1.2.3.0/24", "5.6.7.8"]), &["5.6.7.9"], true),
        ("NotIpAddress", ip, json!("1.2.3.4"), MISSING, true),
        ("ArnEquals", "aws:SourceArn", json!("arn:aws:s3:::*"), &["arn:aws:s3:::x/y"], true),
        ("ArnLike", "aws:SourceArn", json!("arn:aws:s3:*:1:f/*"), &["arn:aws:s3:eu:1:f/x"], true),
        ("ArnLike", "aws:SourceArn", json!("arn:aws:s3:*:1:f/*"), &["arn:aws:s3:eu:9:s/a:1:f/x"], false),
        ("ArnLike", "aws:SourceArn", json!("arn:aws:s3:::a:b?"), &["arn:aws:s3:::a:bc"], true),
        ("ArnLike", "aws:SourceArn", json!("*"), &["arn:aws:s3:::a"], true),
        ("ArnLike", "aws:SourceArn", json!("*"), &["no arn"], false),
        ("ArnNotEquals", "aws:SourceArn", json!("arn:aws:s3:::a"), &["arn:aws:s3:::a"], false),
        ("ArnNotLike", "aws:SourceArn", json!("arn:aws:s3:::a*"), &["arn:aws:s3:::b"], true),
        ("ArnNotLike", "aws:SourceArn", json!("arn:aws:s3:::a*"), MISSING, true),
        ("Null", "s3:VersionId", json!("true"), MISSING, true),
        ("Null", "s3:VersionId", json!("true"), &["x"], false),
        ("Null", "s3:VersionId", json!("false"), &[""], true),
        ("Null", "s3:VersionId", json!(false), MISSING, false),
        ("Null", "s3:VersionId", json!(["true", "false"]), MISSING, true),
        ("StringEqualsIfExists", "s3:prefix", json!("a"), MISSING, true),
        ("StringEqualsIfExists", "s3:prefix", json!("a"), &["b"], false),
        ("StringNotEqualsIfExists", "s3:prefix", json!("a"), MISSING, true),
        ("StringNotEqualsIfExists", "s3:prefix", json!("a"), &["a"], false),
        ("IpAddressIfExists", ip, json!("1.2.3.4"), MISSING, true),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", json!(["a", "b"]), &["a", "b"], true),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", json!(["a", "b"]), &["a", "c"], false),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", json!(["a", "b"]), MISSING, true),
        ("ForAllValues:StringNotEquals", "s3:RequestObjectTagKeys", json!("a"), &["b", "c"], true),
        ("ForAllValues:StringNotEquals", "s3:RequestObjectTagKeys", json!("a"), &["b", "a"], false),
        ("ForAllValues:StringNotEquals", "s3:RequestObjectTagKeys", json!("a"), MISSING, true),
        ("ForAnyValue:StringLike", "s3:RequestObjectTagKeys", json!("a*"), &["b", "ab"], true),
        ("ForAnyValue:StringLike", "s3:RequestObjectTagKeys", json!("a*"), &["b", "c"], false),
        ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", json!("a"), MISSING, false),
        ("ForAnyValue:StringNotEquals", "s3:RequestObjectTagKeys", json!("a"), &["a", "b"], true),
        ("ForAnyValue:StringNotEquals", "s3:RequestObjectTagKeys", json!("a"), &["a"], false),
        ("ForAnyValue:StringNotEquals", "s3:RequestObjectTagKeys", json!("a"), MISSING, false),
        ("ForAnyValue:StringEqualsIfExists", "s3:RequestObjectTagKeys", json!("a"), MISSING, true),
        ("ForAllValues:NumericLessThan", "s3:max-keys", json!("10"), &["9", "x"], false),
        ("StringEquals", "s3:ExistingObjectTag/Team", json!("red"), &["red"], true),
    ] {
        let condition = json!({operator: {key: values}});
        let policy = of_bucket(statement(json!({"Condition": condition}))).unwrap();
        let lower = key.to_ascii_lowercase();
        // An empty list of values is the same as an absent key.
        let empty = Known::of(&[(&lower, found)]);
        let absent = Known::default();
        let known = if found.is_empty() { vec![empty, absent] } else { vec![empty] };
        let expected = if holds { Verdict::Allow } else { Verdict::Silent };
        for known in known {
            assert_eq!(read_of(&policy, "x", &known), expected, "{condition} {found:?}");
        }
    }
}

#[test]
fn all_keys_and_all_operators_have_to_hold() {
    let condition = json!({
        "StringEquals": {"s3:prefix": ["a", "b"], "s3:delimiter": "/"},
        "NumericLessThan": {"s3:max-keys": "10"},
    });
    let policy = of_bucket(statement(json!({"Condition": condition}))).unwrap();
    for (prefix, delimiter, max, verdict) in [
        ("a", "/", "9", Verdict::Allow),
        ("b", "/", "9", Verdict::Allow),
        ("c", "/", "9", Verdict::Silent),
        ("a", "-", "9", Verdict::Silent),
        ("a", "/", "10", Verdict::Silent),
    ] {
        let known =
            Known::of(&[("s3:prefix", &[prefix]), ("s3:delimiter", &[delimiter]), ("s3:max-keys", &[max])]);
        assert_eq!(read_of(&policy, "x", &known), verdict, "{prefix} {delimiter} {max}");
    }
}

#[test]
fn variables_in_resources() {
    let none: &[(&str, &[&str])] = &[];
    for (resource, known, key, allowed) in [
        ("${aws:username}/*", &[("aws:username", &["alice"][..])][..], "alice/x", true),
        ("${aws:username}/*", &[("aws:username", &["alice"])], "bob/x", false),
        ("${AWS:UserName}/*", &[("aws:username", &["alice"])], "alice/x", true),
        ("${aws:username}/*", none, "alice/x", false),
        ("${aws:username}/*", none, "${aws:username}/x", false),
        ("${aws:username}/*", &[("aws:username", &["*"])], "bob/x", false),
        ("${aws:username}/*", &[("aws:username", &["*"])], "*/x", true),
        ("${aws:username}/*", &[("aws:username", &["${s3:prefix}"]), ("s3:prefix", &["p"])], "p/x", false),
        ("${aws:username}/*", &[("aws:username", &["alice", "bob"])], "alice/x", false),
        ("${aws:username, 'all'}/*", none, "all/x", true),
        ("${aws:username,'all'}/*", none, "all/x", true),
        ("${aws:username, '*'}/*", none, "any/x", false),
        ("${aws:username, 'all'}/*", &[("aws:username", &["alice"])], "all/x", false),
        ("*/${aws:username}/?", &[("aws:username", &["al"])], "a/al/al/x", true),
        ("*${aws:username}*z", &[("aws:username", &["ab"])], "aabcz", true),
        ("${aws:username}", &[("aws:username", &[""])], "", true),
        ("${s3:ExistingObjectTag/Team}", &[("s3:existingobjecttag/team", &["red"])], "red", true),
        ("${aws:username}${aws:userid}", &[("aws:username", &["a"]), ("aws:userid", &["b"])], "ab", true),
    ] {
        let resource = format!("arn:aws:s3:::photos/{resource}");
        let policy = of_bucket(statement(json!({"Resource": resource}))).unwrap();
        let expected = if allowed { Verdict::Allow } else { Verdict::Silent };
        assert_eq!(read_of(&policy, key, &Known::of(known)), expected, "{resource} {known:?} {key}");
    }
    // In the old version it is text.
    let old = json!({"Statement": statement(json!({"Resource": "arn:aws:s3:::photos/${aws:username}"}))});
    let policy = Policy::parse(&old.to_string(), BUCKET).unwrap();
    assert_eq!(read_of(&policy, "${aws:username}", &Known::default()), Verdict::Allow);
}

#[test]
fn a_variable_without_value_excludes_everything_only_for_a_deny() {
    let fields = |effect: &str| {
        statement(json!({
            "Effect": effect, "Resource": null, "NotResource": "arn:aws:s3:::photos/${aws:username}/*",
        }))
    };
    let (allow, deny) = (of_bucket(fields("Allow")).unwrap(), of_bucket(fields("Deny")).unwrap());
    let alice = Known::of(&[("aws:username", &["alice"])]);
    assert_eq!(read_of(&allow, "bob/x", &alice), Verdict::Allow);
    assert_eq!(read_of(&allow, "alice/x", &alice), Verdict::Silent);
    assert_eq!(read_of(&allow, "bob/x", &Known::default()), Verdict::Silent);
    assert_eq!(read_of(&deny, "bob/x", &alice), Verdict::Deny);
    assert_eq!(read_of(&deny, "alice/x", &alice), Verdict::Silent);
    assert_eq!(read_of(&deny, "bob/x", &Known::default()), Verdict::Deny);
}

#[test]
fn variables_in_conditions() {
    let user: (&str, &[&str]) = ("aws:username", &["alice"]);
    for (operator, value, known, holds) in [
        ("StringEquals", "home/${aws:username}", &[user, ("s3:prefix", &["home/alice"])][..], true),
        ("StringEquals", "home/${aws:username}", &[user, ("s3:prefix", &["home/bob"])], false),
        ("StringEquals", "home/${aws:username}", &[("s3:prefix", &["home/alice"])], false),
        ("StringNotEquals", "home/${aws:username}", &[("s3:prefix", &["home/alice"])], true),
        ("StringNotEquals", "home/${aws:username}", &[user, ("s3:prefix", &["home/alice"])], false),
        ("StringLike", "${aws:username}/*", &[user, ("s3:prefix", &["alice/x"])], true),
        ("StringLike", "${aws:username}", &[("aws:username", &["*"]), ("s3:prefix", &["x"])], false),
        ("StringLike", "${*}", &[("s3:prefix", &["x"])], false),
        ("StringLike", "${*}", &[("s3:prefix", &["*"])], true),
        ("StringEqualsIgnoreCase", "${aws:username}!", &[user, ("s3:prefix", &["ALICE!"])], true),
        ("StringEqualsIgnoreCase", "${aws:username}!", &[("s3:prefix", &["alice!"])], false),
        ("StringEquals", "${aws:username, 'nobody'}", &[("s3:prefix", &["nobody"])], true),
        (
            "ArnLike",
            "arn:aws:iam::*:user/${aws:username}",
            &[user, ("s3:prefix", &["arn:aws:iam::1:user/alice"])],
            true,
        ),
        (
            "ArnLike",
            "arn:aws:iam::*:user/${aws:username}",
            &[("s3:prefix", &["arn:aws:iam::1:user/alice"])],
            false,
        ),
    ] {
        let policy = of_bucket(statement(json!({"Condition": {operator: {"s3:prefix": value}}}))).unwrap();
        let expected = if holds { Verdict::Allow } else { Verdict::Silent };
        assert_eq!(read_of(&policy, "x", &Known::of(known)), expected, "{operator} {value} {known:?}");
    }
}

#[test]
fn verdicts() {
    let (allow, deny) = (statement(json!({})), statement(json!({"Effect": "Deny"})));
    let other = statement(json!({"Action": "s3:PutObject"}));
    for (statements, verdict) in [
        (json!(other), Verdict::Silent),
        (json!([other, allow]), Verdict::Allow),
        (json!([allow, deny]), Verdict::Deny),
        (json!([deny, allow]), Verdict::Deny),
        (json!([allow, allow, deny, other]), Verdict::Deny),
    ] {
        let policy = of_bucket(statements.clone()).unwrap();
        assert_eq!(read_of(&policy, "x", &Known::default()), verdict, "{statements}");
        let unknown = judge(&policy, Principal::Anonymous, "s3:Nothing", "photos/x", &Known::default());
        assert_eq!(unknown, Verdict::Deny, "an action that S3 does not have");
    }
    let (deny, allow, silent) = (Verdict::Deny, Verdict::Allow, Verdict::Silent);
    for (several, together) in [
        (&[][..], silent),
        (&[silent, silent], silent),
        (&[silent, allow], allow),
        (&[allow, silent, deny], deny),
        (&[deny, allow], deny),
    ] {
        assert_eq!(Verdict::combine(several.iter().copied()), together, "{several:?}");
    }
}

#[test]
fn searching_is_bounded() {
    let key = "a".repeat(1024);
    for pattern in ["*a?a?a?b*".repeat(200), format!("*{}b*", "a".repeat(500)).repeat(20), "*?".repeat(1025)]
    {
        for effect in ["Allow", "Deny"] {
            let resource = format!("arn:aws:s3:::photos/{pattern}");
            let policy = of_bucket(statement(json!({"Effect": effect, "Resource": resource}))).unwrap();
            let verdict = read_of(&policy, &key, &Known::default());
            // None matches; those that are too costly deny.
            assert!(verdict != Verdict::Allow, "{pattern}");
        }
    }
    let costly = format!("*{}b*", "a?".repeat(200));
    let list: Vec<String> = (0..40).map(|_| format!("arn:aws:s3:::photos/{costly}")).collect();
    let policy = of_bucket(statement(json!({"Resource": list}))).unwrap();
    assert_eq!(read_of(&policy, &key, &Known::default()), Verdict::Deny);
    assert_eq!(read_of(&policy, "short", &Known::default()), Verdict::Silent);
}

#[test]
fn public() {
    let condition = |operator: &str, key: &str, value: Value| json!({"Condition": {operator: {key: value}}});
    for (fields, public) in [
        (json!({}), true),
        (json!({"Principal": {"AWS": "*"}}), true),
        (json!({"Principal": {"AWS": ["alice", "*"]}}), true),
        (json!({"Principal": {"AWS": "alice"}}), false),
        (json!({"Principal": null, "NotPrincipal": {"AWS": "alice"}}), true),
        (json!({"Principal": null, "NotPrincipal": "*"}), false),
        (json!({"Effect": "Deny"}), false),
        (condition("IpAddress", "aws:SourceIp", json!("203.0.113.0/24")), false),
        (condition("IpAddress", "aws:SourceIp", json!("10.0.0.0/8")), false),
        (condition("IpAddress", "aws:SourceIp", json!("10.0.0.0/7")), true),
        (condition("IpAddress", "aws:SourceIp", json!(["1.2.3.4", "0.0.0.0/0"])), true),
        (condition("IpAddress", "aws:SourceIp", json!("2001:db8::/32")), false),
        (condition("IpAddress", "aws:SourceIp", json!("2001::/31")), true),
        (condition("NotIpAddress", "aws:SourceIp", json!("1.2.3.4")), true),
        (condition("IpAddressIfExists", "aws:SourceIp", json!("1.2.3.4")), true),
        (condition("StringEquals", "aws:SourceVpc", json!("vpc-91237329")), false),
        (condition("StringLike", "aws:SourceVpc", json!("vpc-*")), true),
        (condition("StringLike", "aws:SourceVpc", json!("vpc-1")), false),
        (condition("StringEquals", "aws:SourceVpc", json!("${aws:SourceVpc}")), true),
        (condition("StringNotEquals", "aws:SourceVpc", json!("vpc-1")), true),
        (condition("ForAllValues:StringEquals", "aws:SourceVpc", json!("vpc-1")), true),
        (condition("ForAnyValue:StringEquals", "aws:SourceVpce", json!(["vpce-1", "vpce-2"])), false),
        (condition("StringEqualsIgnoreCase", "aws:PrincipalOrgID", json!("o-1")), false),
        (condition("StringEquals", "aws:userid", json!("alice")), false),
        (condition("ArnEquals", "aws:SourceArn", json!("arn:aws:sns:eu:1:topic")), false),
        (condition("ArnLike", "aws:SourceArn", json!("arn:aws:sns:*:1:topic")), true),
        (condition("StringEquals", "s3:x-amz-server-side-encryption-aws-kms-key-id", json!("k")), false),
        (condition("StringEquals", "aws:Referer", json!("https://example.org/")), true),
        (condition("StringEquals", "s3:prefix", json!("a")), true),
        (condition("Bool", "aws:SecureTransport", json!("true")), true),
        (condition("Null", "aws:SourceVpc", json!("false")), true),
    ] {
        let policy = of_bucket(statement(fields.clone())).unwrap();
        assert_eq!(policy.is_public(), public, "{fields}");
        // One public statement makes the policy public, whatever others deny.
        let deny = statement(json!({"Effect": "Deny"}));
        let own = statement(json!({"Principal": {"AWS": "alice"}}));
        let policy = of_bucket(json!([deny, own, statement(fields.clone())])).unwrap();
        assert_eq!(policy.is_public(), public, "{fields}");
    }
    assert!(!of_user(json!({"Resource": "*"})).unwrap().is_public());
}
