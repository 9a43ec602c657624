//! A: Signature Version 4 in the header, each mistake on several operations.

use super::scene::{BUCKET, KEY, SCRATCH, UPLOAD, complete_body};
use super::{Case, Expect, Scene};
use crate::client::{Auth, Credentials, Payload, Request, Wire};

type Change = Box<dyn Fn(&Scene<'_>, Request) -> Wire>;

/// The mistakes that are the same for every operation.
struct Mistake {
    id: &'static str,
    name: String,
    make: Change,
    expect: Expect,
}

/// A mistake made on the wire after it was signed well.
fn wire(id: &'static str, name: &str, change: impl Fn(Wire) -> Wire + 'static, expect: Expect) -> Mistake {
    let make: Change = Box::new(move |scene, request| change(scene.sign(request)));
    Mistake { id, name: name.to_string(), make, expect }
}

/// A mistake in the `Authorization` header.
fn header(
    id: &'static str,
    name: &str,
    change: impl Fn(&str) -> String + 'static,
    expect: Expect,
) -> Mistake {
    wire(id, name, move |wire| wire.edit("authorization", &change), expect)
}

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for mistake in mistakes().into_iter().chain(signer_mistakes()) {
        for (operation, request) in operations(scene) {
            let name = format!("{} ({operation})", mistake.name);
            let wire = (mistake.make)(scene, request);
            cases.push(Case::new(mistake.id, name, wire, mistake.expect.clone()));
        }
    }
    cases.extend(single_cases(scene));
    cases
}

/// What is attacked: every way to read or to change the guarded bucket.
pub(super) fn operations(scene: &Scene<'_>) -> Vec<(&'static str, Request)> {
    let delete_list = format!("<Delete><Object><Key>{KEY}</Key></Object></Delete>");
    let part = Request::object("PUT", BUCKET, UPLOAD).query("partNumber", 1).query("uploadId", &scene.upload);
    let complete = Request::object("POST", BUCKET, UPLOAD).query("uploadId", &scene.upload);
    let trailer = vec![("x-amz-checksum-crc32".to_string(), "AAAAAA==".to_string())];
    vec![
        ("get", scene.get()),
        ("put", scene.put()),
        ("delete", Request::object("DELETE", BUCKET, KEY)),
        ("delete objects", Request::bucket("POST", BUCKET).flag("delete").body(delete_list).content_md5()),
        ("upload part", part.body("evil")),
        ("complete", complete.body(complete_body(&[(1, &scene.part_etag)]))),
        ("copy", Request::object("PUT", BUCKET, KEY).header("x-amz-copy-source", format!("/{BUCKET}/empty"))),
        ("put signed chunks", scene.put().payload(Payload::SignedChunks(8192))),
        ("put unsigned trailer", scene.put().payload(Payload::UnsignedChunksTrailer(8192, trailer))),
    ]
}

fn malformed() -> Expect {
    Expect::error(400, "AuthorizationHeaderMalformed")
}

fn mismatch() -> Expect {
    Expect::error(403, "SignatureDoesNotMatch")
}

fn denied() -> Expect {
    Expect::error(403, "AccessDenied")
}

fn invalid_argument() -> Expect {
    Expect::error(400, "InvalidArgument")
}

fn mistakes() -> Vec<Mistake> {
    let mut all = vec![
        header("H002", "one word", |_| "garbage".to_string(), invalid_argument()),
        header("H002", "another scheme", |_| "Basic Zm9vOmJhcg==".to_string(), invalid_argument()),
        header(
            "H003",
            "signature version 2",
            |_| "AWS AKID:c2ln".to_string(),
            Expect::error(400, "InvalidRequest"),
        ),
        header("H006", "two credentials", |old| doubled(old, "Credential="), malformed()),
        header("H006", "two signatures", |old| doubled(old, "Signature="), malformed()),
        header("H007", "a scope of four parts", |old| old.replace("/s3/", "/"), malformed()),
        header("H007", "a scope of seven parts", |old| old.replace("/s3/", "/s3/s3/s3/"), malformed()),
        header("H008", "another terminal", |old| old.replace("aws4_request", "aws5_request"), malformed()),
        header("H010", "a scope date that is none", |old| redate(old, "2013-5-2"), malformed()),
        header("H010", "a scope date of another day", |old| redate(old, "20130524"), malformed()),
        header("H015", "an unknown key", |old| old.replace("Credential=", "Credential=A"), unknown_key()),
        header("H015", "the key in lower case", lower_key, unknown_key()),
        header("H016", "one digit changed", flip_signature, mismatch()),
        header("H017", "an empty signature", |old| resigned(old, ""), either_signature()),
        header("H017", "63 digits", |old| resigned(old, &"a".repeat(63)), either_signature()),
        header("H017", "not hex", |old| resigned(old, &"z".repeat(64)), either_signature()),
        header("H022", "host not signed", |old| old.replace("host;", ""), denied()),
        wire("H011", "no date", |wire| wire.without("x-amz-date"), denied()),
        wire("H011", "not a date", |wire| wire.set("x-amz-date", "yesterday"), denied()),
        wire("H011", "month 13", |wire| wire.set("x-amz-date", "20261301T000000Z"), denied()),
        wire("H020", "unsigned metadata", |wire| wire.add("x-amz-meta-evil", "1"), denied()),
        wire("H020", "unsigned acl", |wire| wire.add("x-amz-acl", "public-read-write"), denied()),
        wire("H020", "unsigned tagging", |wire| wire.add("x-amz-tagging", "a=b"), denied()),
        wire("H023", "two dates", |wire| again(wire, "x-amz-date"), Expect::error(400, "InvalidRequest")),
        wire(
            "H023",
            "two authorizations",
            |wire| again(wire, "authorization"),
            Expect::error(400, "InvalidRequest"),
        ),
        wire(
            "H023",
            "two digests",
            |wire| again(wire, "x-amz-content-sha256"),
            Expect::error(400, "InvalidRequest"),
        ),
        wire("H024", "a parameter added", |wire| wire.retarget(|old| added(old, "prefix=x")), mismatch()),
    ];
    for algorithm in ["AWS2-HMAC-SHA1", "AWS4-HMAC-SHA1", "none"] {
        let change = move |old: &str| old.replace("AWS4-HMAC-SHA256", algorithm);
        all.push(header("H004", algorithm, change, invalid_argument()));
    }
    for component in ["Credential=", "SignedHeaders=", "Signature="] {
        let change = move |old: &str| old.replace(component, "Nothing=");
        all.push(header("H005", &format!("no {component}"), change, malformed()));
    }
    all
}

/// Mistakes of the signer rather than of the wire.
fn signer_mistakes() -> Vec<Mistake> {
    fn signer(
        id: &'static str,
        name: &str,
        change: impl Fn(&mut crate::client::Signer) + 'static,
        expect: Expect,
    ) -> Mistake {
        let make: Change = Box::new(move |scene, request| {
            let mut signer = scene.client.signer();
            change(&mut signer);
            signer.sign(request)
        });
        Mistake { id, name: name.to_string(), make, expect }
    }
    let skewed = || Expect::error(403, "RequestTimeTooSkewed");
    vec![
        signer("H008", "service ec2", |signer| signer.service = "ec2".to_string(), malformed()),
        signer(
            "H009",
            "another region",
            |signer| signer.region = "eu-west-1".to_string(),
            malformed().containing("<Region>us-east-1</Region>"),
        ),
        signer("H012", "15 min 5 s late", |signer| *signer = signer.clone().later(-905), skewed()),
        signer("H012", "15 min 5 s early", |signer| *signer = signer.clone().later(905), skewed()),
        signer("H016", "another secret", |signer| secret(signer, "wrong-secret-0123456789"), mismatch()),
        signer("H018", "an empty secret", |signer| secret(signer, ""), mismatch()),
    ]
}

fn secret(signer: &mut crate::client::Signer, secret_key: &str) {
    if let Some(credentials) = &mut signer.credentials {
        credentials.secret_key = secret_key.to_string();
    }
}

/// Cases that fit one operation only.
fn single_cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = anonymous(scene);
    let signed = |request: Request| scene.sign(request);
    let meta = || signed(scene.put().header("x-amz-meta-a", "Value"));
    cases.push(Case::new("H021", "a signed header removed", meta().without("x-amz-meta-a"), mismatch()));
    cases.push(Case::new("H021", "a signed header changed", meta().set("x-amz-meta-a", "value"), mismatch()));
    let twice = |order: &str| format!("/{BUCKET}?list-type=2&{order}");
    let duplicates = signed(Request::bucket("GET", BUCKET).query("list-type", 2).query("a", 1).query("a", 2));
    let reordered = duplicates.clone().retarget(|_| twice("a=2&a=3"));
    cases.push(Case::new("H024", "duplicates as signed", duplicates, Expect::status(200)));
    cases.push(Case::new("H024", "duplicates changed", reordered, mismatch()));
    let encoded = signed(Request::new("PUT", format!("/{BUCKET}/%252e%252e")).body("x"));
    let decoded = encoded.retarget(|_| format!("/{BUCKET}/%2e%2e"));
    cases.push(Case::new("H025", "signed encoded twice, sent once", decoded, mismatch()));
    let both = signed(scene.get().auth(Auth::Query(60)));
    let both = match signed(scene.get()).header("authorization") {
        Some(value) => both.add("authorization", value),
        None => both,
    };
    cases.push(Case::new("H026", "header and query", both, invalid_argument()));
    let token = signed(scene.get().header("x-amz-security-token", "garbage"));
    cases.push(Case::new("H027", "a session token", token, Expect::error(400, "InvalidToken")));
    // {"alg":"none"} with {"sub":"root"}, and a path as the id of a key: as a token, and as the whole authorization.
    for jwt in
        ["eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0.", "eyJhbGciOiJIUzI1NiIsImtpZCI6Ii4uLy4uL2tleSJ9.e30.AAAA"]
    {
        let token = signed(scene.get().header("x-amz-security-token", jwt));
        cases.push(Case::new(
            "H028",
            "a web token as session token",
            token,
            Expect::error(400, "InvalidToken"),
        ));
        let bearer = signed(scene.get()).set("authorization", format!("Bearer {jwt}"));
        cases.push(Case::new("H028", "a web token as authorization", bearer, invalid_argument()));
    }
    cases.extend(accepted(scene));
    cases.extend(secrets_stay_hidden(scene));
    let long = signed(scene.get()).edit("authorization", |old| resigned(old, &"a".repeat(1 << 20)));
    let refused = Expect::any(&[(400, ""), (431, ""), (403, "")]).or_close();
    cases.push(Case::new("H017", "a signature of 1 MiB", long, refused));
    let nul = signed(scene.get()).set("x-amz-date", "2026\0");
    cases.push(Case::new("H011", "NUL in the date", nul, Expect::any(&[(400, ""), (403, "")]).or_close()));
    let mut signer = scene.client.signer();
    signer.at_ms = 253_370_764_800_000; // The year 9999.
    let expect = Expect::any(&[(403, "AccessDenied"), (403, "RequestTimeTooSkewed")]);
    cases.push(Case::new("H011", "the year 9999", signer.sign(scene.get()), expect));
    cases
}

fn anonymous(scene: &Scene<'_>) -> Vec<Case> {
    let client = scene.client.with_credentials(None);
    let mut cases = Vec::new();
    for (operation, request) in operations(scene) {
        let streaming = matches!(request.payload, Payload::SignedChunks(_));
        if !streaming {
            cases.push(Case::new(
                "H001",
                format!("no signature ({operation})"),
                client.sign(request),
                denied(),
            ));
        }
    }
    let chunks =
        client.sign(scene.put().header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"));
    cases.push(Case::new("H029", "anonymous signed chunks", chunks, Expect::error(400, "InvalidRequest")));
    cases
}

/// Requests at the edge of what is right.
fn accepted(scene: &Scene<'_>) -> Vec<Case> {
    let late = scene.client.signer().later(-890).sign(scene.get());
    let early = scene.client.signer().later(890).sign(scene.get());
    let put = scene.sign(Request::object("PUT", SCRATCH, "replayed").body("same"));
    vec![
        Case::new("H013", "14 min 50 s late", late, Expect::status(200)),
        Case::new("H013", "14 min 50 s early", early, Expect::status(200)),
        Case::new("H014", "a put", put.clone(), Expect::status(200)),
        Case::new("H014", "the same put again", put, Expect::status(200)),
    ]
}

/// The answer to a wrong signature never shows the right one.
fn secrets_stay_hidden(scene: &Scene<'_>) -> Option<Case> {
    let right = scene.sign(scene.get());
    let signature = right.header("authorization")?.rsplit("Signature=").next()?.to_string();
    let Credentials { secret_key, .. } = scene.client.target().root();
    let expect = mismatch().hiding(&signature).hiding(&secret_key);
    Some(Case::new(
        "H016",
        "nothing secret in the answer",
        right.edit("authorization", flip_signature),
        expect,
    ))
}

fn unknown_key() -> Expect {
    Expect::error(403, "InvalidAccessKeyId")
}

fn either_signature() -> Expect {
    Expect::any(&[(400, "AuthorizationHeaderMalformed"), (403, "SignatureDoesNotMatch")])
}

fn doubled(old: &str, component: &str) -> String {
    let Some(at) = old.find(component) else {
        return old.to_string();
    };
    let value = old[at..].split(',').next().unwrap_or_default();
    format!("{old}, {value}")
}

fn redate(old: &str, date: &str) -> String {
    match old.split('/').nth(1) {
        Some(found) => old.replacen(&format!("/{found}/"), &format!("/{date}/"), 1),
        None => old.to_string(),
    }
}

fn lower_key(old: &str) -> String {
    let Some((before, rest)) = old.split_once("Credential=") else {
        return old.to_string();
    };
    let (key, rest) = rest.split_once('/').unwrap_or((rest, ""));
    format!("{before}Credential={}/{rest}", key.to_lowercase())
}

fn flip_signature(old: &str) -> String {
    let mut text = old.to_string();
    let last = if text.pop() == Some('0') { '1' } else { '0' };
    text.push(last);
    text
}

fn resigned(old: &str, signature: &str) -> String {
    let before = old.rsplit_once("Signature=").map_or(old, |(before, _)| before);
    format!("{before}Signature={signature}")
}

fn again(wire: Wire, name: &str) -> Wire {
    match wire.header(name).map(str::to_string) {
        Some(value) => wire.add(name, value),
        None => wire,
    }
}

fn added(target: &str, parameter: &str) -> String {
    format!("{target}{}{parameter}", if target.contains('?') { '&' } else { '?' })
}
