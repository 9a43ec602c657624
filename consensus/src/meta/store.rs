//! What metadata needs of a store: ordered rows of bytes, in numbered tables.
//!
//! The state machine implements [`Rows`] and [`RowsMut`] over its overlay and its file, [`MemoryRows`] does for
//! tests. Nothing else of a store is known to the model: typed access is in [`super::tables`], and keys are
//! encoded so that the order of bytes is the order that listings and scans promise.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

/// Our disk or our code is broken: this replica cannot go on. Never an answer to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Fault {
    /// Verb and object: "read objects".
    pub doing: String,
    /// What went wrong.
    pub why: String,
}

impl Fault {
    /// A fault while `doing` something.
    pub fn new(doing: impl Into<String>, why: impl fmt::Display) -> Fault {
        Fault { doing: doing.into(), why: why.to_string() }
    }
}

/// A table. Only those of [`TABLES`] exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(u8);

macro_rules! tables {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        impl TableId {
            $($(#[$doc])* pub const $constant: TableId = TableId($number);)*
        }

        /// All tables with their stored names, in order of number. A number or a name is never reused.
        pub const TABLES: &[(TableId, &str)] = &[$((TableId($number), $name)),*];
    };
}

tables! {
    /// The cluster's own row.
    CLUSTER = 1, "cluster";
    /// Members by node.
    NODES = 2, "nodes";
    /// Owners by layout version and partition.
    LAYOUTS = 3, "layouts";
    /// Users by name.
    USERS = 4, "users";
    /// Access keys by id.
    ACCESS_KEYS = 5, "access_keys";
    /// Ids of the keys of a user.
    KEYS_BY_USER = 6, "keys_by_user";
    /// Buckets by id.
    BUCKETS = 7, "buckets";
    /// Ids of buckets by name.
    BUCKET_NAMES = 8, "bucket_names";
    /// Names of the buckets of a user.
    BUCKETS_BY_OWNER = 9, "buckets_by_owner";
    /// Objects and bytes by bucket.
    USAGE = 10, "usage";
    /// Current versions.
    OBJECTS = 11, "objects";
    /// Other versions, and delete markers.
    VERSIONS = 12, "versions";
    /// Which of the versions is the null version.
    NULL_VERSIONS = 13, "null_versions";
    /// Payloads of small bodies.
    INLINE = 14, "inline";
    /// Named extents by home.
    EXTENTS = 15, "extents";
    /// Bodies of several slices by home.
    BODIES = 16, "bodies";
    /// Uploads in progress.
    UPLOADS = 17, "uploads";
    /// Their parts.
    PARTS = 18, "parts";
    /// What completed uploads became.
    COMPLETED = 19, "completed";
    /// Copies that are missing.
    DEBTS = 20, "debts";
    /// How many copies each node owes.
    DEBT_COUNTS = 21, "debt_counts";
    /// What may be removed once nobody reads it.
    GARBAGE = 22, "garbage";
    /// Live sessions.
    SESSIONS = 23, "sessions";
    /// Sessions by the nonce that opened them.
    SESSION_NONCES = 24, "session_nonces";
    /// First replies by session and sequence.
    REPLIES = 25, "replies";
    /// The change feed.
    EVENTS = 26, "events";
    /// Buckets of events in the order of the log, for trimming.
    EVENT_ORDER = 27, "event_order";
    /// Where walks over tables that `apply` does in steps go on.
    CURSORS = 28, "cursors";
    /// Partitions that a node has to verify.
    ABSENCES = 29, "absences";
    /// Copies that moved to other nodes and are still to be removed.
    LEAVING = 30, "leaving";
    /// Members that were removed.
    REMOVED_NODES = 31, "removed_nodes";
    /// Since when garbage is kept.
    HOLD = 32, "hold";
    /// What buckets may hold.
    BUCKET_QUOTAS = 33, "bucket_quotas";
    /// What users may hold, and do.
    USER_QUOTAS = 34, "user_quotas";
    /// What owners set on buckets.
    BUCKET_SETTINGS = 35, "bucket_settings";
    /// What keeps versions from being removed.
    LOCKS = 36, "locks";
    /// What users may do.
    USER_POLICIES = 37, "user_policies";
    /// When to look at what, by time.
    DUE = 38, "due";
    /// Buckets whose rows are still to be walked for that.
    DUE_WALKS = 39, "due_walks";
    /// How uploads in progress are encrypted.
    UPLOAD_SEALINGS = 40, "upload_sealings";
    /// Renames by the tokens of their clients.
    RENAMES = 41, "renames";
    /// How far the events of buckets were trimmed.
    EVENT_MARKS = 42, "event_marks";
    /// Annotations by version.
    ANNOTATIONS = 43, "annotations";
    /// Who owns versions and may do what with them.
    ACLS = 44, "acls";
    /// How far notifications were delivered.
    DELIVERIES = 45, "deliveries";
    /// Who delivers them.
    DELIVERER = 46, "deliverer";
    /// Who this cluster is to others.
    OVERLAY_IDENTITY = 47, "overlay_identity";
    /// Other clusters.
    OVERLAY_MEMBERS = 48, "overlay_members";
    /// Who may become one.
    OVERLAY_INVITES = 49, "overlay_invites";
    /// What other clusters may do for users.
    OVERLAY_GRANTS = 50, "overlay_grants";
    /// Versions whose bytes are to become shards.
    RECODINGS = 51, "recodings";
    /// Buckets that follow those of other clusters.
    FOLLOWS = 52, "follows";
    /// Who copies for them.
    FOLLOWER = 53, "follower";
    /// Buckets that other clusters copy.
    REPLICATING = 54, "replicating";
    /// Buckets of other clusters, as those told last.
    OVERLAY_HEARD = 55, "overlay_heard";
    /// Buckets whose copies took their place.
    SUPERSEDED = 56, "superseded";
    /// Copies that took the place of a bucket whose cluster does not know yet.
    PROMOTIONS = 57, "promotions";
    /// How far copies in other clusters are.
    ACKNOWLEDGED = 58, "acknowledged";
}

impl TableId {
    /// The number, as stored in snapshots and sent.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The name, as stored.
    pub fn name(self) -> &'static str {
        TABLES
            .iter()
            .find(|(table, _)| *table == self)
            .map(|(_, name)| *name)
            .expect("only constants make a TableId")
    }

    /// The table of a number from a snapshot; `None`: another release's.
    pub fn from_number(number: u8) -> Option<TableId> {
        TABLES.iter().map(|(table, _)| *table).find(|table| table.0 == number)
    }
}

/// Rows in order of key, as a range gives them.
pub type RowsIter<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), Fault>> + 'a>;

/// One consistent view of all tables.
pub trait Rows {
    /// The value under `key`.
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Fault>;
    /// Rows between two keys, ascending. An empty or inverted range has no rows.
    fn range(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<RowsIter<'_>, Fault>;
    /// The last of these rows. A store that can go backwards does not walk them all.
    fn last(
        &self,
        table: TableId,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>, Fault> {
        self.range(table, lower, upper)?.last().transpose()
    }
}

/// A view that `apply` writes to; what is written is seen by the next read.
pub trait RowsMut: Rows {
    /// Inserts or replaces.
    fn put(&mut self, table: TableId, key: Bytes, value: Bytes);
    /// Removes; a missing key is fine.
    fn delete(&mut self, table: TableId, key: &[u8]);
}

/// All tables in memory. For tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRows(BTreeMap<(TableId, Bytes), Bytes>);

impl MemoryRows {
    /// All rows of all tables in order.
    pub fn all(&self) -> impl Iterator<Item = (TableId, &Bytes, &Bytes)> {
        self.0.iter().map(|((table, key), value)| (*table, key, value))
    }
}

/// Whether nothing lies between two bounds. `BTreeMap::range` panics on inverted ones, a seek may make them.
pub fn is_empty_range(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> bool {
    match (lower, upper) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(lower), Bound::Included(upper)) => upper < lower,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => upper <= lower,
    }
}

impl Rows for MemoryRows {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn range(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<RowsIter<'_>, Fault> {
        if is_empty_range(lower, upper) {
            return Ok(Box::new(std::iter::empty()));
        }
        let row = |key: &[u8]| (table, Bytes::copy_from_slice(key));
        let lower = match lower {
            Bound::Included(key) => Bound::Included(row(key)),
            Bound::Excluded(key) => Bound::Excluded(row(key)),
            Bound::Unbounded => Bound::Included((table, Bytes::new())),
        };
        let upper = match upper {
            Bound::Included(key) => Bound::Included(row(key)),
            Bound::Excluded(key) => Bound::Excluded(row(key)),
            Bound::Unbounded => Bound::Excluded((TableId(table.0 + 1), Bytes::new())),
        };
        let rows = self.0.range((lower, upper));
        Ok(Box::new(rows.map(|((_, key), value)| Ok((key.clone(), value.clone())))))
    }
}

impl RowsMut for MemoryRows {
    fn put(&mut self, table: TableId, key: Bytes, value: Bytes) {
        self.0.insert((table, key), value);
    }

    fn delete(&mut self, table: TableId, key: &[u8]) {
        self.0.remove(&(table, Bytes::copy_from_slice(key)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_of_tables_are_unique_and_found_again() {
        for (place, (table, name)) in TABLES.iter().enumerate() {
            assert_eq!(usize::from(table.number()), place + 1);
            assert_eq!((TableId::from_number(table.number()), table.name()), (Some(*table), *name));
            assert_eq!(TABLES.iter().filter(|(_, other)| other == name).count(), 1);
        }
        assert_eq!(TableId::from_number(0), None);
        let names: Vec<_> = TABLES.iter().map(|(_, name)| *name).collect();
        let golden = "cluster nodes layouts users access_keys keys_by_user buckets bucket_names \
        buckets_by_owner usage objects versions null_versions inline extents bodies uploads \
        parts completed debts debt_counts garbage sessions session_nonces replies events \
        event_order cursors absences leaving removed_nodes hold bucket_quotas user_quotas bucket_settings locks \
        user_policies due due_walks upload_sealings renames event_marks annotations acls \
        deliveries deliverer overlay_identity overlay_members overlay_invites overlay_grants \
        recodings follows follower replicating overlay_heard superseded promotions acknowledged";
        assert_eq!(names.join(" "), golden, "names are stored");
    }

    #[test]
    fn ranges_stay_in_their_table_and_may_be_inverted() {
        let mut rows = MemoryRows::default();
        for (table, key) in [(TableId::NODES, "a"), (TableId::NODES, "b"), (TableId::LAYOUTS, "a")] {
            rows.put(table, Bytes::from(key), Bytes::from("x"));
        }
        let keys = |lower, upper| -> Vec<Bytes> {
            rows.range(TableId::NODES, lower, upper).unwrap().map(|row| row.unwrap().0).collect()
        };
        assert_eq!(keys(Bound::Unbounded, Bound::Unbounded), ["a", "b"]);
        assert_eq!(keys(Bound::Excluded(b"a"), Bound::Unbounded), ["b"]);
        assert_eq!(keys(Bound::Included(b"b"), Bound::Excluded(b"a")), [""; 0]);
        assert_eq!(keys(Bound::Excluded(b"a"), Bound::Excluded(b"a")), [""; 0]);
    }
}
