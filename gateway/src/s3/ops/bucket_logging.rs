//! GetBucketLogging and PutBucketLogging: where the lines about requests to a bucket go. They are written by
//! [`crate::s3::access_log`].

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, LogKeyFormat, Logging, SettingKind};
use consensus::meta::names::BucketName;
use fabric::limits::LOG_PREFIX_BYTES_MAX;
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op, resolve_bucket};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{LoggingElement, XmlWriter, logging};

/// See the module.
pub struct GetBucketLogging;

#[async_trait]
impl Op for GetBucketLogging {
    fn name(&self) -> &'static str {
        "GetBucketLogging"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("logging")
    }

    fn action(&self) -> Action {
        Action::GetBucketLogging
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        let logging = match cx.setting(SettingKind::Logging).await? {
            Some(BucketSetting::Logging(logging)) => Some(logging),
            _ => None,
        };
        Ok(Response::xml(document(logging.as_ref())))
    }
}

/// See the module.
pub struct PutBucketLogging;

#[async_trait]
impl Op for PutBucketLogging {
    fn name(&self) -> &'static str {
        "PutBucketLogging"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("logging")
    }

    fn action(&self) -> Action {
        Action::PutBucketLogging
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let Some(element) = logging(&request.configuration().await?)? else {
            cx.unset(SettingKind::Logging).await?;
            return Ok(Response::ok());
        };
        let logging = check(element)?;
        let refused = |why: &'static str| Code::InvalidTargetBucketForLogging.says(why);
        let target = match resolve_bucket(&*cx.meta, &logging.bucket).await {
            Ok(target) => target,
            Err(error) if error.code() == Code::NoSuchBucket => {
                return Err(refused("The target bucket for logging does not exist"));
            }
            Err(error) => return Err(error),
        };
        if target.owner != cx.bucket()?.owner {
            return Err(refused(
                "The owner for the bucket to be logged and the target bucket must be the same.",
            ));
        }
        cx.set(BucketSetting::Logging(logging)).await?;
        Ok(Response::ok())
    }
}

fn check(element: LoggingElement) -> S3Result<Logging> {
    if element.grants {
        return Err(Code::AccessControlListNotSupported.into());
    }
    let name = element.bucket.ok_or(Code::MalformedXML)?;
    let bucket: BucketName = name.parse().map_err(|_| {
        Code::InvalidTargetBucketForLogging.says("The target bucket for logging does not exist")
    })?;
    let prefix = element.prefix.ok_or(Code::MalformedXML)?;
    if LOG_PREFIX_BYTES_MAX < prefix.len() {
        let message = format!("TargetPrefix has at most {LOG_PREFIX_BYTES_MAX} bytes here.");
        return Err(S3Error::argument("TargetPrefix", &prefix, message));
    }
    let format = match element.partitioned.as_deref() {
        None => LogKeyFormat::Simple,
        Some("EventTime" | "") => LogKeyFormat::EventTime,
        Some("DeliveryTime") => LogKeyFormat::DeliveryTime,
        Some(_) => return Err(Code::MalformedXML.into()),
    };
    Ok(Logging { bucket, prefix, format })
}

fn document(logging: Option<&Logging>) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("BucketLoggingStatus");
    if let Some(logging) = logging {
        xml.element("LoggingEnabled", |xml| {
            xml.text("TargetBucket", logging.bucket.as_str());
            xml.text("TargetPrefix", &logging.prefix);
            let source = match logging.format {
                LogKeyFormat::Simple => return,
                LogKeyFormat::EventTime => "EventTime",
                LogKeyFormat::DeliveryTime => "DeliveryTime",
            };
            xml.element("TargetObjectKeyFormat", |xml| {
                xml.element("PartitionedPrefix", |xml| xml.text("PartitionDateSource", source));
            });
        });
    }
    xml.close("BucketLoggingStatus");
    xml
}
