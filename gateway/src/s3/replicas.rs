//! Bodies of copies from other clusters: stored as those of clients are, encrypted as the bucket of the copy says.

use std::net::IpAddr;
use std::sync::Arc;

use consensus::meta::model::{Attributes, Bucket};
use consensus::meta::names::ObjectKey;
use fabric::ids::Stamp;
use http::HeaderMap;

use super::access::Access;
use super::bodies;
use super::encryption::{Encryption, Stated, Wish};
use super::error::S3Result;
use super::op::Context;
use super::request::Query;
use super::service::S3Service;
use crate::data::{Source, Written};

/// Stores the bodies of copies in one bucket.
pub struct Replicas {
    context: Context,
    wish: Wish,
}

impl S3Service {
    /// For a bucket here.
    pub async fn replicas(&self, bucket: Arc<Bucket>) -> S3Result<Replicas> {
        let source = IpAddr::from([127, 0, 0, 1]);
        let (query, headers) = (Arc::<Query>::default(), Arc::<HeaderMap>::default());
        let facts = self.facts((source, true), query, headers);
        let access = Access::of(self.policies.clone(), self.backend.meta.clone(), None, facts).await?;
        let context = self.context(access, Some(bucket), source, &self.trace("Replicate"));
        let wish = Stated::default().wish(&context).await?;
        Ok(Replicas { context, wish })
    }
}

/// For which version bytes are stored.
pub struct ReplicaTarget<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// What is said of it.
    pub attributes: &'a Attributes,
    /// How it is encrypted, if it is: see [`Replicas::encryption`].
    pub encryption: Option<&'a Encryption>,
    /// Which version and part they are, where they are a part of it.
    pub part: Option<(Stamp, u16)>,
}

impl Replicas {
    /// How the next version is encrypted, if it is.
    pub fn encryption(&self) -> S3Result<Option<Encryption>> {
        self.wish.seal(&self.context)
    }

    /// Stores so many bytes.
    pub async fn store(
        &self,
        target: ReplicaTarget<'_>,
        source: &mut dyn Source,
        bytes: u64,
    ) -> S3Result<Written> {
        let ReplicaTarget { key, attributes, encryption, part } = target;
        let target = bodies::target(&self.context, key, part, Some(attributes), encryption)?;
        Ok(self.context.data.write(source, Some(bytes), target).await?)
    }
}
