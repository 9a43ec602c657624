//! Conditional requests, and who wins.

use futures::future::join_all;

use super::{Cx, Outcome, behaviours, ensure, equal, ok};
use crate::client::Request;

behaviours![
    reads_are_conditional,
    if_none_match_creates_once,
    if_match_replaces_what_it_names,
    of_32_writers_one_wins,
    of_32_creators_one_wins,
    deletes_are_conditional,
    conditions_of_times,
];

const OTHER: &str = "\"00000000000000000000000000000000\"";

async fn reads_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "k", "x").await?.etag().to_string();
    for method in ["GET", "HEAD"] {
        let request = || Request::object(method, &bucket, "k");
        cx.ok(request().header("if-match", &etag)).await?;
        cx.ok(request().header("if-match", "*")).await?;
        cx.ok(request().header("if-match", format!("{OTHER}, {etag}"))).await?;
        cx.ok(request().header("if-none-match", OTHER)).await?;
        cx.refused(request().header("if-match", OTHER), 412, "PreconditionFailed").await?;
        cx.refused(request().header("if-none-match", &etag), 304, "").await?;
        cx.refused(request().header("if-none-match", "*"), 304, "").await?;
    }
    Ok(())
}

async fn conditions_of_times(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "k", "x").await?.etag().to_string();
    let modified = cx.get(&bucket, "k").await?.header("last-modified").unwrap_or_default().to_string();
    let get = || Request::object("GET", &bucket, "k");
    let (past, future) = ("Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    cx.ok(get().header("if-modified-since", past)).await?;
    cx.refused(get().header("if-modified-since", &modified), 304, "").await?;
    cx.ok(get().header("if-unmodified-since", future)).await?;
    cx.ok(get().header("if-unmodified-since", &modified)).await?;
    cx.refused(get().header("if-unmodified-since", past), 412, "PreconditionFailed").await?;
    // An entity tag outweighs a time.
    cx.ok(get().header("if-match", &etag).header("if-unmodified-since", past)).await?;
    cx.refused(get().header("if-none-match", &etag).header("if-modified-since", past), 304, "").await
}

async fn if_none_match_creates_once(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = |body: &str| Request::object("PUT", &bucket, "k").header("if-none-match", "*").body(body);
    cx.ok(put("first")).await?;
    cx.refused(put("second"), 412, "PreconditionFailed").await?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"first")?;
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.ok(put("third")).await?;
    Ok(())
}

async fn if_match_replaces_what_it_names(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = |etag: &str| Request::object("PUT", &bucket, "k").header("if-match", etag).body("new");
    cx.refused(put(OTHER), 404, "NoSuchKey").await?;
    let etag = cx.put(&bucket, "k", "old").await?.etag().to_string();
    cx.refused(put(OTHER), 412, "PreconditionFailed").await?;
    cx.ok(put(&etag)).await?;
    cx.refused(put(&etag), 412, "PreconditionFailed").await?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"new")
}

async fn race(cx: &Cx<'_>, bucket: &str, condition: (&str, &str), length: usize) -> Outcome {
    let writers = (0..32).map(|index| {
        let client = cx.gateway(index);
        let body = format!("{index:02}").repeat(length / 2);
        let put = Request::object("PUT", bucket, "k").header(condition.0, condition.1).body(body.clone());
        async move { (body, client.send(put).await) }
    });
    let (mut winners, mut lost) = (Vec::new(), 0);
    for (body, answer) in join_all(writers).await {
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            200 => winners.push(body),
            412 => lost += 1,
            _ => return Err(answer.describe()),
        }
    }
    ensure(winners.len() == 1 && lost == 31, || format!("{} winners, {lost} losers", winners.len()))?;
    for gateway in 0..2 {
        let get = ok(&cx.gateway(gateway), Request::object("GET", bucket, "k")).await?;
        equal("what the winner wrote", &get.body, &winners[0].clone().into_bytes())?;
    }
    Ok(())
}

async fn of_32_writers_one_wins(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in [10, 100_000] {
        let etag = cx.put(&bucket, "k", format!("start of {length}")).await?.etag().to_string();
        race(cx, &bucket, ("if-match", &etag), length).await?;
    }
    Ok(())
}

async fn of_32_creators_one_wins(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    race(cx, &bucket, ("if-none-match", "*"), 10).await
}

async fn deletes_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "k", "x").await?.etag().to_string();
    let delete = |etag: &str| Request::object("DELETE", &bucket, "k").header("if-match", etag);
    cx.refused(delete(OTHER), 412, "PreconditionFailed").await?;
    cx.ok(delete(&etag)).await?;
    cx.put(&bucket, "k", "y").await?;
    let body = format!("<Delete><Object><Key>k</Key><ETag>{etag}</ETag></Object></Delete>");
    let many = Request::bucket("POST", &bucket).flag("delete").body(body).content_md5();
    let root = cx.ok(many).await?.xml()?;
    let error = root.child("Error").cloned().unwrap_or_default();
    equal("code", error.text_of("Code"), "PreconditionFailed")?;
    cx.get(&bucket, "k").await?;
    Ok(())
}
