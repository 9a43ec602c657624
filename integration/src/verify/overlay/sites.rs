//! Stores that can join: each has its region, its first user, and a port for other clusters.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use fabric::net::BoxStream;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::client::{Credentials, Request, Response, Signer, Target, exchange};
use crate::daemons::{Daemon, Embedded, binary, free_port};

/// Keys of a user of the east.
pub(crate) const ANNA: (&str, &str) = ("FLUFFYANNAACCESSKEY1", "anna-of-the-east-secret-0123456789abcdef");
/// Keys of a user of the west.
pub(crate) const BOB: (&str, &str) = ("FLUFFYBOBACCESSKEY01", "bob-of-the-west-secret-0123456789abcdef0");

/// A store.
pub(crate) struct Site {
    /// Its region.
    pub name: &'static str,
    /// Its process.
    pub store: Embedded,
    /// Where other clusters connect.
    pub overlay: String,
    root: (String, String),
}

impl Site {
    /// Starts one.
    pub async fn start(name: &'static str) -> Result<Site> {
        Site::start_with(name, &[]).await
    }

    /// Starts one with more options.
    pub async fn start_with(name: &'static str, more: &[&str]) -> Result<Site> {
        Site::start_changed(name, more, |daemon| daemon).await
    }

    /// Starts one whose program may be another one.
    pub async fn start_changed(
        name: &'static str,
        more: &[&str],
        change: impl FnOnce(Daemon) -> Daemon,
    ) -> Result<Site> {
        let overlay = format!("127.0.0.1:{}", free_port()?);
        let root =
            (format!("FLUFFYROOT{}", name.to_uppercase()), format!("{name}-root-secret-0123456789abcdef"));
        let args = ["--data", "fluffy-data", "--region", name, "--overlay-listen", &overlay];
        let args = [&args[..], more].concat();
        let store = Embedded::start_changed(&args, |daemon| {
            let daemon = daemon.variable("FLUFFY_ROOT_ACCESS_KEY", &root.0);
            change(daemon.variable("FLUFFY_ROOT_SECRET_KEY", &root.1))
        })
        .await?;
        Ok(Site { name, store, overlay, root })
    }

    /// Keys of its first user.
    pub fn root(&self) -> (&str, &str) {
        (&self.root.0, &self.root.1)
    }

    /// A command of `fluffy-gateway`; an error is what it says.
    pub fn command(&self, words: &[&str]) -> Result<String, String> {
        let admin = self.store.gateway.admin.to_string();
        command(self.store.directory(), &[words, &["--data", "fluffy-data", "--admin", &admin]].concat())
    }

    /// `fluffy-gateway overlay …`; an error is what it says.
    pub fn overlay(&self, words: &[&str]) -> Result<String, String> {
        self.command(&[&["overlay"], words].concat())
    }

    /// The same, while everything else goes on.
    pub async fn overlay_meanwhile(&self, words: &[&str]) -> Result<String, String> {
        let admin = self.store.gateway.admin.to_string();
        let words = [&["overlay"], words, &["--data", "fluffy-data", "--admin", &admin]].concat();
        let words: Vec<String> = words.into_iter().map(str::to_string).collect();
        let directory = self.store.directory().to_path_buf();
        let run = tokio::task::spawn_blocking(move || {
            command(&directory, &words.iter().map(String::as_str).collect::<Vec<_>>())
        });
        run.await.map_err(|error| error.to_string())?
    }

    /// The same, read as JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value, String> {
        let text = self.overlay(words)?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// Adds a user with these keys.
    pub fn add_user(&self, name: &str, keys: (&str, &str)) -> Result<(), String> {
        self.command(&["user", "add", name, "--access-key", keys.0, "--secret-key", keys.1]).map(drop)
    }

    fn signer(&self, region: &str, keys: (&str, &str)) -> Signer {
        signer(&self.store, 0, region, keys)
    }

    /// Signs for the region of this store, and sends.
    pub async fn send(&self, keys: (&str, &str), request: Request) -> Result<Response, String> {
        self.send_signed_for(self.name, keys, request).await
    }

    /// Signs for another region.
    pub async fn send_signed_for(
        &self,
        region: &str,
        keys: (&str, &str),
        request: Request,
    ) -> Result<Response, String> {
        let wire = self.signer(region, keys).sign(request);
        let stream = self.store.connect(0).await.map_err(|error| error.to_string())?;
        exchange(stream, &wire, None).await.map_err(|error| error.to_string())
    }

    /// Begins to send a body and stands still: the request goes on while the connection is there.
    pub async fn begin_upload(
        &self,
        keys: (&str, &str),
        request: Request,
        bytes: u64,
    ) -> Result<BoxStream, String> {
        let wire = self.signer(self.name, keys).sign(request.body("begun")).set("content-length", bytes);
        let mut stream = self.store.connect(0).await.map_err(|error| error.to_string())?;
        stream.write_all(&wire.bytes()).await.map_err(|error| error.to_string())?;
        Ok(stream)
    }

    /// Sends another body than was signed.
    pub async fn send_altered(
        &self,
        keys: (&str, &str),
        request: Request,
        body: &[u8],
    ) -> Result<Response, String> {
        let wire = self.signer(self.name, keys).sign(request).with_body(body);
        let stream = self.store.connect(0).await.map_err(|error| error.to_string())?;
        exchange(stream, &wire, None).await.map_err(|error| error.to_string())
    }
}

/// A command of `fluffy-gateway`, run in a directory; an error is what it says.
pub(crate) fn command(directory: &Path, words: &[&str]) -> Result<String, String> {
    let program = binary("fluffy-gateway").map_err(|error| error.to_string())?;
    let run = Command::new(program).args(words).current_dir(directory).output();
    let run = run.map_err(|error| error.to_string())?;
    if run.status.success() {
        return Ok(String::from_utf8_lossy(&run.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&run.stderr).trim().to_string())
}

/// Signs for a gateway of a store as a client of a region does.
pub(crate) fn signer(store: &dyn Target, gateway: usize, region: &str, keys: (&str, &str)) -> Signer {
    Signer {
        credentials: Some(Credentials::new(keys.0, keys.1)),
        region: region.to_string(),
        service: "s3".to_string(),
        host: store.host(gateway),
        at_ms: store.wall_ms(),
    }
}

/// Sets whether a bucket keeps versions: `Enabled` or `Suspended`.
pub(crate) fn versioning(bucket: &str, status: &str) -> Request {
    let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    Request::bucket("PUT", bucket).flag("versioning").body(body).content_md5()
}

/// An answer has this status.
pub(crate) fn expect(status: u16, answer: &Response) -> Result<(), String> {
    if answer.status == status { Ok(()) } else { Err(format!("not {status}: {}", answer.describe())) }
}
