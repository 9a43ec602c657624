//! A store that requires signed bodies on connections without TLS.

use anyhow::Result;

use super::scene::{BUCKET, KEY, SCRATCH, UPLOAD};
use super::{Case, Expect, Scene, run_case};
use crate::client::{ALGORITHMS, Auth, Payload, Request, Target};

/// Runs the cases against a store with `--require-signed-payload`; `report` hears of each.
pub async fn run(target: &dyn Target, mut report: impl FnMut(&str, Result<(), String>)) -> Result<()> {
    let scene = Scene::build(target).await?;
    for case in cases(&scene) {
        let outcome = run_case(&scene, &case).await;
        report(&format!("{} signed payloads: {}", case.id, case.name), outcome);
    }
    report("signed payloads: the content is unchanged", scene.unchanged().await);
    Ok(())
}

fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let denied = || Expect::error(403, "AccessDenied");
    let trailer = || vec![(ALGORITHMS[0].header.to_string(), ALGORITHMS[0].base64(b"evil"))];
    let part = Request::object("PUT", BUCKET, UPLOAD).query("partNumber", 1).query("uploadId", &scene.upload);
    let delete = format!("<Delete><Object><Key>{KEY}</Key></Object></Delete>");
    let delete = Request::bucket("POST", BUCKET).flag("delete").body(delete).content_md5();
    let refused = [
        ("a PUT", scene.put().payload(Payload::Unsigned)),
        (
            "an unsigned trailer",
            scene.put().body("evil").payload(Payload::UnsignedChunksTrailer(8192, trailer())),
        ),
        ("a part", part.body("evil").payload(Payload::Unsigned)),
        ("DeleteObjects", delete.payload(Payload::Unsigned)),
        ("a presigned PUT", scene.put().auth(Auth::Query(60))),
    ];
    let mine = || Request::object("PUT", SCRATCH, "signed").body("evil");
    let accepted = [
        ("a digest", mine()),
        ("signed chunks", mine().payload(Payload::SignedChunks(8192))),
        ("a signed trailer", mine().payload(Payload::SignedChunksTrailer(8192, trailer()))),
        ("a GET", scene.get().payload(Payload::Unsigned)),
        ("a presigned GET", scene.get().auth(Auth::Query(60))),
    ];
    let no = |(name, request): (&str, Request)| {
        Case::new("H048", format!("{name} is refused"), scene.sign(request), denied())
    };
    let yes = |(name, request): (&str, Request)| {
        Case::new("H048", format!("{name} is taken"), scene.sign(request), Expect::status(200))
    };
    refused.into_iter().map(no).chain(accepted.into_iter().map(yes)).collect()
}
