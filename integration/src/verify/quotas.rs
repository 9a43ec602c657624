//! Quotas, from outside: set by the command, felt by S3 clients at two gateways, also by many at once.

use futures::future::join_all;
use serde_json::Value;

use super::Tally;
use crate::client::{Client, Pattern, Request, Response, Target};
use crate::daemons::UserCommands;

const BUCKET: &str = "with-a-quota";
const SIBLING: &str = "with-a-quota-too";
const BYTES: u64 = 1_000_000;
const OBJECTS: u64 = 20;

/// Reports each promise to `tally`.
pub(super) async fn run(tally: &mut Tally, target: &dyn Target, commands: &UserCommands) {
    tally.check("quota: what it refuses", refusals(commands));
    tally.check("quota of a bucket holds under parallel writers", parallel(target, commands).await);
    tally.check("quota of a bucket: overwrites, deletes and uploads", in_turn(target, commands).await);
    tally.check("quota of a user covers all its buckets", of_user(target, commands).await);
    tally.check("quota clear: no bound any more", cleared(target, commands).await);
}

fn refusals(commands: &UserCommands) -> Result<(), String> {
    for (args, code, words) in [
        (vec!["set", "--bucket", "nowhere", "--bytes", "1GiB"], 1, "no such bucket"),
        (vec!["show", "--user", "nobody"], 1, "no such user"),
        (vec!["set", "--user", "root"], 2, "--bytes"),
        (vec!["set", "--bytes", "1"], 2, "--bucket"),
        (vec!["set", "--user", "root", "--bytes", "many"], 2, "many"),
        (vec!["set", "--user", "root", "--objects", "-1"], 2, "-1"),
        (vec!["clear", "--bucket", "a/b"], 2, "bucket"),
    ] {
        let said = commands.quota(&args)?;
        if said.code != code || !said.error.contains(words) || !said.output.is_empty() {
            return Err(format!("quota {}: {said:?}", args.join(" ")));
        }
    }
    Ok(())
}

fn command(commands: &UserCommands, args: &[&str]) -> Result<String, String> {
    let said = commands.quota(args)?;
    if said.code == 0 { Ok(said.output) } else { Err(format!("quota {}: {said:?}", args.join(" "))) }
}

/// What counts against a quota, and its bounds: objects and bytes.
fn shown(commands: &UserCommands, of: &[&str]) -> Result<[[Option<u64>; 2]; 2], String> {
    let text = command(commands, &[&["show", "--json"], of].concat())?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    Ok(["counted", "quota"].map(|kind| ["objects", "bytes"].map(|what| value[kind][what].as_u64())))
}

async fn send(target: &dyn Target, gateway: usize, request: Request) -> Result<Response, String> {
    Client::new(target, gateway).send(request).await.map_err(|error| error.to_string())
}

async fn expect(target: &dyn Target, request: Request, status: u16) -> Result<Response, String> {
    let response = send(target, 0, request).await?;
    if response.status == status { Ok(response) } else { Err(response.describe()) }
}

async fn refused(target: &dyn Target, request: Request) -> Result<(), String> {
    let response = expect(target, request, 403).await?;
    if response.code() == "QuotaExceeded" { Ok(()) } else { Err(response.describe()) }
}

fn put(bucket: &str, key: &str, bytes: u64) -> Request {
    Request::object("PUT", bucket, key).body(Pattern::new(7, bytes).bytes())
}

/// Ten times what fits is sent by many at once through both gateways: exactly what fits is stored.
async fn parallel(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    expect(target, Request::bucket("PUT", BUCKET), 200).await?;
    let (bytes, objects) = (BYTES.to_string(), OBJECTS.to_string());
    command(commands, &["set", "--bucket", BUCKET, "--bytes", &bytes, "--objects", &objects])?;
    let each = BYTES / 10;
    let writers = (0..100).map(|writer| async move {
        let response = send(target, writer % 2, put(BUCKET, &format!("p/{writer}"), each)).await?;
        match (response.status, response.code().as_str()) {
            (200, _) => Ok(1),
            (403, "QuotaExceeded") => Ok(0),
            _ => Err(response.describe()),
        }
    });
    let stored: u64 = join_all(writers).await.into_iter().sum::<Result<u64, String>>()?;
    let expected = [[Some(10), Some(BYTES)], [Some(OBJECTS), Some(BYTES)]];
    match shown(commands, &["--bucket", BUCKET])? {
        found if found == expected && stored == 10 => Ok(()),
        found => Err(format!("{stored} of 10 were stored; {found:?}")),
    }
}

async fn in_turn(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    let listing = expect(target, Request::bucket("GET", BUCKET), 200).await?.xml()?;
    let keys: Vec<String> = listing.all("Contents").map(|entry| entry.text_of("Key").to_string()).collect();
    let key = keys.first().ok_or("nothing is stored")?;
    refused(target, put(BUCKET, "one-more", 1)).await?;
    expect(target, put(BUCKET, key, BYTES / 10), 200).await?;
    refused(target, put(BUCKET, key, BYTES / 10 + 1)).await?;
    expect(target, put(BUCKET, key, 1), 200).await?;
    expect(target, Request::object("DELETE", BUCKET, key), 204).await?;
    let copy = Request::object("PUT", BUCKET, "copy");
    expect(target, copy.header("x-amz-copy-source", format!("/{BUCKET}/{}", keys[1])), 200).await?;
    let copy = Request::object("PUT", BUCKET, "another");
    refused(target, copy.header("x-amz-copy-source", format!("/{BUCKET}/{}", keys[1]))).await?;
    expect(target, Request::object("DELETE", BUCKET, "copy"), 204).await?;

    let begun = expect(target, Request::object("POST", BUCKET, "big").flag("uploads"), 200).await?;
    let upload = begun.xml()?.text_of("UploadId").to_string();
    let part = |number: u32, bytes: u64| {
        put(BUCKET, "big", bytes).query("partNumber", number).query("uploadId", &upload)
    };
    expect(target, part(1, BYTES / 10), 200).await?;
    refused(target, part(2, 1)).await?;
    refused(target, put(BUCKET, "one-more", 1)).await?;
    expect(target, Request::object("DELETE", BUCKET, "big").query("uploadId", &upload), 204).await?;
    match shown(commands, &["--bucket", BUCKET])?[0] {
        [Some(9), Some(bytes)] if bytes == BYTES / 10 * 9 => Ok(()),
        counted => Err(format!("{counted:?} are counted")),
    }
}

async fn of_user(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    let [counted, _] = shown(commands, &["--user", "root"])?;
    let room = counted[1].ok_or("no bytes")? + 1000;
    expect(target, Request::bucket("PUT", SIBLING), 200).await?;
    command(commands, &["set", "--user", "root", "--bytes", &room.to_string()])?;
    expect(target, put(SIBLING, "fits", 1000), 200).await?;
    refused(target, put(SIBLING, "does-not", 1)).await?;
    refused(target, put(BUCKET, "does-not", 1)).await?;
    let [counted, quota] = shown(commands, &["--user", "root"])?;
    if counted[1] == Some(room) && quota == [None, Some(room)] {
        return Ok(());
    }
    Err(format!("{counted:?} of {quota:?}"))
}

async fn cleared(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    command(commands, &["clear", "--user", "root"])?;
    command(commands, &["clear", "--bucket", BUCKET])?;
    let text = command(commands, &["show", "--bucket", BUCKET])?;
    if text.matches("of no bound").count() != 2 {
        return Err(text);
    }
    expect(target, put(BUCKET, "beyond", 2 * BYTES), 200).await.map(drop)
}
