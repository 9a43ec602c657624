//! B: presigned URLs.

use super::scene::{BUCKET, EMPTY, KEY};
use super::{Case, Expect, Scene};
use crate::client::{Auth, Payload, Request, Wire};

fn presigned(scene: &Scene<'_>) -> Wire {
    scene.sign(scene.get().auth(Auth::Query(60)))
}

fn bad_parameters() -> Expect {
    Expect::error(400, "AuthorizationQueryParametersError")
}

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let denied = || Expect::error(403, "AccessDenied");
    let get = || scene.get().auth(Auth::Query(60));
    let signer = scene.client.signer();
    let mut cases = vec![
        Case::new("H030", "a good one", presigned(scene), Expect::status(200)),
        Case::new("H030", "expired", signer.clone().later(-62).sign(get()), denied()),
        Case::new(
            "H033",
            "expires at once",
            signer.clone().later(-1).sign(scene.get().auth(Auth::Query(0))),
            denied(),
        ),
        Case::new("H036", "not valid yet", signer.clone().later(16 * 60).sign(get()), denied()),
        Case::new(
            "H031",
            "a second more than a week",
            scene.sign(scene.get().auth(Auth::Query(604_801))),
            bad_parameters(),
        ),
    ];
    let long = ["9223372036854775808", "1000000000000000000000000000000", "-1", "abc", ""];
    for (value, id) in long.into_iter().zip(["H031", "H031", "H032", "H032", "H032"]) {
        let wire = presigned(scene)
            .retarget(|old| old.replace("X-Amz-Expires=60", &format!("X-Amz-Expires={value}")));
        cases.push(Case::new(id, format!("X-Amz-Expires={value}"), wire, bad_parameters()));
    }
    cases.extend(parameters(scene));
    cases.extend(changed(scene));
    cases.extend(bodies(scene));
    cases.extend(every_operation(scene));
    cases
}

/// The mistakes that matter most, on every operation that a URL can be signed for.
fn every_operation(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (operation, request) in super::auth::operations(scene) {
        if request.payload != Payload::Digest {
            continue; // Framed bodies are in `bodies`.
        }
        let request = request.auth(Auth::Query(60));
        let forged = scene.sign(request.clone()).retarget(forge);
        let expired = scene.client.signer().later(-62).sign(request.clone());
        let unknown =
            scene.sign(request).retarget(|old| old.replace("X-Amz-Credential=", "X-Amz-Credential=A"));
        for (id, name, wire, code) in [
            ("H038", "forged", forged, "SignatureDoesNotMatch"),
            ("H030", "expired", expired, "AccessDenied"),
            ("H042", "a key that nobody has", unknown, "InvalidAccessKeyId"),
        ] {
            cases.push(Case::new(id, format!("{name} ({operation})"), wire, Expect::error(403, code)));
        }
    }
    cases
}

/// Changes the last digit of what ends in a signature.
fn forge(target: &str) -> String {
    format!("{}{}", &target[..target.len() - 1], if target.ends_with('0') { '1' } else { '0' })
}

fn parameters(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    ] {
        let without = presigned(scene).retarget(|old| without_parameter(old, name));
        cases.push(Case::new("H034", format!("no {name}"), without, bad_parameters()));
    }
    for name in ["X-Amz-Expires", "X-Amz-Signature", "X-Amz-Credential"] {
        let twice = presigned(scene).retarget(|old| {
            let pair = old.split(['?', '&']).find(|pair| pair.starts_with(name)).unwrap_or_default();
            format!("{old}&{pair}")
        });
        cases.push(Case::new("H035", format!("two {name}"), twice, bad_parameters()));
    }
    for algorithm in ["AWS4-ECDSA-P256-SHA256", "AWS4-HMAC-SHA512"] {
        let wire = presigned(scene).retarget(|old| old.replace("AWS4-HMAC-SHA256", algorithm));
        cases.push(Case::new("H037", algorithm, wire, bad_parameters()));
    }
    cases
}

fn without_parameter(target: &str, name: &str) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_string();
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with(name)).collect();
    format!("{path}?{}", kept.join("&"))
}

fn changed(scene: &Scene<'_>) -> Vec<Case> {
    let mismatch = || Expect::error(403, "SignatureDoesNotMatch");
    let method = |method: &str| {
        let mut wire = presigned(scene);
        wire.method = method.to_string();
        if method == "PUT" { wire.with_body("evil") } else { wire }
    };
    let other_key = presigned(scene).retarget(|old| old.replace(&format!("/{KEY}?"), &format!("/{EMPTY}?")));
    let added = |parameter: &str| presigned(scene).retarget(|old| format!("{old}&{parameter}"));
    vec![
        Case::new("H038", "used for PUT", method("PUT"), mismatch()),
        Case::new("H038", "used for DELETE", method("DELETE"), mismatch()),
        Case::new("H038", "another key", other_key, mismatch()),
        Case::new("H038", "versionId added", added("versionId=null"), mismatch()),
        Case::new("H038", "response header added", added("response-content-type=text%2Fhtml"), mismatch()),
    ]
}

fn bodies(scene: &Scene<'_>) -> Vec<Case> {
    let put = || scene.sign(scene.put().auth(Auth::Query(60)));
    let denied = Expect::error(403, "AccessDenied");
    let trailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let streaming = Request::object("PUT", BUCKET, KEY)
        .header("x-amz-content-sha256", trailer)
        .header("x-amz-decoded-content-length", 4)
        .payload(Payload::Literal(trailer.to_string()))
        .auth(Auth::Query(60))
        .body("4\r\nevil\r\n0\r\n\r\n");
    let forged = |wire: Wire| wire.retarget(forge);
    let mismatch = || Expect::error(403, "SignatureDoesNotMatch");
    let snowball = streaming.clone().header("x-amz-meta-snowball-auto-extract", "true");
    let huge = forged(put()).with_body("").set("content-length", 5u64 << 30);
    vec![
        Case::new("H039", "an unsigned header", put().add("x-amz-acl", "public-read"), denied),
        Case::new("H040", "forged, unsigned trailer", forged(scene.sign(streaming)), mismatch()),
        Case::new("H041", "forged, auto-extract", forged(scene.sign(snowball)), mismatch()),
        Case::new("H043", "forged, 5 GiB announced", huge, mismatch().and_close()),
    ]
}
