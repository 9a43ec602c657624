//! Serving: resolves options, opens the store, prints what a person needs, serves until told to stop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::client::MetaError;
use fabric::Seams;
use fabric::cluster::Config;
use fabric::disks::MemoryDisks;
use fabric::disks::system::{is_private, read_text};
use fabric::env::system::raise_descriptor_limit;
use fabric::env::{Env, run_blocking};
use fabric::limits::{CONNECTIONS_MAX, DISK_RESERVE_BYTES};
use fabric::net::Listener;
use gateway::admin::users::{ensure_root, has_users};
use gateway::config::{Cli, Mode, Settings};
use gateway::daemon::{Gateway, GatewayParts, Listeners};
use gateway::http::tls::Keys;
use gateway::keyring::KeyRing;
use gateway::notify::Webhooks;
use gateway::overlay::OverlayConfig;
use gateway::queue::Budget;
use gateway::store_files::{ROOT_CREDENTIALS, RootKeys, StoreFiles, choose_root, root_keys};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::store::Store;
use crate::{Failure, cluster, embedded};

/// A person at a terminal hears of a start that takes longer than this, and again after as much.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// A store in this process that does not answer after this does not start.
const START_DEADLINE: Duration = Duration::from_secs(300);

/// What to do, and the configuration that says so where there is one.
pub fn settings(cli: &Cli) -> Result<(Settings, Option<Config>), Failure> {
    let config = cli.store.config.as_deref().map(Config::load).transpose();
    let config = config.map_err(|error| Failure::Usage(error.0))?;
    let settings = Settings::resolve(&cli.store, &cli.serve, config.as_ref())?;
    Ok((settings, config))
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(system: Seams, cli: &Cli) -> Result<(), Failure> {
    let (settings, config) = settings(cli)?;
    if !matches!(settings.mode, Mode::Cluster { .. }) {
        consensus::raft::prepare(&system.env);
    }
    let given = GivenKeys::read(&*system.env)?;
    let stop = stop_on_signals(&*system.env)?;
    let tls = load_tls(&system, &settings).await?;
    let key_ring = KeyRing::parse(&load_key_lines(&system, &settings).await?);
    let key_ring = key_ring.map_err(|error| Failure::Usage(format!("the keys of encryption: {error}")))?;
    let webhooks = load_webhooks(&system, &settings).await?;
    // The ports first: a port in use is known at once and nothing has been written.
    let s3 = listen(&system, "--listen", &settings.listen).await?;
    let admin = listen(&system, "--admin-listen", &settings.admin_listen).await?;
    let websites = match &settings.website_listen {
        Some(address) => Some(listen(&system, "--website-listen", address).await?),
        None => None,
    };
    let overlay = match &settings.overlay_listen {
        Some(address) => Some(listen(&system, "--overlay-listen", address).await?),
        None => None,
    };
    let overlay_config = overlay.as_ref().map(|listener| OverlayConfig {
        address: settings.overlay_address.clone().unwrap_or_else(|| listener.local_address().to_string()),
        remote: settings.overlay_remote,
        s3: settings.overlay_s3.clone(),
        room: settings.overlay_room,
    });
    let urls = Urls::new(&settings, &*s3, &*admin, websites.as_deref());
    let metrics = record_metrics();

    let starting = open(&system, &settings, config.as_ref(), &given);
    let store = tokio::select! {
        biased;
        () = stopped(stop.clone()) => return Ok(()),
        store = with_progress(starting) => store?,
    };
    say(&greeting(&settings, &urls, &store, &given));
    let gateway = Gateway::new(GatewayParts {
        seams: system.clone(),
        meta: store.meta.clone(),
        chunks: store.chunks.clone(),
        searches: store.searches.clone(),
        cluster_key: store.cluster_key.clone(),
        key_ring: Arc::new(key_ring.with_derived(&store.cluster_key)),
        admin_token: store.admin_token.clone(),
        region: settings.region.clone(),
        domains: settings.domains.clone(),
        website_domains: settings.website_domains.clone(),
        budget: budget(&settings),
        inline_bytes_max: settings.inline_bytes_max,
        tls,
        metrics,
        report: store.report.clone(),
        founded: store.founded.clone(),
        require_signed_payload: settings.require_signed_payload,
        proxies: settings.proxies,
        lifecycle_day: settings.lifecycle_day,
        customer_keys_without_tls: settings.customer_keys_without_tls,
        connections_max: connections_max(),
        webhooks,
        access_log_period: settings.access_log_period,
        overlay: overlay_config,
    });
    gateway.serve(Listeners { s3, admin, websites, overlay }, stop).await;
    store.shut_down().await;
    Ok(())
}

fn budget(settings: &Settings) -> Budget {
    let nodes = match &settings.mode {
        Mode::Embedded { nodes, .. } | Mode::Memory { nodes } => usize::from(*nodes),
        Mode::Cluster { .. } => 0,
    };
    Budget::split(settings.memory_limit, nodes)
}

/// At most half of what the process may open: connections take nothing from the files of the store.
fn connections_max() -> usize {
    let half = usize::try_from(raise_descriptor_limit() / 2).unwrap_or(usize::MAX);
    if half < CONNECTIONS_MAX {
        tracing::warn!(
            connections = half,
            wanted = CONNECTIONS_MAX,
            "few open files are allowed (ulimit -n)"
        );
    }
    half.clamp(1, CONNECTIONS_MAX)
}

/// Keys for the first user that came with the environment.
#[derive(Clone)]
pub struct GivenKeys {
    access_key: Option<String>,
    secret_key: Option<String>,
}

impl GivenKeys {
    /// Reads the variables; a wrong key is known before anything is made with it.
    fn read(env: &dyn Env) -> Result<GivenKeys, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = GivenKeys {
            access_key: variable("FLUFFY_ROOT_ACCESS_KEY"),
            secret_key: variable("FLUFFY_ROOT_SECRET_KEY"),
        };
        choose_root(env, given.pair()).map_err(|error| Failure::Usage(error.0))?;
        Ok(given)
    }

    /// Access key and secret key.
    pub fn pair(&self) -> (Option<String>, Option<String>) {
        (self.access_key.clone(), self.secret_key.clone())
    }
}

/// Opens the store of the chosen mode and sees to its first user.
async fn open(
    system: &Seams,
    settings: &Settings,
    config: Option<&Config>,
    given: &GivenKeys,
) -> Result<Store, Failure> {
    match (&settings.mode, config) {
        (Mode::Cluster { .. }, Some(config)) => {
            let store = cluster::join(system, config).await?;
            cluster::found(system, config, &store, given.clone());
            Ok(store)
        }
        (Mode::Cluster { .. }, None) => Err(Failure::Usage("--config is missing".to_string())),
        (Mode::Embedded { nodes, data }, _) => in_process(system, data, *nodes, settings, given).await,
        (Mode::Memory { nodes }, _) => {
            // The ceiling is for what serves; the objects themselves may take as much again.
            let bytes_max = settings.memory_limit.saturating_add(DISK_RESERVE_BYTES * u64::from(*nodes));
            let seams = Seams { disks: Arc::new(MemoryDisks::new(bytes_max)), ..system.clone() };
            in_process(&seams, &[PathBuf::from("/memory")], *nodes, settings, given).await
        }
    }
}

/// A store in this process, on the disks of `seams`.
async fn in_process(
    seams: &Seams,
    data: &[PathBuf],
    nodes: u16,
    settings: &Settings,
    given: &GivenKeys,
) -> Result<Store, Failure> {
    let home = data.first().cloned().unwrap_or_default();
    let (opener, directory) = (seams.clone(), home.clone());
    let files = run_blocking(&*seams.env, move || StoreFiles::open(&opener, &directory, nodes)).await?;
    let (inline_bytes_max, search_index) = (settings.inline_bytes_max, settings.search_index);
    let starting =
        embedded::start(seams, files, data, nodes, budget(settings), inline_bytes_max, search_index);
    let mut store = starting.await?;
    let told = |error: MetaError| Failure::Failed(format!("add the first user: {error}"));
    if !has_users(&*store.meta).await.map_err(told)? {
        let (keeper, pair) = (seams.clone(), given.pair());
        let keys = run_blocking(&*seams.env, move || root_keys(&keeper, &home, pair)).await?;
        ensure_root(&*store.meta, &*seams.env, &store.cluster_key, &keys.id, &keys.secret)
            .await
            .map_err(told)?;
        store.new_root = Some(keys);
    }
    store.founded.store(true, Ordering::Release);
    Ok(store)
}

async fn with_progress<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::pin!(work);
    let ticks = async {
        for waited in 1.. {
            sleep(PROGRESS_INTERVAL).await;
            tracing::info!(seconds = waited * PROGRESS_INTERVAL.as_secs(), "still opening the store");
        }
    };
    let watched = async {
        tokio::select! {
            biased;
            outcome = &mut work => outcome,
            () = ticks => Err(Failure::Failed("the store did not open".to_string())),
        }
    };
    timeout(START_DEADLINE, watched)
        .await
        .unwrap_or_else(|_| Err(Failure::Failed(format!("the store did not open within {START_DEADLINE:?}"))))
}

async fn listen(seams: &Seams, option: &str, address: &str) -> Result<Box<dyn Listener>, Failure> {
    seams.net.listen(address).await.map_err(|error| Failure::Failed(format!("{option} {address}: {error}")))
}

async fn load_tls(seams: &Seams, settings: &Settings) -> Result<Option<Arc<Keys>>, Failure> {
    let Some((certificate, key)) = settings.tls.clone() else {
        return Ok(None);
    };
    let disks = seams.disks.clone();
    let keys = run_blocking(&*seams.env, move || Keys::load(&*disks, &certificate, &key)).await;
    keys.map(|keys| Some(Arc::new(keys))).map_err(|error| Failure::Usage(error.to_string()))
}

/// The lines of the key ring: from its file, or from the environment.
async fn load_key_lines(seams: &Seams, settings: &Settings) -> Result<String, Failure> {
    let given = std::env::var("FLUFFY_ENCRYPTION_KEY_LINES").ok().filter(|lines| !lines.is_empty());
    let path = match (settings.encryption_keys.clone(), given) {
        (None, lines) => return Ok(lines.unwrap_or_default().replace(';', "\n")),
        (Some(path), None) => path,
        (Some(_), Some(_)) => {
            return Err(Failure::Usage(
                "--encryption-keys and FLUFFY_ENCRYPTION_KEY_LINES exclude each other".to_string(),
            ));
        }
    };
    let shown = path.display().to_string();
    let load = move || Ok::<_, std::io::Error>((is_private(&path)?, read_text(&path)?));
    match run_blocking(&*seams.env, load).await {
        Ok((true, lines)) => Ok(lines),
        Ok((false, _)) => Err(Failure::Usage(format!("{shown}: others may read it; chmod 600"))),
        Err(error) => Err(Failure::Usage(format!("read {shown}: {error}"))),
    }
}

async fn load_webhooks(seams: &Seams, settings: &Settings) -> Result<Webhooks, Failure> {
    let (loader, configs) = (seams.clone(), settings.webhooks.clone());
    run_blocking(&*seams.env, move || Webhooks::load(&loader, &configs)).await.map_err(Failure::Usage)
}

fn record_metrics() -> Option<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok().map(|()| handle)
}

/// The first signal asks for a clean end, the second one ends at once.
fn stop_on_signals(env: &dyn Env) -> Result<watch::Receiver<bool>, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("watch signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (stop, stopped) = watch::channel(false);
    let task = async move {
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.send_replace(true) {
                #[allow(clippy::disallowed_methods)] // The person asked twice.
                std::process::exit(1);
            }
            tracing::info!("stopping: requests in progress are finished first");
        }
    };
    env.spawn("signals", Box::pin(task));
    Ok(stopped)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// Where clients go.
struct Urls {
    s3: String,
    admin: String,
    websites: Option<String>,
}

impl Urls {
    fn new(
        settings: &Settings,
        s3: &dyn Listener,
        admin: &dyn Listener,
        websites: Option<&dyn Listener>,
    ) -> Urls {
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        Urls {
            s3: format!("{scheme}://{}", s3.local_address()),
            admin: format!("{scheme}://{}", admin.local_address()),
            websites: websites.map(|listener| format!("{scheme}://{}", listener.local_address())),
        }
    }
}

fn greeting(settings: &Settings, urls: &Urls, store: &Store, given: &GivenKeys) -> String {
    let (place, promise) = match &settings.mode {
        Mode::Cluster { config } => (format!("the cluster of {}", config.display()), ""),
        Mode::Memory { .. } => ("memory only".to_string(), "everything is forgotten when this process ends"),
        Mode::Embedded { nodes: 1, data } => {
            (shown(data), "one node: this one disk is all there is, keep a copy elsewhere")
        }
        Mode::Embedded { nodes, data } if data.len() == 1 => (
            format!("{} ({nodes} nodes)", shown(data)),
            "all nodes are on one disk, which is all there is; --data A,B,C puts them on several",
        ),
        Mode::Embedded { nodes, data } => (format!("{} ({nodes} nodes)", shown(data)), ""),
    };
    let mut text = format!(
        "Fluffy {} is ready.\n  S3     {}  (region {})\n  Admin  {}\n  Data   {place}\n",
        env!("CARGO_PKG_VERSION"),
        urls.s3,
        settings.region,
        urls.admin,
    );
    if let Some(url) = &urls.websites {
        text.push_str(&format!("  Sites  {url}/BUCKET/\n"));
    }
    if !promise.is_empty() {
        text.push_str(&format!("         {promise}\n"));
    }
    text.push_str("\nPaste into a shell:\n");
    text.push_str(&credentials(store, given));
    text.push_str(&format!(
        "  export AWS_DEFAULT_REGION={}\n  export AWS_ENDPOINT_URL={}\n\nThen, for example:\n  \
         aws s3 mb s3://photos && aws s3 cp README.md s3://photos/ && aws s3 ls s3://photos\n\n",
        settings.region, urls.s3
    ));
    text
}

fn shown(data: &[PathBuf]) -> String {
    let names: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// New keys are shown once; later only where they are kept.
fn credentials(store: &Store, given: &GivenKeys) -> String {
    match &store.new_root {
        Some(keys) => key_lines(keys, given),
        None => format!("  set -a; . {}; set +a\n", in_shell(&store.home.join(ROOT_CREDENTIALS))),
    }
}

/// Lines for a shell. A secret that a person gave is not repeated.
pub fn key_lines(keys: &RootKeys, given: &GivenKeys) -> String {
    let secret =
        if given.secret_key.is_some() { "\"$FLUFFY_ROOT_SECRET_KEY\"" } else { keys.secret.expose() };
    format!("  export AWS_ACCESS_KEY_ID={}\n  export AWS_SECRET_ACCESS_KEY={secret}\n", keys.id)
}

/// A path as a word of a shell. Without a slash `.` would search `PATH`.
fn in_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let text = if text.contains('/') && !text.starts_with('/') { format!("./{text}") } else { text };
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Tells the person who started the process.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Where standard output is closed nobody wants to know.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_start_tells_of_itself_and_ends() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(log);
        let slow = async {
            sleep(Duration::from_secs(7)).await;
            Ok(3)
        };
        assert!(matches!(with_progress(slow).await, Ok(3)));
        let told = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(told.matches("still opening the store").count(), 3, "{told}");
        let never = std::future::pending::<Result<(), Failure>>();
        assert!(matches!(with_progress(never).await, Err(Failure::Failed(why)) if why.contains("300s")));
    }
}
