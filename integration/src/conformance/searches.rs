//! Searches over all buckets and over one: what is found, in which order, as new as what, and who may see it.

use super::{Cx, Outcome, behaviours, ensure, equal, ok, refused, xml_of};
use crate::client::{Client, Element, Request, Response};

behaviours![
    a_write_is_found_at_once_when_asked_for,
    names_are_found_by_what_is_in_them,
    tags_metadata_type_size_and_time_are_found,
    what_is_gone_or_changed_is_not_found,
    hits_are_sorted_and_paged,
    a_search_over_all_buckets_finds_only_what_may_be_listed,
    policies_decide_which_hits_are_shown,
    searches_that_are_none_are_refused,
];

/// The entry of the log that a write became.
fn index_of(response: &Response) -> Result<String, String> {
    let index = response.header("x-fluffy-index").ok_or("the answer to a write tells no index")?;
    Ok(index.to_string())
}

fn search(bucket: &str, query: &str, as_of: &str) -> Request {
    Request::bucket("GET", bucket).flag("search").query("q", query).query("as-of", as_of)
}

async fn found(client: &Client<'_>, request: Request) -> Result<Element, String> {
    // An index that is just being made is waited for.
    let mut last = None;
    for _ in 0..200 {
        match client.send(request.clone()).await.map_err(|error| error.to_string())? {
            response if response.status == 503 => last = Some(response),
            response if response.status == 200 => return xml_of(&response, "SearchResult"),
            response => return Err(response.describe()),
        }
    }
    Err(last.map_or_else(String::new, |response| response.describe()))
}

fn keys(page: &Element) -> Vec<String> {
    page.all("Contents").map(|hit| hit.text_of("Key").to_string()).collect()
}

async fn keys_of(cx: &Cx<'_>, bucket: &str, query: &str, as_of: &str) -> Result<Vec<String>, String> {
    Ok(keys(&found(&cx.client(), search(bucket, query, as_of)).await?))
}

async fn expect(cx: &Cx<'_>, bucket: &str, as_of: &str, table: &[(&str, &[&str])]) -> Outcome {
    for (query, expected) in table {
        let expected: Vec<String> = expected.iter().map(|key| key.to_string()).collect();
        equal(query, keys_of(cx, bucket, query, as_of).await?, expected)?;
    }
    Ok(())
}

async fn a_write_is_found_at_once_when_asked_for(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for number in 0..20 {
        let key = format!("written/{number}-needle");
        let index = index_of(&cx.put(&bucket, &key, "x").await?)?;
        let page = found(&cx.gateway(number), search(&bucket, &format!("{number}-needle"), &index)).await?;
        ensure(keys(&page).contains(&key), || format!("{key} is not found as of its own write"))?;
        // Elsewhere it comes with the name of the cluster.
        let number = |text: &str| {
            text.rsplit('/').next().unwrap_or(text).parse::<u64>().map_err(|error| error.to_string())
        };
        let (seen, wanted) = (number(page.text_of("Index"))?, number(&index)?);
        ensure(wanted <= seen, || format!("the answer says {seen} and not {wanted}"))?;
    }
    Ok(())
}

async fn names_are_found_by_what_is_in_them(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut index = String::new();
    for key in ["2026/Größe.TXT", "a b/c\"d", "cats/Tabby.jpg", "cats/tabby.png", "dogs/rex.jpg", "x"] {
        index = index_of(&cx.put(&bucket, key, "x").await?)?;
    }
    expect(
        cx,
        &bucket,
        &index,
        &[
            ("TABBY", &["cats/Tabby.jpg", "cats/tabby.png"]),
            ("tabby -jpg", &["cats/tabby.png"]),
            ("\"b/c\\\"d\"", &["a b/c\"d"]),
            ("gröSSe", &[]),
            ("größe", &["2026/Größe.TXT"]),
            ("x", &["2026/Größe.TXT", "dogs/rex.jpg", "x"]),
            ("name:^cats/ name:*.JPG", &["cats/Tabby.jpg"]),
            ("name:?", &["x"]),
            ("name:/^(cats|dogs)/.*[.]jpg$/", &["cats/Tabby.jpg", "dogs/rex.jpg"]),
            ("name:/(?i)TAB+Y/", &["cats/Tabby.jpg", "cats/tabby.png"]),
            ("name:~tabbie", &[]),
            ("name:~tably", &["cats/Tabby.jpg", "cats/tabby.png"]),
            ("no-such-thing", &[]),
        ],
    )
    .await
}

async fn tags_metadata_type_size_and_time_are_found(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let red = Request::object("PUT", &bucket, "red").header("x-amz-tagging", "colour=red&k%20y=v%3D");
    cx.ok(red.header("content-type", "image/png").body("12345")).await?;
    let blue = Request::object("PUT", &bucket, "blue").header("x-amz-tagging", "colour=blue");
    let blue = blue.header("x-amz-meta-Owner", "anna").header("content-type", "text/html; charset=utf-8");
    cx.ok(blue.body("1")).await?;
    let index = index_of(&cx.put(&bucket, "plain", vec![0; 2000]).await?)?;
    expect(
        cx,
        &bucket,
        &index,
        &[
            ("tag:colour=red", &["red"]),
            ("tag:colour", &["blue", "red"]),
            ("-tag:colour", &["plain"]),
            ("tag:\"k y\"=v=", &["red"]),
            ("meta:owner=anna", &["blue"]),
            ("meta:OWNER", &["blue"]),
            ("type:image/*", &["red"]),
            ("type:text/html", &["blue"]),
            ("size:5", &["red"]),
            ("size:>1KB", &["plain"]),
            ("size:..5 -size:1", &["red"]),
            ("modified:<1971-01-01", &[]),
            ("modified:>=1971-01-01 name:plain", &["plain"]),
        ],
    )
    .await?;
    let page = found(&cx.client(), search(&bucket, "blue", &index)).await?;
    let hit = page.child("Contents").ok_or("no hit")?;
    for (name, expected) in
        [("Bucket", bucket.as_str()), ("Size", "1"), ("ContentType", "text/html; charset=utf-8")]
    {
        equal(name, hit.text_of(name), expected)?;
    }
    let asked = search(&bucket, "blue", &index).query("format", "json");
    let json = cx.ok(asked).await?;
    equal("type", json.header("content-type").unwrap_or_default(), "application/json")?;
    let text = String::from_utf8_lossy(&json.body).into_owned();
    ensure(text.contains("\"key\":\"blue\"") && text.contains("\"truncated\":false"), || text.clone())
}

async fn what_is_gone_or_changed_is_not_found(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "needle-1", "x").await?;
    cx.put(&bucket, "needle-2", "x").await?;
    let tagged = Request::object("PUT", &bucket, "needle-3").header("x-amz-tagging", "state=old");
    cx.ok(tagged.body("x")).await?;
    cx.ok(Request::object("DELETE", &bucket, "needle-1")).await?;
    let rename = Request::object("PUT", &bucket, "renamed-2").flag("renameObject");
    cx.ok(rename.header("x-amz-rename-source", format!("{bucket}/needle-2"))).await?;
    let tags = "<Tagging><TagSet><Tag><Key>state</Key><Value>new</Value></Tag></TagSet></Tagging>";
    cx.ok(Request::object("PUT", &bucket, "needle-3").flag("tagging").body(tags).content_md5()).await?;
    let index = index_of(&cx.put(&bucket, "last", "x").await?)?;
    expect(
        cx,
        &bucket,
        &index,
        &[
            ("needle", &["needle-3"]),
            ("renamed", &["renamed-2"]),
            ("tag:state=old", &[]),
            ("tag:state=new", &["needle-3"]),
        ],
    )
    .await
}

async fn hits_are_sorted_and_paged(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut index = String::new();
    for number in 0..7_usize {
        index = index_of(&cx.put(&bucket, &format!("page-{number}"), vec![0; (number * 3) % 7]).await?)?;
    }
    for (sort, order, expected) in [
        ("name", "asc", [0, 1, 2, 3, 4, 5, 6]),
        ("name", "desc", [6, 5, 4, 3, 2, 1, 0]),
        ("size", "asc", [0, 5, 3, 1, 6, 4, 2]),
        ("size", "desc", [2, 4, 6, 1, 3, 5, 0]),
    ] {
        let (mut all, mut token) = (Vec::new(), None::<String>);
        for turn in 0..9 {
            let request = search(&bucket, "page", &index).query("sort", sort).query("order", order);
            let request = request.query("max-keys", 2);
            let request = match &token {
                Some(token) => request.query("continuation-token", token),
                None => request,
            };
            let page = found(&cx.gateway(turn), request).await?;
            ensure(keys(&page).len() <= 2, || "a page is too long".to_string())?;
            all.extend(keys(&page));
            let next = page.text_of("NextContinuationToken");
            equal("truncated", page.text_of("IsTruncated"), if next.is_empty() { "false" } else { "true" })?;
            if next.is_empty() {
                break;
            }
            token = Some(next.to_string());
        }
        let expected: Vec<String> = expected.iter().map(|number| format!("page-{number}")).collect();
        equal(&format!("{sort} {order}"), all, expected)?;
    }
    let first = found(&cx.client(), search(&bucket, "page", &index).query("max-keys", 2)).await?;
    let token = first.text_of("NextContinuationToken").to_string();
    let other = search(&bucket, "pag", &index).query("continuation-token", &token);
    cx.refused(other, 400, "InvalidArgument").await?;
    let beside = cx.bucket().await?;
    let other = search(&beside, "page", &index).query("continuation-token", &token);
    cx.refused(other, 400, "InvalidArgument").await?;
    let none = found(&cx.client(), search(&bucket, "page", &index).query("max-keys", 0)).await?;
    equal("nothing", keys(&none), Vec::new())
}

async fn a_search_over_all_buckets_finds_only_what_may_be_listed(cx: &Cx<'_>) -> Outcome {
    let (one, two) = (cx.bucket().await?, cx.bucket().await?);
    cx.put(&one, "everywhere-needle", "x").await?;
    let index = index_of(&cx.put(&two, "everywhere-needle", "x").await?)?;
    let all = |query: &str| Request::new("GET", "/").flag("search").query("q", query).query("as-of", &index);
    let buckets = |page: &Element| -> Vec<String> {
        page.all("Contents").map(|hit| hit.text_of("Bucket").to_string()).collect()
    };
    let page = found(&cx.client(), all("everywhere-needle")).await?;
    equal("buckets", buckets(&page), vec![one.clone(), two.clone()])?;
    let page = found(&cx.client(), all(&format!("everywhere-needle bucket:{two}"))).await?;
    equal("one bucket", buckets(&page), vec![two.clone()])?;
    let page = found(&cx.client(), all("everywhere-needle owner:nobody-of-that-name")).await?;
    equal("no owner", buckets(&page), Vec::new())?;
    refused(&cx.with(None), all("everywhere-needle"), 403, "AccessDenied").await?;
    if let Some(other) = cx.other() {
        equal("another user", buckets(&found(&other, all("everywhere-needle")).await?), Vec::new())?;
        refused(&other, search(&one, "needle", &index), 403, "AccessDenied").await?;
    }
    refused(&cx.with(None), search(&one, "needle", &index), 403, "AccessDenied").await
}

async fn set_policy(cx: &Cx<'_>, bucket: &str, statements: &[String]) -> Outcome {
    let text = format!("{{\"Version\":\"2012-10-17\",\"Statement\":[{}]}}", statements.join(","));
    cx.ok(Request::bucket("PUT", bucket).flag("policy").body(text)).await.map(drop)
}

async fn policies_decide_which_hits_are_shown(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut index = String::new();
    for key in ["open/a-needle", "open/secret/b-needle", "shut/c-needle"] {
        index = index_of(&cx.put(&bucket, key, "x").await?)?;
    }
    let Some(other) = cx.other() else { return Ok(()) };
    let statement = |effect: &str, operator: &str, prefix: &str| {
        format!(
            "{{\"Effect\":\"{effect}\",\"Principal\":\"*\",\"Action\":\"s3:ListBucket\",\
             \"Resource\":\"arn:aws:s3:::{bucket}\",\
             \"Condition\":{{\"{operator}\":{{\"s3:prefix\":\"{prefix}\"}}}}}}"
        )
    };
    let needle = || search(&bucket, "needle", &index);
    // Of the prefix that a client sends nothing depends.
    let tricked = search(&bucket, "needle", &index).query("prefix", "open/");
    let both = [statement("Allow", "StringLike", "open/*"), statement("Deny", "StringLike", "open/secret/*")];
    set_policy(cx, &bucket, &both).await?;
    for client in [&other, &cx.with(None)] {
        equal("some", keys(&found(client, needle()).await?), vec!["open/a-needle".to_string()])?;
        equal("some", keys(&found(client, tricked.clone()).await?), vec!["open/a-needle".to_string()])?;
    }
    let owner = vec!["open/a-needle".to_string(), "shut/c-needle".to_string()];
    equal(
        "what is denied the owner does not see either",
        keys(&found(&cx.client(), needle()).await?),
        owner,
    )?;
    set_policy(cx, &bucket, &[statement("Allow", "StringEquals", "shut/")]).await?;
    equal("a directory", keys(&found(&other, needle()).await?), vec!["shut/c-needle".to_string()])?;
    cx.ok(Request::bucket("DELETE", &bucket).flag("policy")).await?;
    equal("the owner", keys(&found(&cx.client(), needle()).await?).len(), 3)?;
    refused(&other, search(&bucket, "needle", &index), 403, "AccessDenied").await
}

async fn searches_that_are_none_are_refused(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for query in ["", "\"", "colour:red", "size:x", "name:/(/", "name:~a", "tag:=x"] {
        cx.refused(search(&bucket, query, "0"), 400, "InvalidArgument").await?;
    }
    let place = ok(&cx.client(), search(&bucket, "good colour:red", "0")).await.err().unwrap_or_default();
    ensure(place.contains("character 6"), || place.clone())?;
    cx.refused(search(&bucket, "a", "x"), 400, "InvalidArgument").await?;
    cx.refused(search(&cx.bucket_name(), "a", "0"), 404, "NoSuchBucket").await
}
