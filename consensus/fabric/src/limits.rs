//! Every bound in one place, with the relations between them asserted when this compiles.

use std::time::Duration;

/// Bytes in one KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in one MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in one GiB.
pub const GIB: u64 = 1 << 30;
/// Bytes in one TiB.
pub const TIB: u64 = 1 << 40;

/// An extent is cut into chunks of this size; the last one may be shorter.
pub const CHUNK_BYTES: usize = 1 << 20;
/// A body up to this size rides in the Raft entry.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// Default of `scrub_days`: within this every chunk is read, to find rot.
pub const SCRUB_PERIOD_DEFAULT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The longest `scrub_days`.
pub const SCRUB_DAYS_MAX: u32 = 366;
/// Default of `upload_days`: a multipart upload that was begun so long ago is aborted.
pub const UPLOAD_PERIOD_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest `upload_days`.
pub const UPLOAD_DAYS_MAX: u32 = 3660;
/// Default of `inline_bytes_max`: bytes of such bodies in the metadata. Above it small bodies are chunks, too.
pub const INLINE_BYTES_TOTAL_DEFAULT: u64 = 16 * GIB;
/// Payloads that one command moves into a packed chunk.
pub const PACK_PAYLOADS_MAX: usize = 512;
/// Rows of payloads that one question for them visits.
pub const INLINE_ROWS_VISITED_MAX: usize = 4096;
/// Largest single PUT and largest part.
pub const PUT_BYTES_MAX: u64 = 5 * GIB;
/// Smallest part that is not the last.
pub const PART_BYTES_MIN: u64 = 5 * MIB;
/// Parts of one upload.
pub const PARTS_MAX: u16 = 10_000;
/// Most parts of a body that is appended to while other versions share it: one command names them all once more.
pub const SHARED_APPEND_PARTS_MAX: usize = 1000;
/// Largest object: all parts at their largest.
pub const OBJECT_BYTES_MAX: u64 = 53_687_091_200_000;
/// Chunks of one extent: the ordinal has 20 bits.
pub const EXTENT_CHUNKS_MAX: u64 = 1 << 20;

/// Bytes of a key, UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of an annotation.
pub const ANNOTATION_BYTES_MAX: u64 = MIB;
/// Bytes of the name of an annotation, UTF-8.
pub const ANNOTATION_NAME_BYTES_MAX: usize = 512;
/// Annotations of a version.
pub const ANNOTATIONS_MAX: usize = 1000;
/// Bytes of all user metadata (names and values) of an object.
pub const USER_METADATA_BYTES_MAX: usize = 2048;
/// Keys of one listing page and of one DeleteObjects.
pub const LIST_KEYS_MAX: u32 = 1000;
/// Keys of one DeleteObjects request that go into one command.
pub const DELETE_KEYS_PER_COMMAND: usize = 100;
/// Clusters that one cluster knows, those that left among them.
pub const OVERLAY_MEMBERS_MAX: usize = 256;
/// Invitations to clusters that nobody took yet.
pub const OVERLAY_INVITES_MAX: usize = 100;
/// Connections with one other cluster at once.
pub const LINK_CONNECTIONS_MAX: usize = 512;
/// Of these the ones that are kept for the next request.
pub const LINK_IDLE_MAX: usize = 64;
/// Buckets in the catalog of one cluster.
pub const CATALOG_BUCKETS_MAX: usize = 100_000;
/// Buckets of other clusters that one command keeps.
pub const HEARD_PER_COMMAND: usize = 500;
/// Keys of users of other clusters that a gateway keeps for seconds.
pub const DAY_KEYS_MAX: usize = 4096;
/// Questions to all other clusters at once.
pub const OVERLAY_ASKING_MAX: usize = 64;
/// Who may read what, as homes in other clusters said last: so many users and objects are remembered.
pub const OVERLAY_READS_MAX: usize = 10_000;
/// Seconds for which a bucket may allow answers from memory while its home is away.
pub const STALENESS_SECONDS: std::ops::RangeInclusive<u64> = 1..=7 * 24 * 60 * 60;
/// Gateways of other clusters whose cards are kept.
pub const OVERLAY_CARDS_MAX: usize = 4 * OVERLAY_MEMBERS_MAX;
/// Messages of gossip that wait.
pub const GOSSIP_WAITING_MAX: usize = 64;
/// What one cluster grants to others.
pub const OVERLAY_GRANTS_MAX: usize = 10_000;
/// Buckets of a cluster that follow others.
pub const FOLLOWS_MAX: usize = 1000;
/// Rules of the replication of a bucket.
pub const REPLICATION_RULES_MAX: usize = 1000;
/// Changes that one command copies.
pub const REPLICATE_CHANGES_MAX: usize = 250;
/// Parts that a copy of an object keeps, which is 5 GiB in parts of 8 MiB; what has more comes as one.
pub const REPLICA_PARTS_MAX: usize = 640;
/// Versions of a key that are looked through for the one whose tags changed elsewhere.
pub const REPLICA_VERSIONS_VISITED_MAX: usize = 100;
/// Policies of one user.
pub const POLICIES_PER_USER_MAX: usize = 10;
/// Bytes of one policy, as in S3.
pub const POLICY_BYTES_MAX: usize = 20 * KIB as usize;
/// Hints of the lifecycle of buckets that one command looks at.
pub const EXPIRE_PER_COMMAND: usize = 100;
/// Uploads that one such command aborts.
pub const EXPIRE_UPLOADS_PER_COMMAND: u64 = 4;
/// Current versions, or uploads, that one command looks at after the rules of a bucket changed.
pub const WALK_ROWS_PER_COMMAND: usize = 500;
/// Other versions: for each, those of the same key may have to be counted.
pub const WALK_VERSIONS_PER_COMMAND: usize = 100;
/// Rules of the lifecycle of a bucket.
pub const LIFECYCLE_RULES_MAX: usize = 1000;
/// Smaller objects do not move to another storage class, where a rule says nothing of sizes.
pub const TRANSITION_BYTES_MIN: u64 = 128 * KIB;
/// Default of `lifecycle_day_seconds`.
pub const LIFECYCLE_DAY_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// What `lifecycle_day_seconds` may be.
pub const LIFECYCLE_DAY_SECONDS: std::ops::RangeInclusive<u64> = 1..=24 * 60 * 60;
/// Buckets a user may own.
pub const BUCKETS_PER_USER_MAX: u64 = 10_000;
/// Rows that one listing may visit before it returns a short page.
pub const LIST_ROWS_VISITED_MAX: usize = 100_000;

/// One Raft entry, encoded. Larger is refused before it is proposed.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// One RPC frame: a chunk with its header, or a page of rows.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Commands of one session whose outcome is open.
pub const SESSION_OPEN_MAX: u64 = 65_536;
/// Extents that one session may pin for reads and writes older than five minutes.
pub const SESSION_PINNED_MAX: usize = 1024;
/// A write or read that is open for longer is held by the extents it covers, and holds back nothing else.
pub const HOLD_LONG: Duration = Duration::from_secs(5 * 60);
/// Extents whose naming is asked for at once.
pub const NAMED_PER_QUERY: usize = 1000;
/// The leader ends a session after it heard nothing for this long.
pub const SESSION_SILENCE: Duration = Duration::from_secs(30);
/// How often a session is renewed.
pub const SESSION_RENEWAL: Duration = Duration::from_secs(5);
/// A client hears 500 (outcome unknown) after this.
pub const PROPOSE_DEADLINE: Duration = Duration::from_secs(60);
/// The last part of [`PROPOSE_DEADLINE`]: a command whose outcome is open is given up, which settles it.
pub const GIVE_UP_DEADLINE: Duration = Duration::from_secs(10);
/// A read of metadata gives up after this.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(10);
/// One chunk call gives up after this; a put only if no other put to its node ended meanwhile.
pub const CHUNK_DEADLINE: Duration = Duration::from_secs(10);
/// One put of a chunk gives up after this, however busy its node is.
pub const CHUNK_PUT_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of chunks that a gateway has under way to one node; further puts wait in the gateway.
pub const CHUNK_PUT_BYTES_PER_NODE_MAX: usize = 16 << 20;
/// A connection attempt and its handshake.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Calls open at once on one connection between processes; further ones wait.
pub const RPC_CALLS_PER_CONNECTION_MAX: usize = 1024;
/// Bytes that a connection with TLS between processes reads ahead.
pub const TLS_READ_AHEAD_BYTES: usize = 64 << 10;
/// Connections for chunks to one node.
pub const RPC_BULK_CONNECTIONS: usize = 4;
/// Connections of peers that a process serves at once.
pub const RPC_CONNECTIONS_MAX: usize = 1024;
/// Bytes of requests that a process reads and handles at once, for each class of connections; with little memory fewer.
pub const RPC_SERVER_BYTES_MAX: usize = 64 << 20;

/// Partitions of a new layout.
pub const PARTITIONS: usize = 1024;
/// More voters make each write slower and nothing safer.
pub const VOTERS_MAX: usize = 9;
/// A voter that is silent for so long is exchanged by a node that stands by.
pub const VOTER_PATIENCE_DEFAULT: Duration = Duration::from_secs(600);

/// Entries of the log between two snapshots. A voter that lacks more than twice as many gets one.
pub const SNAPSHOT_ENTRIES_DEFAULT: u64 = 50_000;
/// Nobody is exchanged for a restart, and a lost voter does not stay for more than a day.
pub const VOTER_SILENCE_SECONDS: std::ops::RangeInclusive<u64> = 5..=86_400;
/// Owners a partition may list; masks have as many bits. Whole copies use the first [`COPIES`], shards more.
pub const OWNERS_MAX: usize = 16;
/// Copies of an object in class `STANDARD`.
pub const COPIES: usize = 3;
/// Nodes that must hold every chunk at commit (fewer only where there are fewer nodes).
pub const COPIES_DURABLE_MIN: usize = 2;

/// A volume file of chunks is sealed when it reaches this.
pub const VOLUME_BYTES_MAX: u64 = 4 * GIB;
/// Free space kept on a data disk: below it puts are refused, deletes and repair go on.
pub const DISK_RESERVE_BYTES: u64 = 256 * MIB;
/// Pages of checksums of a file that are kept in memory, beside those that changed: each covers 4 MiB of the file.
pub const CHECKSUM_PAGES_MAX: usize = 1024;
/// Parts between holes that are told apart when a file is opened; what lies behind the last one counts as written.
pub const DATA_RANGES_MAX: usize = 1024;
/// Free space that the log leaves to the tables when it makes another segment ready. Chunks stop first, then the
/// log grows no more, and the tables can still take what is in it.
pub const LOG_RESERVE_BYTES: u64 = 32 * MIB;
/// Bytes of a segment of the log.
pub const LOG_SEGMENT_BYTES: u64 = 64 * MIB;
/// Free space that a checkpoint of the tables leaves.
pub const TABLES_RESERVE_BYTES: u64 = 4 * MIB;
/// Default of `memory_limit`.
pub const MEMORY_LIMIT_DEFAULT: u64 = GIB;
/// The least `memory_limit`: below this nothing works.
pub const MEMORY_LIMIT_MIN: u64 = 128 * MIB;

/// What everything that can grow in a process may take of its `memory_limit`, in bytes. The rest is for code, stacks,
/// tables that are always there (openraft's histograms take 16 MiB), the allocator, and what cannot be counted.
pub const fn growing_bytes(memory_limit: u64) -> u64 {
    memory_limit / 10 * 6
}
/// Events kept in the change feed.
pub const EVENTS_MAX: u64 = 100_000;
/// Events kept while the oldest of them is still to be delivered as a notification.
pub const EVENTS_HELD_MAX: u64 = 500_000;
/// Bytes of the prefix of access logs: what follows it in a key is shorter than the rest.
pub const LOG_PREFIX_BYTES_MAX: usize = 512;
/// Default of `access_log_seconds`.
pub const ACCESS_LOG_PERIOD_DEFAULT: Duration = Duration::from_secs(60);
/// What `access_log_seconds` may be.
pub const ACCESS_LOG_SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;
/// Rules of the notification configuration of a bucket.
pub const NOTIFICATION_RULES_MAX: usize = 100;

/// First line of a request: method, target, version.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 << 10;
/// Threads for blocking work of a process.
pub const BLOCKING_THREADS_MAX: usize = 64;
/// Of these there are so many …
pub const BLOCKING_THREADS_MIN: usize = 8;
/// … and so many more for each core.
pub const BLOCKING_THREADS_PER_CORE: usize = 4;
/// Work queued for one lane; a caller beyond it waits.
pub const LANE_QUEUE_MAX: usize = 1024;
/// How long, in cluster time, a completed upload answers a repeat.
pub const COMPLETED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long, in cluster time, the token of a rename answers a repeat.
pub const RENAMES_KEPT: Duration = Duration::from_secs(10 * 60);
/// Extents of one body that one step of collection releases, and most that a command releases at once.
pub const COLLECT_EXTENTS_PER_STEP: usize = 1000;
/// Extents that one MoveExtents moves.
pub const MOVES_PER_COMMAND: usize = 128;
/// Bodies that one CollectGarbage takes a step on.
pub const COLLECT_BODIES_PER_COMMAND: usize = 16;

/// Header section of a request.
pub const HEADER_SECTION_BYTES_MAX: usize = 8 << 10;
/// Header lines of a request.
pub const HEADERS_MAX: usize = 100;
/// XML body of a request.
pub const XML_BODY_BYTES_MAX: usize = 4 << 20;
/// A configuration of a bucket, or the tags of an object, as a client sends it (bytes).
pub const CONFIGURATION_BYTES_MAX: usize = 1 << 20;
/// Nesting of an XML body.
pub const XML_DEPTH_MAX: usize = 16;
/// Line that introduces a chunk of `aws-chunked`.
pub const AWS_CHUNK_LINE_BYTES_MAX: usize = 4 << 10;
/// Trailers of `aws-chunked`.
pub const AWS_TRAILER_BYTES_MAX: usize = 16 << 10;
/// Smallest chunk of `aws-chunked` that is not the last.
pub const AWS_CHUNK_BYTES_MIN: u64 = 8 << 10;
/// Connections a gateway serves at once.
pub const CONNECTIONS_MAX: usize = 4096;

const _: () = assert!(EVENTS_MAX < EVENTS_HELD_MAX);
const _: () = assert!(CHUNK_BYTES + 64 * 1024 < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < RPC_SERVER_BYTES_MAX);
const _: () = assert!(CHUNK_DEADLINE.as_secs() < CHUNK_PUT_DEADLINE.as_secs());
const _: () = assert!(
    CHUNK_BYTES < CHUNK_PUT_BYTES_PER_NODE_MAX && CHUNK_PUT_BYTES_PER_NODE_MAX < RPC_SERVER_BYTES_MAX
);
const _: () = assert!(PUT_BYTES_MAX / CHUNK_BYTES as u64 <= EXTENT_CHUNKS_MAX);
const _: () = assert!(PARTS_MAX as u64 * PUT_BYTES_MAX == OBJECT_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX + 64 * 1024 < ENTRY_BYTES_MAX);
const _: () = assert!((PACK_PAYLOADS_MAX + 1) * (KEY_BYTES_MAX + 64) < ENTRY_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX <= CHUNK_BYTES);
const _: () = assert!(SESSION_PINNED_MAX * 32 + 64 * 1024 < ENTRY_BYTES_MAX);
const _: () = assert!(NAMED_PER_QUERY * (KEY_BYTES_MAX + 64) < FRAME_BYTES_MAX);
const _: () = assert!(ANNOTATIONS_MAX * (ANNOTATION_NAME_BYTES_MAX + 256) < FRAME_BYTES_MAX);
const _: () = assert!(GIVE_UP_DEADLINE.as_secs() < PROPOSE_DEADLINE.as_secs());
const _: () = assert!(DELETE_KEYS_PER_COMMAND * (KEY_BYTES_MAX + 128) < ENTRY_BYTES_MAX);
const _: () = assert!(COPIES_DURABLE_MIN <= COPIES && COPIES <= OWNERS_MAX);
const _: () = assert!(LOG_RESERVE_BYTES + 2 * LOG_SEGMENT_BYTES < DISK_RESERVE_BYTES);
const _: () = assert!(TABLES_RESERVE_BYTES < LOG_RESERVE_BYTES);
// Positions within an entry have 16 bits; each released extent takes one.
const _: () = assert!((COLLECT_BODIES_PER_COMMAND + 1) * COLLECT_EXTENTS_PER_STEP < 1 << 16);
const _: () =
    assert!(EXPIRE_PER_COMMAND + EXPIRE_UPLOADS_PER_COMMAND as usize * COLLECT_EXTENTS_PER_STEP < 1 << 16);
const _: () = assert!(EXPIRE_PER_COMMAND * (KEY_BYTES_MAX + 128) < ENTRY_BYTES_MAX);
