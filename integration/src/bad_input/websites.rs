//! Hostile requests to the port of websites: nothing gets through, and each answer is a page.

use anyhow::Result;

use crate::client::{Client, Request, Target, exchange_on};
use crate::daemons::WEBSITE_DOMAIN;

const BUCKET: &str = "bad-input-site";

/// Runs the cases; `report` hears of each.
pub async fn run(target: &dyn Target, mut report: impl FnMut(&str, Result<(), String>)) -> Result<()> {
    let client = Client::new(target, 0);
    let website = "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument></WebsiteConfiguration>";
    let policy = format!(
        "{{\"Statement\":{{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:*\",\
         \"Resource\":[\"arn:aws:s3:::{BUCKET}\",\"arn:aws:s3:::{BUCKET}/*\"]}}}}"
    );
    for request in [
        Request::bucket("PUT", BUCKET),
        Request::bucket("PUT", BUCKET).flag("website").body(website),
        Request::bucket("PUT", BUCKET).flag("policy").body(policy),
        Request::object("PUT", BUCKET, "index.html").body("home"),
    ] {
        let response = client.send(request).await?;
        anyhow::ensure!(response.status < 300, "{}", response.describe());
    }
    for (name, bytes, statuses) in cases() {
        let outcome = refused(target, &bytes, statuses).await;
        report(&format!("websites: {name}"), outcome);
    }
    let unchanged = client.send(Request::object("GET", BUCKET, "index.html")).await?;
    let unchanged = if unchanged.body == b"home" { Ok(()) } else { Err(unchanged.describe()) };
    report("websites: the content is unchanged", unchanged);
    Ok(())
}

/// What is wrong, the bytes, and the answers that are right.
type Case = (&'static str, Vec<u8>, &'static [u16]);

fn cases() -> [Case; 20] {
    let host = format!("Host: {BUCKET}.{WEBSITE_DOMAIN}\r\n");
    let hidden = format!("DELETE /index.html HTTP/1.1\r\n{host}\r\n");
    let get = |target: &str, more: &str| format!("GET {target} HTTP/1.1\r\n{host}{more}\r\n").into_bytes();
    let smuggled = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let mut smuggled = get("/", smuggled);
    smuggled.extend(format!("0\r\n\r\n{hidden}").into_bytes());
    [
        ("a smuggled request", smuggled, &[400]),
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("two hosts", get("/", "Host: another\r\n"), &[400]),
        ("an empty host", b"GET / HTTP/1.1\r\nHost: \r\n\r\n".to_vec(), &[400, 404]),
        ("a host of nonsense", b"GET / HTTP/1.1\r\nHost: ../..:x\r\n\r\n".to_vec(), &[400, 404]),
        ("a host of markup", b"GET / HTTP/1.1\r\nHost: <script>.a\r\n\r\n".to_vec(), &[400, 404]),
        ("another host in the target", get("http://another.example.org/", ""), &[400]),
        ("a target that is no path", get("index.html", ""), &[400]),
        ("U+0000 in the path", get("/a%00b", ""), &[400]),
        ("a path that is not UTF-8", get("/%ff", ""), &[400]),
        ("a key of 1,025 bytes", get(&format!("/{}", "k".repeat(1025)), ""), &[400]),
        ("a key of which the index is too long", get(&format!("/{}/", "k".repeat(1020)), ""), &[400]),
        ("a line break in the path", get("/a%0d%0aSet-Cookie:%20x", ""), &[404]),
        ("markup in the path", get("/%3Cscript%3Ealert(1)%3C/script%3E", ""), &[404]),
        ("a range of nonsense", get("/", "Range: bytes=9-1,2-\r\n"), &[200, 416]),
        ("a head of 1 MiB", get("/", &format!("X: {}\r\n", "a".repeat(1 << 20))), &[400, 431]),
        ("a method of nonsense", format!("NONSENSE / HTTP/1.1\r\n{host}\r\n").into_bytes(), &[400, 405, 501]),
        ("a PUT", format!("PUT /index.html HTTP/1.1\r\n{host}Content-Length: 4\r\n\r\nevil").into_bytes(), &[405]),
        (
            "a form",
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 3\r\n\r\n--x"
            )
            .into_bytes(),
            &[405],
        ),
        ("a DELETE", hidden.into_bytes(), &[405]),
    ]
}

/// Sends bytes, of which the first request gets one of these answers: never what is not public, nor another's markup.
async fn refused(target: &dyn Target, bytes: &[u8], statuses: &[u16]) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let Some(stream) = target.connect_websites(0).await.map_err(told)? else { return Ok(()) };
    let found = exchange_on(stream, bytes, "GET", false).await.map_err(told)?.response;
    let body = String::from_utf8_lossy(&found.body).into_owned();
    if !statuses.contains(&found.status) {
        return Err(format!("{statuses:?} expected, got {} {body:.300}", found.status));
    }
    let page = found.header("content-type").unwrap_or_default().starts_with("text/html");
    match found.status {
        200 => Ok(()),
        _ if !page || !body.contains("<li>RequestId: ") => Err(format!("no page: {body:.300}")),
        _ if body.contains("<script>") || found.header("set-cookie").is_some() => {
            Err(format!("unescaped: {body:.300}"))
        }
        _ => Ok(()),
    }
}
