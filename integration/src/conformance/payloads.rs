//! How requests are signed and bodies are framed.

use super::{Cx, Outcome, behaviours, equal, ok, refused};
use crate::client::{ALGORITHMS, Auth, Client, Payload, Request, Wire};

behaviours![
    every_payload_mode_stores_the_same_bytes,
    an_announced_body_waits_for_100_continue,
    presigned_urls_read_and_write,
    virtual_host_style_names_the_same_objects,
    an_empty_body_in_every_mode,
    query_parameters_of_sdks_are_ignored,
];

fn modes(body: &[u8]) -> Vec<Payload> {
    let trailer = |index: usize| vec![(ALGORITHMS[index].header.to_string(), ALGORITHMS[index].base64(body))];
    vec![
        Payload::Digest,
        Payload::Unsigned,
        Payload::SignedChunks(65_536),
        Payload::SignedChunksTrailer(65_536, trailer(0)),
        Payload::SignedChunksTrailer(8192, trailer(4)),
        Payload::UnsignedChunksTrailer(65_536, trailer(0)),
        Payload::UnsignedChunksTrailer(8192, trailer(2)),
    ]
}

async fn every_payload_mode_stores_the_same_bytes(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in [5, 20_000, 300_000, 2_500_000] {
        let body: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        for (index, payload) in modes(&body).into_iter().enumerate() {
            let key = format!("mode-{index}-{length}");
            let name = format!("{payload:?}").chars().take(30).collect::<String>();
            let put = Request::object("PUT", &bucket, &key).body(body.clone()).payload(payload);
            cx.ok(put).await.map_err(|why| format!("{name}: {why}"))?;
            let get = cx.get(&bucket, &key).await?;
            equal(&name, get.body == body, true)?;
            // The framing is not part of what was stored.
            equal("content-encoding", get.header("content-encoding"), None)?;
        }
    }
    Ok(())
}

async fn an_empty_body_in_every_mode(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for (index, payload) in modes(b"").into_iter().enumerate() {
        let key = format!("mode-{index}");
        cx.ok(Request::object("PUT", &bucket, &key).payload(payload)).await?;
        equal("length", cx.get(&bucket, &key).await?.body.len(), 0)?;
    }
    Ok(())
}

async fn an_announced_body_waits_for_100_continue(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = Request::object("PUT", &bucket, "k").header("expect", "100-continue").body("patient");
    let response = cx.ok(put).await?;
    equal("continued", response.continued, true)?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"patient")
}

async fn presigned_urls_read_and_write(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let key = "a key/with + and ü";
    let put = Request::object("PUT", &bucket, key).auth(Auth::Query(600)).body("presigned");
    cx.ok(put).await?;
    let get = Request::object("GET", &bucket, key).auth(Auth::Query(604_800));
    equal("body", cx.ok(get).await?.body.as_slice(), b"presigned")?;
    let named = Request::object("GET", &bucket, key)
        .query("response-content-type", "text/plain")
        .auth(Auth::Query(60));
    equal("type", cx.ok(named).await?.header("content-type"), Some("text/plain"))?;
    let late =
        cx.client().signer().later(-61).sign(Request::object("GET", &bucket, key).auth(Auth::Query(60)));
    let response = cx.client().send_wire(&late).await.map_err(|error| error.to_string())?;
    equal("expired", (response.status, response.code().as_str()), (403, "AccessDenied"))
}

/// The same request, addressed as `bucket.domain`.
fn virtual_host(client: &Client<'_>, bucket: &str, domain: &str, request: Request) -> Wire {
    let mut signer = client.signer();
    signer.host = format!("{bucket}.{domain}");
    signer.sign(request)
}

async fn virtual_host_style_names_the_same_objects(cx: &Cx<'_>) -> Outcome {
    let Some(domain) = cx.client().target().domain() else {
        return Ok(());
    };
    let bucket = cx.bucket().await?;
    let client = cx.client();
    let put = virtual_host(&client, &bucket, &domain, Request::new("PUT", "/dir/k").body("virtual"));
    let response = client.send_wire(&put).await.map_err(|error| error.to_string())?;
    equal("put", response.status, 200)?;
    equal("body", cx.get(&bucket, "dir/k").await?.body.as_slice(), b"virtual")?;
    let list = virtual_host(&client, &bucket, &domain, Request::new("GET", "/").query("list-type", 2));
    let listed = client.send_wire(&list).await.map_err(|error| error.to_string())?;
    equal("listed", listed.xml()?.text_of("KeyCount"), "1")?;
    let dotted = format!("{bucket}.with.dots");
    ok(&client, Request::bucket("PUT", &dotted)).await?;
    let head = virtual_host(&client, &dotted, &domain, Request::new("HEAD", "/"));
    equal("dots", client.send_wire(&head).await.map_err(|error| error.to_string())?.status, 200)
}

async fn query_parameters_of_sdks_are_ignored(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(Request::object("PUT", &bucket, "k").query("x-id", "PutObject").body("x")).await?;
    equal(
        "body",
        cx.ok(Request::object("GET", &bucket, "k").query("x-id", "GetObject")).await?.body.len(),
        1,
    )?;
    refused(&cx.client(), Request::object("GET", &bucket, "k").flag("torrent"), 501, "NotImplemented").await
}
