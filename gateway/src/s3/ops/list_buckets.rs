//! ListBuckets: the requester's buckets in order of name, those in other clusters of the overlay among them.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::meta::model::Bucket;
use consensus::meta::names::BucketName;
use consensus::meta::query::{Answer, Query as MetaQuery};
use fabric::limits::{BUCKETS_PER_USER_MAX, LIST_KEYS_MAX};
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::time::Iso8601;
use crate::s3::xml::XmlWriter;

/// See the module.
pub struct ListBuckets;

#[async_trait]
impl Op for ListBuckets {
    fn name(&self) -> &'static str {
        "ListBuckets"
    }

    fn route(&self) -> Route {
        Route::service(Method::GET)
    }

    fn action(&self) -> Action {
        Action::ListAllMyBuckets
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let input = Input::parse(request.query())?;
        let is_asked = |region: &str| input.region.as_deref().is_none_or(|asked| asked == region);
        let (here, mut more) = match is_asked(&cx.region) {
            true => input.page(cx).await?,
            false => (Vec::new(), false),
        };
        let shown = |bucket: Bucket| Shown {
            name: bucket.name,
            created_ms: bucket.created.0,
            region: cx.region.to_string(),
        };
        let mut buckets: Vec<Shown> = here.into_iter().map(shown).collect();
        if let Some(overlay) = cx.others() {
            let others = overlay.buckets_of(cx.access.user()?).await;
            let others = others.map_err(|error| Code::InternalError.caused(error))?;
            let asked = others
                .into_iter()
                .filter(|(name, cluster, _)| is_asked(cluster.as_str()) && input.is_in_page(name.as_str()));
            buckets.extend(asked.map(|(name, cluster, bucket)| Shown {
                name,
                created_ms: bucket.created_ms,
                region: cluster.to_string(),
            }));
            buckets.sort_by(|a, b| a.name.cmp(&b.name));
            more |= input.buckets_max < buckets.len() as u64;
            buckets.truncate(usize::try_from(input.buckets_max).unwrap_or(usize::MAX));
        }
        Ok(Response::xml(document(cx, &input, &buckets, more)?))
    }
}

/// A bucket of the answer.
struct Shown {
    name: BucketName,
    created_ms: u64,
    region: String,
}

struct Input {
    prefix: Option<String>,
    after: Option<String>,
    region: Option<String>,
    buckets_max: u64,
}

impl Input {
    fn parse(query: &Query) -> S3Result<Input> {
        let owned = |text: &str| text.to_string();
        Ok(Input {
            prefix: query.get("prefix").map(owned),
            after: query.non_empty("continuation-token").map(from_token).transpose()?,
            region: query.non_empty("bucket-region").map(owned),
            buckets_max: query
                .number("max-buckets", 1, BUCKETS_PER_USER_MAX)?
                .unwrap_or(BUCKETS_PER_USER_MAX),
        })
    }

    /// Whether a bucket of this name is behind the page before, and asked for.
    fn is_in_page(&self, name: &str) -> bool {
        name.starts_with(self.prefix.as_deref().unwrap_or_default())
            && self.after.as_deref().is_none_or(|after| after < name)
    }

    async fn page(&self, cx: &Context) -> S3Result<(Vec<Bucket>, bool)> {
        let mut found: Vec<Bucket> = Vec::new();
        loop {
            let missing = self.buckets_max - found.len() as u64;
            let last = found.last().map(|bucket| bucket.name.to_string());
            let query = MetaQuery::Buckets {
                owner: Some(cx.access.user()?.clone()),
                prefix: self.prefix.clone().unwrap_or_default(),
                after: last.or_else(|| self.after.clone()),
                limit: missing.min(u64::from(LIST_KEYS_MAX)) as u32,
            };
            let Answer::Buckets { buckets, more } = cx.ask(query).await? else {
                return Err(unexpected("Buckets"));
            };
            let stuck = buckets.is_empty();
            found.extend(buckets);
            if !more || stuck || self.buckets_max <= found.len() as u64 {
                return Ok((found, more));
            }
        }
    }
}

fn token(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

fn from_token(token: &str) -> S3Result<String> {
    let wrong =
        || S3Error::argument("continuation-token", token, "The continuation token provided is incorrect");
    let name = String::from_utf8(URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?).map_err(|_| wrong())?;
    // It names the last bucket of a page.
    let is_name = name.parse::<BucketName>().is_ok();
    if is_name { Ok(name) } else { Err(wrong()) }
}

fn document(cx: &Context, input: &Input, buckets: &[Shown], more: bool) -> S3Result<XmlWriter> {
    let user = cx.access.user()?;
    let mut xml = XmlWriter::new();
    xml.root("ListAllMyBucketsResult");
    xml.element("Owner", |xml| {
        xml.text("ID", user.as_str());
        xml.text("DisplayName", user.as_str());
    });
    xml.element("Buckets", |xml| {
        for bucket in buckets {
            xml.element("Bucket", |xml| {
                xml.text("Name", bucket.name.as_str());
                xml.value("CreationDate", Iso8601(bucket.created_ms));
                xml.text("BucketRegion", &bucket.region);
            });
        }
    });
    let last = buckets.last().filter(|_| more);
    xml.optional("ContinuationToken", last.map(|bucket| token(bucket.name.as_str())).as_deref());
    xml.optional("Prefix", input.prefix.as_deref());
    xml.close("ListAllMyBucketsResult");
    Ok(xml)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let parse = |text: &str| Input::parse(&Query::parse(text).unwrap());
        let input = parse(&format!("max-buckets=3&prefix=a&continuation-token={}", token("photos"))).unwrap();
        assert_eq!((input.buckets_max, input.after.as_deref()), (3, Some("photos")));
        for bad in [
            "max-buckets=0",
            "max-buckets=10001",
            "max-buckets=x",
            "continuation-token=!",
            "continuation-token=YQ",
        ] {
            assert_eq!(parse(bad).err().unwrap().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
