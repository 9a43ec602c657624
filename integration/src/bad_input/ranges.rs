//! G: ranges and conditions.

use super::scene::{BUCKET, EMPTY, KEY, PART_BYTES, PARTS, SCRATCH, UPLOAD};
use super::{Case, Expect, Scene};
use crate::client::{Request, Wire};

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = ranges(scene);
    cases.extend(part_numbers(scene));
    cases.extend(copies(scene));
    cases.extend(conditions(scene));
    cases
}

fn ranges(scene: &Scene<'_>) -> Vec<Case> {
    let get = |key: &str, range: &str| scene.sign(Request::object("GET", BUCKET, key).header("range", range));
    let mut cases = Vec::new();
    let invalid = || Expect::error(416, "InvalidRange");
    for (key, range) in [
        (KEY, "bytes=-0"),
        (KEY, "bytes=100-"),
        (KEY, "bytes=100-200"),
        (EMPTY, "bytes=0-0"),
        (EMPTY, "bytes=-1"),
    ] {
        cases.push(Case::new("H145", format!("{range} of {key}"), get(key, range), invalid()));
    }
    let many: Vec<String> = (0..500).map(|index| format!("{index}-{index}")).collect();
    let many = format!("bytes={}", many.join(","));
    let whole = [
        ("H146", "bytes=10-5"),
        ("H146", "bytes=abc"),
        ("H146", "bytes=--1"),
        ("H146", "foo=0-1"),
        ("H146", "bytes= -1"),
        ("H146", "bytes=-"),
        ("H147", "bytes=0-0,1-2"),
        ("H147", many.as_str()),
    ];
    for (id, range) in whole {
        let short: String = range.chars().take(20).collect();
        cases.push(Case::new(id, short, get(KEY, range), Expect::status(200)));
    }
    let large = get(KEY, "bytes=0-18446744073709551615");
    cases.push(Case::new("H148", "to 2^64 - 1", large, Expect::status(206)));
    let larger = get(KEY, &format!("bytes=0-{}", "9".repeat(30)));
    cases.push(Case::new("H148", "to 10^30", larger, Expect::any(&[(206, ""), (200, "")])));
    cases
}

fn part_numbers(scene: &Scene<'_>) -> Vec<Case> {
    let get = |number: &str| Request::object("GET", BUCKET, PARTS).query("partNumber", number);
    let invalid = Expect::error(416, "InvalidPartNumber");
    let mut cases = vec![
        Case::new(
            "H149",
            "range and partNumber",
            scene.sign(get("1").header("range", "bytes=0-1")),
            Expect::error(400, "InvalidRequest"),
        ),
        Case::new("H150", "part 3 of 2", scene.sign(get("3")), invalid),
    ];
    for number in ["0", "-1", "abc", "10001"] {
        let expect = Expect::error(400, "InvalidArgument");
        cases.push(Case::new("H150", format!("part {number}"), scene.sign(get(number)), expect));
    }
    cases
}

fn copies(scene: &Scene<'_>) -> Vec<Case> {
    let copy = |range: &str| {
        let request = Request::object("PUT", BUCKET, UPLOAD)
            .query("partNumber", 2)
            .query("uploadId", &scene.upload)
            .header("x-amz-copy-source", format!("/{BUCKET}/{PARTS}"))
            .header("x-amz-copy-source-range", range);
        scene.sign(request)
    };
    let beyond = format!("bytes=0-{}", PART_BYTES + 4);
    ["bytes=5-1", "bytes=abc", "0-1", "bytes=-5", "bytes=0-", &beyond]
        .into_iter()
        .map(|range| Case::new("H151", range, copy(range), Expect::error(400, "InvalidArgument")))
        .collect()
}

fn conditions(scene: &Scene<'_>) -> Vec<Case> {
    let put = |headers: &[(&str, &str)]| -> Wire {
        let request = headers.iter().fold(scene.put(), |request, (name, value)| request.header(name, value));
        scene.sign(request)
    };
    let other = "\"00000000000000000000000000000000\"";
    let failed = || Expect::error(412, "PreconditionFailed");
    let unknown = || Expect::error(501, "NotImplemented");
    let missing = Request::object("PUT", SCRATCH, "never-there").header("if-match", other).body("x");
    let dated = scene.sign(scene.get().header("if-modified-since", "the day before"));
    let list = vec![other; 30_000].join(",");
    vec![
        Case::new(
            "H152",
            "If-Match and If-None-Match",
            put(&[("if-match", other), ("if-none-match", "*")]),
            unknown(),
        ),
        Case::new("H152", "If-None-Match with an ETag", put(&[("if-none-match", other)]), unknown()),
        Case::new("H153", "If-Match of another ETag", put(&[("if-match", other)]), failed()),
        Case::new("H153", "If-None-Match on an object", put(&[("if-none-match", "*")]), failed()),
        Case::new("H153", "If-Match on a missing key", scene.sign(missing), Expect::error(404, "NoSuchKey")),
        Case::new("H154", "a date that is none", dated, Expect::status(200)),
        Case::new(
            "H154",
            "1 MiB of ETags",
            scene.sign(scene.get().header("if-none-match", list)),
            Expect::any(&[(400, ""), (431, "")]).or_close(),
        ),
    ]
}
