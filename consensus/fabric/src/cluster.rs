//! What a cluster is and what a process is told: `config.yaml` and `iptable.txt`.
//!
//! The configuration has two halves: what all processes of a cluster must agree on, and what is the business of
//! one process. Both files are read and checked once, at the start; an error is one sentence that says what is
//! wrong and where. Paths in the file are relative to the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::disks::system::read_text;
use crate::ids::NodeId;
use crate::limits::{
    COPIES, GIB, INLINE_BYTES_TOTAL_DEFAULT, KIB, LIFECYCLE_DAY_DEFAULT, LIFECYCLE_DAY_SECONDS,
    MEMORY_LIMIT_DEFAULT, MEMORY_LIMIT_MIN, MIB, SCRUB_DAYS_MAX, SCRUB_PERIOD_DEFAULT, TIB, UPLOAD_DAYS_MAX,
    UPLOAD_PERIOD_DEFAULT, VOTER_PATIENCE_DEFAULT, VOTER_SILENCE_SECONDS, VOTERS_MAX,
};
use crate::rpc::AddressBook;

/// Voters where the configuration names none: the lowest ids, so many at most.
const VOTERS_DEFAULT: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Region that clients sign for.
    pub region: String,
    /// Where the nodes are.
    pub nodes: IpTable,
    /// The nodes that agree on metadata when the cluster is born, ascending.
    pub voters: Vec<NodeId>,
    /// A voter that is silent for longer is exchanged by a node that stands by.
    pub voter_patience: Duration,
    /// Copies of each chunk, 1 to 3; fewer where there are fewer nodes.
    pub copies: usize,
    /// Bytes of small bodies in the metadata; above it they become chunks.
    pub inline_bytes_max: u64,
    /// Every chunk is read within this, to find rot.
    pub scrub_period: Duration,
    /// A multipart upload that was begun so long ago is aborted; `None`: never.
    pub upload_period: Option<Duration>,
    /// How long a day is for lifecycle rules: 24 hours, but in tests.
    pub lifecycle_day: Duration,
    /// Directory of certificates and keys, see [`crate::tls`].
    pub secrets: PathBuf,
    /// No TLS between processes: all nodes are on this machine.
    pub insecure: bool,
    /// For `fluffy-storage`.
    pub storage: StorageConfig,
    /// For `fluffy-gateway`.
    pub gateway: GatewayConfig,
}

/// What one storage node is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Data directory; `{id}` stands for the number of the node. See [`Config::data_directory`].
    pub data: PathBuf,
    /// Where it listens for peers, if that is not its address in the table.
    pub listen: Option<String>,
    /// Where health and metrics are. None: on loopback, 100 above its port in the table.
    pub admin_listen: Option<String>,
    /// Ceiling for the memory of the process.
    pub memory_limit: ByteSize,
    /// Whether nodes that keep the metadata keep an index for searches beside them.
    pub search_index: bool,
}

/// What a gateway is told. Options of the command line come first, defaults are the gateway's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Where S3 clients connect.
    pub listen: Option<String>,
    /// Where health, metrics and administration are.
    pub admin_listen: Option<String>,
    /// Domains for virtual-host style addresses.
    pub domains: Vec<String>,
    /// Certificate chain and key (PEM) for clients.
    pub tls: Option<TlsFiles>,
    /// Ceiling for the memory of the process.
    pub memory_limit: Option<ByteSize>,
    /// Master keys of server-side encryption.
    pub encryption_keys: Option<PathBuf>,
    /// Whether bodies must be signed on connections without TLS.
    pub require_signed_payload: bool,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Whether keys of customers may come on connections without TLS.
    pub customer_keys_without_tls: bool,
    /// Where browsers find buckets served as websites.
    pub website_listen: Option<String>,
    /// Domains of websites.
    pub website_domains: Vec<String>,
    /// Who may be told of what happens in buckets.
    pub webhooks: Vec<WebhookConfig>,
    /// How long lines of access logs wait before they are written.
    pub access_log_seconds: Option<u64>,
    /// Where other clusters of an overlay connect.
    pub overlay_listen: Option<String>,
    /// How they reach that, where it is not the same.
    pub overlay_address: Option<String>,
    /// What becomes of requests for buckets of other clusters.
    pub overlay_remote: Option<OverlayRemote>,
    /// Where clients of other clusters are redirected to.
    pub overlay_s3: Option<String>,
    /// Whether clusters that have too little room may put new buckets here.
    pub overlay_takes_buckets: bool,
    /// How full the disks may be, in percent, before new buckets go to others.
    pub overlay_space_mark: Option<u8>,
    /// How busy the gateway may be, in percent, before new buckets go to others.
    pub overlay_load_mark: Option<u8>,
}

/// What becomes of requests for buckets of other clusters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayRemote {
    /// They are sent on, and the answer comes back.
    #[default]
    Forward,
    /// The client is told where to send them.
    Redirect,
}

impl FromStr for OverlayRemote {
    type Err = String;

    fn from_str(text: &str) -> Result<OverlayRemote, String> {
        match text {
            "forward" => Ok(OverlayRemote::Forward),
            "redirect" => Ok(OverlayRemote::Redirect),
            _ => Err("it is forward or redirect".to_string()),
        }
    }
}

/// A target of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// How configurations of buckets name it.
    pub name: String,
    /// Where it listens, `http://` or `https://`.
    pub url: String,
    /// A file with the value of the `Authorization` header.
    #[serde(default)]
    pub authorization_file: Option<PathBuf>,
    /// Authorities (PEM) that its certificate is checked against; without it those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Whether it may have an address of this machine or of a private network.
    #[serde(default)]
    pub allow_private: bool,
    /// How often a request is tried.
    #[serde(default = "WebhookConfig::default_attempts")]
    pub attempts: u32,
}

impl WebhookConfig {
    fn default_attempts() -> u32 {
        10
    }

    /// Reads a file with a list of targets, whose paths are relative to it.
    pub fn load(path: &Path) -> Result<Vec<WebhookConfig>, ConfigError> {
        let webhooks: Vec<WebhookConfig> = parse(path, &read(path)?)?;
        let base = path.parent().unwrap_or(Path::new(""));
        Ok(webhooks.into_iter().map(|webhook| webhook.under(base)).collect())
    }

    fn under(self, base: &Path) -> WebhookConfig {
        let under = |path: Option<PathBuf>| path.map(|path| base.join(path));
        WebhookConfig { authorization_file: under(self.authorization_file), ca: under(self.ca), ..self }
    }
}

/// A certificate chain and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Default for StorageConfig {
    fn default() -> StorageConfig {
        StorageConfig {
            data: PathBuf::from("./fluffy-data/node-{id}"),
            listen: None,
            admin_listen: None,
            memory_limit: ByteSize(MEMORY_LIMIT_DEFAULT),
            search_index: true,
        }
    }
}

/// `config.yaml` as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    region: String,
    addresses: PathBuf,
    voters: Option<Vec<u16>>,
    voter_silence_seconds: u64,
    copies: usize,
    inline_bytes_max: ByteSize,
    scrub_days: u32,
    upload_days: u32,
    lifecycle_day_seconds: u64,
    secrets: PathBuf,
    insecure: bool,
    storage: StorageConfig,
    gateway: GatewayConfig,
}

impl Default for Written {
    fn default() -> Written {
        Written {
            region: "us-east-1".to_string(),
            addresses: PathBuf::from("iptable.txt"),
            voters: None,
            voter_silence_seconds: VOTER_PATIENCE_DEFAULT.as_secs(),
            copies: COPIES,
            inline_bytes_max: ByteSize(INLINE_BYTES_TOTAL_DEFAULT),
            scrub_days: (SCRUB_PERIOD_DEFAULT.as_secs() / DAY.as_secs()) as u32,
            upload_days: (UPLOAD_PERIOD_DEFAULT.as_secs() / DAY.as_secs()) as u32,
            lifecycle_day_seconds: LIFECYCLE_DAY_DEFAULT.as_secs(),
            secrets: PathBuf::from("./secrets"),
            insecure: false,
            storage: StorageConfig::default(),
            gateway: GatewayConfig::default(),
        }
    }
}

/// What is wrong and where, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn wrong<T>(file: &Path, line: Option<u64>, what: impl fmt::Display) -> Result<T, ConfigError> {
    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
    Err(ConfigError(format!("{}{line}: {what}", file.display())))
}

impl Config {
    /// Reads and checks `path` and the table that it names.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = read(path)?;
        let written: Written = parse(path, &text)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let addresses = base.join(&written.addresses);
        let nodes = IpTable::parse(&addresses, &read(&addresses)?)?;
        check(path, &text, written, nodes, base)
    }

    /// Data directory of a node.
    pub fn data_directory(&self, node: NodeId) -> PathBuf {
        let pattern = self.storage.data.to_string_lossy();
        PathBuf::from(pattern.replace("{id}", &node.to_string()))
    }

    /// Where a node listens for peers. `None` for a node that is not in the table.
    pub fn storage_listen(&self, node: NodeId) -> Option<String> {
        self.storage.listen.clone().or_else(|| self.nodes.address(node))
    }

    /// Where the health and metrics of a node are. `None` for a node that is not in the table.
    pub fn storage_admin_listen(&self, node: NodeId) -> Option<String> {
        if let Some(address) = &self.storage.admin_listen {
            return Some(address.clone());
        }
        let (_, port) = split_address(&self.nodes.address(node)?)?;
        Some(format!("127.0.0.1:{}", port.checked_add(100)?))
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    read_text(path).map_err(|error| ConfigError(format!("read {}: {error}", path.display())))
}

fn parse<T: de::DeserializeOwned + Default>(path: &Path, text: &str) -> Result<T, ConfigError> {
    // A file of comments only is an empty one.
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(blank) {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).or_else(|error: serde_saphyr::Error| {
        let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
        let what = match error.without_snippet() {
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                format!("the key `{field}` is not known here; known are {}", expected.join(", "))
            }
            other => {
                let text = other.to_string();
                let first = text.lines().next().unwrap_or_default();
                // The line is said in front.
                first.split(" at line ").next().unwrap_or_default().to_string()
            }
        };
        wrong(path, line, what)
    })
}

/// Line of a key of the outermost mapping.
fn line_of(text: &str, key: &str) -> Option<u64> {
    let at =
        text.lines().position(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))?;
    Some(at as u64 + 1)
}

fn check(
    path: &Path,
    text: &str,
    written: Written,
    nodes: IpTable,
    base: &Path,
) -> Result<Config, ConfigError> {
    let wrong_at = |key: &str, what: String| wrong(path, line_of(text, key), format!("{key}: {what}"));
    let region_char = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if written.region.is_empty() || written.region.len() > 64 || !written.region.bytes().all(region_char) {
        return wrong_at("region", format!("{:?} does not consist of a-z, 0-9 and '-'", written.region));
    }
    if !(1..=COPIES).contains(&written.copies) {
        return wrong_at("copies", format!("{} is not between 1 and {COPIES}", written.copies));
    }
    if !(1..=SCRUB_DAYS_MAX).contains(&written.scrub_days) {
        let days = written.scrub_days;
        return wrong_at("scrub_days", format!("{days} is not between 1 and {SCRUB_DAYS_MAX}"));
    }
    if UPLOAD_DAYS_MAX < written.upload_days {
        let days = written.upload_days;
        return wrong_at("upload_days", format!("{days} is not between 0 and {UPLOAD_DAYS_MAX}"));
    }
    if !LIFECYCLE_DAY_SECONDS.contains(&written.lifecycle_day_seconds) {
        let (least, most) = LIFECYCLE_DAY_SECONDS.into_inner();
        let seconds = written.lifecycle_day_seconds;
        return wrong_at("lifecycle_day_seconds", format!("{seconds} is not between {least} and {most}"));
    }
    let silence = written.voter_silence_seconds;
    if !VOTER_SILENCE_SECONDS.contains(&silence) {
        let (least, most) = VOTER_SILENCE_SECONDS.into_inner();
        return wrong_at("voter_silence_seconds", format!("{silence} is not between {least} and {most}"));
    }
    let voters: Vec<NodeId> = match &written.voters {
        Some(voters) => voters.iter().copied().map(NodeId).collect(),
        None => nodes.nodes().into_iter().take(VOTERS_DEFAULT).collect(),
    };
    if voters.is_empty() || voters.len() > VOTERS_MAX {
        return wrong_at("voters", format!("there are {}; it takes 1 to {VOTERS_MAX}", voters.len()));
    }
    if let Some(stranger) = voters.iter().find(|voter| nodes.address(**voter).is_none()) {
        return wrong_at("voters", format!("node {stranger} is not in {}", written.addresses.display()));
    }
    let mut sorted = voters.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != voters.len() {
        return wrong_at("voters", "a node is named twice".to_string());
    }
    if written.insecure && !nodes.is_loopback() {
        return wrong_at("insecure", "only where all nodes are on the loopback of one machine".to_string());
    }
    let listens_outside = written.storage.listen.as_ref().is_some_and(|listen| !is_loopback(listen));
    if written.insecure && listens_outside {
        return wrong_at("insecure", "`storage.listen` is not on the loopback of this machine".to_string());
    }
    if written.storage.memory_limit.0 < MEMORY_LIMIT_MIN {
        return wrong(
            path,
            None,
            format!("storage.memory_limit: the least is {}", ByteSize(MEMORY_LIMIT_MIN)),
        );
    }
    check_addresses(path, &written)?;

    let (mut storage, mut gateway) = (written.storage, written.gateway);
    storage.data = base.join(storage.data);
    gateway.encryption_keys = gateway.encryption_keys.map(|keys| base.join(keys));
    gateway.webhooks = gateway.webhooks.into_iter().map(|webhook| webhook.under(base)).collect();
    gateway.tls =
        gateway.tls.map(|tls| TlsFiles { certificate: base.join(tls.certificate), key: base.join(tls.key) });
    Ok(Config {
        region: written.region,
        nodes,
        voters: sorted,
        voter_patience: Duration::from_secs(written.voter_silence_seconds),
        copies: written.copies,
        inline_bytes_max: written.inline_bytes_max.0,
        scrub_period: DAY * written.scrub_days,
        upload_period: (written.upload_days != 0).then(|| DAY * written.upload_days),
        lifecycle_day: Duration::from_secs(written.lifecycle_day_seconds),
        secrets: base.join(written.secrets),
        insecure: written.insecure,
        storage,
        gateway,
    })
}

fn check_addresses(path: &Path, written: &Written) -> Result<(), ConfigError> {
    let addresses = [
        ("storage.listen", &written.storage.listen),
        ("storage.admin_listen", &written.storage.admin_listen),
        ("gateway.listen", &written.gateway.listen),
        ("gateway.admin_listen", &written.gateway.admin_listen),
        ("gateway.website_listen", &written.gateway.website_listen),
        ("gateway.overlay_listen", &written.gateway.overlay_listen),
        ("gateway.overlay_address", &written.gateway.overlay_address),
    ];
    for (key, address) in addresses {
        if let Some(address) = address.as_ref().filter(|address| split_address(address).is_none()) {
            return wrong(path, None, format!("{key}: {address:?} is not an address like 127.0.0.1:7001"));
        }
    }
    Ok(())
}

/// Host and port of `host:port` or `[ipv6]:port`.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_char = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let right = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(host_char),
    };
    right.then_some((inner.unwrap_or(host), port))
}

/// Whether only this machine can reach an address.
pub fn is_loopback(address: &str) -> bool {
    split_address(address).is_some_and(|(host, _)| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// Where one node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host:port`.
    pub address: String,
    /// What fails together: a rack, a room, a site.
    pub zone: Option<String>,
}

/// `iptable.txt`: where the nodes are. Never empty when parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpTable {
    places: BTreeMap<NodeId, Place>,
}

impl IpTable {
    /// For wiring without a file. A later place of a node replaces an earlier one.
    pub fn new(places: impl IntoIterator<Item = (NodeId, Place)>) -> IpTable {
        IpTable { places: places.into_iter().collect() }
    }

    /// Parses `id address [zone]` a line; `#` begins a comment. `file` is its name for errors.
    pub fn parse(file: &Path, text: &str) -> Result<IpTable, ConfigError> {
        let mut places: BTreeMap<NodeId, Place> = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let content = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = content.split_whitespace().collect();
            let (id, address, zone) = match words[..] {
                [] => continue,
                [id, address] => (id, address, None),
                [id, address, zone] => (id, address, Some(zone.to_string())),
                _ => return wrong(file, Some(number), "a line is `id address [zone]`"),
            };
            let Some(node) = id.parse().ok().filter(|id| *id > 0).map(NodeId) else {
                return wrong(file, Some(number), format!("{id:?} is not a node id, 1 to 65535"));
            };
            if split_address(address).is_none_or(|(_, port)| port == 0) {
                return wrong(
                    file,
                    Some(number),
                    format!("{address:?} is not an address like 10.0.0.1:7001"),
                );
            }
            if let Some((other, _)) = places.iter().find(|(_, place)| place.address == address) {
                return wrong(file, Some(number), format!("node {other} has the address {address} already"));
            }
            if places.first_key_value().is_some_and(|(_, first)| first.zone.is_some() != zone.is_some()) {
                return wrong(file, Some(number), "either all nodes have a zone or none has");
            }
            if places.insert(node, Place { address: address.to_string(), zone }).is_some() {
                return wrong(file, Some(number), format!("node {node} is there twice"));
            }
        }
        if places.is_empty() {
            return wrong(file, None, "there is no node in it");
        }
        Ok(IpTable { places })
    }

    /// All nodes with their places, ascending.
    pub fn places(&self) -> impl Iterator<Item = (NodeId, &Place)> {
        self.places.iter().map(|(node, place)| (*node, place))
    }

    /// Zone of a node, where there are zones.
    pub fn zone(&self, node: NodeId) -> Option<&str> {
        self.places.get(&node)?.zone.as_deref()
    }

    /// Whether all nodes are on the loopback of this machine.
    pub fn is_loopback(&self) -> bool {
        self.places.values().all(|place| is_loopback(&place.address))
    }
}

impl AddressBook for IpTable {
    fn address(&self, node: NodeId) -> Option<String> {
        self.places.get(&node).map(|place| place.address.clone())
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.places.keys().copied().collect()
    }
}

/// Where all nodes are: the table first, then what the node table of the metadata says about those that the
/// table does not list. The table comes first because a majority that changed its addresses could otherwise
/// never commit the new ones.
#[derive(Debug, Default)]
pub struct Directory {
    table: IpTable,
    members: RwLock<BTreeMap<NodeId, String>>,
}

impl Directory {
    /// Knows the table only.
    pub fn new(table: IpTable) -> Directory {
        Directory { table, members: RwLock::default() }
    }

    fn members(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, String>> {
        // The map is replaced whole, so poison means nothing here.
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressBook for Directory {
    fn address(&self, node: NodeId) -> Option<String> {
        self.table.address(node).or_else(|| self.members().get(&node).cloned())
    }

    fn nodes(&self) -> Vec<NodeId> {
        let all: BTreeSet<NodeId> = self.table.places.keys().chain(self.members().keys()).copied().collect();
        all.into_iter().collect()
    }

    fn learn(&self, members: BTreeMap<NodeId, String>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
    }
}

/// A number of bytes, written like `512MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Bytes as people write them: `1073741824`, `64KiB`, `512MiB`, `4GiB`, `1TiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        "TiB" => TIB,
        other => return Err(format!("{other:?} is no unit; B, KiB, MiB, GiB and TiB are")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a number of bytes"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text:?} is too large"))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
        let whole = |(unit, _): &&(u64, &str)| self.0 >= *unit && self.0.is_multiple_of(*unit);
        match units.iter().find(whole) {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes like 512MiB")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                parse_bytes(text).map(ByteSize).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    const TABLE: &str = "1 127.0.0.1:7001\n2 127.0.0.1:7002\n4 127.0.0.1:7004 # far\n\n9 localhost:7009\n";

    fn table(text: &str) -> Result<IpTable, String> {
        IpTable::parse(Path::new("iptable.txt"), text).map_err(|error| error.0)
    }

    fn config_with(text: &str, table_text: &str) -> Result<Config, String> {
        let path = Path::new("/etc/fluffy/config.yaml");
        let written = parse(path, text).map_err(|error| error.0)?;
        check(path, text, written, table(table_text)?, Path::new("/etc/fluffy")).map_err(|error| error.0)
    }

    fn config(text: &str) -> Result<Config, String> {
        config_with(text, TABLE)
    }

    #[test]
    fn the_files_at_the_root_are_examples_that_work() {
        let config = Config::load(&Path::new(ROOT).join("config.yaml")).unwrap();
        assert_eq!(config.nodes.nodes(), [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(config.nodes.address(NodeId(3)), Some("127.0.0.1:7003".to_string()));
        assert_eq!(config.voters, [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(config.storage_admin_listen(NodeId(1)), Some("127.0.0.1:7101".to_string()));
        assert!(config.data_directory(NodeId(2)).ends_with("fluffy-data/node-2"));
    }

    /// Every key that the code knows is in the file, set or in a comment, and every key of the file is known.
    #[test]
    fn the_file_at_the_root_documents_every_key() {
        let text = read(&Path::new(ROOT).join("config.yaml")).unwrap();
        let all = Written {
            voters: Some(vec![1]),
            gateway: GatewayConfig {
                tls: Some(TlsFiles { certificate: "a".into(), key: "b".into() }),
                ..GatewayConfig::default()
            },
            ..Written::default()
        };
        let keys_of = |text: &str| -> Vec<String> {
            let keys = text.lines().filter_map(|line| {
                let line = line.strip_prefix("#:").unwrap_or(line).trim_start();
                let (key, rest) = line.split_once(':')?;
                let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                (is_key && (rest.is_empty() || rest.starts_with(' '))).then(|| key.to_string())
            });
            keys.collect()
        };
        let (known, documented) = (keys_of(&serde_saphyr::to_string(&all).unwrap()), keys_of(&text));
        assert!(known.len() > 15, "{known:?}");
        for key in &known {
            assert!(documented.contains(key), "config.yaml does not say what `{key}` is");
        }
        for key in &documented {
            assert!(known.contains(key), "config.yaml documents `{key}`, which is not known");
        }
        let uncommented: String = text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).fold(
            String::new(),
            |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            },
        );
        config_with(&uncommented, TABLE).unwrap();
    }

    #[test]
    fn both_halves_are_read() {
        let text = "\
region: eu-west-1
voters: [2, 1, 9]
copies: 2
insecure: true
storage:
  data: /disks/{id}/fluffy
  memory_limit: 512MiB
gateway:
  listen: 0.0.0.0:80
  domains: [s3.example.org]
  tls: {certificate: tls/chain.pem, key: /keys/key.pem}
  memory_limit: 2147483648
";
        let config = config(text).unwrap();
        assert_eq!((config.region.as_str(), config.copies, config.insecure), ("eu-west-1", 2, true));
        assert_eq!(config.voters, [NodeId(1), NodeId(2), NodeId(9)]);
        assert_eq!(config.data_directory(NodeId(9)), Path::new("/disks/9/fluffy"));
        assert_eq!(config.secrets, Path::new("/etc/fluffy/./secrets"));
        assert_eq!(config.storage.memory_limit, ByteSize(512 * MIB));
        assert_eq!(config.storage_listen(NodeId(4)), Some("127.0.0.1:7004".to_string()));
        let files = TlsFiles { certificate: "/etc/fluffy/tls/chain.pem".into(), key: "/keys/key.pem".into() };
        assert_eq!(config.gateway.tls, Some(files));
        assert_eq!(config.gateway.memory_limit, Some(ByteSize(2 * GIB)));

        let defaults = config_with("# nothing\n", TABLE).unwrap();
        assert_eq!(defaults.voters, [NodeId(1), NodeId(2), NodeId(4)]);
        assert_eq!((defaults.region.as_str(), defaults.copies), ("us-east-1", 3));
    }

    #[test]
    fn errors_say_what_and_where() {
        let cases = [
            ("regoin: x\n", "config.yaml, line 1: the key `regoin` is not known here; known are region, "),
            ("region: a\nstorage:\n  dta: x\n", "line 3: the key `dta` is not known here"),
            ("region: a\n\ncopies: four\n", "line 3: "),
            ("region: A\n", "line 1: region: \"A\" does not consist of"),
            ("copies: 0\n", "line 1: copies: 0 is not between 1 and 3"),
            ("# hm\nvoters: [1, 3]\n", "line 2: voters: node 3 is not in iptable.txt"),
            ("voters: [1, 1]\n", "voters: a node is named twice"),
            ("voters: []\n", "voters: there are 0"),
            ("storage:\n  memory_limit: 5 bananas\n", "line 2: \"bananas\" is no unit"),
            ("storage:\n  memory_limit: 127MiB\n", "storage.memory_limit: the least is 128MiB"),
            ("gateway:\n  listen: nowhere\n", "gateway.listen: \"nowhere\" is not an address"),
            ("region: a\nregion: b\n", "line 2: "),
            ("region: [a\n", "config.yaml"),
        ];
        for (text, expected) in cases {
            let error = config(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{text:?} gave {error:?}");
        }
        let error = config_with("insecure: true\n", "1 10.0.0.1:7001\n").unwrap_err();
        assert!(error.contains("line 1: insecure: only where all nodes are on the loopback"), "{error}");
        let error = config("insecure: true\nstorage:\n  listen: 0.0.0.0:7001\n").unwrap_err();
        assert!(error.contains("line 1: insecure: `storage.listen` is not on the loopback"), "{error}");
        let missing = Config::load(Path::new("/nowhere/config.yaml")).unwrap_err();
        assert!(missing.0.starts_with("read /nowhere/config.yaml: "), "{missing}");
    }

    #[test]
    fn the_table_is_checked_line_by_line() {
        let good = table("# nodes\n1 10.0.0.1:7001 a\n 2\t[::1]:7001 b # the other\n").unwrap();
        assert_eq!((good.zone(NodeId(2)), good.nodes().len()), (Some("b"), 2));
        let cases = [
            ("one 10.0.0.1:7001", "line 1: \"one\" is not a node id"),
            ("0 10.0.0.1:7001", "line 1: \"0\" is not a node id"),
            ("70000 10.0.0.1:7001", "not a node id"),
            ("1 10.0.0.1:7001\n\n1 10.0.0.2:7001", "iptable.txt, line 3: node 1 is there twice"),
            ("1 10.0.0.1:7001\n2 10.0.0.1:7001", "line 2: node 1 has the address"),
            ("1 10.0.0.1", "line 1: \"10.0.0.1\" is not an address"),
            ("1 10.0.0.1:0", "is not an address"),
            ("1 ::1:7001", "is not an address"),
            ("1 10.0.0.1:7001 a\n2 10.0.0.2:7001", "line 2: either all nodes have a zone or none has"),
            ("1 10.0.0.1:7001 a b", "line 1: a line is `id address [zone]`"),
            ("# nobody", "iptable.txt: there is no node in it"),
        ];
        for (text, expected) in cases {
            let error = table(text).unwrap_err();
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn the_table_comes_before_the_members() {
        let directory = Directory::new(table("2 10.0.0.2:1").unwrap());
        directory.learn([(NodeId(2), "old:1".into()), (NodeId(1), "10.0.0.1:1".into())].into());
        assert_eq!(directory.nodes(), [NodeId(1), NodeId(2)]);
        let addresses = [1, 2, 3].map(|node| directory.address(NodeId(node)));
        assert_eq!(addresses, [Some("10.0.0.1:1".into()), Some("10.0.0.2:1".into()), None]);
    }

    #[test]
    fn byte_sizes_are_read_and_written() {
        for (text, bytes) in [("7", 7), ("64KiB", 64 * KIB), ("512 MiB", 512 * MIB), ("2TiB", 2 * TIB)] {
            assert_eq!(parse_bytes(text), Ok(bytes));
            assert_eq!(parse_bytes(&ByteSize(bytes).to_string()), Ok(bytes));
        }
        for text in ["", "MiB", "1MB", "-1", "99999999TiB", "1.5GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
