//! A small S3 client that shows every byte it sends.
//!
//! It exists to be wrong on purpose: a request is built ([`Request`]), signed ([`Signer::sign`]) into a
//! [`Wire`], which a test may change before it goes out over a raw connection ([`exchange`]). It shares no
//! code with the gateway: the canonical request, the chunk framing and the response parser are written a
//! second time here, so that one misreading of the rules does not hide the other.

mod checksum;
mod form;
mod http1;
mod line;
mod pattern;
mod sign;
mod xml;

use std::io;

use async_trait::async_trait;
use fabric::net::BoxStream;

pub use checksum::{ALGORITHMS, Algorithm, composite};
pub use form::Form;
pub use http1::{Exchange, Response, exchange, exchange_on, read_response};
pub use line::Line;
pub use pattern::{Pattern, PatternCheck};
pub use sign::{Auth, Credentials, Payload, Request, Signer, TRAILER_SIGNATURE, Wire, amz_date, encode_uri};
pub use xml::{Element, parse as parse_xml};

/// A store that a suite runs against: real daemons or the simulated cluster.
#[async_trait]
pub trait Target: Send + Sync {
    /// How many gateways serve it; at least one.
    fn gateways(&self) -> usize;
    /// A new connection to the S3 port of gateway `gateway` (counted from 0).
    async fn connect(&self, gateway: usize) -> io::Result<BoxStream>;
    /// The `Host` header for that gateway, `host:port`.
    fn host(&self, gateway: usize) -> String;
    /// Milliseconds since 1970 by the clock that signatures are checked against.
    fn wall_ms(&self) -> u64;
    /// Keys of the first user.
    fn root(&self) -> Credentials;
    /// Keys of another user who owns nothing, if the target can make one.
    fn other_user(&self) -> Option<Credentials>;
    /// The region that gateway is in.
    fn region(&self, _gateway: usize) -> String {
        "us-east-1".to_string()
    }
    /// The domain of virtual-host style, if the target serves one.
    fn domain(&self) -> Option<String>;
    /// A new connection to the port of websites of that gateway, if it has one.
    async fn connect_websites(&self, _gateway: usize) -> io::Result<Option<BoxStream>> {
        Ok(None)
    }
}

/// A signer and a way to one gateway: sends requests, returns responses.
#[derive(Clone)]
pub struct Client<'a> {
    target: &'a dyn Target,
    gateway: usize,
    credentials: Option<Credentials>,
}

impl<'a> Client<'a> {
    /// A client of gateway `gateway` that signs as the first user.
    pub fn new(target: &'a dyn Target, gateway: usize) -> Client<'a> {
        let credentials = Some(target.root());
        Client { target, gateway: gateway % target.gateways(), credentials }
    }

    /// The same client as another user; `None` sends unsigned requests.
    pub fn with_credentials(&self, credentials: Option<Credentials>) -> Client<'a> {
        Client { credentials, ..self.clone() }
    }

    /// The target that this client talks to.
    pub fn target(&self) -> &'a dyn Target {
        self.target
    }

    /// What this client signs with at this moment.
    pub fn signer(&self) -> Signer {
        Signer {
            credentials: self.credentials.clone(),
            region: self.target.region(self.gateway),
            service: "s3".to_string(),
            host: self.target.host(self.gateway),
            at_ms: self.target.wall_ms(),
        }
    }

    /// Signs without sending.
    pub fn sign(&self, request: Request) -> Wire {
        self.signer().sign(request)
    }

    /// A new connection to this client's gateway.
    pub async fn connect(&self) -> io::Result<BoxStream> {
        self.target.connect(self.gateway).await
    }

    /// Signs and sends on a connection of its own.
    pub async fn send(&self, request: Request) -> io::Result<Response> {
        let wire = self.sign(request);
        self.send_wire(&wire).await
    }

    /// Sends what was signed (and perhaps changed) on a connection of its own.
    pub async fn send_wire(&self, wire: &Wire) -> io::Result<Response> {
        let stream = self.connect().await?;
        exchange(stream, wire, None).await
    }

    /// Like [`Client::send`], but checks the body against a pattern instead of keeping it.
    pub async fn send_checking(&self, request: Request, check: &mut PatternCheck) -> io::Result<Response> {
        let wire = self.sign(request);
        let stream = self.connect().await?;
        exchange(stream, &wire, Some(check)).await
    }
}
