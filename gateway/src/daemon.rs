//! One gateway: the S3 service and the admin port over metadata and chunks, wherever those run.
//!
//! The simulator, the embedded modes and the cluster mode all start this same thing. Its parts are given to it;
//! it knows neither files nor processes beyond the seams.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use consensus::client::Meta;
use fabric::net::Listener;
use fabric::{Edge, Seams};
use metrics_exporter_prometheus::PrometheusHandle;
use storage::client::Chunks;
use storage::index::client::Searches;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::accounts::{Accounts, Records};
use crate::admin::{Admin, Report};
use crate::admission::Admission;
use crate::data::{Data, DataConfig};
use crate::http::Handler;
use crate::http::server::{self, serve, serve_behind};
use crate::http::tls::{self, Keys};
use crate::keyring::KeyRing;
use crate::notify::{Deliverer, Notifier, Webhooks};
use crate::overlay::door::ClusterDoor;
use crate::overlay::feed::Feed;
use crate::overlay::follow::Follower;
use crate::overlay::{Overlay, OverlayConfig, OverlayParts};
use crate::queue::{Budget, Queues};
use crate::s3::ops;
use crate::s3::proxies::Proxies;
use crate::s3::search::Searching;
use crate::s3::service::{Backend, S3Service, Settings};
use crate::s3::website::Websites;
use crate::secrets::{ClusterKey, Secret};

/// Connections of the admin port at once.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// At the end of a gateway lines of access logs are written within this: a service manager waits a minute for it.
const LAST_LOGS_DEADLINE: Duration = Duration::from_secs(10);

/// What a gateway is made of.
pub struct GatewayParts {
    /// The seams.
    pub seams: Seams,
    /// Metadata.
    pub meta: Arc<dyn Meta>,
    /// Chunks.
    pub chunks: Arc<dyn Chunks>,
    /// Nodes that search.
    pub searches: Arc<dyn Searches>,
    /// Opens and seals the secrets of users.
    pub cluster_key: ClusterKey,
    /// Master keys of encryption.
    pub key_ring: Arc<KeyRing>,
    /// Opens the admin port.
    pub admin_token: Secret,
    /// Region.
    pub region: String,
    /// Domains of virtual-host style.
    pub domains: Vec<String>,
    /// Domains of websites.
    pub website_domains: Vec<String>,
    /// What the process may hold in memory.
    pub budget: Budget,
    /// Bytes of small bodies in the metadata, of all gateways together.
    pub inline_bytes_max: u64,
    /// Certificates of both ports; `None` is plain text.
    pub tls: Option<Arc<Keys>>,
    /// Renders metrics.
    pub metrics: Option<PrometheusHandle>,
    /// What only this process knows of the store.
    pub report: Report,
    /// Whether the store has its first user; not ready before.
    pub founded: Arc<AtomicBool>,
    /// Whether bodies must be signed on connections without TLS.
    pub require_signed_payload: bool,
    /// Proxies whose word is taken for the address of a client.
    pub proxies: Proxies,
    /// How long a day is for lifecycle rules: 24 hours, but in tests.
    pub lifecycle_day: Duration,
    /// Whether keys of customers may come on connections without TLS.
    pub customer_keys_without_tls: bool,
    /// Connections of S3 clients at once; for websites there are a quarter as many beside them.
    pub connections_max: usize,
    /// Targets of notifications.
    pub webhooks: Webhooks,
    /// How long lines of access logs wait.
    pub access_log_period: Duration,
    /// How it takes part in an overlay of clusters; `None`: it talks to none.
    pub overlay: Option<OverlayConfig>,
}

/// Where a gateway listens.
pub struct Listeners {
    /// For S3 clients.
    pub s3: Box<dyn Listener>,
    /// For those who run it.
    pub admin: Box<dyn Listener>,
    /// For browsers; `None`: there are no websites.
    pub websites: Option<Box<dyn Listener>>,
    /// For other clusters; `None`: none can come.
    pub overlay: Option<Box<dyn Listener>>,
}

/// A gateway, ready to serve.
pub struct Gateway {
    seams: Seams,
    tls: Option<Arc<Keys>>,
    s3: Arc<dyn Handler>,
    admin: Arc<dyn Handler>,
    websites: Arc<dyn Handler>,
    connections_max: usize,
    service: Arc<S3Service>,
    access_log_period: Duration,
    /// Knows other clusters, with the door for them.
    overlay: Option<(Arc<Overlay>, Arc<ClusterDoor>)>,
    /// Copies buckets of other clusters.
    follower: Option<Arc<Follower>>,
    /// Delivers notifications, where there are targets.
    deliverer: Option<Arc<Deliverer>>,
    /// Tells requests that wait for something that they wait no longer.
    stopping: watch::Sender<bool>,
}

impl Gateway {
    /// Wires the parts.
    pub fn new(parts: GatewayParts) -> Gateway {
        let env = parts.seams.env.clone();
        let stopping = watch::channel(false);
        let records = Arc::new(Records::new(parts.meta.clone(), env.clone()));
        let cache_bytes = parts.budget.cache_bytes;
        // A quarter for objects of other clusters, where there may be any.
        let others_bytes = if parts.overlay.is_some() { cache_bytes / 4 } else { 0 };
        let config = DataConfig {
            write_bytes_max: parts.budget.transfer_bytes / 2,
            read_bytes_max: parts.budget.transfer_bytes / 2,
            cache_bytes_max: cache_bytes - others_bytes,
            inline_bytes_max: parts.inline_bytes_max,
        };
        let queues = Arc::new(match env.armed("narrow_queues") {
            true => Queues::narrow(),
            false => Queues::new(&parts.budget),
        });
        let data = Data::new(env.clone(), parts.meta.clone(), parts.chunks.clone(), config);
        let overlay = parts.overlay.map(|config| {
            Arc::new(Overlay::new(OverlayParts {
                seams: parts.seams.clone(),
                meta: parts.meta.clone(),
                chunks: parts.chunks.clone(),
                queues: queues.clone(),
                cluster_key: parts.cluster_key.clone(),
                region: parts.region.clone(),
                config,
                cache_bytes_max: usize::try_from(others_bytes).unwrap_or(usize::MAX),
            }))
        });
        let keys = Arc::new(Accounts {
            records: records.clone(),
            cluster_key: parts.cluster_key.clone(),
            overlay: overlay.clone(),
        });
        let search = Arc::new(Searching::new(parts.searches, &parts.cluster_key));
        let notifier = Arc::new(Notifier::new(parts.seams.clone(), parts.webhooks));
        let deliverer = (!notifier.is_empty()).then(|| {
            let (meta, notifier, region) = (parts.meta.clone(), notifier.clone(), parts.region.clone());
            Arc::new(Deliverer { meta, notifier, region })
        });
        let backend = Backend {
            meta: records,
            data: Arc::new(data),
            env,
            keys,
            ring: parts.key_ring,
            notifier,
            search: search.clone(),
            overlay: overlay.clone(),
        };
        let settings = Settings {
            region: parts.region,
            domains: parts.domains,
            secure: parts.tls.is_some(),
            require_signed_payload: parts.require_signed_payload,
            proxies: parts.proxies,
            lifecycle_day: parts.lifecycle_day,
            customer_keys_without_tls: parts.customer_keys_without_tls,
            stopping: stopping.1.clone(),
        };
        let feed = overlay
            .clone()
            .map(|overlay| Arc::new(Feed { overlay, backend: backend.clone(), heard: Default::default() }));
        let service = Arc::new(S3Service::new(backend, settings, &ops::all()));
        let follower =
            overlay.clone().map(|overlay| Arc::new(Follower { overlay, service: service.clone() }));
        let websites = Arc::new(Websites::new(service.clone(), parts.website_domains));
        let s3 = Arc::new(Admission::new(service.clone(), queues));
        let door = overlay.clone().zip(feed).map(|(overlay, feed)| {
            let door = ClusterDoor {
                overlay: overlay.clone(),
                service: service.clone(),
                websites: websites.clone(),
                cluster_key: parts.cluster_key.clone(),
                admission: s3.clone(),
                feed,
            };
            (overlay, Arc::new(door))
        });
        let websites = s3.of_websites(websites);
        let admin = Admin {
            seams: parts.seams.clone(),
            meta: parts.meta,
            cluster_key: parts.cluster_key,
            token: parts.admin_token,
            search,
            service: service.clone(),
            overlay,
            metrics: parts.metrics,
            report: parts.report,
            founded: parts.founded,
        };
        Gateway {
            seams: parts.seams,
            tls: parts.tls,
            s3,
            overlay: door,
            admin: Arc::new(admin),
            websites: Arc::new(websites),
            connections_max: parts.connections_max,
            follower,
            deliverer,
            service,
            access_log_period: parts.access_log_period,
            stopping: stopping.0,
        }
    }

    /// Serves all ports until `stop` says so; returns when they are drained.
    pub fn serve(self, listeners: Listeners, stop: watch::Receiver<bool>) -> Edge<'static, ()> {
        Box::pin(async move {
            let Listeners { s3, admin, websites, overlay } = listeners;
            let watcher = self.tls.clone().map(|keys| {
                self.seams.env.spawn("TLS reload", Box::pin(tls::watch(self.seams.clone(), keys)))
            });
            let settings = |connections_max| server::Settings { connections_max, tls: self.tls.clone() };
            let delivering = self.deliverer.map(|deliverer| {
                let delivering = deliverer.run(self.stopping.subscribe());
                self.seams.env.spawn("notifications", Box::pin(delivering))
            });
            let following = self.follower.map(|follower| {
                let following = follower.run(self.stopping.subscribe());
                self.seams.env.spawn("copies", Box::pin(following))
            });
            let overseeing = self.overlay.as_ref().map(|(overlay, _)| {
                let overseeing = overlay.clone().run();
                self.seams.env.spawn("overlay", Box::pin(overseeing))
            });
            let clusters = async {
                if let Some((listener, (_, door))) = overlay.zip(self.overlay) {
                    serve_behind(self.seams.clone(), listener, self.connections_max, door, stop.clone())
                        .await;
                }
            };
            let logging = write_logs(self.service.clone(), self.access_log_period);
            let logging = self.seams.env.spawn("access logs", Box::pin(logging));
            let mut stopped = stop.clone();
            let told = async {
                // A sender that is gone means the same.
                let _ = stopped.wait_for(|stopped| *stopped).await;
                self.stopping.send_replace(true);
            };
            let websites = async {
                if let Some(listener) = websites {
                    let settings = settings(self.connections_max.div_ceil(4));
                    serve(self.seams.clone(), listener, settings, self.websites, stop.clone()).await;
                }
            };
            tokio::join!(
                told,
                websites,
                clusters,
                serve(self.seams.clone(), s3, settings(self.connections_max), self.s3, stop.clone()),
                serve(self.seams.clone(), admin, settings(ADMIN_CONNECTIONS_MAX), self.admin, stop.clone()),
            );
            for task in
                watcher.into_iter().chain(delivering).chain(following).chain(overseeing).chain([logging])
            {
                task.abort();
            }
            if timeout(LAST_LOGS_DEADLINE, self.service.write_logs(true)).await.is_err() {
                tracing::warn!("the last lines of access logs could not be written in time and are dropped");
            }
        })
    }
}

/// Writes the lines of access logs in their time.
async fn write_logs(service: Arc<S3Service>, period: Duration) {
    let mut time = Box::pin(sleep(period));
    loop {
        tokio::select! {
            biased;
            () = &mut time => {
                service.write_logs(true).await;
                time = Box::pin(sleep(period));
            }
            () = service.logs_are_full() => service.write_logs(false).await,
        }
    }
}
