//! Bodies of copies from other clusters: stored as those of clients are, encrypted as the bucket of the copy says.

use std::net::IpAddr;
use std::sync::Arc;

use consensus::meta::model::{Attributes, Bucket};
use consensus::meta::names::ObjectKey;
use consensus::meta::sealing::Sealing;
use http::HeaderMap;

use super::access::Access;
use super::bodies;
use super::encryption::{Stated, Wish};
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

impl Replicas {
    /// Stores a body of so many bytes, and tells how it is encrypted.
    pub async fn store(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        source: &mut dyn Source,
        bytes: u64,
    ) -> S3Result<(Written, Option<Sealing>)> {
        let encryption = self.wish.seal(&self.context)?;
        let target = bodies::target(&self.context, key, None, Some(attributes), encryption.as_ref())?;
        let written = self.context.data.write(source, Some(bytes), target).await?;
        Ok((written, encryption.map(|encryption| encryption.sealing)))
    }
}
