//! What tools ask before they do anything else, about features that nobody can set here: the answer of AWS for a bucket
//! where nothing was set.

use async_trait::async_trait;
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;

/// An operation that only asks.
pub struct Probe {
    name: &'static str,
    sub_resource: &'static str,
    action: Action,
    answer: Answer,
}

/// What is answered.
enum Answer {
    /// It is not set.
    Missing(Code),
    /// A document without content.
    Empty(&'static str),
    /// A document with one element.
    One(&'static str, &'static str, &'static str),
    /// With `id` a configuration that is not there, without it a list of none.
    List(&'static str),
}

const fn bucket(name: &'static str, sub_resource: &'static str, action: Action, answer: Answer) -> Probe {
    Probe { name, sub_resource, action, answer }
}

/// Every one of them.
pub static ALL: [Probe; 7] = [
    bucket(
        "GetBucketAccelerateConfiguration",
        "accelerate",
        Action::GetAccelerateConfiguration,
        Answer::Empty("AccelerateConfiguration"),
    ),
    bucket(
        "GetBucketRequestPayment",
        "requestPayment",
        Action::GetBucketRequestPayment,
        Answer::One("RequestPaymentConfiguration", "Payer", "BucketOwner"),
    ),
    bucket(
        "ListBucketAnalyticsConfigurations",
        "analytics",
        Action::GetAnalyticsConfiguration,
        Answer::List("ListBucketAnalyticsConfigurationResult"),
    ),
    bucket(
        "ListBucketMetricsConfigurations",
        "metrics",
        Action::GetMetricsConfiguration,
        Answer::List("ListMetricsConfigurationsResult"),
    ),
    bucket(
        "ListBucketInventoryConfigurations",
        "inventory",
        Action::GetInventoryConfiguration,
        Answer::List("ListInventoryConfigurationsResult"),
    ),
    bucket(
        "ListBucketIntelligentTieringConfigurations",
        "intelligent-tiering",
        Action::GetIntelligentTieringConfiguration,
        Answer::List("ListBucketIntelligentTieringConfigurationsOutput"),
    ),
    bucket(
        "GetBucketMetadataTableConfiguration",
        "metadataTable",
        Action::GetBucketMetadataTableConfiguration,
        Answer::Missing(Code::MetadataConfigurationNotFound),
    ),
];

#[async_trait]
impl Op for Probe {
    fn name(&self) -> &'static str {
        self.name
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with(self.sub_resource)
    }

    fn action(&self) -> Action {
        self.action
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        match self.answer {
            Answer::Missing(code) => Err(S3Error::from(code).field("BucketName", cx.bucket()?.name.as_str())),
            Answer::Empty(root) => Ok(Response::xml(document(root, |_| ()))),
            Answer::One(root, name, text) => Ok(Response::xml(document(root, |xml| xml.text(name, text)))),
            Answer::List(_) if request.query().get("id").is_some() => Err(Code::NoSuchConfiguration.into()),
            Answer::List(root) => Ok(Response::xml(document(root, |xml| xml.text("IsTruncated", "false")))),
        }
    }
}

fn document(root: &str, content: impl FnOnce(&mut XmlWriter)) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root(root);
    content(&mut xml);
    xml.close(root);
    xml
}
