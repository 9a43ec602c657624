//! What happens to objects as they age, by the rules of their bucket: which rule covers what, and when it is due.
//!
//! Times are counted from when something came to be and rounded up to the next midnight, as S3 does. Pure: who asks says
//! what there is.

use fabric::limits::TRANSITION_BYTES_MIN;
use serde::{Deserialize, Serialize};

use super::model::{ClusterMs, Object, Tags, Version};

/// The rules of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// 1 to 1,000, in the order of the owner.
    pub rules: Vec<LifecycleRule>,
    /// How long a day is, in milliseconds: shorter than 24 hours in tests only. Stored with the rules, so that all
    /// replicas count alike.
    pub day_ms: u64,
    /// Kept for the owner: of the class that there is to move to, both say the same.
    pub transition_minimum: TransitionMinimum,
    /// Where rules move objects, in their order. Stored beside the rest: see
    /// [`super::model::BucketSetting::Transitions`].
    #[serde(skip)]
    pub transitions: Vec<Transition>,
}

/// A move of objects to another storage class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The place of its rule.
    pub rule: u16,
    /// Of what, and when.
    pub when: TransitionWhen,
    /// Where to; it is none that stands for whole copies.
    pub class: String,
}

/// When a [`Transition`] is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransitionWhen {
    /// Current versions so many days after they were stored.
    Days(u32),
    /// Current versions on a day.
    Date(ClusterMs),
    /// The others.
    Noncurrent(NoncurrentExpiration),
}

/// From which size on objects move to other classes where a rule says nothing of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransitionMinimum {
    /// 128 KiB for all classes.
    AllClasses128K,
    /// As the class says.
    VariesByClass,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// Its name, unique in the bucket.
    pub id: String,
    /// Whether it holds.
    pub enabled: bool,
    /// What it covers.
    pub filter: LifecycleFilter,
    /// What happens to current versions.
    pub expiration: Option<Expiration>,
    /// What happens to the others.
    pub noncurrent: Option<NoncurrentExpiration>,
    /// Uploads that nobody completed are aborted after so many days.
    pub abort_uploads_days: Option<u32>,
}

/// What a rule covers: all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleFilter {
    /// How its owner wrote it.
    pub form: FilterForm,
    /// Keys begin with this.
    pub prefix: Option<String>,
    /// The version has all of these.
    pub tags: Tags,
    /// It has more bytes.
    pub larger_than: Option<u64>,
    /// It has less bytes.
    pub smaller_than: Option<u64>,
}

/// Where a [`LifecycleFilter`] stands in the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterForm {
    /// A prefix in the rule itself, as was the custom.
    Prefix,
    /// A filter of at most one condition.
    Filter,
    /// A filter with an `And` around its conditions.
    And,
}

/// When current versions expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    /// So many days after they were stored.
    Days(u32),
    /// On a day.
    Date(ClusterMs),
    /// Never; but a delete marker goes when it is all that is left of a key, if this is true.
    DeleteMarkers(bool),
}

/// When other versions are removed, or moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncurrentExpiration {
    /// So many days after a newer one took their place …
    pub days: u32,
    /// … if there are so many newer ones that are not current either.
    pub newer_versions: Option<u8>,
}

impl NoncurrentExpiration {
    /// After how many days it is due where so many are newer; `None`: there are too few.
    fn due(self, newer: usize) -> Option<u32> {
        (usize::from(self.newer_versions.unwrap_or(0)) <= newer).then_some(self.days)
    }
}

/// What a filter asks of an object.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Subject<'a> {
    pub key: &'a str,
    pub modified: ClusterMs,
    pub bytes: u64,
    pub tags: &'a Tags,
}

impl<'a> Subject<'a> {
    /// An object under its key.
    pub fn of(key: &'a str, object: &'a Object) -> Subject<'a> {
        let Object { modified, bytes, attributes, .. } = object;
        Subject { key, modified: *modified, bytes: *bytes, tags: &attributes.tags }
    }
}

impl LifecycleFilter {
    fn covers_key(&self, key: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix))
    }

    /// Whether it is about keys only: what is no object has neither tags nor a size.
    fn is_of_keys(&self) -> bool {
        self.tags.is_empty() && self.larger_than.is_none() && self.smaller_than.is_none()
    }

    /// Whether a body is large enough to move to another class: where the filter says nothing of sizes, small ones stay.
    fn moves(&self, bytes: u64) -> bool {
        self.larger_than.is_some() || self.smaller_than.is_some() || TRANSITION_BYTES_MIN <= bytes
    }

    fn covers(&self, object: Subject<'_>) -> bool {
        self.covers_key(object.key)
            && self.tags.iter().all(|tag| object.tags.contains(tag))
            && self.larger_than.is_none_or(|bytes| bytes < object.bytes)
            && self.smaller_than.is_none_or(|bytes| object.bytes < bytes)
    }
}

impl Lifecycle {
    /// When the current version of a key expires, and by which rule: the first that is due.
    pub fn current(&self, object: Subject<'_>) -> Option<(ClusterMs, &LifecycleRule)> {
        let due = |rule: &LifecycleRule| match rule.expiration? {
            Expiration::Days(days) => Some(self.after(object.modified, days)),
            // What is stored later expires with the day it was stored on.
            Expiration::Date(date) => Some(date.max(self.after(object.modified, 0))),
            Expiration::DeleteMarkers(_) => None,
        };
        self.first(|rule| if rule.filter.covers(object) { due(rule) } else { None })
    }

    /// When the current version of a key moves to another class, and to which.
    pub fn transition(&self, key: &str, object: &Object) -> Option<(ClusterMs, &str)> {
        self.first_transition(key, object, |when| match when {
            TransitionWhen::Days(days) => Some(self.after(object.modified, days)),
            TransitionWhen::Date(date) => Some(date.max(self.after(object.modified, 0))),
            TransitionWhen::Noncurrent(_) => None,
        })
    }

    /// The same of a version that is not current, as in [`Lifecycle::noncurrent`].
    pub fn noncurrent_transition(
        &self,
        key: &str,
        object: &Object,
        since: ClusterMs,
        newer: usize,
    ) -> Option<(ClusterMs, &str)> {
        self.first_transition(key, object, |when| match when {
            TransitionWhen::Noncurrent(when) => when.due(newer).map(|days| self.after(since, days)),
            TransitionWhen::Days(_) | TransitionWhen::Date(_) => None,
        })
    }

    /// The first that is due of what has not moved yet.
    fn first_transition(
        &self,
        key: &str,
        object: &Object,
        due: impl Fn(TransitionWhen) -> Option<ClusterMs>,
    ) -> Option<(ClusterMs, &str)> {
        if object.attributes.storage_class.is_some() {
            return None;
        }
        let subject = Subject::of(key, object);
        let found = self.transitions.iter().filter_map(|transition| {
            let rule = self.rules.get(usize::from(transition.rule)).filter(|rule| rule.enabled)?;
            let covered = rule.filter.covers(subject) && rule.filter.moves(object.bytes);
            Some((due(transition.when).filter(|_| covered)?, transition.class.as_str()))
        });
        found.min_by_key(|(due, _)| *due)
    }

    /// When something happens next to the current version of a key.
    pub fn next(&self, key: &str, object: &Object) -> Option<ClusterMs> {
        let expires = self.current(Subject::of(key, object)).map(|(due, _)| due);
        let moves = self.transition(key, object).map(|(due, _)| due);
        expires.into_iter().chain(moves).min()
    }

    /// The same of a version that is not current, as in [`Lifecycle::noncurrent`].
    pub fn next_of_noncurrent(
        &self,
        key: &str,
        version: &Version,
        since: ClusterMs,
        newer: usize,
    ) -> Option<ClusterMs> {
        let moves = match version {
            Version::Object(object) => self.noncurrent_transition(key, object, since, newer),
            Version::DeleteMarker { .. } => None,
        };
        let moves = moves.map(|(due, _)| due);
        self.noncurrent(key, version, since, newer).into_iter().chain(moves).min()
    }

    /// When a delete marker goes that is all that is left of a key.
    pub fn lone_marker(&self, key: &str, modified: ClusterMs) -> Option<ClusterMs> {
        let due = |rule: &LifecycleRule| match rule.expiration? {
            Expiration::Days(days) => Some(self.after(modified, days)),
            Expiration::Date(date) => Some(date.max(self.after(modified, 0))),
            Expiration::DeleteMarkers(removed) => removed.then(|| self.after(modified, 0)),
        };
        let covers = |rule: &LifecycleRule| rule.filter.is_of_keys() && rule.filter.covers_key(key);
        self.first(|rule| if covers(rule) { due(rule) } else { None }).map(|(due, _)| due)
    }

    /// When a version that is not current since `since` goes, where `newer` more are newer than it and not current.
    pub fn noncurrent(
        &self,
        key: &str,
        version: &Version,
        since: ClusterMs,
        newer: usize,
    ) -> Option<ClusterMs> {
        let covers = |rule: &LifecycleRule| match version {
            Version::Object(object) => rule.filter.covers(Subject::of(key, object)),
            Version::DeleteMarker { .. } => rule.filter.is_of_keys() && rule.filter.covers_key(key),
        };
        let due = |rule: &LifecycleRule| {
            let days = rule.noncurrent?.due(newer)?;
            covers(rule).then(|| self.after(since, days))
        };
        self.first(due).map(|(due, _)| due)
    }

    /// When an upload is aborted, and by which rule.
    pub fn upload(&self, key: &str, initiated: ClusterMs) -> Option<(ClusterMs, &LifecycleRule)> {
        let covers = |rule: &LifecycleRule| rule.filter.is_of_keys() && rule.filter.covers_key(key);
        self.first(|rule| {
            let days = rule.abort_uploads_days.filter(|_| covers(rule))?;
            Some(self.after(initiated, days))
        })
    }

    /// The most versions that any rule keeps beside the current one.
    pub fn newer_versions_max(&self) -> usize {
        let removed = self.rules.iter().filter_map(|rule| rule.noncurrent);
        let moved = self.transitions.iter().filter_map(|transition| match transition.when {
            TransitionWhen::Noncurrent(when) => Some(when),
            TransitionWhen::Days(_) | TransitionWhen::Date(_) => None,
        });
        let kept = removed.chain(moved).filter_map(|when| when.newer_versions);
        kept.max().map_or(0, usize::from)
    }

    /// The rule that is due first; of several the one that stands first.
    fn first(
        &self,
        due: impl Fn(&LifecycleRule) -> Option<ClusterMs>,
    ) -> Option<(ClusterMs, &LifecycleRule)> {
        let enabled = self.rules.iter().filter(|rule| rule.enabled);
        enabled.filter_map(|rule| Some((due(rule)?, rule))).min_by_key(|(due, _)| *due)
    }

    /// The midnight that is not before so many days after `since`.
    fn after(&self, since: ClusterMs, days: u32) -> ClusterMs {
        let day = self.day_ms.max(1);
        let end = since.0.saturating_add(u64::from(days).saturating_mul(day));
        ClusterMs(end.div_ceil(day).saturating_mul(day))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use fabric::ids::Stamp;

    use super::*;
    use crate::meta::model::{Attributes, Body, Etag};

    const DAY: u64 = 24 * 60 * 60 * 1000;

    pub(crate) fn filter(prefix: &str) -> LifecycleFilter {
        LifecycleFilter {
            form: FilterForm::Filter,
            prefix: Some(prefix.to_string()),
            tags: Vec::new(),
            larger_than: None,
            smaller_than: None,
        }
    }

    pub(crate) fn rule(id: &str, prefix: &str) -> LifecycleRule {
        LifecycleRule {
            id: id.to_string(),
            enabled: true,
            filter: filter(prefix),
            expiration: None,
            noncurrent: None,
            abort_uploads_days: None,
        }
    }

    pub(crate) fn rules(rules: Vec<LifecycleRule>) -> Lifecycle {
        let (transition_minimum, transitions) = (TransitionMinimum::AllClasses128K, Vec::new());
        Lifecycle { rules, day_ms: DAY, transition_minimum, transitions }
    }

    fn object(modified: u64, bytes: u64, tags: &[(&str, &str)]) -> Object {
        let tags = tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Object {
            stamp: Stamp { epoch: 1, index: 9, ordinal: 0 },
            null_version: false,
            modified: ClusterMs(modified),
            bytes,
            etag: Etag::Md5([0; 16]),
            body: Body::Empty,
            checksum: None,
            attributes: Attributes { tags, ..Attributes::default() },
        }
    }

    #[test]
    fn days_end_at_midnight() {
        let rules = rules(vec![]);
        for (since, days, due) in [
            (0, 1, DAY),
            (1, 1, 2 * DAY),
            (DAY - 1, 1, 2 * DAY),
            (DAY, 1, 2 * DAY),
            (10 * DAY + DAY / 2, 3, 14 * DAY),
            (5, 0, DAY),
        ] {
            assert_eq!(rules.after(ClusterMs(since), days), ClusterMs(due), "{since} {days}");
        }
        assert_eq!(rules.after(ClusterMs(u64::MAX), u32::MAX), ClusterMs(u64::MAX));
        let quick = Lifecycle { day_ms: 2_000, ..rules };
        assert_eq!(quick.after(ClusterMs(10_001), 1), ClusterMs(14_000));
    }

    #[test]
    fn filters() {
        let plain = filter("logs/");
        let tag = |key: &str, value: &str| (key.to_string(), value.to_string());
        let tagged = LifecycleFilter { tags: vec![tag("a", "1"), tag("b", "2")], ..filter("") };
        let sized = LifecycleFilter { larger_than: Some(10), smaller_than: Some(20), ..filter("") };
        let all = LifecycleFilter { prefix: None, ..filter("") };
        for (filter, key, bytes, tags, covers) in [
            (&plain, "logs/x", 0, &[][..], true),
            (&plain, "log", 0, &[], false),
            (&tagged, "k", 0, &[("b", "2"), ("c", "3"), ("a", "1")], true),
            (&tagged, "k", 0, &[("a", "1")], false),
            (&tagged, "k", 0, &[("a", "2"), ("b", "2")], false),
            (&sized, "k", 10, &[], false),
            (&sized, "k", 11, &[], true),
            (&sized, "k", 20, &[], false),
            (&all, "k", 0, &[], true),
        ] {
            let object = object(0, bytes, tags);
            assert_eq!(filter.covers(Subject::of(key, &object)), covers, "{filter:?} {key} {bytes}");
        }
    }

    #[test]
    fn current_versions_expire_by_the_rule_that_is_due_first() {
        let days =
            |id, prefix, days| LifecycleRule { expiration: Some(Expiration::Days(days)), ..rule(id, prefix) };
        let date =
            LifecycleRule { expiration: Some(Expiration::Date(ClusterMs(8 * DAY))), ..rule("on", "d/") };
        let off = LifecycleRule { enabled: false, ..days("off", "", 1) };
        let rules = rules(vec![off, days("ten", "", 10), days("three", "a/", 3), date]);
        let due = |key: &str, modified: u64| {
            let (due, rule) = rules.current(Subject::of(key, &object(modified, 1, &[]))).unwrap();
            (due.0 / DAY, rule.id.clone())
        };
        assert_eq!(due("x", 1), (11, "ten".to_string()));
        assert_eq!(due("a/x", 1), (4, "three".to_string()));
        assert_eq!(due("d/x", 1), (8, "on".to_string()));
        assert_eq!(due("d/x", 20 * DAY + 1), (21, "on".to_string()), "after the date, with its own day");
    }

    #[test]
    fn lone_markers_go_by_age_or_at_once() {
        let of = |expiration| LifecycleRule { expiration: Some(expiration), ..rule("r", "") };
        for (expiration, due) in [
            (Expiration::Days(3), Some(4)),
            (Expiration::Date(ClusterMs(7 * DAY)), Some(7)),
            (Expiration::DeleteMarkers(true), Some(1)),
            (Expiration::DeleteMarkers(false), None),
        ] {
            let found = rules(vec![of(expiration)]).lone_marker("k", ClusterMs(1));
            assert_eq!(found.map(|due| due.0 / DAY), due, "{expiration:?}");
        }
        let sized = LifecycleFilter { smaller_than: Some(5), ..filter("") };
        let sized = LifecycleRule { filter: sized, ..of(Expiration::Days(1)) };
        assert_eq!(rules(vec![sized]).lone_marker("k", ClusterMs(1)), None, "a marker has no size");
    }

    #[test]
    fn noncurrent_versions_go_by_age_and_number() {
        let of = |days, newer_versions| LifecycleRule {
            noncurrent: Some(NoncurrentExpiration { days, newer_versions }),
            ..rule("r", "")
        };
        let version = Version::Object(object(0, 1, &[]));
        let plain = rules(vec![of(2, None)]);
        assert_eq!(plain.noncurrent("k", &version, ClusterMs(1), 0), Some(ClusterMs(3 * DAY)));
        let kept = rules(vec![of(2, Some(2))]);
        assert_eq!(kept.newer_versions_max(), 2);
        assert_eq!(kept.noncurrent("k", &version, ClusterMs(1), 1), None);
        assert_eq!(kept.noncurrent("k", &version, ClusterMs(1), 2), Some(ClusterMs(3 * DAY)));
        let both = rules(vec![of(2, Some(2)), of(9, None)]);
        assert_eq!(both.noncurrent("k", &version, ClusterMs(1), 0), Some(ClusterMs(10 * DAY)));
        assert_eq!(both.noncurrent("k", &version, ClusterMs(1), 5), Some(ClusterMs(3 * DAY)));
    }

    #[test]
    fn what_is_large_enough_moves_once() {
        let moving = |rule, when| Transition { rule, when, class: "STANDARD_IA".to_string() };
        let sized = LifecycleFilter { larger_than: Some(10), ..filter("s/") };
        let off = LifecycleRule { enabled: false, ..rule("off", "") };
        let list = vec![off, rule("all", "a/"), LifecycleRule { filter: sized, ..rule("sized", "") }];
        let kept = NoncurrentExpiration { days: 2, newer_versions: Some(2) };
        let rules = Lifecycle {
            transitions: vec![
                moving(0, TransitionWhen::Days(1)),
                moving(1, TransitionWhen::Days(3)),
                moving(1, TransitionWhen::Date(ClusterMs(2 * DAY))),
                moving(1, TransitionWhen::Noncurrent(kept)),
                moving(2, TransitionWhen::Days(0)),
            ],
            ..rules(list)
        };
        let large = TRANSITION_BYTES_MIN;
        for (key, modified, bytes, due) in [
            ("x", 1, large, None),
            ("a/x", 1, large, Some(2)),
            ("a/x", 1, large - 1, None),
            ("a/x", 9 * DAY + 1, large, Some(10)),
            ("s/x", 1, 11, Some(1)),
            ("s/x", 1, 10, None),
        ] {
            let mut object = object(modified, bytes, &[]);
            let found = rules.transition(key, &object).map(|(due, class)| (due.0 / DAY, class));
            assert_eq!(found, due.map(|due| (due, "STANDARD_IA")), "{key} {bytes}");
            assert_eq!(rules.next(key, &object).map(|due| due.0 / DAY), due);
            object.attributes.storage_class = Some("STANDARD_IA".to_string());
            assert_eq!(rules.transition(key, &object), None);
        }
        let object = object(1, large, &[]);
        assert_eq!(rules.newer_versions_max(), 2);
        assert_eq!(rules.noncurrent_transition("a/x", &object, ClusterMs(1), 1), None);
        let found = rules.noncurrent_transition("a/x", &object, ClusterMs(1), 2);
        assert_eq!(found, Some((ClusterMs(3 * DAY), "STANDARD_IA")));
    }

    #[test]
    fn uploads_are_aborted_by_prefix() {
        let abort = LifecycleRule { abort_uploads_days: Some(1), ..rule("abort", "tmp/") };
        let rules = rules(vec![abort]);
        let (due, found) = rules.upload("tmp/x", ClusterMs(1)).unwrap();
        assert_eq!((due.0, found.id.as_str()), (2 * DAY, "abort"));
        assert!(rules.upload("x", ClusterMs(1)).is_none());
    }
}
