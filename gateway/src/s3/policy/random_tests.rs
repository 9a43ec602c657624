//! Random policies: a second evaluator that reads the JSON anew for each question, and laws that hold for all of them.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::tests::Known;
use super::*;

/// The language as it is explained to people, without any preparation. Dates have one form and numbers are small, so
/// that texts and floats compare as they should.
mod naive {
    use super::*;

    pub(super) fn judge(policy: &Value, asked: &Question) -> Verdict {
        let statements = list(&policy["Statement"]);
        let effect = |effect: &str| {
            statements.iter().any(|statement| statement["Effect"] == effect && applies(statement, asked))
        };
        match (effect("Deny"), effect("Allow")) {
            (true, _) => Verdict::Deny,
            (false, true) => Verdict::Allow,
            (false, false) => Verdict::Silent,
        }
    }

    /// Whether a text matches a pattern without variables.
    pub(super) fn is_like(own: &str, text: &str) -> bool {
        glob(&units(own), text)
    }

    fn list(value: &Value) -> Vec<Value> {
        value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
    }

    fn texts(value: &Value) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        list(value).iter().map(text).collect()
    }

    fn applies(statement: &Value, asked: &Question) -> bool {
        let users = |value: &Value| -> bool {
            let named = |name: &String| name == "*" || asked.user.as_ref() == Some(name);
            value == "*" || texts(&value["AWS"]).iter().any(named)
        };
        let actions = |value: &Value| {
            let wild = |text: &String| is_like(&text.to_lowercase(), &asked.action.to_lowercase());
            texts(value).iter().any(wild)
        };
        let resources = |value: &Value| {
            let wild = |text: &String| {
                expand(text, true, asked)
                    .is_some_and(|own| glob(&own, &format!("arn:aws:s3:::{}", asked.name)))
            };
            texts(value).iter().any(wild)
        };
        let one_of = |name: &str, holds: &dyn Fn(&Value) -> bool| match statement.get(name) {
            Some(value) => holds(value),
            None => !holds(&statement[format!("Not{name}")]),
        };
        let unresolved = statement["Effect"] == "Allow"
            && statement
                .get("NotResource")
                .is_some_and(|value| texts(value).iter().any(|text| expand(text, true, asked).is_none()));
        one_of("Principal", &users)
            && one_of("Action", &actions)
            && one_of("Resource", &resources)
            && !unresolved
            && statement.get("Condition").is_none_or(|operators| {
                operators.as_object().unwrap().iter().all(|(operator, keys)| {
                    let holds = |(key, own): (&String, &Value)| condition(operator, key, &texts(own), asked);
                    keys.as_object().unwrap().iter().all(holds)
                })
            })
    }

    fn condition(operator: &str, key: &str, own: &[String], asked: &Question) -> bool {
        let found = asked.context.values(&key.to_lowercase()).unwrap_or_default();
        if operator == "Null" {
            return own.contains(&found.is_empty().to_string());
        }
        if let Some(operator) = operator.strip_suffix("IfExists") {
            return found.is_empty() || condition(operator, key, own, asked);
        }
        if let Some(operator) = operator.strip_prefix("ForAllValues:") {
            return found.iter().all(|value| simple(operator, &[value], own, asked));
        }
        if let Some(operator) = operator.strip_prefix("ForAnyValue:") {
            return found.iter().any(|value| simple(operator, &[value], own, asked));
        }
        simple(operator, &found.iter().map(|value| &**value).collect::<Vec<_>>(), own, asked)
    }

    fn simple(operator: &str, found: &[&str], own: &[String], asked: &Question) -> bool {
        if operator.contains("Not") {
            return !simple(&operator.replace("Not", ""), found, own, asked);
        }
        found.iter().any(|found| own.iter().any(|own| fits(operator, found, own, asked).unwrap_or(false)))
    }

    fn fits(operator: &str, found: &str, own: &str, asked: &Question) -> Option<bool> {
        let number = |text: &str| text.parse::<f64>().ok();
        Some(match operator {
            "StringEquals" => glob(&expand(own, false, asked)?, found),
            "StringLike" => glob(&expand(own, true, asked)?, found),
            "StringEqualsIgnoreCase" => {
                let lower = |unit: &Unit| match unit {
                    Unit::Char(one) => Unit::Char(one.to_ascii_lowercase()),
                    other => *other,
                };
                let own: Vec<Unit> = expand(own, false, asked)?.iter().map(lower).collect();
                glob(&own, &found.to_lowercase())
            }
            "ArnEquals" | "ArnLike" => {
                // Each of the first five stars must not cross a colon: compare part by part.
                let (own, found): (Vec<_>, Vec<_>) =
                    (own.splitn(6, ':').collect(), found.splitn(6, ':').collect());
                own.len() == found.len() && own.iter().zip(found).all(|(own, found)| is_like(own, found))
            }
            "NumericEquals" => number(found)? == number(own)?,
            "NumericLessThan" => number(found)? < number(own)?,
            "NumericLessThanEquals" => number(found)? <= number(own)?,
            "NumericGreaterThan" => number(found)? > number(own)?,
            "NumericGreaterThanEquals" => number(found)? >= number(own)?,
            "DateEquals" => found == own,
            "DateLessThan" => found < own,
            "DateLessThanEquals" => found <= own,
            "DateGreaterThan" => found > own,
            "DateGreaterThanEquals" => found >= own,
            "Bool" => found == own,
            "BinaryEquals" => found == own,
            "IpAddress" => {
                let bits = |text: &str| {
                    let bytes: Vec<String> =
                        text.split('.').map(|byte| format!("{:08b}", byte.parse::<u8>().unwrap())).collect();
                    bytes.concat()
                };
                let (base, length) = own.split_once('/').unwrap_or((own, "32"));
                bits(found).starts_with(&bits(base)[..length.parse().unwrap()])
            }
            other => panic!("unknown operator {other}"),
        })
    }

    #[derive(Debug, Clone, Copy)]
    enum Unit {
        Char(char),
        One,
        Many,
    }

    fn units(text: &str) -> Vec<Unit> {
        let unit = |one| match one {
            '*' => Unit::Many,
            '?' => Unit::One,
            one => Unit::Char(one),
        };
        text.chars().map(unit).collect()
    }

    /// Puts the values of variables in.
    fn expand(text: &str, wildcards: bool, asked: &Question) -> Option<Vec<Unit>> {
        let literal = |text: &str| text.chars().map(Unit::Char).collect::<Vec<_>>();
        let plain = |text: &str| if wildcards { units(text) } else { literal(text) };
        let Some((before, rest)) = text.split_once("${") else {
            return Some(plain(text));
        };
        let (name, after) = rest.split_once('}').unwrap();
        let (key, default) = name.split_once(", ").map_or((name, None), |(key, text)| (key, Some(text)));
        let value = match key {
            "*" | "?" | "$" => key.to_string(),
            key => {
                let values = asked.context.values(&key.to_lowercase()).unwrap_or_default();
                let value = (values.len() == 1).then(|| values[0].to_string());
                value.or(default.map(|text| text.trim_matches('\'').to_string()))?
            }
        };
        Some([plain(before), literal(&value), expand(after, wildcards, asked)?].concat())
    }

    fn glob(own: &[Unit], text: &str) -> bool {
        let mut chars = text.chars();
        match own {
            [] => text.is_empty(),
            [Unit::Many, rest @ ..] => {
                glob(rest, text) || (chars.next().is_some() && glob(own, chars.as_str()))
            }
            [Unit::One, rest @ ..] => chars.next().is_some() && glob(rest, chars.as_str()),
            [Unit::Char(one), rest @ ..] => chars.next() == Some(*one) && glob(rest, chars.as_str()),
        }
    }
}

/// What is asked, in values that outlive it.
#[derive(Debug, Clone)]
struct Question {
    user: Option<String>,
    action: String,
    name: String,
    context: Known,
}

fn judge(policy: &Policy, question: &Question) -> Verdict {
    policy.judge(&Asked {
        principal: question.user.as_deref().map_or(Principal::Anonymous, Principal::User),
        action: &question.action,
        resource: &format!("arn:aws:s3:::{}", question.name),
        context: &question.context,
    })
}

fn parse(policy: &Value) -> Policy {
    Policy::parse(&policy.to_string(), Kind::Bucket("bucket")).expect("a policy by construction")
}

const ACTIONS: &[&str] =
    &["s3:GetObject", "s3:PutObject", "s3:GetObjectTagging", "s3:ListBucket", "s3:DeleteObjectVersion"];
const ACTION_PATTERNS: &[&str] =
    &["s3:GetObject", "s3:PUTOBJECT", "s3:Get*", "s3:*Object*", "s3:?etObject", "s3:ListBucket", "s3:*", "*"];
const NAMES: &[&str] =
    &["bucket", "bucket/a", "bucket/ab", "bucket/a/b", "bucket/alice/x", "bucket/*", "bucket/é", "bucket/b?"];
const PATTERNS: &[&str] = &[
    "bucket",
    "bucket*",
    "bucket/*",
    "bucket/a",
    "bucket/a*",
    "bucket/?",
    "bucket/*b",
    "bucket/*a*b*",
    "bucket/${aws:username}/*",
    "bucket/${aws:username, 'a'}*",
    "bucket/*${s3:prefix}",
    "bucket/${*}",
    "bucket/b${?}",
];
/// Key, and values that a request has.
const KEYS: &[(&str, &[&str])] = &[
    ("aws:username", &["alice", "bob", "*", "a"]),
    ("s3:prefix", &["", "a", "ab", "a/b", "A", "alice"]),
    ("s3:max-keys", &["1", "10", "10.5", "100", "many"]),
    ("aws:CurrentTime", &["2020-01-01T00:00:00Z", "2021-06-01T12:00:00Z", "2026-11-29T00:00:00Z"]),
    ("aws:SourceIp", &["10.0.0.1", "10.0.1.1", "192.168.7.7"]),
    ("aws:SecureTransport", &["true", "false"]),
    ("aws:SourceArn", &["arn:aws:s3:::a", "arn:aws:s3:::a:b", "arn:aws:sns:eu:1:t", "no arn"]),
    ("s3:RequestObjectTagKeys", &["a", "b", "ab", "A"]),
];
/// Operator, the key it is for, and values that a policy has.
const OPERATORS: &[(&str, &[&str], &[&str])] = &[
    ("String?Equals", TEXT_KEYS, &["a", "ab", "a*", "${aws:username}", "${*}", "", "${s3:prefix, 'a'}"]),
    ("String?Like", TEXT_KEYS, &["a", "*", "a*", "?", "*b", "${aws:username}*", "${*}"]),
    ("String?EqualsIgnoreCase", TEXT_KEYS, &["A", "AB", "Alice", "${aws:username}"]),
    ("Arn?Equals", &["aws:SourceArn"], &["arn:aws:s3:::a", "arn:aws:*:*:*:*", "arn:*:sns:eu:1:?"]),
    ("Arn?Like", &["aws:SourceArn"], &["arn:aws:s3:::a*", "*:*:s3:::*b", "arn:aws:*:*:1:t"]),
    ("Numeric?Equals", &["s3:max-keys"], &["1", "10", "10.50"]),
    ("NumericLessThan", &["s3:max-keys"], &["1", "10", "11"]),
    ("NumericLessThanEquals", &["s3:max-keys"], &["1", "10"]),
    ("NumericGreaterThan", &["s3:max-keys"], &["1", "10", "-1"]),
    ("NumericGreaterThanEquals", &["s3:max-keys"], &["10.5", "100"]),
    ("Date?Equals", &["aws:CurrentTime"], DATES),
    ("DateLessThan", &["aws:CurrentTime"], DATES),
    ("DateLessThanEquals", &["aws:CurrentTime"], DATES),
    ("DateGreaterThan", &["aws:CurrentTime"], DATES),
    ("DateGreaterThanEquals", &["aws:CurrentTime"], DATES),
    ("Bool", &["aws:SecureTransport"], &["true", "false"]),
    ("?IpAddress", &["aws:SourceIp"], &["10.0.0.0/24", "10.0.0.1", "192.168.0.0/16", "0.0.0.0/0"]),
    ("Null", &["s3:prefix", "aws:SourceIp", "aws:username", "s3:max-keys"], &["true", "false"]),
];
const TEXT_KEYS: &[&str] = &["s3:prefix", "aws:username", "s3:RequestObjectTagKeys", "S3:Prefix"];
const DATES: &[&str] = &["2020-01-01T00:00:00Z", "2021-06-01T12:00:01Z", "2026-11-29T00:00:00Z"];

/// One text or a list of some.
fn some_of(texts: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let several = subsequence(texts, 1..=texts.len().min(3)).prop_map(|texts| json!(texts));
    prop_oneof![select(texts).prop_map(|text| json!(text)), several]
}

fn principal() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("*")),
        some_of(&["alice", "bob", "carol"]).prop_map(|names| json!({"AWS": names})),
        Just(json!({"AWS": "*"})),
    ]
}

fn condition() -> impl Strategy<Value = (String, String, Value)> {
    let affixes = (any::<bool>(), select(&["", "", "ForAllValues:", "ForAnyValue:"][..]), any::<bool>());
    (select(OPERATORS), affixes).prop_flat_map(|((operator, keys, values), (not, prefix, if_exists))| {
        let mut name = operator.replace('?', if not { "Not" } else { "" });
        if name != "Null" {
            name = format!("{prefix}{name}{}", if if_exists { "IfExists" } else { "" });
        }
        (Just(name), select(keys).prop_map(String::from), some_of(values))
    })
}

/// An element or its opposite.
fn element(
    name: &'static str,
    values: impl Strategy<Value = Value>,
) -> impl Strategy<Value = (String, Value)> {
    let opposite =
        move |(value, opposite)| (if opposite { format!("Not{name}") } else { name.into() }, value);
    (values, prop::bool::weighted(0.25)).prop_map(opposite)
}

fn statement() -> impl Strategy<Value = Value> {
    let elements = (
        element("Principal", principal()),
        element("Action", some_of(ACTION_PATTERNS)),
        element("Resource", some_of(PATTERNS).prop_map(with_arns)),
    );
    (select(&["Allow", "Allow", "Deny"][..]), elements, vec(condition(), 0..3)).prop_filter_map(
        "the action applies to no resource",
        |(effect, (principal, action, resource), conditions)| {
            let mut statement = Map::from_iter([principal, action, resource]);
            statement.insert("Effect".into(), json!(effect));
            let mut statement = Value::Object(statement);
            for condition in conditions {
                add_condition(&mut statement, condition);
            }
            let document = json!({"Statement": statement, "Version": "2012-10-17"}).to_string();
            match Policy::parse(&document, Kind::Bucket("bucket")) {
                Err(error) if error.to_string().contains("does not apply") => None,
                _ => Some(statement),
            }
        },
    )
}

fn with_arns(names: Value) -> Value {
    let arn = |name: &Value| json!(format!("arn:aws:s3:::{}", name.as_str().unwrap()));
    names.as_array().map_or_else(|| arn(&names), |names| names.iter().map(arn).collect())
}

/// Adds a condition unless the operator has that key, in whatever case.
fn add_condition(statement: &mut Value, (operator, key, values): (String, String, Value)) {
    let keys = &mut statement["Condition"][operator];
    if keys.as_object().is_none_or(|keys| keys.keys().all(|own| !own.eq_ignore_ascii_case(&key))) {
        keys[key] = values;
    }
}

fn policy_of(statements: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn question() -> impl Strategy<Value = Question> {
    let user = select(&[None, Some("alice"), Some("bob")][..]).prop_map(|user| user.map(String::from));
    let context = KEYS.iter().map(|(key, values)| {
        // Mostly one value; none, several and an empty list as well.
        let counts = prop_oneof![2 => Just(0..=0), 6 => Just(1..=1), 1 => Just(0..=values.len())];
        let values = counts.prop_flat_map(|count| subsequence(*values, count));
        (values, any::<bool>()).prop_map(|(values, leave_out)| {
            let values: Vec<String> = values.into_iter().map(String::from).collect();
            (!(values.is_empty() && leave_out)).then(|| (key.to_ascii_lowercase(), values))
        })
    });
    let context = context.collect::<Vec<_>>().prop_map(|pairs| Known(pairs.into_iter().flatten().collect()));
    (user, select(ACTIONS), select(NAMES), context).prop_map(|(user, action, name, context)| Question {
        user,
        action: action.into(),
        name: name.into(),
        context,
    })
}

/// Any JSON with the words of policies in it.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "Version",
        "2012-10-17",
        "Statement",
        "Effect",
        "Allow",
        "Principal",
        "*",
        "AWS",
        "Action",
        "s3:Get*",
        "Resource",
        "arn:aws:s3:::bucket/${aws:username, '",
        "Condition",
        "StringLike",
        "Null",
        "s3:prefix",
        "${",
        "IpAddress",
        "1.2.3.4/8",
        "DateLessThan",
        "2020-01-01",
        "é",
        "arn:aws:iam::",
        ":::::",
        "NumericEquals",
    ];
    let word = select(words.to_vec());
    let leaf = prop_oneof![
        word.clone().prop_map(|word| json!(word)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(|value| json!(value)),
        Just(Value::Null),
        ".*".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        let field = (word.clone().prop_map(String::from), inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::Array),
            vec(field, 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 1000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn two_evaluators_agree(statements in vec(statement(), 1..6), questions in vec(question(), 20)) {
        let document = policy_of(&statements);
        let policy = parse(&document);
        for question in &questions {
            prop_assert_eq!(judge(&policy, question), naive::judge(&document, question), "{:?}", question);
        }
    }

    #[test]
    fn a_narrower_policy_never_allows_more(
        statements in vec(statement(), 1..5),
        mut deny in statement(),
        at in any::<prop::sample::Index>(),
        more in condition(),
        questions in vec(question(), 20),
    ) {
        let policy = parse(&policy_of(&statements));
        deny["Effect"] = json!("Deny");
        let with_deny = parse(&policy_of(&[&[deny], &statements[..]].concat()));
        let mut narrowed = statements.clone();
        let narrowed_one = at.get(&statements);
        if narrowed_one["Effect"] == "Allow" {
            add_condition(&mut narrowed[at.index(statements.len())], more);
        }
        let narrowed = parse(&policy_of(&narrowed));
        for question in &questions {
            let verdict = judge(&policy, question);
            prop_assert!(verdict == Verdict::Allow || judge(&with_deny, question) != Verdict::Allow, "{:?}", question);
            prop_assert!(verdict == Verdict::Allow || judge(&narrowed, question) != Verdict::Allow, "{:?}", question);
        }
    }

    #[test]
    fn the_order_of_statements_means_nothing(
        (statements, shuffled) in vec(statement(), 1..6)
            .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        questions in vec(question(), 10),
    ) {
        let (policy, shuffled) = (parse(&policy_of(&statements)), parse(&policy_of(&shuffled)));
        let each: Vec<Policy> = statements.iter().map(|one| parse(&policy_of(std::slice::from_ref(one)))).collect();
        for question in &questions {
            let verdict = judge(&policy, question);
            prop_assert_eq!(verdict, judge(&shuffled, question));
            prop_assert_eq!(verdict, Verdict::combine(each.iter().map(|one| judge(one, question))));
        }
    }

    #[test]
    fn an_element_and_its_opposite_are_complements(
        names in some_of(ACTION_PATTERNS),
        patterns in some_of(PATTERNS),
        questions in vec(question(), 20),
    ) {
        let whole = json!(["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]);
        let allow = |action: &str, resource: &str, names: &Value, patterns: &Value| {
            parse(&policy_of(&[json!({
                "Effect": "Allow", "Principal": "*", action: names, resource: patterns,
            })]))
        };
        let actions = [allow("Action", "Resource", &names, &whole), allow("NotAction", "Resource", &names, &whole)];
        let patterns = with_arns(patterns);
        let resources = [
            allow("Action", "Resource", &json!("*"), &patterns),
            allow("Action", "NotResource", &json!("*"), &patterns),
        ];
        for question in &questions {
            let allows = |policies: &[Policy; 2]| policies.each_ref().map(|one| judge(one, question) == Verdict::Allow);
            let [named, others] = allows(&actions);
            prop_assert!(named != others, "{:?}", question);
            // Neither where a variable has no value.
            let [named, others] = allows(&resources);
            let unresolved = patterns.to_string().contains("${") && !named && !others;
            prop_assert!(named != others || unresolved, "{:?}", question);
        }
    }

    #[test]
    fn no_text_makes_it_panic(bytes in vec(any::<u8>(), 0..300), text in ".{0,200}", json in any_json()) {
        for kind in [Kind::Bucket("bucket"), Kind::User] {
            let _ = Policy::parse(&String::from_utf8_lossy(&bytes), kind);
            let _ = Policy::parse(&text, kind);
            let _ = Policy::parse(&json.to_string(), kind);
            let _ = Policy::parse(&json!({"Statement": json}).to_string(), kind);
        }
    }

    #[test]
    fn a_policy_with_other_bytes_does_not_make_it_panic(
        statements in vec(statement(), 1..3),
        changes in vec((any::<prop::sample::Index>(), any::<char>()), 1..4),
        question in question(),
    ) {
        let mut chars: Vec<char> = policy_of(&statements).to_string().chars().collect();
        for (at, other) in changes {
            let at = at.index(chars.len());
            chars[at] = other;
        }
        if let Ok(policy) = Policy::parse(&chars.into_iter().collect::<String>(), Kind::Bucket("bucket")) {
            let _ = (judge(&policy, &question), policy.is_public());
        }
    }

    #[test]
    fn patterns_match_as_a_naive_glob_says(own in "[ab*?é]{0,8}", text in "[abé]{0,8}") {
        let parsed = pattern::Pattern::parse(&own, pattern::Wildcards::Special, Version::Current).unwrap();
        prop_assert_eq!(parsed.matches(&text, &Judging::new(&NoContext)), naive::is_like(&own, &text));
    }
}
