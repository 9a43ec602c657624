//! What the cases attack: two buckets, some objects, an open upload, and what they looked like before.

use anyhow::{Context, Result, ensure};

use crate::client::{Client, Request, Response, Target, Wire};

/// The bucket that no case may change.
pub const BUCKET: &str = "bad-input";
/// The bucket for requests that are strange but right.
pub const SCRATCH: &str = "bad-input-scratch";
/// The object that most cases attack.
pub const KEY: &str = "object";
/// An object without bytes.
pub const EMPTY: &str = "empty";
/// An object of two parts.
pub const PARTS: &str = "parts";
/// The key of the open upload.
pub const UPLOAD: &str = "upload";
/// The key of the open upload with two small parts.
pub const SMALL: &str = "small-parts";
/// Smallest part that is not the last.
pub const PART_BYTES: usize = 5 << 20;

/// The bytes of [`KEY`].
pub fn body() -> Vec<u8> {
    (0..100u8).collect()
}

/// Content to compare with: listings, uploads, and bodies as one text.
pub struct Scene<'a> {
    /// Signs as the owner.
    pub client: Client<'a>,
    /// The open upload of [`UPLOAD`], with part 1.
    pub upload: String,
    /// ETag of its part 1.
    pub part_etag: String,
    /// An upload whose completion succeeded, of [`PARTS`].
    pub completed: String,
    /// The open upload of [`SMALL`], and the ETag of both of its parts.
    pub small: (String, String),
    before: String,
}

impl<'a> Scene<'a> {
    /// Creates everything.
    pub async fn build(target: &'a dyn Target) -> Result<Scene<'a>> {
        let client = Client::new(target, 0);
        for bucket in [BUCKET, SCRATCH] {
            expect(&client, Request::bucket("PUT", bucket)).await?;
        }
        expect(&client, Request::object("PUT", BUCKET, KEY).body(body())).await?;
        expect(&client, Request::object("PUT", BUCKET, EMPTY)).await?;
        let (completed, first) = begin_upload(&client, PARTS).await?;
        let second =
            Request::object("PUT", BUCKET, PARTS).query("partNumber", 2).query("uploadId", &completed);
        let second = expect(&client, second.body("tail")).await?.etag().to_string();
        let list = complete_body(&[(1, &first), (2, &second)]);
        expect(&client, Request::object("POST", BUCKET, PARTS).query("uploadId", &completed).body(list))
            .await?;
        let (upload, part_etag) = begin_upload(&client, UPLOAD).await?;
        let small = small_upload(&client).await?;
        let mut scene = Scene { client, upload, part_etag, completed, small, before: String::new() };
        scene.before = scene.content().await.map_err(anyhow::Error::msg)?;
        Ok(scene)
    }

    /// Signs as the owner.
    pub fn sign(&self, request: Request) -> Wire {
        self.client.sign(request)
    }

    /// GET of the attacked object.
    pub fn get(&self) -> Request {
        Request::object("GET", BUCKET, KEY)
    }

    /// PUT of other bytes to the attacked object.
    pub fn put(&self) -> Request {
        Request::object("PUT", BUCKET, KEY).body("overwritten by a bad request")
    }

    /// An error unless the listing, the uploads and the bodies are as they were.
    pub async fn unchanged(&self) -> Result<(), String> {
        let now = self.content().await?;
        if now == self.before {
            return Ok(());
        }
        let difference = now.lines().zip(self.before.lines()).find(|(a, b)| a != b);
        Err(format!("the content changed: {difference:?}"))
    }

    /// The quick form of [`Scene::unchanged`]: the attacked object only.
    pub async fn object_unchanged(&self) -> Result<(), String> {
        let response =
            self.client.send(self.get()).await.map_err(|error| format!("get afterwards: {error}"))?;
        if response.status == 200 && response.body == body() {
            return Ok(());
        }
        Err(format!("the object changed: {}", response.describe()))
    }

    /// The server still answers.
    pub async fn alive(&self) -> Result<(), String> {
        self.object_unchanged().await
    }

    async fn content(&self) -> Result<String, String> {
        let mut content = String::new();
        for request in [
            Request::bucket("GET", BUCKET).query("list-type", 2),
            Request::bucket("GET", BUCKET).flag("uploads"),
            Request::object("GET", BUCKET, UPLOAD).query("uploadId", &self.upload),
        ] {
            let response = self.client.send(request).await.map_err(|error| error.to_string())?;
            content.push_str(&String::from_utf8_lossy(&response.body).replace("><", ">\n<"));
            content.push('\n');
        }
        for key in [KEY, EMPTY, PARTS] {
            let request = Request::object("GET", BUCKET, key);
            let response = self.client.send(request).await.map_err(|error| error.to_string())?;
            let metadata: Vec<_> = response
                .headers
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-amz-request-id" | "x-amz-id-2"))
                .collect();
            content.push_str(&format!("{key} {} {metadata:?} {}\n", response.status, crc(&response.body)));
        }
        Ok(content)
    }
}

/// The body of CompleteMultipartUpload.
pub fn complete_body(parts: &[(i64, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

async fn create_upload(client: &Client<'_>, key: &str) -> Result<String> {
    let created = expect(client, Request::object("POST", BUCKET, key).flag("uploads")).await?;
    let upload = created.xml().map_err(anyhow::Error::msg)?.text_of("UploadId").to_string();
    ensure!(!upload.is_empty(), "no UploadId");
    Ok(upload)
}

async fn small_upload(client: &Client<'_>) -> Result<(String, String)> {
    let upload = create_upload(client, SMALL).await?;
    let mut etag = String::new();
    for number in 1..=2 {
        let part =
            Request::object("PUT", BUCKET, SMALL).query("partNumber", number).query("uploadId", &upload);
        etag = expect(client, part.body("small")).await?.etag().to_string();
    }
    Ok((upload, etag))
}

async fn begin_upload(client: &Client<'_>, key: &str) -> Result<(String, String)> {
    let upload = create_upload(client, key).await?;
    let part = Request::object("PUT", BUCKET, key).query("partNumber", 1).query("uploadId", &upload);
    let part = expect(client, part.body(vec![b'p'; PART_BYTES])).await?;
    Ok((upload, part.etag().to_string()))
}

async fn expect(client: &Client<'_>, request: Request) -> Result<Response> {
    let name = format!("{} {}", request.method, request.path);
    let response = client.send(request).await.with_context(|| name.clone())?;
    ensure!(response.status == 200, "{name}: {}", response.describe());
    Ok(response)
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}
