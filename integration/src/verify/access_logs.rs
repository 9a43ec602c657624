//! The stage of access logs: the lines of all kinds of requests, and what a clean end leaves behind.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Tally, block_on};
use crate::client::{Auth, Client, Request, Response};
use crate::daemons::Embedded;

const BUCKET: &str = "logged";
const LOGS: &str = "logs";
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Embedded::start(&["--data", "fluffy-data", "--access-log-seconds", "1"]).await?;
        tally.check("requests become lines in another bucket", lines(&store).await);
        drop(store);
        let store = Embedded::start(&["--data", "fluffy-data", "--access-log-seconds", "3600"]).await?;
        tally.check("a clean end writes what waits", clean_end(&store).await);
        tally.check("a log whose bucket is gone is dropped and counted", dropped(&store).await);
        Ok(())
    })
}

async fn send(store: &Embedded, request: Request) -> Result<Response, String> {
    Client::new(store, 0).send(request).await.map_err(|error| error.to_string())
}

async fn prepare(store: &Embedded) -> Result<(), String> {
    for bucket in [BUCKET, LOGS] {
        send(store, Request::bucket("PUT", bucket)).await?;
    }
    let document = format!(
        "<BucketLoggingStatus><LoggingEnabled><TargetBucket>{LOGS}</TargetBucket><TargetPrefix>to/</TargetPrefix>\
         </LoggingEnabled></BucketLoggingStatus>"
    );
    let set = Request::bucket("PUT", BUCKET).flag("logging").body(document).content_md5();
    let answer = send(store, set).await?;
    if answer.status == 200 { Ok(()) } else { Err(answer.describe()) }
}

/// All lines in the bucket of logs.
async fn written(store: &Embedded) -> Result<Vec<String>, String> {
    let list = send(store, Request::bucket("GET", LOGS).query("list-type", 2)).await?;
    let mut lines = Vec::new();
    for entry in list.xml()?.all("Contents") {
        let key = entry.text_of("Key");
        if !key.starts_with("to/20") {
            return Err(format!("what is {key}?"));
        }
        let body = send(store, Request::object("GET", LOGS, key)).await?.body;
        lines.extend(String::from_utf8_lossy(&body).lines().map(str::to_string));
    }
    Ok(lines)
}

async fn wait(store: &Embedded, count: usize) -> Result<Vec<String>, String> {
    let begin = Instant::now();
    loop {
        let lines = written(store).await?;
        if count <= lines.len() {
            return Ok(lines);
        }
        if PATIENCE < begin.elapsed() {
            return Err(format!("only {} lines: {lines:?}", lines.len()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A request and what its line says.
type Case = (Request, &'static str);

fn cases() -> Vec<Case> {
    let object = |method: &str, key: &str| Request::object(method, BUCKET, key);
    vec![
        (
            object("PUT", "a b").body("hello"),
            "REST.PUT.OBJECT a%20b \"PUT /logged/a%20b HTTP/1.1\" 200 - - 5 ",
        ),
        (
            object("GET", "a b").header("user-agent", "x \"y\""),
            "REST.GET.OBJECT a%20b \"GET /logged/a%20b HTTP/1.1\" 200 - 5 5 ",
        ),
        (
            object("GET", "a b").header("range", "bytes=1-2"),
            "REST.GET.OBJECT a%20b \"GET /logged/a%20b HTTP/1.1\" 206 - 2 5 ",
        ),
        (object("HEAD", "a b"), "REST.HEAD.OBJECT a%20b \"HEAD /logged/a%20b HTTP/1.1\" 200 - - 5 "),
        (object("GET", "none"), "REST.GET.OBJECT none \"GET /logged/none HTTP/1.1\" 404 NoSuchKey "),
        (object("GET", "a b").auth(Auth::Query(60)), "X-Amz-Signature=REDACTED"),
        (
            Request::bucket("GET", BUCKET).query("list-type", 2),
            "REST.GET.BUCKET - \"GET /logged?list-type=2 HTTP/1.1\" 200 ",
        ),
        (object("DELETE", "a b"), "REST.DELETE.OBJECT a%20b \"DELETE /logged/a%20b HTTP/1.1\" 204 - - - "),
    ]
}

async fn lines(store: &Embedded) -> Result<(), String> {
    prepare(store).await?;
    let cases = cases();
    for (request, _) in &cases {
        send(store, request.clone()).await?;
    }
    let anonymous = Client::new(store, 0).with_credentials(None);
    let refused =
        anonymous.send(Request::object("GET", BUCKET, "x")).await.map_err(|error| error.to_string())?;
    if refused.status != 403 {
        return Err(refused.describe());
    }
    let lines = wait(store, cases.len() + 1).await?;
    for (_, part) in &cases {
        if !lines.iter().any(|line| line.contains(part)) {
            return Err(format!("{part} is nowhere in {lines:#?}"));
        }
    }
    let last = lines.iter().find(|line| line.contains(" 403 AccessDenied "));
    let last = last.ok_or_else(|| format!("no refusal: {lines:#?}"))?;
    if !last.contains("] 127.0.0.1 - ") || !last.contains(" - - - ") {
        return Err(last.to_string());
    }
    let signed = lines.iter().find(|line| line.contains("x %22y%22")).ok_or("no user agent")?;
    // Between the quotes are spaces; without them a line has 26 fields.
    let fields = signed.split('"').step_by(2).flat_map(str::split_whitespace).count() + 3;
    if signed.contains(" SigV4 - AuthHeader ") && signed.starts_with("root logged [") && fields == 27 {
        Ok(())
    } else {
        Err(format!("{fields} fields: {signed}"))
    }
}

async fn clean_end(store: &Embedded) -> Result<(), String> {
    prepare(store).await?;
    for index in 0..10 {
        send(store, Request::object("PUT", BUCKET, &format!("k-{index}")).body("x")).await?;
    }
    if !written(store).await?.is_empty() {
        return Err("they were written before".to_string());
    }
    store.gateway.daemon.terminate().await.map_err(|error| error.to_string())?;
    store.gateway.start().await.map_err(|error| error.to_string())?;
    let lines = wait(store, 10).await?;
    let puts = lines.iter().filter(|line| line.contains("REST.PUT.OBJECT k-")).count();
    if puts == 10 { Ok(()) } else { Err(format!("{lines:#?}")) }
}

async fn dropped(store: &Embedded) -> Result<(), String> {
    let list = send(store, Request::bucket("GET", LOGS).query("list-type", 2)).await?;
    for entry in list.xml()?.all("Contents") {
        send(store, Request::object("DELETE", LOGS, entry.text_of("Key"))).await?;
    }
    let gone = send(store, Request::bucket("DELETE", LOGS)).await?;
    if gone.status != 204 {
        return Err(gone.describe());
    }
    let put = send(store, Request::object("PUT", BUCKET, "last").body("x")).await?;
    if put.status != 200 {
        return Err(put.describe());
    }
    store.gateway.daemon.terminate().await.map_err(|error| error.to_string())?;
    let log = store.gateway.daemon.log_text();
    store.gateway.start().await.map_err(|error| error.to_string())?;
    if log.contains("lines of an access log are dropped") {
        Ok(())
    } else {
        Err("nobody says so".to_string())
    }
}
