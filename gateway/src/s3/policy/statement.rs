//! One statement: who, what, on what, and under which conditions.

use std::collections::{BTreeMap, BTreeSet};

use consensus::meta::names::UserName;

use super::condition::{self, Condition};
use super::document::Json;
use super::names::{Action, ActionSet, Scope};
use super::pattern::{Pattern, Wildcards};
use super::{Asked, Judging, Kind, Malformed, Principal, RESOURCE_PREFIX, Version};

#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) effect: Effect,
    pub(super) principals: Principals,
    actions: ActionSet,
    resources: Resources,
    pub(super) conditions: Vec<Condition>,
}

/// What a statement does with what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// Whom a statement is about.
#[derive(Debug, Clone)]
pub(super) enum Principals {
    /// The user whose policy it is.
    Holder,
    /// Everybody, also those who are not known.
    Everyone,
    /// The users of these names.
    Only(BTreeSet<String>),
    /// Everybody but the users of these names.
    Except(BTreeSet<String>),
}

/// What a statement is about.
#[derive(Debug, Clone)]
enum Resources {
    /// What one of these matches.
    In(Vec<Resource>),
    /// What none of these matches.
    NotIn(Vec<Resource>),
}

#[derive(Debug, Clone)]
enum Resource {
    /// `*`
    Everything,
    /// What stands behind `arn:aws:s3:::`.
    Named(Pattern),
}

/// What the resources of a bucket's statement can be.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    bucket: bool,
    objects: bool,
}

impl Statement {
    /// Whether the statement is about what is asked.
    pub(super) fn applies<'a>(&'a self, action: Action, asked: &Asked<'_>, judging: &Judging<'a>) -> bool {
        self.actions.contains(action)
            && self.principals.include(asked.principal)
            && self.covers(asked.resource, judging)
            && self.conditions.iter().all(|condition| condition.holds(judging))
    }

    fn covers<'a>(&'a self, resource: &str, judging: &Judging<'a>) -> bool {
        let name = resource.strip_prefix(RESOURCE_PREFIX);
        let matches = |own: &'a Resource| match (own, name) {
            (Resource::Everything, _) => true,
            (Resource::Named(pattern), Some(name)) => pattern.matches(name, judging),
            (Resource::Named(_), None) => false,
        };
        match &self.resources {
            Resources::In(list) => list.iter().any(matches),
            // A variable without a value matches nothing, so that "all but this" would be all: to deny, not to allow.
            Resources::NotIn(list) => {
                let resolved = |own: &'a Resource| match own {
                    Resource::Everything => true,
                    Resource::Named(pattern) => pattern.is_resolved(judging),
                };
                !list.iter().any(matches) && (self.effect == Effect::Deny || list.iter().all(resolved))
            }
        }
    }
}

impl Principals {
    fn include(&self, asked: Principal<'_>) -> bool {
        match (self, asked) {
            (Principals::Holder | Principals::Everyone, _) => true,
            (Principals::Only(users), Principal::User(name)) => users.contains(name),
            (Principals::Except(users), Principal::User(name)) => !users.contains(name),
            (Principals::Only(_), Principal::Anonymous) => false,
            (Principals::Except(_), Principal::Anonymous) => true,
        }
    }
}

/// An element of a statement that is written as itself or as its opposite.
struct Pair {
    name: &'static str,
    opposite: &'static str,
}

/// What is written.
enum Element {
    Plain(Json),
    Opposite(Json),
}

impl Pair {
    /// Takes the one that is there out of the fields. None is there if neither is; both may not be.
    fn take(&self, fields: &mut BTreeMap<String, Json>) -> Result<Option<Element>, Malformed> {
        match (fields.remove(self.name), fields.remove(self.opposite)) {
            (Some(_), Some(_)) => Err(Malformed::new(format!(
                "A statement must not have both {} and {}.",
                self.name, self.opposite
            ))),
            (Some(json), None) => Ok(Some(Element::Plain(json))),
            (None, Some(json)) => Ok(Some(Element::Opposite(json))),
            (None, None) => Ok(None),
        }
    }

    fn require(&self, fields: &mut BTreeMap<String, Json>) -> Result<Element, Malformed> {
        self.take(fields)?.ok_or_else(|| missing(self.name))
    }
}

const PRINCIPAL: Pair = Pair { name: "Principal", opposite: "NotPrincipal" };
const ACTION: Pair = Pair { name: "Action", opposite: "NotAction" };
const RESOURCE: Pair = Pair { name: "Resource", opposite: "NotResource" };

fn missing(name: &str) -> Malformed {
    Malformed::new(format!("Missing required field {name}."))
}

/// Reads one statement. `sids` are those of the statements before it.
pub(super) fn read(
    json: Json,
    kind: Kind<'_>,
    version: Version,
    sids: &mut BTreeSet<String>,
) -> Result<Statement, Malformed> {
    let mut fields = json.object("A statement")?;
    if let Some(sid) = fields.remove("Sid") {
        check_sid(sid.text("Sid")?, kind, sids)?;
    }
    let effect = match fields.remove("Effect").ok_or_else(|| missing("Effect"))?.text("Effect")?.as_str() {
        "Allow" => Effect::Allow,
        "Deny" => Effect::Deny,
        other => return Err(Malformed::new(format!("Invalid effect: {other:.60}."))),
    };
    let principals = match (PRINCIPAL.take(&mut fields)?, kind) {
        (None, Kind::User) => Principals::Holder,
        (Some(_), Kind::User) => {
            return Err(Malformed::new("The policy of a user must not specify a principal."));
        }
        (None, Kind::Bucket(_)) => return Err(missing("Principal")),
        (Some(element), Kind::Bucket(_)) => read_principals(element)?,
    };
    let action = ACTION.require(&mut fields)?;
    let resource = RESOURCE.require(&mut fields)?;
    let conditions = fields.remove("Condition").map(|json| condition::read(json, version)).transpose()?;
    if let Some(name) = fields.keys().next() {
        return Err(Malformed::new(format!("Unknown field {name:.60}.")));
    }

    let (resources, reach) = read_resources(resource, kind, version)?;
    let actions = match action {
        Element::Opposite(json) => ActionSet::parse(&json.texts("NotAction")?)?.complement(),
        Element::Plain(json) => {
            let actions = ActionSet::parse(&json.texts("Action")?)?;
            check_reach(actions, reach)?;
            actions
        }
    };
    Ok(Statement { effect, principals, actions, resources, conditions: conditions.unwrap_or_default() })
}

/// A user's policy has letters and digits only, as in IAM; a bucket's any printable text, as in S3. Empty is none.
fn check_sid(sid: String, kind: Kind<'_>, sids: &mut BTreeSet<String>) -> Result<(), Malformed> {
    let allowed = |one: char| match kind {
        Kind::User => one.is_ascii_alphanumeric(),
        Kind::Bucket(_) => !one.is_control(),
    };
    if !sid.chars().all(allowed) {
        return Err(Malformed::new("Statement IDs (SID) must be alpha-numeric."));
    }
    if !sid.is_empty() && !sids.insert(sid) {
        return Err(Malformed::new("Statement IDs (SID) in a single policy must be unique."));
    }
    Ok(())
}

fn read_principals(element: Element) -> Result<Principals, Malformed> {
    let (json, excepted) = match element {
        Element::Plain(json) => (json, false),
        Element::Opposite(json) => (json, true),
    };
    Ok(match (read_users(json)?, excepted) {
        (None, false) => Principals::Everyone,
        (Some(users), false) => Principals::Only(users),
        (Some(users), true) => Principals::Except(users),
        // Everybody but everybody.
        (None, true) => Principals::Only(BTreeSet::new()),
    })
}

/// The users that are named; none for everybody.
fn read_users(json: Json) -> Result<Option<BTreeSet<String>>, Malformed> {
    if json == Json::Text("*".to_string()) {
        return Ok(None);
    }
    let kinds = json.object("Principal")?;
    if kinds.is_empty() {
        return Err(Malformed::new("Invalid principal in policy: nobody is named."));
    }
    let (mut users, mut everyone) = (BTreeSet::new(), false);
    for (kind, names) in kinds {
        for name in names.texts("Principal")? {
            match kind.as_str() {
                "AWS" if name == "*" => everyone = true,
                "AWS" => drop(users.insert(user_of(&name)?)),
                "CanonicalUser" => drop(users.insert(checked_user(&name)?)),
                "Service" | "Federated" => {
                    return Err(Malformed::new(format!(
                        "Invalid principal in policy: {kind} is not supported, only users are."
                    )));
                }
                _ => return Err(Malformed::new(format!("Invalid principal in policy: {kind:.60}."))),
            }
        }
    }
    Ok((!everyone).then_some(users))
}

/// The user in `arn:aws:iam::ACCOUNT:user/NAME` or `NAME`, with the name of its cluster and a slash where that is another
/// one.
///
/// Accounts are refused, as an ARN that ends in `root` and as a number: there are none here, and a statement that
/// denies something to the users of an account would deny it to nobody.
fn user_of(text: &str) -> Result<String, Malformed> {
    let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let user = match text.strip_prefix("arn:aws:iam::") {
        Some(rest) => rest.split_once(':').and_then(|(_, resource)| resource.strip_prefix("user/")),
        None => Some(text).filter(|text| !is_account(text)),
    };
    let invalid = || Malformed::new(format!("Invalid principal in policy: {text:.100} is not a user."));
    checked_user(user.ok_or_else(invalid)?)
}

/// A name that a user can have, here or in another cluster.
fn checked_user(text: &str) -> Result<String, Malformed> {
    let invalid = |_| Malformed::new(format!("Invalid principal in policy: {text:.100} is not a user."));
    text.parse::<UserName>().map(String::from).map_err(invalid)
}

/// Reads the resources, and where they reach if that limits the actions: not in the policy of a user, who has all
/// buckets before him, and not by exclusion.
fn read_resources(
    element: Element,
    kind: Kind<'_>,
    version: Version,
) -> Result<(Resources, Option<Reach>), Malformed> {
    let mut reach = Reach::default();
    let mut read = |json: Json, what: &str| {
        let texts = json.texts(what)?;
        texts.iter().map(|text| read_resource(text, kind, version, &mut reach)).collect::<Result<_, _>>()
    };
    match element {
        Element::Opposite(json) => Ok((Resources::NotIn(read(json, "NotResource")?), None)),
        Element::Plain(json) => {
            let resources = Resources::In(read(json, "Resource")?);
            Ok((resources, matches!(kind, Kind::Bucket(_)).then_some(reach)))
        }
    }
}

fn read_resource(
    text: &str,
    kind: Kind<'_>,
    version: Version,
    reach: &mut Reach,
) -> Result<Resource, Malformed> {
    let invalid = || Malformed::new(format!("Policy has invalid resource: {text:.200}."));
    if kind == Kind::User && text == "*" {
        return Ok(Resource::Everything);
    }
    let name = text.strip_prefix(RESOURCE_PREFIX).filter(|name| !name.is_empty()).ok_or_else(invalid)?;
    if let Kind::Bucket(bucket) = kind {
        // Written out, so that no pattern and no variable can mean another bucket.
        match name.strip_prefix(bucket).ok_or_else(invalid)?.chars().next() {
            None => reach.bucket = true,
            Some('/') => reach.objects = true,
            Some('*') => *reach = Reach { bucket: true, objects: true },
            Some(_) => return Err(invalid()),
        }
    }
    Ok(Resource::Named(Pattern::parse(name, Wildcards::Special, version)?))
}

/// Refuses actions of which none can be done to any of the resources.
fn check_reach(actions: ActionSet, reach: Option<Reach>) -> Result<(), Malformed> {
    let Some(reach) = reach else {
        return Ok(());
    };
    let on_bucket = reach.bucket && actions.has(Scope::Bucket);
    let on_objects = reach.objects && actions.has(Scope::Object);
    if !on_bucket && !on_objects {
        return Err(Malformed::new("Action does not apply to any resource(s) in statement."));
    }
    Ok(())
}
