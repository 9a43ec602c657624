//! The stage of notifications: a target that takes, refuses and comes back, and gateways that are killed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Tally, block_on};
use crate::client::{Client, Request, Response, Target};
use crate::daemons::{Cluster, Embedded, get, scratch};

const BUCKET: &str = "told";
const SECRET: &str = "Bearer a-secret-of-the-target";
/// A gateway that was killed is followed by another when its session is over.
const PATIENCE: Duration = Duration::from_secs(75);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let receiver = Receiver::start().await?;
        let directory = scratch("webhooks-")?;
        fs::write(directory.path().join("secret"), SECRET)?;
        fs::set_permissions(directory.path().join("secret"), fs::Permissions::from_mode(0o600))?;
        let file = directory.path().join("webhooks.yaml");
        fs::write(&file, targets(receiver.port, directory.path()))?;
        let option = file.display().to_string();
        let store = Embedded::start(&["--data", "fluffy-data", "--webhooks", &option]).await?;
        tally.check("a configuration is tried out and kept", configured(&store, &receiver).await);
        tally.check("wrong configurations are refused", refused(&store).await);
        tally.check("events come by kind and key, in order", told(&store, &receiver).await);
        tally.check("what a target refuses comes again", again(&store, &receiver).await);
        tally.check("a gateway that is killed loses nothing", killed(&store, &receiver).await);
        tally.check("what is given up is counted", given_up(&store, &receiver).await);
        drop(store);
        tally.check(
            "of two gateways one delivers, and the other takes over",
            taken_over(directory.path()).await,
        );
        Ok(())
    })
}

fn targets(port: u16, directory: &Path) -> String {
    let secret = directory.join("secret").display().to_string();
    format!(
        "- name: hook\n  url: http://127.0.0.1:{port}/hook?x=1\n  allow_private: true\n  authorization_file: {secret}\n  \
         attempts: 4\n\
         - name: private\n  url: http://localhost:{port}/private\n\
         - name: nobody\n  url: http://127.0.0.1:1/\n  allow_private: true\n"
    )
}

/// A server that keeps what it is told, and answers as it is told to.
struct Receiver {
    port: u16,
    heard: Arc<Mutex<Vec<Value>>>,
    status: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
}

impl Receiver {
    async fn start() -> Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let receiver = Receiver {
            port: listener.local_addr()?.port(),
            heard: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            requests: Arc::default(),
        };
        let (heard, status, requests) =
            (receiver.heard.clone(), receiver.status.clone(), receiver.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, status, requests) = (heard.clone(), status.clone(), requests.clone());
                tokio::spawn(async move {
                    requests.fetch_add(1, Ordering::Relaxed);
                    // A request that breaks off was none.
                    let _ = answer(stream, &heard, status.load(Ordering::Relaxed)).await;
                });
            }
        });
        Ok(receiver)
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Value>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same without repeats: what was on its way when a gateway died comes twice.
    fn once(&self, prefix: &str) -> Vec<String> {
        let mut seen = HashSet::new();
        self.keys(prefix).into_iter().filter(|key| seen.insert(key.clone())).collect()
    }

    /// Keys of the records heard so far, of those with this prefix.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let heard = self.heard();
        let key = |record: &Value| record["s3"]["object"]["key"].as_str().unwrap_or_default().to_string();
        heard.iter().map(key).filter(|key| key.starts_with(prefix)).collect()
    }

    async fn wait(&self, what: &str, holds: impl Fn(&Receiver) -> bool) -> Result<(), String> {
        let begin = Instant::now();
        while !holds(self) {
            if PATIENCE < begin.elapsed() {
                return Err(format!("{what}; heard: {:?}", self.keys("")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Reads one request, keeps its records where it is taken, and answers.
async fn answer(mut stream: TcpStream, heard: &Mutex<Vec<Value>>, status: u16) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let whole = end + length.unwrap_or(0);
    while bytes.len() < whole {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    if status == 200 {
        let document: Value = serde_json::from_slice(&bytes[end..whole]).unwrap_or_default();
        let signed = head.contains(&format!("authorization: {}", SECRET.to_ascii_lowercase()));
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        match document["Records"].as_array() {
            Some(records) => heard.extend(records.iter().cloned()),
            None => heard.push(serde_json::json!({ "test": document, "signed": signed, "head": head })),
        }
    }
    let answer = format!(
        "HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await
}

async fn send(
    target: &dyn Target,
    gateway: usize,
    request: Request,
    wanted: u16,
) -> Result<Response, String> {
    let response = Client::new(target, gateway).send(request).await.map_err(|error| error.to_string())?;
    if response.status == wanted { Ok(response) } else { Err(response.describe()) }
}

fn configuration(target: &str, events: &[&str], filter: &[(&str, &str)]) -> String {
    let events: String = events.iter().map(|event| format!("<Event>s3:{event}</Event>")).collect();
    let filter: String = filter
        .iter()
        .map(|(name, value)| format!("<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>"))
        .collect();
    format!(
        "<NotificationConfiguration><QueueConfiguration><Id>one</Id><Queue>arn:aws:sqs:::{target}</Queue>{events}\
         <Filter><S3Key>{filter}</S3Key></Filter></QueueConfiguration></NotificationConfiguration>"
    )
}

fn configure(document: &str) -> Request {
    Request::bucket("PUT", BUCKET).flag("notification").body(document).content_md5()
}

async fn put(target: &dyn Target, gateway: usize, key: &str) -> Result<(), String> {
    send(target, gateway, Request::object("PUT", BUCKET, key).body("x"), 200).await.map(drop)
}

const EVERYTHING: &[&str] = &["ObjectCreated:*", "ObjectRemoved:*", "ObjectTagging:*", "ObjectAcl:Put"];

async fn configured(store: &Embedded, receiver: &Receiver) -> Result<(), String> {
    send(store, 0, Request::bucket("PUT", BUCKET), 200).await?;
    put(store, 0, "in/before.jpg").await?;
    let document = configuration("hook", EVERYTHING, &[("prefix", "in/"), ("suffix", ".jpg")]);
    send(store, 0, configure(&document), 200).await?;
    let test = receiver.heard().pop().ok_or("no test event")?;
    if test["test"]["Event"] != "s3:TestEvent" || test["test"]["Bucket"] != BUCKET || test["signed"] != true {
        return Err(test.to_string());
    }
    if !test["head"].as_str().is_some_and(|head| head.starts_with("post /hook?x=1 http/1.1\r\n")) {
        return Err(test.to_string());
    }
    let shown = send(store, 0, Request::bucket("GET", BUCKET).flag("notification"), 200).await?;
    let text = String::from_utf8_lossy(&shown.body).into_owned();
    for part in
        ["<Id>one</Id>", "<Queue>arn:aws:sqs:::hook</Queue>", "<Value>in/</Value>", "s3:ObjectTagging:*"]
    {
        if !text.contains(part) {
            return Err(format!("{part} is not in {text}"));
        }
    }
    Ok(())
}

async fn refused(store: &Embedded) -> Result<(), String> {
    for (target, why) in
        [("unknown", "unknown"), ("private", "an address of this machine"), ("nobody", "not there")]
    {
        let document = configuration(target, EVERYTHING, &[]);
        let answer =
            send(store, 0, configure(&document), 400).await.map_err(|got| format!("{why}: {got}"))?;
        if answer.code() != "InvalidArgument" {
            return Err(format!("{why}: {}", answer.describe()));
        }
    }
    let document = configuration("nobody", EVERYTHING, &[]);
    let skipped = configure(&document).header("x-amz-skip-destination-validation", "true");
    send(store, 0, Request::bucket("PUT", "untold"), 200).await?;
    let mut other = skipped;
    other.path = other.path.replacen(BUCKET, "untold", 1);
    send(store, 0, other, 200).await?;
    let nothing = "<NotificationConfiguration/>";
    let off = Request::bucket("PUT", "untold").flag("notification").body(nothing).content_md5();
    send(store, 0, off, 200).await.map(drop)
}

async fn told(store: &Embedded, receiver: &Receiver) -> Result<(), String> {
    let key = "in/a b/ü+%.jpg";
    put(store, 0, key).await?;
    put(store, 0, "in/other.png").await?;
    put(store, 0, "out/other.jpg").await?;
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    send(store, 0, Request::object("PUT", BUCKET, key).flag("tagging").body(tags).content_md5(), 200).await?;
    let ownership =
        "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>";
    let ownership = Request::bucket("PUT", BUCKET).flag("ownershipControls").body(ownership);
    send(store, 0, ownership.content_md5(), 200).await?;
    let acl = Request::object("PUT", BUCKET, key).flag("acl").header("x-amz-acl", "authenticated-read");
    send(store, 0, acl, 200).await?;
    let source = format!("{BUCKET}/in/other.png");
    let copy = Request::object("PUT", BUCKET, "in/copy.jpg").header("x-amz-copy-source", source);
    send(store, 0, copy, 200).await?;
    send(store, 0, Request::object("DELETE", BUCKET, key), 204).await?;
    receiver.wait("five events", |receiver| 5 <= receiver.keys("in/").len()).await?;
    let heard = receiver.heard().clone();
    let names: Vec<&str> = heard.iter().filter_map(|record| record["eventName"].as_str()).collect();
    let expected = [
        "ObjectCreated:Put",
        "ObjectTagging:Put",
        "ObjectAcl:Put",
        "ObjectCreated:Copy",
        "ObjectRemoved:Delete",
    ];
    if names != expected {
        return Err(format!("{names:?}"));
    }
    let sequencers: Vec<&str> =
        heard.iter().filter_map(|record| record["s3"]["object"]["sequencer"].as_str()).collect();
    if !sequencers.is_sorted() || sequencers.len() != expected.len() {
        return Err(format!("{sequencers:?}"));
    }
    let first = &heard[0];
    for (pointer, value) in [
        ("/eventSource", "aws:s3"),
        ("/awsRegion", "us-east-1"),
        ("/s3/configurationId", "one"),
        ("/s3/bucket/name", BUCKET),
        ("/s3/bucket/arn", "arn:aws:s3:::told"),
        ("/s3/object/key", "in/a+b/%C3%BC%2B%25.jpg"),
        ("/s3/object/eTag", "9dd4e461268c8034f5c8564e155c67a6"),
        ("/requestParameters/sourceIPAddress", "127.0.0.1"),
    ] {
        if first.pointer(pointer).and_then(Value::as_str) != Some(value) {
            return Err(format!("{pointer} is not {value}: {first}"));
        }
    }
    if first["s3"]["object"]["size"] == 1 { Ok(()) } else { Err(first.to_string()) }
}

async fn again(store: &Embedded, receiver: &Receiver) -> Result<(), String> {
    for status in [500, 302] {
        let before = receiver.requests.load(Ordering::Relaxed);
        receiver.status.store(status, Ordering::Relaxed);
        let key = format!("in/again-{status}.jpg");
        put(store, 0, &key).await?;
        receiver
            .wait("two attempts", |receiver| before + 2 <= receiver.requests.load(Ordering::Relaxed))
            .await?;
        receiver.status.store(200, Ordering::Relaxed);
        receiver.wait("it came", |receiver| receiver.keys(&key).len() == 1).await?;
    }
    Ok(())
}

async fn killed(store: &Embedded, receiver: &Receiver) -> Result<(), String> {
    receiver.status.store(503, Ordering::Relaxed);
    for index in 0..50 {
        put(store, 0, &format!("in/kill-{index:02}.jpg")).await?;
    }
    store.gateway.daemon.kill();
    receiver.status.store(200, Ordering::Relaxed);
    store.gateway.start().await.map_err(|error| error.to_string())?;
    put(store, 0, "in/kill-50.jpg").await?;
    receiver.wait("all events", |receiver| receiver.keys("in/kill-50").len() == 1).await?;
    let keys = receiver.once("in/kill-");
    let expected: Vec<String> = (0..51).map(|index| format!("in/kill-{index:02}.jpg")).collect();
    if keys == expected { Ok(()) } else { Err(format!("{keys:?}")) }
}

async fn given_up(store: &Embedded, receiver: &Receiver) -> Result<(), String> {
    receiver.status.store(500, Ordering::Relaxed);
    put(store, 0, "in/dead.jpg").await?;
    let begin = Instant::now();
    while labelled(store.gateway.admin, "fluffy_notifications_total{outcome=\"dead\"}").await? < 1.0 {
        if PATIENCE < begin.elapsed() {
            return Err("nothing was given up".to_string());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    receiver.status.store(200, Ordering::Relaxed);
    put(store, 0, "in/after.jpg").await?;
    receiver.wait("what came later", |receiver| receiver.keys("in/after").len() == 1).await?;
    if receiver.keys("in/dead").is_empty() { Ok(()) } else { Err("it came all the same".to_string()) }
}

/// A metric with its labels; 0 where it was never set.
async fn labelled(admin: std::net::SocketAddr, name: &str) -> Result<f64, String> {
    let text = get(admin, "/metrics").await.map_err(|error| error.to_string())?.body;
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(value.unwrap_or(0.0))
}

async fn leaders(cluster: &Cluster) -> Result<Vec<usize>, String> {
    let mut leaders = Vec::new();
    for (index, gateway) in cluster.gateways.iter().enumerate() {
        if gateway.daemon.exited().is_none() && gateway.daemon.process_id().is_some() {
            let leads = labelled(gateway.admin, "fluffy_notifications_leading").await.unwrap_or(0.0);
            leaders.extend((leads == 1.0).then_some(index));
        }
    }
    Ok(leaders)
}

async fn taken_over(directory: &Path) -> Result<(), String> {
    let receiver = Receiver::start().await.map_err(|error| error.to_string())?;
    let indented: String =
        targets(receiver.port, directory).lines().map(|line| format!("    {line}\n")).collect();
    let settings = format!("gateway:\n  webhooks:\n{indented}");
    let cluster = Cluster::start(3, 2, &settings).await.map_err(|error| format!("{error:#}"))?;
    send(&cluster, 0, Request::bucket("PUT", BUCKET), 200).await?;
    send(&cluster, 0, configure(&configuration("hook", EVERYTHING, &[])), 200).await?;
    receiver.heard().clear();
    for index in 0..40 {
        put(&cluster, index % 2, &format!("k-{index:02}")).await?;
    }
    receiver.wait("40 events", |receiver| receiver.keys("k-").len() == 40).await?;
    let first = leaders(&cluster).await?;
    let [leader] = first.as_slice() else { return Err(format!("{first:?} deliver")) };
    let other = 1 - leader;
    cluster.gateways[*leader].daemon.kill();
    for index in 40..80 {
        put(&cluster, other, &format!("k-{index:02}")).await?;
    }
    receiver.wait("all events", |receiver| 80 <= receiver.once("k-").len()).await?;
    let keys = receiver.once("k-");
    let expected: Vec<String> = (0..80).map(|index| format!("k-{index:02}")).collect();
    if keys != expected {
        return Err(format!("{keys:?}"));
    }
    let second = leaders(&cluster).await?;
    if second == [other] { Ok(()) } else { Err(format!("{second:?} deliver")) }
}
