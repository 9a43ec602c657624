//! The S3 behaviours that clients rely on, each written down once, in order of what they need.
//!
//! A behaviour is a function of a [`Cx`] and nothing else: no clock, no randomness, no tasks of its own. So
//! the same table runs against real daemons and in the simulator.

mod access;
mod acls;
mod annotations;
mod appends;
mod buckets;
mod changes;
mod checksums;
mod classes;
mod conditions;
mod copies;
mod cors;
pub(crate) mod encryption;
mod forms;
mod lifecycle;
mod listing;
mod locks;
mod logging;
pub(crate) mod multipart;
mod objects;
mod payloads;
mod ranges;
mod renames;
mod searches;
mod versions;
mod websites;

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;

use crate::client::{Client, Credentials, Element, Request, Response, Target};

/// Whether a behaviour held; if not, what came instead.
pub type Outcome = Result<(), String>;

/// One behaviour.
#[derive(Clone, Copy)]
pub struct Behaviour {
    /// Its name, which says what holds.
    pub name: &'static str,
    /// Shows it.
    pub run: for<'a> fn(&'a Cx<'a>) -> BoxFuture<'a, Outcome>,
}

/// Declares the behaviours of a file.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        pub(super) const BEHAVIOURS: &[super::Behaviour] = &[
            $(super::Behaviour { name: stringify!($name), run: |cx| Box::pin($name(cx)) }),*
        ];
    };
}
use behaviours;

/// All behaviours, in order.
pub fn all() -> impl Iterator<Item = Behaviour> {
    let files = [
        buckets::BEHAVIOURS,
        objects::BEHAVIOURS,
        payloads::BEHAVIOURS,
        ranges::BEHAVIOURS,
        conditions::BEHAVIOURS,
        checksums::BEHAVIOURS,
        multipart::BEHAVIOURS,
        copies::BEHAVIOURS,
        listing::BEHAVIOURS,
        versions::BEHAVIOURS,
        cors::BEHAVIOURS,
        locks::BEHAVIOURS,
        access::BEHAVIOURS,
        forms::BEHAVIOURS,
        lifecycle::BEHAVIOURS,
        encryption::BEHAVIOURS,
        renames::BEHAVIOURS,
        appends::BEHAVIOURS,
        changes::BEHAVIOURS,
        annotations::BEHAVIOURS,
        websites::BEHAVIOURS,
        acls::BEHAVIOURS,
        logging::BEHAVIOURS,
        searches::BEHAVIOURS,
        classes::BEHAVIOURS,
    ];
    files.into_iter().flatten().copied()
}

/// Runs all behaviours one after the other; `report` hears of each.
pub async fn run(target: &dyn Target, mut report: impl FnMut(&str, Outcome)) {
    for behaviour in all() {
        let cx = Cx::new(target, behaviour.name);
        let outcome = (behaviour.run)(&cx).await;
        report(&behaviour.name.replace('_', " "), outcome);
    }
}

/// What a behaviour works with: a client for each gateway, and bucket names of its own.
pub struct Cx<'a> {
    target: &'a dyn Target,
    name: &'static str,
    buckets: AtomicUsize,
}

impl<'a> Cx<'a> {
    /// For the behaviour `name`.
    pub fn new(target: &'a dyn Target, name: &'static str) -> Cx<'a> {
        Cx { target, name, buckets: AtomicUsize::new(0) }
    }

    /// A client of the first gateway.
    pub fn client(&self) -> Client<'a> {
        Client::new(self.target, 0)
    }

    /// A client of gateway `index`, counted round.
    pub fn gateway(&self, index: usize) -> Client<'a> {
        Client::new(self.target, index)
    }

    /// A client of another user, if there is one.
    pub fn other(&self) -> Option<Client<'a>> {
        let credentials = self.target.other_user()?;
        Some(self.client().with_credentials(Some(credentials)))
    }

    /// A client with these credentials.
    pub fn with(&self, credentials: Option<Credentials>) -> Client<'a> {
        self.client().with_credentials(credentials)
    }

    /// A bucket name that no other behaviour uses.
    pub fn bucket_name(&self) -> String {
        let index = self.buckets.fetch_add(1, Ordering::Relaxed);
        let name: String = self.name.replace('_', "-").chars().take(50).collect();
        format!("{}-{index}", name.trim_end_matches('-'))
    }

    /// A new bucket.
    pub async fn bucket(&self) -> Result<String, String> {
        let name = self.bucket_name();
        self.ok(Request::bucket("PUT", &name)).await?;
        Ok(name)
    }

    /// Sends; an error unless the status is 2xx.
    pub async fn ok(&self, request: Request) -> Result<Response, String> {
        ok(&self.client(), request).await
    }

    /// Sends; an error unless it is refused with this status and code.
    pub async fn refused(&self, request: Request, status: u16, code: &str) -> Outcome {
        refused(&self.client(), request, status, code).await
    }

    /// Stores `body` under `key`.
    pub async fn put(&self, bucket: &str, key: &str, body: impl Into<Vec<u8>>) -> Result<Response, String> {
        self.ok(Request::object("PUT", bucket, key).body(body)).await
    }

    /// Reads `key`.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Response, String> {
        self.ok(Request::object("GET", bucket, key)).await
    }
}

/// Sends with `client`; an error unless the status is 2xx.
pub async fn ok(client: &Client<'_>, request: Request) -> Result<Response, String> {
    let what = format!("{} {}", request.method, request.path);
    let response = client.send(request).await.map_err(|error| format!("{what}: {error}"))?;
    if (200..300).contains(&response.status) {
        return Ok(response);
    }
    Err(format!("{what}: {}", response.describe()))
}

/// Sends with `client`; an error unless it is refused with this status and code (no code for HEAD and 304).
pub async fn refused(client: &Client<'_>, request: Request, status: u16, code: &str) -> Outcome {
    let method = request.method.clone();
    let what = format!("{method} {}", request.path);
    let response = client.send(request).await.map_err(|error| format!("{what}: {error}"))?;
    let code_holds = method == "HEAD" || response.status == 304 || response.code() == code;
    ensure(response.status == status && code_holds, || {
        format!("{what}: expected {status} {code}, got {}", response.describe())
    })
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(message()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected {
        return Ok(());
    }
    let short = |value: T| format!("{value:?}").chars().take(300).collect::<String>();
    Err(format!("{what}: expected {}, got {}", short(expected), short(found)))
}

/// The value of a header must be this.
fn has_header(response: &Response, name: &str, expected: &str) -> Outcome {
    equal(name, response.header(name).unwrap_or_default(), expected)
}

fn xml_of(response: &Response, root: &str) -> Result<Element, String> {
    let element = response.xml()?;
    equal("root element", element.name.as_str(), root)?;
    Ok(element)
}
