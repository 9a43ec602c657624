//! Hostile and malformed requests, as a table: what goes out byte for byte, and what must come back.
//!
//! Each case is sent on a raw connection of its own. Always checked beside status and code: the error is
//! well-formed XML with the request id of the header; a connection that the server closes is closed and
//! one that it keeps answers the next request; what the store holds is as it was before.

mod admin;
mod auth;
mod crowds;
mod early;
mod http;
mod keys;
mod matrix;
mod multipart;
mod payload;
mod presigned;
mod ranges;
mod scene;
mod slow;
mod strict;
mod users;
mod websites;

use std::io;
use std::time::Duration;

use anyhow::Result;
use fabric::net::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Exchange, Request, Response, Target, Wire, exchange_on, read_response};

pub use admin::run as run_admin;
pub use crowds::run as run_crowds;
pub use matrix::run as run_matrix;
pub use scene::Scene;
pub use slow::run as run_slow;
pub use strict::run as run_strict;
pub use users::run as run_users;
pub use websites::run as run_websites;

/// How long a server may take to close after it said so, or to answer a bad request.
const PATIENCE: Duration = Duration::from_secs(20);

/// What must come back.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Allowed answers: status and code; an empty code asks for nothing about the body.
    answers: Vec<(u16, &'static str)>,
    /// Whether closing without an answer is allowed too.
    close: bool,
    /// Whether the connection must be closed after the answer.
    must_close: bool,
    /// Text that must be in the body.
    contains: Option<String>,
    /// Texts that must not be in the body.
    hides: Vec<String>,
}

impl Expect {
    /// One status and code.
    pub fn error(status: u16, code: &'static str) -> Expect {
        Expect::any(&[(status, code)])
    }

    /// One status, whatever the body.
    pub fn status(status: u16) -> Expect {
        Expect::any(&[(status, "")])
    }

    /// One of several answers.
    pub fn any(answers: &[(u16, &'static str)]) -> Expect {
        Expect {
            answers: answers.to_vec(),
            close: false,
            must_close: false,
            contains: None,
            hides: Vec::new(),
        }
    }

    /// A close without an answer is as good.
    pub fn or_close(mut self) -> Expect {
        self.close = true;
        self
    }

    /// The server must close after its answer.
    pub fn and_close(mut self) -> Expect {
        self.must_close = true;
        self
    }

    /// The body must contain this.
    pub fn containing(mut self, text: &str) -> Expect {
        self.contains = Some(text.to_string());
        self
    }

    /// The body must not contain this.
    pub fn hiding(mut self, text: &str) -> Expect {
        self.hides.push(text.to_string());
        self
    }
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Case {
    /// Number in the catalogue, like `H001`.
    pub id: &'static str,
    /// What is wrong with it.
    pub name: String,
    method: String,
    bytes: Vec<u8>,
    sending: Sending,
    expect: Expect,
}

/// How a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// It reads while it sends.
    Plain,
    /// It gives up after its last byte.
    Finishing,
    /// It sent the head only and waits to be told to go on: it must not be.
    Waiting,
    /// It reads nothing before its last byte is gone.
    Stubborn,
}

impl Case {
    /// A case from a wire that was signed and then changed.
    pub fn new(id: &'static str, name: impl Into<String>, wire: Wire, expect: Expect) -> Case {
        Case::raw(id, name, &wire.method.clone(), wire.bytes(), expect)
    }

    /// A case from bytes.
    pub fn raw(
        id: &'static str,
        name: impl Into<String>,
        method: &str,
        bytes: Vec<u8>,
        expect: Expect,
    ) -> Case {
        let sending = Sending::Plain;
        Case { id, name: name.into(), method: method.to_string(), bytes, sending, expect }
    }

    /// A case whose client announces a body and waits for `100 Continue`. It gets its answer without, and as the body
    /// may come or not, the connection closes.
    pub fn waiting(id: &'static str, name: impl Into<String>, wire: Wire, expect: Expect) -> Case {
        let head = wire.set("expect", "100-continue");
        let case = Case::raw(id, name, &head.method, head.head(), expect.and_close());
        Case { sending: Sending::Waiting, ..case }
    }

    /// The client gives up after its last byte.
    pub fn finishing(mut self) -> Case {
        self.sending = Sending::Finishing;
        self
    }

    /// The client sends everything before it reads.
    pub fn stubborn(mut self) -> Case {
        self.sending = Sending::Stubborn;
        self
    }
}

/// Makes the cases of one group.
type Group = fn(&Scene<'_>) -> Vec<Case>;

/// Runs the whole table; `report` hears of each case.
pub async fn run(target: &dyn Target, mut report: impl FnMut(&str, Result<(), String>)) -> Result<()> {
    let scene = Scene::build(target).await?;
    let groups: [(&str, Group); 8] = [
        ("authentication", auth::cases),
        ("presigned", presigned::cases),
        ("payload", payload::cases),
        ("http", http::cases),
        ("early", early::cases),
        ("keys", keys::cases),
        ("multipart", multipart::cases),
        ("ranges", ranges::cases),
    ];
    for (group, cases) in groups {
        for case in cases(&scene) {
            let outcome = run_case(&scene, &case).await;
            report(&format!("{} {group}: {}", case.id, case.name), outcome);
        }
        report(&format!("{group}: the content is unchanged"), scene.unchanged().await);
    }
    Ok(())
}

async fn run_case(scene: &Scene<'_>, case: &Case) -> Result<(), String> {
    let stream = scene.client.connect().await.map_err(|error| format!("connect: {error}"))?;
    match tokio::time::timeout(PATIENCE, send(stream, case)).await {
        Err(_) => return Err("no answer".to_string()),
        Ok(Err(error)) if case.expect.close => {
            return scene.alive().await.map_err(|why| format!("{error}: {why}"));
        }
        Ok(Err(error)) => return Err(format!("no answer: {error}")),
        Ok(Ok(exchange)) => {
            judge(&case.expect, &case.method, &exchange.response)?;
            if case.sending == Sending::Waiting && exchange.response.continued {
                return Err("told to go on before it was refused".to_string());
            }
            connection_state(scene, case, exchange).await?;
        }
    }
    scene.object_unchanged().await
}

async fn send(mut stream: BoxStream, case: &Case) -> io::Result<Exchange> {
    if case.sending != Sending::Stubborn {
        return exchange_on(stream, &case.bytes, &case.method, case.sending == Sending::Finishing).await;
    }
    stream.write_all(&case.bytes).await?;
    let response = read_response(&mut stream, &case.method, None).await?;
    Ok(Exchange { response, stream, sent_all: true })
}

fn judge(expect: &Expect, method: &str, response: &Response) -> Result<(), String> {
    let code = response.code();
    let allowed = expect.answers.iter().find(|(status, wanted)| {
        *status == response.status && (wanted.is_empty() || *wanted == code || method == "HEAD")
    });
    let Some((_, wanted)) = allowed else {
        return Err(format!("{:?} expected, got {}", expect.answers, response.describe()));
    };
    if response.status >= 400 && !wanted.is_empty() && method != "HEAD" {
        well_formed(response)?;
    }
    let body = String::from_utf8_lossy(&response.body);
    if let Some(text) = expect.contains.as_ref().filter(|text| !body.contains(text.as_str())) {
        return Err(format!("the body lacks {text:?}: {}", response.describe()));
    }
    match expect.hides.iter().find(|text| body.contains(text.as_str())) {
        Some(_) => Err("the body tells what it must hide".to_string()),
        None => Ok(()),
    }
}

/// An error body is XML of type `application/xml`, and carries the request id of the header.
fn well_formed(response: &Response) -> Result<(), String> {
    let root = response.xml()?;
    let id = response.header("x-amz-request-id").ok_or("no x-amz-request-id")?;
    if root.name != "Error" || root.text_of("RequestId") != id {
        return Err(format!("no Error with RequestId {id}: {}", response.describe()));
    }
    match response.header("content-type") {
        Some(kind) if kind.starts_with("application/xml") => Ok(()),
        kind => Err(format!("content-type of an error is {kind:?}")),
    }
}

/// A closed connection ends; a kept one answers the next request as if nothing had been.
async fn connection_state(scene: &Scene<'_>, case: &Case, exchange: Exchange) -> Result<(), String> {
    let Exchange { response, mut stream, sent_all } = exchange;
    if case.sending == Sending::Finishing {
        return Ok(());
    }
    if response.closes() || !sent_all {
        let mut rest = [0; 1];
        return match tokio::time::timeout(PATIENCE, stream.read(&mut rest)).await {
            Err(_) => Err("said close and stayed open".to_string()),
            Ok(Ok(1)) => Err("bytes after an answer that closes".to_string()),
            Ok(_) => Ok(()), // An end, or a reset: closed.
        };
    }
    if case.expect.must_close {
        return Err("the connection is kept".to_string());
    }
    let next = scene.client.sign(Request::object("GET", scene::BUCKET, scene::KEY));
    let bytes = next.bytes();
    let next = exchange_on(stream, &bytes, "GET", false);
    match tokio::time::timeout(PATIENCE, next).await {
        Err(_) => Err("a kept connection does not answer".to_string()),
        Ok(Err(_)) => Ok(()), // Closed after all, before it took anything: allowed by HTTP.
        Ok(Ok(next)) if next.response.status == 200 && next.response.body == scene::body() => Ok(()),
        Ok(Ok(next)) => Err(format!("the next request got {}", next.response.describe())),
    }
}

#[cfg(test)]
mod tests {
    /// Rows of the catalogue's sections on authentication, presigned URLs, payloads, HTTP, keys and listing, bodies and
    /// multipart, ranges and conditions that are shown elsewhere, and where.
    const ELSEWHERE: &[(&str, &str)] = &[
        ("H095", "TLS below HTTP: the stages with certificates"),
        ("H114", "a common prefix is not walked: consensus/src/meta/tests/listing.rs"),
        (
            "H138",
            "10,000 parts of 5 GiB, which H136 and H073 keep to, are the largest object: fabric/src/limits.rs",
        ),
    ];

    #[test]
    fn every_row_has_a_case() {
        let sources = [
            include_str!("auth.rs"),
            include_str!("presigned.rs"),
            include_str!("payload.rs"),
            include_str!("http.rs"),
            include_str!("early.rs"),
            include_str!("keys.rs"),
            include_str!("multipart.rs"),
            include_str!("ranges.rs"),
            include_str!("slow.rs"),
            include_str!("crowds.rs"),
            include_str!("strict.rs"),
            include_str!("users.rs"),
        ]
        .concat();
        for number in 1..=154 {
            let row = format!("H{number:03}");
            let here = sources.contains(&format!("\"{row}"));
            let elsewhere = ELSEWHERE.iter().any(|(other, _)| *other == row);
            assert!(here != elsewhere, "{row}: here {here}, elsewhere {elsewhere}");
        }
    }
}
