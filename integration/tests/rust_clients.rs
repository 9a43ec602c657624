//! Rust clients against a real gateway: `object_store` and the AWS SDK, each with its defaults.
//!
//! Both bring no HTTP client here: one on hyper, below, serves them, so that no second TLS stack is built.
//! The gateway's binary must be built in the same profile; `cargo verify` does that first.

// A test of real processes: it works with real sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use integration::daemons::{Embedded, ROOT};

type BoxError = Box<dyn Error + Send + Sync>;

/// Sends one request on a connection of its own and collects the answer.
async fn send(request: http::Request<Bytes>) -> Result<http::Response<Bytes>, BoxError> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().ok_or("no authority")?.clone();
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    parts.uri = target;
    if !parts.headers.contains_key(http::header::HOST) {
        parts.headers.insert(http::header::HOST, authority.as_str().parse()?);
    }
    let stream = tokio::net::TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = sender.send_request(http::Request::from_parts(parts, Full::new(body)));
    let answer = async {
        let (parts, body) = exchange.await?.into_parts();
        Ok::<_, BoxError>(http::Response::from_parts(parts, body.collect().await?.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

mod through_object_store {
    use std::sync::Arc;

    use futures::TryStreamExt;
    use object_store::aws::{AmazonS3, AmazonS3Builder};
    use object_store::client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    };
    use object_store::path::Path;
    use object_store::{
        ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion, WriteMultipart,
    };

    use super::{BodyExt, Bytes, Embedded, Full, ROOT, send};

    #[derive(Debug)]
    struct Hyper;

    impl HttpConnector for Hyper {
        fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
            Ok(HttpClient::new(Hyper))
        }
    }

    #[async_trait::async_trait]
    impl HttpService for Hyper {
        async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let answer = send(http::Request::from_parts(parts, body)).await;
            let answer = answer.map_err(|error| HttpError::new_boxed(HttpErrorKind::Request, error))?;
            Ok(answer.map(|body| HttpResponseBody::new(Full::new(body).map_err(|never| match never {}))))
        }
    }

    async fn store(embedded: &Embedded, bucket: &str) -> AmazonS3 {
        let client = integration::client::Client::new(embedded, 0);
        client.send(integration::client::Request::bucket("PUT", bucket)).await.unwrap();
        AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", embedded.gateway.listen))
            .with_allow_http(true)
            .with_bucket_name(bucket)
            .with_region("us-east-1")
            .with_access_key_id(ROOT.0)
            .with_secret_access_key(ROOT.1)
            .with_http_connector(Hyper)
            .build()
            .unwrap()
    }

    #[tokio::test]
    async fn objects_are_put_read_listed_copied_and_deleted() {
        let embedded = Embedded::start(&["--memory"]).await.unwrap();
        let store = store(&embedded, "object-store").await;
        let data = Bytes::from(vec![7; 3_000_000]);
        store.put(&Path::from("dir/a b"), data.clone().into()).await.unwrap();
        assert_eq!(store.get(&Path::from("dir/a b")).await.unwrap().bytes().await.unwrap(), data);
        assert_eq!(store.get_range(&Path::from("dir/a b"), 10..20).await.unwrap().len(), 10);
        store.copy(&Path::from("dir/a b"), &Path::from("copied")).await.unwrap();
        store.rename(&Path::from("copied"), &Path::from("dir/renamed")).await.unwrap();
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        let names: Vec<_> = listed.iter().map(|meta| meta.location.to_string()).collect();
        assert_eq!(names, ["dir/a b", "dir/renamed"]);
        let grouped = store.list_with_delimiter(None).await.unwrap();
        assert_eq!(grouped.common_prefixes, [Path::from("dir")]);
        store.delete(&Path::from("dir/a b")).await.unwrap();
        assert!(matches!(
            store.head(&Path::from("dir/a b")).await,
            Err(object_store::Error::NotFound { .. })
        ));
    }

    #[tokio::test]
    async fn a_multipart_upload_becomes_one_object() {
        let embedded = Embedded::start(&["--memory"]).await.unwrap();
        let store = store(&embedded, "object-store-parts").await;
        let upload = store.put_multipart(&Path::from("large")).await.unwrap();
        let mut writer = WriteMultipart::new_with_chunk_size(upload, 5 << 20);
        let data: Vec<u8> = (0..12_000_000u32).map(|index| (index % 251) as u8).collect();
        writer.write(&data);
        writer.finish().await.unwrap();
        assert!(store.get(&Path::from("large")).await.unwrap().bytes().await.unwrap() == data);
    }

    /// Two hundred increments by ten tasks, each a read and a conditional write: none is lost.
    #[tokio::test]
    async fn compare_and_swap_by_etag_loses_nothing() {
        let embedded = Embedded::start(&["--memory"]).await.unwrap();
        let store = Arc::new(store(&embedded, "object-store-cas").await);
        let key = Path::from("counter");
        let create = PutOptions::from(PutMode::Create);
        store.put_opts(&key, "0".into(), create.clone()).await.unwrap();
        let again = store.put_opts(&key, "0".into(), create).await;
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
        let counters = (0..10).map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            async move {
                let mut done = 0;
                while done < 20 {
                    let current = store.get(&key).await.unwrap();
                    let version = UpdateVersion { e_tag: current.meta.e_tag.clone(), version: None };
                    let value: u64 =
                        String::from_utf8(current.bytes().await.unwrap().to_vec()).unwrap().parse().unwrap();
                    let mode = PutOptions::from(PutMode::Update(version));
                    match store.put_opts(&key, (value + 1).to_string().into(), mode).await {
                        Ok(_) => done += 1,
                        Err(object_store::Error::Precondition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        futures::future::join_all(counters).await;
        let last = store.get(&key).await.unwrap().bytes().await.unwrap();
        assert_eq!(last, Bytes::from("200"));
    }
}

mod through_the_aws_sdk {
    use aws_credential_types::Credentials;
    use aws_sdk_s3::Client;
    use aws_sdk_s3::config::{BehaviorVersion, Region};
    use aws_sdk_s3::primitives::{ByteStream, SdkBody};
    use aws_sdk_s3::types::{
        ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier,
    };
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

    use super::{BodyExt, BoxError, Embedded, ROOT, send};

    #[derive(Debug, Clone)]
    struct Hyper;

    impl HttpClient for Hyper {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(Hyper)
        }
    }

    impl HttpConnector for Hyper {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            HttpConnectorFuture::new(async move {
                let answer = exchange(request).await;
                let answer = answer.map_err(|error| ConnectorError::other(error, None))?;
                answer.try_into().map_err(|error| ConnectorError::other(Box::new(error), None))
            })
        }
    }

    async fn exchange(request: HttpRequest) -> Result<http::Response<SdkBody>, BoxError> {
        let (parts, body) = request.try_into_http1x()?.into_parts();
        let body = body.collect().await?;
        // Trailers were framed by the SDK into the body (`aws-chunked`), so all is data here.
        let answer = send(http::Request::from_parts(parts, body.to_bytes())).await?;
        Ok(answer.map(SdkBody::from))
    }

    fn client(embedded: &Embedded) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://{}", embedded.gateway.listen))
            .credentials_provider(Credentials::new(ROOT.0, ROOT.1, None, None, "test"))
            .force_path_style(true)
            .http_client(Hyper)
            .build();
        Client::from_conf(config)
    }

    #[tokio::test]
    async fn objects_are_put_read_listed_and_deleted() {
        let embedded = Embedded::start(&["--memory"]).await.unwrap();
        let (client, bucket) = (client(&embedded), "aws-sdk");
        client.create_bucket().bucket(bucket).send().await.unwrap();
        let put = client.put_object().bucket(bucket).key("a b/ü").metadata("colour", "blue");
        let put = put.body(ByteStream::from_static(b"hello")).send().await.unwrap();
        assert!(put.checksum_crc32().is_some());
        let got = client.get_object().bucket(bucket).key("a b/ü").send().await.unwrap();
        assert_eq!(got.metadata().unwrap()["colour"], "blue");
        assert_eq!(got.body.collect().await.unwrap().to_vec(), b"hello");
        for algorithm in [ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Crc64Nvme]
        {
            let put = client.put_object().bucket(bucket).key("checked").checksum_algorithm(algorithm);
            put.body(ByteStream::from(vec![1; 100_000])).send().await.unwrap();
        }
        let missing = client.get_object().bucket(bucket).key("missing").send().await.unwrap_err();
        assert!(missing.into_service_error().is_no_such_key());
        let listed = client.list_objects_v2().bucket(bucket).send().await.unwrap();
        let keys: Vec<_> = listed.contents().iter().filter_map(|object| object.key()).collect();
        assert_eq!(keys, ["a b/ü", "checked"]);
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(*key).build().unwrap());
        let delete = Delete::builder().set_objects(Some(objects.collect())).build().unwrap();
        let deleted = client.delete_objects().bucket(bucket).delete(delete).send().await.unwrap();
        assert_eq!(deleted.deleted().len(), 2);
        client.delete_bucket().bucket(bucket).send().await.unwrap();
    }

    #[tokio::test]
    async fn a_multipart_upload_becomes_one_object() {
        let embedded = Embedded::start(&["--memory"]).await.unwrap();
        let (client, bucket) = (client(&embedded), "aws-sdk-parts");
        client.create_bucket().bucket(bucket).send().await.unwrap();
        let upload = client.create_multipart_upload().bucket(bucket).key("k").send().await.unwrap();
        let id = upload.upload_id().unwrap();
        let mut whole = CompletedMultipartUpload::builder();
        for number in 1..=2 {
            let part = client.upload_part().bucket(bucket).key("k").upload_id(id).part_number(number);
            let part = part.body(ByteStream::from(vec![number as u8; 5 << 20])).send().await.unwrap();
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(part.e_tag().map(str::to_string))
                .set_checksum_crc32(part.checksum_crc32().map(str::to_string));
            whole = whole.parts(completed.build());
        }
        let complete = client.complete_multipart_upload().bucket(bucket).key("k").upload_id(id);
        complete.multipart_upload(whole.build()).send().await.unwrap();
        let head = client.head_object().bucket(bucket).key("k").send().await.unwrap();
        assert_eq!(head.content_length(), Some(10 << 20));
        let part = client.get_object().bucket(bucket).key("k").part_number(2).send().await.unwrap();
        assert!(part.body.collect().await.unwrap().to_vec() == vec![2; 5 << 20]);
    }
}
