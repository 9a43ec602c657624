//! Compare and swap: writers on both gateways of a cluster are released at once and one of them wins, whatever the
//! operation.
//!
//! Each round is on a key of its own. Afterwards the key holds what the winner wrote, on every gateway, and in a bucket
//! with versions there is no version that nobody was told of.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use futures::future::{join_all, try_join_all};
use tokio::sync::Barrier;

use super::{Tally, block_on, say};
use crate::client::{Client, Line, Request, Response, Target};
use crate::daemons::Cluster;

/// Writers of a round.
const WRITERS: usize = 32;
/// Rounds of the campaign.
const ROUNDS: usize = 10_000;
/// Rounds of the stage with the cluster.
pub(super) const ROUNDS_SHORT: usize = 140;
/// Where they write; the second bucket keeps versions.
const BUCKETS: [&str; 2] = ["cas", "cas-versions"];
/// Bodies that leave the metadata as chunks.
const LARGE_BYTES: usize = 150_000;

/// What all writers of a round do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Contest {
    Replace,
    Create,
    CopyOver,
    CopyNew,
    CompleteOver,
    CompleteNew,
    RenameOver,
    RenameNew,
    Delete,
}

const CONTESTS: [Contest; 9] = [
    Contest::Replace,
    Contest::Create,
    Contest::CopyOver,
    Contest::CopyNew,
    Contest::CompleteOver,
    Contest::CompleteNew,
    Contest::RenameOver,
    Contest::RenameNew,
    Contest::Delete,
];

impl Contest {
    fn name(self) -> &'static str {
        match self {
            Contest::Replace => "PutObject If-Match",
            Contest::Create => "PutObject If-None-Match",
            Contest::CopyOver => "CopyObject If-Match",
            Contest::CopyNew => "CopyObject If-None-Match",
            Contest::CompleteOver => "CompleteMultipartUpload If-Match",
            Contest::CompleteNew => "CompleteMultipartUpload If-None-Match",
            Contest::RenameOver => "RenameObject If-Match",
            Contest::RenameNew => "RenameObject If-None-Match",
            Contest::Delete => "DeleteObject If-Match",
        }
    }

    /// Whether there is an object before, whose ETag all of them name.
    fn replaces(self) -> bool {
        !matches!(self, Contest::Create | Contest::CopyNew | Contest::CompleteNew | Contest::RenameNew)
    }

    fn renames(self) -> bool {
        matches!(self, Contest::RenameOver | Contest::RenameNew)
    }

    fn completes(self) -> bool {
        matches!(self, Contest::CompleteOver | Contest::CompleteNew)
    }
}

/// The campaign.
pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(3, 2, "").await?;
        rounds(&store, ROUNDS, tally).await
    })
}

/// So many rounds, the contests in turn.
pub(super) async fn rounds(store: &dyn Target, rounds: usize, tally: &mut Tally) -> Result<()> {
    prepare(store).await?;
    let mut lines: Vec<Line<'_>> = (0..WRITERS).map(|writer| Line::new(Client::new(store, writer))).collect();
    let mut losers = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for number in 0..rounds {
        let round = Round::new(number);
        if let Err(why) = round.run(&mut lines, &mut losers).await {
            failures.entry(round.contest).or_insert_with(Vec::new).push(format!("round {number}: {why}"));
            lines = (0..WRITERS).map(|writer| Line::new(Client::new(store, writer))).collect();
        }
        if (number + 1) % 1000 == 0 {
            let failed: usize = failures.values().map(Vec::len).sum();
            say(&format!("  {} rounds, {failed} of them without exactly one winner", number + 1));
        }
    }
    for contest in CONTESTS {
        let outcome = match failures.get(&contest) {
            None => Ok(()),
            Some(all) => Err(format!("{} rounds: {}", all.len(), all[0])),
        };
        tally.check(&format!("{} by {WRITERS} at once: one winner each round", contest.name()), outcome);
    }
    tally.note(format!("{rounds} rounds of {WRITERS} writers; losers heard {losers:?}"));
    Ok(())
}

/// The buckets, and a source for each writer that copies.
async fn prepare(store: &dyn Target) -> Result<()> {
    let client = Client::new(store, 0);
    let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let enable = Request::bucket("PUT", BUCKETS[1]).flag("versioning").body(versioning).content_md5();
    let create = |bucket: &str| Request::bucket("PUT", bucket);
    let sources =
        (0..WRITERS).map(|writer| Request::object("PUT", BUCKETS[0], &source(writer)).body(source(writer)));
    for request in [create(BUCKETS[0]), create(BUCKETS[1]), enable].into_iter().chain(sources) {
        let (method, path) = (request.method.clone(), request.path.clone());
        let response = client.send(request).await?;
        ensure!(response.status == 200, "{method} {path}: {}", response.describe());
    }
    Ok(())
}

fn source(writer: usize) -> String {
    format!("source/{writer:02}")
}

struct Round {
    contest: Contest,
    bucket: &'static str,
    key: String,
    large: bool,
}

impl Round {
    fn new(number: usize) -> Round {
        let (turn, contest) = (number / CONTESTS.len(), CONTESTS[number % CONTESTS.len()]);
        Round {
            contest,
            bucket: if contest.renames() { BUCKETS[0] } else { BUCKETS[turn % 2] },
            key: format!("round/{number:06}"),
            large: turn % 8 >= 6,
        }
    }

    fn object(&self, method: &str) -> Request {
        Request::object(method, self.bucket, &self.key)
    }

    /// What this writer writes.
    fn body(&self, writer: usize) -> Vec<u8> {
        match self.contest {
            Contest::CopyOver | Contest::CopyNew => source(writer).into_bytes(),
            _ if self.large => format!("{writer:02}").repeat(LARGE_BYTES / 2).into_bytes(),
            _ => format!("of writer {writer:02}").into_bytes(),
        }
    }

    async fn run(
        &self,
        lines: &mut [Line<'_>],
        losers: &mut BTreeMap<(u16, String), u64>,
    ) -> Result<(), String> {
        let mut etag = None;
        if self.contest.replaces() {
            etag = Some(done(&mut lines[0], self.object("PUT").body("before")).await?.etag().to_string());
        }
        let mut requests = Vec::new();
        for request in
            join_all(lines.iter_mut().enumerate().map(|(writer, line)| self.request(writer, line))).await
        {
            let request = request?;
            requests.push(match &etag {
                Some(etag) => request.header("if-match", etag),
                None if self.contest.replaces() => request,
                None => request.header("if-none-match", "*"),
            });
        }
        let answers = at_once(lines, requests).await?;
        let mut winners = Vec::new();
        for (writer, answer) in answers.iter().enumerate() {
            match (answer.status, answer.code().as_str()) {
                // A completion that fails late says so behind a status of success.
                (200 | 204, "") => winners.push(writer),
                (412, "PreconditionFailed") | (409, "ConditionalRequestConflict") => {}
                (404, "NoSuchKey") if self.contest == Contest::Delete => {}
                _ => return Err(format!("{}: {}", self.contest.name(), answer.describe())),
            }
            if ![200, 204].contains(&answer.status) {
                *losers.entry((answer.status, answer.code())).or_default() += 1;
            }
        }
        let [winner] = winners[..] else {
            return Err(format!("{}: the winners are {winners:?}", self.contest.name()));
        };
        self.holds(lines, winner).await
    }

    /// What one writer sends when all are released, without the condition.
    async fn request(&self, writer: usize, line: &mut Line<'_>) -> Result<Request, String> {
        Ok(match self.contest {
            Contest::Replace | Contest::Create => self.object("PUT").body(self.body(writer)),
            Contest::CopyOver | Contest::CopyNew => {
                let from = format!("/{}/{}", BUCKETS[0], source(writer));
                self.object("PUT").header("x-amz-copy-source", from)
            }
            Contest::CompleteOver | Contest::CompleteNew => {
                let upload = done(line, self.object("POST").flag("uploads")).await?;
                let upload = upload.xml()?.text_of("UploadId").to_string();
                let part = self.object("PUT").query("partNumber", 1).query("uploadId", &upload);
                let etag = done(line, part.body(self.body(writer))).await?.etag().to_string();
                let list = format!(
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>\
                     </CompleteMultipartUpload>"
                );
                self.object("POST").query("uploadId", upload).body(list)
            }
            Contest::RenameOver | Contest::RenameNew => {
                let from = self.renamed(writer);
                done(line, Request::object("PUT", self.bucket, &from).body(self.body(writer))).await?;
                let from = format!("/{}/{from}", self.bucket);
                self.object("PUT").flag("renameObject").header("x-amz-rename-source", from)
            }
            Contest::Delete => self.object("DELETE"),
        })
    }

    /// What this writer renames.
    fn renamed(&self, writer: usize) -> String {
        format!("renamed/{}/{writer:02}", self.key)
    }

    /// Every gateway shows what the winner did, and no version is there that nobody was told of.
    async fn holds(&self, lines: &mut [Line<'_>], winner: usize) -> Result<(), String> {
        let expected = (self.contest != Contest::Delete).then(|| self.body(winner));
        for line in &mut lines[..2] {
            let found = line.send(self.object("GET")).await.map_err(|error| error.to_string())?;
            let holds = match &expected {
                Some(body) => found.status == 200 && found.body == *body,
                None => found.status == 404,
            };
            if !holds {
                return Err(format!("writer {winner} won, and GET says {}", found.describe()));
            }
        }
        if self.bucket == BUCKETS[1] {
            let list = Request::bucket("GET", self.bucket).flag("versions").query("prefix", &self.key);
            let root = done(&mut lines[1], list).await?.xml()?;
            let count = root.all("Version").count() + root.all("DeleteMarker").count();
            let wanted = 1 + usize::from(self.contest.replaces());
            if count != wanted {
                return Err(format!("{}: {count} versions, not {wanted}", self.contest.name()));
            }
        }
        match self.contest {
            contest if contest.completes() => self.clean(lines).await,
            contest if contest.renames() => self.only_renamed(lines, winner).await,
            _ => Ok(()),
        }
    }

    /// What the losers wanted to rename is where it was, and what the winner did is not.
    async fn only_renamed(&self, lines: &mut [Line<'_>], winner: usize) -> Result<(), String> {
        let prefix = format!("renamed/{}/", self.key);
        let list = Request::bucket("GET", self.bucket).query("list-type", 2).query("prefix", prefix);
        let root = done(&mut lines[0], list).await?.xml()?;
        let left: Vec<String> = root.all("Contents").map(|row| row.text_of("Key").to_string()).collect();
        let losers: Vec<String> =
            (0..WRITERS).filter(|writer| *writer != winner).map(|writer| self.renamed(writer)).collect();
        if left == losers { Ok(()) } else { Err(format!("{}: left are {left:?}", self.contest.name())) }
    }

    /// The uploads that lost are still there, since nothing was done with them, and go.
    async fn clean(&self, lines: &mut [Line<'_>]) -> Result<(), String> {
        let list = Request::bucket("GET", self.bucket).flag("uploads").query("prefix", &self.key);
        let root = done(&mut lines[0], list).await?.xml()?;
        let uploads: Vec<String> =
            root.all("Upload").map(|upload| upload.text_of("UploadId").to_string()).collect();
        if uploads.len() != WRITERS - 1 {
            return Err(format!("{}: {} uploads are left", self.contest.name(), uploads.len()));
        }
        let aborts = uploads.iter().zip(lines).map(async |(upload, line)| {
            done(line, self.object("DELETE").query("uploadId", upload)).await.map(drop)
        });
        try_join_all(aborts).await.map(drop)
    }
}

/// Signs and connects first; then all send at once.
async fn at_once(lines: &mut [Line<'_>], requests: Vec<Request>) -> Result<Vec<Response>, String> {
    let start = Barrier::new(lines.len());
    let sent = lines.iter_mut().zip(requests).map(|(line, request)| {
        let start = &start;
        async move {
            let wire = line.client.sign(request);
            let bytes = wire.bytes();
            line.connect().await?;
            start.wait().await;
            line.send_bytes(&bytes, &wire.method).await
        }
    });
    let answers: std::io::Result<Vec<Response>> = join_all(sent).await.into_iter().collect();
    answers.map_err(|error| error.to_string())
}

async fn done(line: &mut Line<'_>, request: Request) -> Result<Response, String> {
    let what = format!("{} {}", request.method, request.path);
    let response = line.send(request).await.map_err(|error| format!("{what}: {error}"))?;
    if (200..300).contains(&response.status) {
        return Ok(response);
    }
    Err(format!("{what}: {}", response.describe()))
}
