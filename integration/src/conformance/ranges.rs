//! Ranged reads.

use super::{Cx, Outcome, behaviours, equal, has_header};
use crate::client::{Pattern, Request};

behaviours![ranges_give_their_bytes, ranges_across_chunks, an_unsatisfiable_range_names_the_size];

async fn ranges_give_their_bytes(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "0123456789").await?;
    for (range, expected, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-100", "0123456789", "bytes 0-9/10"),
        ("bytes=5-1000", "56789", "bytes 5-9/10"),
    ] {
        let response = cx.ok(Request::object("GET", &bucket, "k").header("range", range)).await?;
        equal(range, response.status, 206)?;
        equal(range, response.body.as_slice(), expected.as_bytes())?;
        has_header(&response, "content-range", content_range)?;
    }
    Ok(())
}

async fn ranges_across_chunks(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    const MIB: u64 = 1 << 20;
    let whole = Pattern::new(9, 3 * MIB + 500);
    cx.put(&bucket, "k", whole.bytes()).await?;
    for (first, last) in [
        (0, MIB - 1),
        (MIB - 1, MIB),
        (MIB, MIB),
        (MIB - 7, 2 * MIB + 9),
        (3 * MIB - 1, 3 * MIB + 499),
        (3 * MIB + 499, 3 * MIB + 499),
        (1, 3 * MIB + 498),
    ] {
        let range = format!("bytes={first}-{last}");
        let response = cx.ok(Request::object("GET", &bucket, "k").header("range", &range)).await?;
        let expected = Pattern::slice(9, first, last - first + 1).bytes();
        equal(&range, response.body == expected, true)?;
    }
    Ok(())
}

async fn an_unsatisfiable_range_names_the_size(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "0123456789").await?;
    let get = Request::object("GET", &bucket, "k").header("range", "bytes=10-");
    let response = cx.client().send(get).await.map_err(|error| error.to_string())?;
    equal("answer", (response.status, response.code().as_str()), (416, "InvalidRange"))?;
    has_header(&response, "content-range", "bytes */10")
}
