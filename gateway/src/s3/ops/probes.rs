//! What tools ask before they do anything else, about features that nobody can set here: the answer of AWS for a bucket
//! where nothing was set.

use async_trait::async_trait;
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context, Op};
use crate::s3::reading;
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::versions;
use crate::s3::xml::XmlWriter;
use consensus::meta::query::Want;

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
    /// The owner of the bucket may do everything; of an object where the second is true.
    Acl { object: bool },
}

const fn bucket(name: &'static str, sub_resource: &'static str, action: Action, answer: Answer) -> Probe {
    Probe { name, sub_resource, action, answer }
}

/// Every one of them.
pub static ALL: [Probe; 12] = [
    bucket("GetBucketAcl", "acl", Action::GetBucketAcl, Answer::Acl { object: false }),
    bucket("GetObjectAcl", "acl", Action::GetObjectAcl, Answer::Acl { object: true }),
    bucket(
        "GetBucketReplication",
        "replication",
        Action::GetReplicationConfiguration,
        Answer::Missing(Code::ReplicationConfigurationNotFoundError),
    ),
    bucket("GetBucketLogging", "logging", Action::GetBucketLogging, Answer::Empty("BucketLoggingStatus")),
    bucket(
        "GetBucketNotificationConfiguration",
        "notification",
        Action::GetBucketNotification,
        Answer::Empty("NotificationConfiguration"),
    ),
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
        match self.answer {
            Answer::Acl { object: true } => Route::object(Method::GET).with(self.sub_resource),
            _ => Route::bucket(Method::GET).with(self.sub_resource),
        }
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
            Answer::Acl { object: false } => Ok(Response::xml(acl(cx.bucket()?.owner.as_str()))),
            Answer::Acl { object: true } => {
                let selector = versions::from_query(request.query())?;
                let view = reading::version(cx, request.key(), selector, Want::Row).await?;
                let response = Response::xml(acl(cx.bucket()?.owner.as_str()));
                Ok(versions::show(response, cx.bucket()?, &view.object))
            }
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

/// Buckets belong to their owner alone.
fn acl(owner: &str) -> XmlWriter {
    let person = |xml: &mut XmlWriter| {
        xml.text("ID", owner);
        xml.text("DisplayName", owner);
    };
    document("AccessControlPolicy", |xml| {
        xml.element("Owner", person);
        xml.element("AccessControlList", |xml| {
            xml.element("Grant", |xml| {
                xml.open(
                    "Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"",
                );
                person(xml);
                xml.close("Grantee");
                xml.text("Permission", "FULL_CONTROL");
            });
        });
    })
}
