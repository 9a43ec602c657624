//! Options of `fluffy-gateway`: parsed and checked once, then relied on.
//!
//! Scripts rely on the names here: options are added, never renamed. A wrong option is one sentence that says what
//! and where, and exit code 2.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use consensus::meta::names::ClusterName;
use fabric::cluster::{Config, OverlayRemote, WebhookConfig, is_loopback, parse_bytes, split_address};
use fabric::limits::{
    ACCESS_LOG_PERIOD_DEFAULT, ACCESS_LOG_SECONDS, INLINE_BYTES_TOTAL_DEFAULT, LIFECYCLE_DAY_DEFAULT,
    LIFECYCLE_DAY_SECONDS, MEMORY_LIMIT_DEFAULT, MEMORY_LIMIT_MIN, MIB,
};

use crate::overlay::RoomConfig;
use crate::overlay::wire::is_endpoint;
use crate::s3::proxies::Proxies;

/// Storage nodes that one process can hold.
pub const EMBEDDED_NODES_MAX: u16 = 9;

const EXIT_CODES: &str = "\
Exit codes:
  0   done, or stopped by SIGTERM or SIGINT after requests in progress were finished
  1   it could not be done: the reason is the last line on standard error
  2   wrong options or configuration
  70  stopped itself, because going on could have cost data: the reason is in the log

Variables beside those named above:
  FLUFFY_ROOT_ACCESS_KEY, FLUFFY_ROOT_SECRET_KEY   keys of the first user, used on the first start only
  FLUFFY_ENCRYPTION_KEY_LINES                      the lines of --encryption-keys themselves, one behind another with ;
  FLUFFY_SECRET_KEY                                secret for `user add` (not visible to other processes' users)
  FLUFFY_LOG                                       what is logged: error, warn, info (with a line a request), debug,
                                                   or filters; without it info without the requests
  FLUFFY_LOG_FORMAT                                `json` for one JSON object a line";

/// An S3-compatible object store. Without options: a whole store in this process, data in ./fluffy-data.
#[derive(Debug, Clone, Parser)]
#[command(name = "fluffy-gateway", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = false)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Options that say which store is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// Data directory of an embedded store; with --nodes, several (A,B,C) put the nodes on different disks
    #[arg(long, global = true, value_name = "DIR", value_delimiter = ',', env = "FLUFFY_DATA")]
    pub data: Vec<PathBuf>,
    /// Configuration of a cluster; without it the store is embedded
    #[arg(long, global = true, value_name = "FILE", env = "FLUFFY_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options for serving.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where S3 clients connect [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDR:PORT", env = "FLUFFY_LISTEN")]
    pub listen: Option<String>,
    /// Where health, metrics and administration are [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR:PORT", env = "FLUFFY_ADMIN_LISTEN")]
    pub admin_listen: Option<String>,
    /// Storage nodes in this process (1 or 3 to 9); three copies with 3 or more
    #[arg(long, value_name = "N", env = "FLUFFY_NODES")]
    pub nodes: Option<u16>,
    /// Keep everything in memory and forget it at the end; for tests
    #[arg(long, conflicts_with = "config")]
    pub memory: bool,
    /// Region that clients sign for [default: us-east-1]
    #[arg(long, value_name = "NAME", env = "FLUFFY_REGION")]
    pub region: Option<String>,
    /// Domain for virtual-host style addresses (bucket.NAME); may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "FLUFFY_DOMAIN")]
    pub domain: Vec<String>,
    /// Ceiling for the memory of this process, for example 512MiB [default: 1GiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, env = "FLUFFY_MEMORY_LIMIT")]
    pub memory_limit: Option<u64>,
    /// Bytes of small objects kept in the metadata; above it they become chunks [default: 16GiB]
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = parse_bytes,
        conflicts_with = "config",
        env = "FLUFFY_INLINE_BYTES_MAX"
    )]
    pub inline_bytes_max: Option<u64>,
    /// Keep no index for searches
    #[arg(long, conflicts_with = "config", env = "FLUFFY_WITHOUT_SEARCH")]
    pub without_search: bool,
    /// Certificate chain (PEM) for TLS; reloaded when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "FLUFFY_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "FLUFFY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Master keys of server-side encryption, a file that nobody else may read
    #[arg(long, value_name = "FILE", env = "FLUFFY_ENCRYPTION_KEYS")]
    pub encryption_keys: Option<PathBuf>,
    /// Refuse bodies that are not signed (UNSIGNED-PAYLOAD) on connections without TLS
    #[arg(long, env = "FLUFFY_REQUIRE_SIGNED_PAYLOAD")]
    pub require_signed_payload: bool,
    /// Address or network of proxies whose X-Forwarded-For is believed; may be given several times
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', env = "FLUFFY_TRUSTED_PROXY")]
    pub trusted_proxy: Vec<String>,
    /// How long a day is for lifecycle rules; for tests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(LIFECYCLE_DAY_SECONDS), hide = true)]
    pub lifecycle_day_seconds: Option<u64>,
    /// Take keys that customers encrypt with (SSE-C) on connections without TLS from other machines, too
    #[arg(long, env = "FLUFFY_CUSTOMER_KEYS_WITHOUT_TLS")]
    pub customer_keys_without_tls: bool,
    /// Where browsers find buckets served as websites [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "FLUFFY_WEBSITE_LISTEN")]
    pub website_listen: Option<String>,
    /// Domain of websites (bucket.NAME); may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "FLUFFY_WEBSITE_DOMAIN")]
    pub website_domain: Vec<String>,
    /// Targets of notifications: a file with a list like `webhooks` in config.yaml
    #[arg(long, value_name = "FILE", env = "FLUFFY_WEBHOOKS")]
    pub webhooks: Option<PathBuf>,
    /// Where other clusters of an overlay connect [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "FLUFFY_OVERLAY_LISTEN")]
    pub overlay_listen: Option<String>,
    /// How other clusters reach that, where it is not the same [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", env = "FLUFFY_OVERLAY_ADDRESS")]
    pub overlay_address: Option<String>,
    /// Requests for buckets of other clusters: sent on (forward), or answered with where to send them (redirect) [default: forward]
    #[arg(long, value_name = "HOW", env = "FLUFFY_OVERLAY_REMOTE")]
    pub overlay_remote: Option<OverlayRemote>,
    /// How clients of other clusters reach this one by S3, for those that redirect
    #[arg(long, value_name = "URL", env = "FLUFFY_OVERLAY_S3")]
    pub overlay_s3: Option<String>,
    /// Let clusters that have too little room put new buckets here
    #[arg(long, env = "FLUFFY_OVERLAY_TAKES_BUCKETS")]
    pub overlay_takes_buckets: bool,
    /// New buckets go to a cluster that takes them when the disks are fuller than this [default: 85]
    #[arg(long, value_name = "PERCENT", env = "FLUFFY_OVERLAY_SPACE_MARK")]
    pub overlay_space_mark: Option<u8>,
    /// New buckets go to a cluster that takes them when the gateway is busier than this [default: 90]
    #[arg(long, value_name = "PERCENT", env = "FLUFFY_OVERLAY_LOAD_MARK")]
    pub overlay_load_mark: Option<u8>,
    /// How long lines of access logs wait before they are written [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(ACCESS_LOG_SECONDS), env = "FLUFFY_ACCESS_LOG_SECONDS")]
    pub access_log_seconds: Option<u64>,
}

/// What can be done instead of serving. All of it talks to the admin port of a running store.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Manage users and their access keys
    User {
        /// What to do.
        #[command(subcommand)]
        action: UserAction,
    },
    /// Bound what a bucket, or all buckets of a user together, may hold
    Quota {
        /// What to do.
        #[command(subcommand)]
        action: QuotaAction,
    },
    /// Find objects of all buckets, for example `search 'invoice name:*.pdf size:>1MB'`
    Search {
        /// What to find; the language is in docs/search.md
        query: String,
        /// Hits at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        max_keys: u32,
        /// name, size or modified
        #[arg(long, default_value = "name")]
        sort: String,
        /// asc or desc
        #[arg(long, default_value = "asc")]
        order: String,
        /// The answer is at least as new as this entry of a log (x-fluffy-index of a write); several with commas between
        #[arg(long, value_name = "INDEX")]
        as_of: Option<String>,
        /// Where the page before ended
        #[arg(long, value_name = "TOKEN")]
        continuation_token: Option<String>,
        /// Only what this user may see, in all clusters
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Choose the storage class of what is written into a bucket without one
    StorageClass {
        /// What to do.
        #[command(subcommand)]
        action: ClassAction,
    },
    /// List all files of a user, in all buckets and clusters
    Files {
        /// Whose.
        user: String,
        /// Files at most
        #[arg(long, value_name = "N", default_value_t = 1000)]
        max_keys: u32,
        /// Where the page before ended
        #[arg(long, value_name = "TOKEN")]
        continuation_token: Option<String>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Join other clusters, and say what they may do for users
    Overlay {
        /// What to do.
        #[command(subcommand)]
        action: OverlayAction,
    },
    /// Show nodes, leader, copies owed, space and versions
    Status {
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

/// Where the running store is.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// Admin port of the running store [default: 127.0.0.1:9001]
    #[arg(long, visible_alias = "admin-listen", value_name = "ADDR:PORT", env = "FLUFFY_ADMIN")]
    pub admin: Option<String>,
    /// Certificate authority (PEM) of the admin port, if it speaks TLS
    #[arg(long, value_name = "FILE", env = "FLUFFY_ADMIN_CA")]
    pub admin_ca: Option<PathBuf>,
}

/// What to do with the storage class of a bucket.
#[derive(Debug, Clone, Subcommand)]
pub enum ClassAction {
    /// Set it; what is there already stays as it is
    Set {
        /// STANDARD (three copies) or STANDARD_IA (an erasure code)
        class: String,
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show it
    Show {
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What to do with the staleness that a bucket allows.
#[derive(Debug, Clone, Subcommand)]
pub enum StalenessAction {
    /// Allow it; without, each read asks this cluster
    Set {
        /// For how long: 1 to 604800
        seconds: u64,
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show it
    Show {
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Allow it no more
    Clear {
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What to do with the overlay.
#[derive(Debug, Clone, Subcommand)]
pub enum OverlayAction {
    /// Print a token with which one other cluster joins this one
    Invite {
        /// How long it is good [default: 86400]
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Join the cluster that printed a token: both see each other's buckets from then on
    Join {
        /// The token
        token: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the clusters, how they are, and what is granted to them
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the buckets of all clusters
    Catalog {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let a bucket of this cluster follow one of another: CLUSTER/BUCKET. Nobody else writes to it until it is promoted
    Follow {
        /// What it follows.
        source: String,
        /// The bucket here, with versioning enabled.
        bucket: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// End following: the bucket takes the place of the one that it followed, which is read-only from then on
    Promote {
        /// Which bucket.
        bucket: String,
        /// Do not ask the cluster of the source, which is gone: what was not copied is not in the bucket. If that cluster
        /// comes back, the source becomes read-only
        #[arg(long)]
        home_is_lost: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show what took the place of a bucket of this cluster, and what happened in the bucket that the other one does not have
    Superseded {
        /// Which bucket.
        bucket: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let a bucket be written to again whose place was taken
    Reopen {
        /// Which bucket.
        bucket: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Say for how long a bucket may be read from memory in other clusters while this one is away
    Staleness {
        /// What to do.
        #[command(subcommand)]
        action: StalenessAction,
    },
    /// Leave the overlay
    Leave {
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a cluster for a stranger from now on
    Remove {
        /// Which one.
        cluster: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let a cluster act for a user: NAME of this cluster, CLUSTER/NAME or `*` of that one
    Grant {
        /// Which cluster.
        cluster: String,
        /// For whom.
        user: String,
        /// Only in this bucket; may be given several times
        #[arg(long)]
        bucket: Vec<String>,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take that back
    Revoke {
        /// Which cluster.
        cluster: String,
        /// For whom.
        user: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What to do with quotas.
#[derive(Debug, Clone, Subcommand)]
pub enum QuotaAction {
    /// Set a quota; a bound that is left out does not apply. Uploads in progress count as objects, their parts as bytes
    #[command(group = clap::ArgGroup::new("bounds").required(true).multiple(true).args(["bytes", "objects"]))]
    Set {
        /// Whose.
        #[command(flatten)]
        of: QuotaOwner,
        /// Bytes, written like 512MiB
        #[arg(long, value_parser = parse_bytes)]
        bytes: Option<u64>,
        /// Objects
        #[arg(long)]
        objects: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a quota and what counts against it
    Show {
        /// Whose.
        #[command(flatten)]
        of: QuotaOwner,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a quota
    Clear {
        /// Whose.
        #[command(flatten)]
        of: QuotaOwner,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Whose quota.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct QuotaOwner {
    /// A bucket
    #[arg(long)]
    pub bucket: Option<String>,
    /// A user: all its buckets together
    #[arg(long)]
    pub user: Option<String>,
}

/// What to do with users.
#[derive(Debug, Clone, Subcommand)]
pub enum UserAction {
    /// Add a user; or, with --access-key, another key to an existing one
    Add {
        /// 1 to 64 letters, digits and +=,.@_-
        name: String,
        /// Access key to import; drawn if left out
        #[arg(long, value_name = "K")]
        access_key: Option<String>,
        /// Secret key to import, at least 16 characters (others can see it in the process list)
        #[arg(long, value_name = "S", env = "FLUFFY_SECRET_KEY", hide_env_values = true)]
        secret_key: Option<String>,
        /// Read the secret key from the first line of standard input
        #[arg(long, conflicts_with = "secret_key")]
        secret_stdin: bool,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List users with their access keys
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a user that owns no buckets
    Remove {
        /// Who.
        name: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// What a user may do: without policies everything with its own buckets, with them what they allow
    Policy {
        /// What to do with them.
        #[command(subcommand)]
        action: PolicyAction,
    },
    /// Give a user a new key and take all the old ones away
    Rotate {
        /// Who.
        name: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What to do with policies of users.
#[derive(Debug, Clone, Subcommand)]
pub enum PolicyAction {
    /// Attach a policy, in place of the one of its name
    Set {
        /// Whose.
        user: String,
        /// 1 to 128 letters, digits and +=,.@_-
        name: String,
        /// A file with the policy in JSON; standard input if left out
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the policies of a user, in JSON
    Show {
        /// Whose.
        user: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a policy away
    Remove {
        /// Whose.
        user: String,
        /// Which one.
        name: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Wrong options or configuration: one sentence. Exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Where the parts of the store run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// In this process, on disk. One directory, or one a node.
    Embedded {
        /// Storage nodes.
        nodes: u16,
        /// Their directories; the first also holds what belongs to the store as a whole.
        data: Vec<PathBuf>,
    },
    /// In this process, in memory.
    Memory {
        /// Storage nodes.
        nodes: u16,
    },
    /// In other processes.
    Cluster {
        /// The configuration file.
        config: PathBuf,
    },
}

/// Everything that serving needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the store is.
    pub mode: Mode,
    /// S3 address.
    pub listen: String,
    /// Admin address.
    pub admin_listen: String,
    /// Region.
    pub region: String,
    /// Domains of virtual-host style.
    pub domains: Vec<String>,
    /// Ceiling of memory.
    pub memory_limit: u64,
    /// Bytes of small bodies in the metadata.
    pub inline_bytes_max: u64,
    /// Whether an embedded store keeps an index for searches.
    pub search_index: bool,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Where the master keys of encryption are; without it they follow from the cluster key.
    pub encryption_keys: Option<PathBuf>,
    /// Whether bodies must be signed on connections without TLS.
    pub require_signed_payload: bool,
    /// Proxies whose word is taken for the address of a client.
    pub proxies: Proxies,
    /// How long a day is for lifecycle rules.
    pub lifecycle_day: Duration,
    /// Whether keys of customers may come on connections without TLS.
    pub customer_keys_without_tls: bool,
    /// Address of websites; `None`: there are none.
    pub website_listen: Option<String>,
    /// Domains of websites.
    pub website_domains: Vec<String>,
    /// Targets of notifications.
    pub webhooks: Vec<WebhookConfig>,
    /// How long lines of access logs wait.
    pub access_log_period: Duration,
    /// Address for other clusters; `None`: there are none.
    pub overlay_listen: Option<String>,
    /// How they reach it.
    pub overlay_address: Option<String>,
    /// What becomes of requests for buckets of others.
    pub overlay_remote: OverlayRemote,
    /// Where their clients are redirected to.
    pub overlay_s3: Option<String>,
    /// How much room is kept, and whether others get some.
    pub overlay_room: RoomConfig,
}

/// The data directory when none is given.
pub const DATA_DEFAULT: &str = "fluffy-data";
/// The admin address when none is given.
pub const ADMIN_DEFAULT: &str = "127.0.0.1:9001";

impl Settings {
    /// Checks the options. What they leave open is said by the configuration file, if there is one, then by the
    /// default.
    pub fn resolve(
        store: &StoreArgs,
        serve: &ServeArgs,
        file: Option<&Config>,
    ) -> Result<Settings, UsageError> {
        let pick = |option: &Option<String>, file: &Option<String>, default: &str| {
            option.clone().or_else(|| file.clone()).unwrap_or_else(|| default.to_string())
        };
        let region = file.map(|file| file.region.clone());
        let inline_bytes_max = file.map(|file| file.inline_bytes_max);
        let lifecycle_day = serve.lifecycle_day_seconds.map(Duration::from_secs);
        let lifecycle_day = lifecycle_day.or(file.map(|file| file.lifecycle_day));
        let file = file.map(|file| file.gateway.clone()).unwrap_or_default();
        let tls = file.tls.map(|files| (files.certificate, files.key));
        let memory_limit = file.memory_limit.map(|limit| limit.0);
        let trusted =
            if serve.trusted_proxy.is_empty() { &file.trusted_proxies } else { &serve.trusted_proxy };
        let proxies = Proxies::parse(trusted).or_else(|text| {
            wrong(format!(
                "--trusted-proxy {text:?} is neither an address nor a network such as 203.0.113.0/24"
            ))
        })?;
        let access_log = serve.access_log_seconds.or(file.access_log_seconds);
        if access_log.is_some_and(|seconds| !ACCESS_LOG_SECONDS.contains(&seconds)) {
            return wrong("access_log_seconds: it is 1 to 3600".to_string());
        }
        let webhooks = serve.webhooks.as_deref().map(WebhookConfig::load).transpose();
        let webhooks = webhooks.map_err(|error| UsageError(error.0))?;
        let settings = Settings {
            mode: mode(store, serve)?,
            listen: pick(&serve.listen, &file.listen, "127.0.0.1:9000"),
            admin_listen: pick(&serve.admin_listen, &file.admin_listen, ADMIN_DEFAULT),
            region: pick(&serve.region, &region, "us-east-1"),
            domains: if serve.domain.is_empty() { file.domains.clone() } else { serve.domain.clone() },
            website_listen: serve.website_listen.clone().or(file.website_listen),
            website_domains: match serve.website_domain.is_empty() {
                true => file.website_domains.clone(),
                false => serve.website_domain.clone(),
            },
            memory_limit: serve.memory_limit.or(memory_limit).unwrap_or(MEMORY_LIMIT_DEFAULT),
            inline_bytes_max: inline_bytes_max
                .or(serve.inline_bytes_max)
                .unwrap_or(INLINE_BYTES_TOTAL_DEFAULT),
            search_index: !serve.without_search,
            tls: serve.tls_cert.clone().zip(serve.tls_key.clone()).or(tls),
            encryption_keys: serve.encryption_keys.clone().or(file.encryption_keys),
            require_signed_payload: serve.require_signed_payload || file.require_signed_payload,
            proxies,
            lifecycle_day: lifecycle_day.unwrap_or(LIFECYCLE_DAY_DEFAULT),
            customer_keys_without_tls: serve.customer_keys_without_tls || file.customer_keys_without_tls,
            webhooks: webhooks.unwrap_or(file.webhooks),
            overlay_listen: serve.overlay_listen.clone().or(file.overlay_listen),
            overlay_address: serve.overlay_address.clone().or(file.overlay_address),
            overlay_remote: serve.overlay_remote.or(file.overlay_remote).unwrap_or_default(),
            overlay_s3: serve.overlay_s3.clone().or(file.overlay_s3),
            overlay_room: RoomConfig {
                offered: serve.overlay_takes_buckets || file.overlay_takes_buckets,
                space_mark_percent: serve
                    .overlay_space_mark
                    .or(file.overlay_space_mark)
                    .unwrap_or(RoomConfig::DEFAULT.space_mark_percent),
                load_mark_percent: serve
                    .overlay_load_mark
                    .or(file.overlay_load_mark)
                    .unwrap_or(RoomConfig::DEFAULT.load_mark_percent),
            },
            access_log_period: access_log.map_or(ACCESS_LOG_PERIOD_DEFAULT, Duration::from_secs),
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), UsageError> {
        check_address("--listen", &self.listen)?;
        check_address("--admin-listen", &self.admin_listen)?;
        if let Some(address) = &self.website_listen {
            check_address("--website-listen", address)?;
        }
        if let Some(address) = &self.overlay_listen {
            check_address("--overlay-listen", address)?;
            if let Err(error) = self.region.parse::<ClusterName>() {
                return wrong(format!(
                    "--region {:?} is the name of the cluster in an overlay: {error}",
                    self.region
                ));
            }
        }
        if let Some(address) = &self.overlay_address {
            check_address("--overlay-address", address)?;
        }
        let RoomConfig { space_mark_percent, load_mark_percent, .. } = self.overlay_room;
        for (mark, percent) in
            [("--overlay-space-mark", space_mark_percent), ("--overlay-load-mark", load_mark_percent)]
        {
            if !(1..=100).contains(&percent) {
                return wrong(format!("{mark} {percent} is not 1 to 100"));
            }
        }
        if let Some(url) = &self.overlay_s3
            && !is_endpoint(url)
        {
            return wrong(format!(
                "--overlay-s3 {url:?} is not like https://s3.example.org or http://host:9000"
            ));
        }
        if !is_loopback(&self.admin_listen) && self.tls.is_none() {
            return wrong(format!(
                "--admin-listen {} is reachable from other machines, which needs --tls-cert and --tls-key",
                self.admin_listen
            ));
        }
        let region_char = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.region.is_empty() || self.region.len() > 64 || !self.region.bytes().all(region_char) {
            return wrong(format!("--region {:?}: a region consists of a-z, 0-9 and '-'", self.region));
        }
        check_domains("--domain", &self.domains)?;
        check_domains("--website-domain", &self.website_domains)?;
        if self.memory_limit < MEMORY_LIMIT_MIN {
            return wrong(format!("--memory-limit: the least is {}MiB", MEMORY_LIMIT_MIN / MIB));
        }
        Ok(())
    }
}

fn wrong<T>(why: String) -> Result<T, UsageError> {
    Err(UsageError(why))
}

fn mode(store: &StoreArgs, serve: &ServeArgs) -> Result<Mode, UsageError> {
    if let Some(config) = &store.config {
        return match (serve.nodes, store.data.is_empty()) {
            (Some(_), _) => {
                wrong("--nodes and --config exclude each other: the nodes are in the file".to_string())
            }
            (None, false) => wrong("--data and --config exclude each other".to_string()),
            (None, true) => Ok(Mode::Cluster { config: config.clone() }),
        };
    }
    let nodes = serve.nodes.unwrap_or(1);
    if nodes != 1 && !(3..=EMBEDDED_NODES_MAX).contains(&nodes) {
        return wrong(format!("--nodes {nodes}: it is 1, or 3 to {EMBEDDED_NODES_MAX}"));
    }
    if serve.memory {
        return match store.data.is_empty() {
            true => Ok(Mode::Memory { nodes }),
            false => wrong("--memory and --data exclude each other".to_string()),
        };
    }
    let data = if store.data.is_empty() { vec![PathBuf::from(DATA_DEFAULT)] } else { store.data.clone() };
    if data.len() != 1 && data.len() != usize::from(nodes) {
        return wrong(format!(
            "--data names {} directories for {nodes} node(s): give one, or one a node",
            data.len()
        ));
    }
    if let Some(twice) = data.iter().enumerate().find(|(at, path)| data[..*at].contains(path)) {
        return wrong(format!("--data names {} twice", twice.1.display()));
    }
    Ok(Mode::Embedded { nodes, data })
}

fn check_domains(option: &str, domains: &[String]) -> Result<(), UsageError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let bad = |domain: &&String| domain.is_empty() || domain.starts_with('.') || !domain.bytes().all(allowed);
    match domains.iter().find(bad) {
        Some(domain) => wrong(format!("{option} {domain:?} is not a domain name")),
        None => Ok(()),
    }
}

fn check_address(option: &str, address: &str) -> Result<(), UsageError> {
    match split_address(address) {
        Some(_) => Ok(()),
        None => wrong(format!("{option} {address:?} is not an address like 127.0.0.1:9000")),
    }
}

/// The directory that holds what belongs to a store as a whole (keys, tokens).
pub fn store_dir(store: &StoreArgs) -> PathBuf {
    store.data.first().cloned().unwrap_or_else(|| PathBuf::from(DATA_DEFAULT))
}

/// Where the admin token of an embedded store is.
pub fn admin_token_path(dir: &Path) -> PathBuf {
    dir.join("admin-token")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::limits::GIB;

    use super::*;

    fn resolve(line: &str) -> Result<Settings, String> {
        let words = std::iter::once("fluffy-gateway").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        Settings::resolve(&cli.store, &cli.serve, None).map_err(|error| error.0)
    }

    #[test]
    fn defaults_are_what_scripts_rely_on() {
        let settings = resolve("").unwrap();
        assert_eq!(settings.mode, Mode::Embedded { nodes: 1, data: vec!["fluffy-data".into()] });
        assert_eq!(
            (settings.listen.as_str(), settings.admin_listen.as_str()),
            ("127.0.0.1:9000", "127.0.0.1:9001")
        );
        assert_eq!((settings.region.as_str(), settings.memory_limit), ("us-east-1", GIB));
    }

    #[test]
    fn options_are_taken() {
        let line = "--nodes 3 --data /a,/b,/c --listen [::1]:1 --region eu-west-1 --domain s3.example.org \
                    --memory-limit 512MiB";
        let settings = resolve(line).unwrap();
        assert_eq!(
            settings.mode,
            Mode::Embedded { nodes: 3, data: vec!["/a".into(), "/b".into(), "/c".into()] }
        );
        assert_eq!(
            (settings.memory_limit, settings.domains.as_slice()),
            (512 * MIB, &["s3.example.org".to_string()][..])
        );
        assert_eq!(resolve("--memory").unwrap().mode, Mode::Memory { nodes: 1 });
        assert_eq!(resolve("--config c.yaml").unwrap().mode, Mode::Cluster { config: "c.yaml".into() });
    }

    #[test]
    fn wrong_options_say_what_and_where() {
        for (line, said) in [
            ("--nodes 2", "--nodes 2: it is 1, or 3 to 9"),
            ("--nodes 3 --data /a,/b", "--data names 2 directories for 3 node(s)"),
            ("--nodes 3 --data /a,/b,/a", "--data names /a twice"),
            ("--nodes 3 --config c.yaml", "--nodes and --config exclude each other"),
            ("--data /a --config c.yaml", "--data and --config exclude each other"),
            ("--memory --data /a", "--memory and --data exclude each other"),
            ("--memory --config c.yaml", "cannot be used with"),
            ("--listen 9000", "--listen \"9000\" is not an address"),
            ("--listen ::1:9000", "--listen \"::1:9000\" is not an address"),
            ("--listen a:70000", "--listen \"a:70000\" is not an address"),
            ("--admin-listen 0.0.0.0:9001", "needs --tls-cert and --tls-key"),
            ("--region EU", "--region \"EU\""),
            ("--trusted-proxy proxy", "--trusted-proxy \"proxy\" is neither an address nor"),
            ("--domain .x", "--domain \".x\" is not a domain name"),
            ("--website-domain a/b", "--website-domain \"a/b\" is not a domain name"),
            ("--website-listen 80", "--website-listen \"80\" is not an address"),
            ("--memory-limit 1MiB", "--memory-limit: the least is 128MiB"),
            ("--memory-limit 1MB", "\"MB\" is no unit"),
            ("--tls-cert a", "--tls-key"),
            ("--unknown", "--unknown"),
        ] {
            let error = resolve(line).expect_err(line);
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_every_option_variable_and_exit_code() {
        let help = <Cli as clap::CommandFactory>::command().render_long_help().to_string();
        for variable in ["ROOT_ACCESS_KEY", "ROOT_SECRET_KEY", "SECRET_KEY", "LOG", "LOG_FORMAT"] {
            assert!(help.contains(&format!("FLUFFY_{variable}")), "{variable}");
        }
        for code in EXIT_CODE_NUMBERS {
            assert!(help.contains(&format!("\n  {code}  ")), "exit code {code}");
        }
    }

    const EXIT_CODE_NUMBERS: [&str; 4] = ["0", "1", "2", "70"];

    /// What `--help` knows is in the documents, too.
    #[test]
    fn the_documents_name_every_option_variable_and_exit_code() {
        let documents = include_str!("../../integration/docs/operations.md");
        let mut words = vec!["FLUFFY_ROOT_ACCESS_KEY".to_string(), "FLUFFY_ROOT_SECRET_KEY".to_string()];
        words.extend(["FLUFFY_LOG`", "FLUFFY_LOG_FORMAT"].map(str::to_string));
        words.extend(EXIT_CODE_NUMBERS.map(|code| format!("\n| {code} |")));
        let mut commands = vec![<Cli as clap::CommandFactory>::command()];
        while let Some(command) = commands.pop() {
            let options = command.get_arguments().filter(|option| option.get_id() != "help");
            for option in options.filter(|option| option.get_id() != "version") {
                words.extend(option.get_long().map(|long| format!("--{long}")));
                words.extend(option.get_env().map(|variable| variable.to_string_lossy().into_owned()));
            }
            words.extend(command.get_subcommands().map(|command| command.get_name().to_string()));
            commands.extend(command.get_subcommands().cloned());
        }
        for word in words {
            assert!(documents.contains(&word), "{word:?} is not in operations.md");
        }
    }
}
