//! Who is not let in: bad tokens, other identities, and what nobody should say at the port for clusters.

use std::io;
use std::time::Duration;

use fabric::env::SystemEnv;
use fabric::net::{Net as _, TcpNet};
use gateway::overlay::identity::{Identity, Seed};
use gateway::overlay::wire::{Card, Join, Token};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::Tally;
use super::sites::{ANNA, Site, expect};
use crate::client::Request;

pub(super) async fn run(tally: &mut Tally, east: &Site, west: &Site) {
    tally.check("tokens: what is no good one is refused, and why", tokens(east, west).await);
    tally.check("strangers take invitations, and nothing else", strangers(east).await);
    tally.check("what does not speak TLS is not answered", plain(east).await);
    tally.check("headers of the overlay mean nothing from clients", headers(west).await);
}

fn refused(outcome: Result<String, String>, words: &str) -> Result<(), String> {
    match outcome {
        Err(error) if error.contains(words) => Ok(()),
        other => Err(format!("not {words:?}: {other:?}")),
    }
}

async fn tokens(east: &Site, west: &Site) -> Result<(), String> {
    let invite = |seconds: &str| east.overlay(&["invite", "--seconds", seconds]);
    let text = invite("60")?;
    let text = text.trim();
    let token = Token::parse(text)?;
    refused(west.overlay(&["join", "x"]), "begins with fluffy1-")?;
    refused(west.overlay(&["join", &text[..text.len() - 4]]), "damaged")?;
    refused(west.overlay(&["join", &"fluffy1-".repeat(2000)]), "too long")?;
    refused(east.overlay(&["join", text]), "one of this cluster")?;
    let forged = Token { secret: "another".to_string(), ..token.clone() };
    refused(west.overlay(&["join", &forged.text()]), "not good")?;
    let forged = Token { id: "1".to_string(), ..token.clone() };
    refused(west.overlay(&["join", &forged.text()]), "not good")?;
    let other = identity("elsewhere").map_err(|error| error.to_string())?;
    let forged = Token { key: other.key, cluster: other.name.clone(), ..token.clone() };
    refused(west.overlay(&["join", &forged.text()]), "another cluster than the one that is meant")?;
    let silent = Token { addresses: vec!["127.0.0.1:1".to_string()], ..token.clone() };
    refused(west.overlay(&["join", &silent.text()]), "away")?;
    // Taken once.
    west.overlay(&["join", text])?;
    refused(west.overlay(&["join", text]), "not good")?;
    let short = invite("1")?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    refused(west.overlay(&["join", short.trim()]), "expired")?;
    // Whoever changes the time in the token is told by the one who invited.
    let late = Token { expires_ms: u64::MAX, ..Token::parse(short.trim())? };
    refused(west.overlay(&["join", &late.text()]), "not good")?;
    refused(east.overlay(&["invite", "--seconds", "0"]), "1 to")?;
    refused(east.overlay(&["grant", "nobody", "anna"]), "no such cluster")?;
    refused(east.overlay(&["grant", "west", "no/such/user"]), "user name")?;
    refused(east.overlay(&["revoke", "west", "eve"]), "nothing of the kind")?;
    refused(east.overlay(&["remove", "nobody"]), "no such cluster")
}

fn identity(name: &str) -> io::Result<Identity> {
    Identity::new(name.parse().map_err(io::Error::other)?, &Seed::draw(&SystemEnv::default()))
}

/// The status and the body of the answer to a request of this cluster; status 0: none.
async fn ask(site: &Site, as_whom: &Identity, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let list = site.json(&["list", "--json"]).map_err(io::Error::other)?;
    let mut key = [0; 32];
    hex::decode_to_slice(list["key"].as_str().unwrap_or_default(), &mut key).map_err(io::Error::other)?;
    let stream = TcpNet.connect(&site.overlay).await?;
    let mut stream = as_whom.connect(stream, &key).await?;
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut heard = Vec::new();
    // A connection that breaks off is an answer, too.
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut heard)).await;
    let status = heard.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let body = heard.windows(4).position(|window| window == b"\r\n\r\n").map(|end| heard[end + 4..].to_vec());
    Ok((status.unwrap_or(0), body.unwrap_or_default()))
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /overlay/v1/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn strangers(east: &Site) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let stranger = identity("stranger").map_err(told)?;
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").into_bytes();
    for path in ["/overlay/v1/ping", "/overlay/v1/catalog", "/overlay/v1/members", "/photos/unsigned", "/"] {
        let (status, body) = ask(east, &stranger, &get(path)).await.map_err(told)?;
        if status != 403 {
            return Err(format!("{path}: {status} {}", String::from_utf8_lossy(&body)));
        }
    }
    let forwarded = "GET /photos/unsigned HTTP/1.1\r\nHost: a\r\nx-fluffy-forwarded: photos\r\nx-fluffy-source: 1.2.3.4\r\n\
                     x-fluffy-secure: true\r\nConnection: close\r\n\r\n";
    let card = Card::new(&stranger, vec!["127.0.0.1:1".to_string()], 1);
    let join = |card: Card| {
        let join = Join { id: "7".to_string(), secret: "none".to_string(), card };
        post("join", &serde_json::to_vec(&join).unwrap_or_default())
    };
    let others = identity("others").map_err(told)?;
    let not_its_own = Card::new(&others, vec!["127.0.0.1:1".to_string()], 1);
    let cases = [
        ("a forwarded request", forwarded.as_bytes().to_vec(), 403),
        ("gossip", post("gossip?from=127.0.0.1:1", b"x"), 403),
        ("leaving", post("leave", b"{}"), 403),
        ("an invitation that never was", join(card), 409),
        ("another's card", join(not_its_own), 400),
        ("a card of no kind", post("join", b"{\"id\":1}"), 400),
        ("a megabyte", post("join", &vec![b'x'; 1 << 20]), 400),
    ];
    for (name, request, expected) in cases {
        let (status, body) = ask(east, &stranger, &request).await.map_err(told)?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let explains = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["error"].is_string());
        if status != expected || !explains {
            return Err(format!("{name}: {status} {text}"));
        }
    }
    Ok(())
}

async fn plain(east: &Site) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    for bytes in [&b"GET /overlay/v1/ping HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0; 64], b"SSH-2.0-x\r\n"] {
        let mut stream = TcpNet.connect(&east.overlay).await.map_err(told)?;
        stream.write_all(bytes).await.map_err(told)?;
        let mut heard = Vec::new();
        // A reset is an end, too.
        let _ = tokio::time::timeout(Duration::from_secs(12), stream.read_to_end(&mut heard)).await;
        if heard.starts_with(b"HTTP") || 64 < heard.len() {
            return Err(format!("{:?}", String::from_utf8_lossy(&heard)));
        }
    }
    Ok(())
}

/// What only clusters may say changes nothing when a client says it.
async fn headers(west: &Site) -> Result<(), String> {
    let request = Request::object("GET", "photos", "unsigned")
        .header("x-fluffy-forwarded", "other")
        .header("x-fluffy-source", "1.2.3.4")
        .header("x-fluffy-secure", "true");
    let answer = west.send(ANNA, request).await?;
    // They were signed and are taken away, so that the home does not take the signature.
    expect(403, &answer)
}
