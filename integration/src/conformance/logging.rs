//! Where lines about requests go, and whom notifications reach: what of that is set and what is refused. That they are
//! written and delivered is shown by stages of their own.

use super::{Cx, Outcome, behaviours, ensure, equal, ok, refused, xml_of};
use crate::client::Request;

behaviours![
    a_bucket_logs_into_another,
    wrong_targets_of_logs_are_refused,
    a_bucket_without_notifications_says_so,
    wrong_notifications_are_refused,
];

fn configuration(flag: &str, bucket: &str, document: &str) -> Request {
    Request::bucket("PUT", bucket).flag(flag).body(document).content_md5()
}

fn into(target: &str, rest: &str) -> String {
    format!(
        "<BucketLoggingStatus xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LoggingEnabled><TargetBucket>{target}\
         </TargetBucket><TargetPrefix>logs/</TargetPrefix>{rest}</LoggingEnabled></BucketLoggingStatus>"
    )
}

async fn a_bucket_logs_into_another(cx: &Cx<'_>) -> Outcome {
    let (bucket, target) = (cx.bucket().await?, cx.bucket().await?);
    let show = || Request::bucket("GET", &bucket).flag("logging");
    equal("none", xml_of(&cx.ok(show()).await?, "BucketLoggingStatus")?.children.len(), 0)?;
    let format = "<TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>EventTime</PartitionDateSource>\
                  </PartitionedPrefix></TargetObjectKeyFormat>";
    for rest in ["", format] {
        cx.ok(configuration("logging", &bucket, &into(&target, rest))).await?;
        let shown = ok(&cx.gateway(1), show()).await?;
        let status = xml_of(&shown, "BucketLoggingStatus")?;
        let enabled = status.child("LoggingEnabled").ok_or("no log")?;
        equal("target", enabled.text_of("TargetBucket"), target.as_str())?;
        equal("prefix", enabled.text_of("TargetPrefix"), "logs/")?;
        equal("format", enabled.child("TargetObjectKeyFormat").is_some(), !rest.is_empty())?;
    }
    cx.ok(configuration("logging", &bucket, "<BucketLoggingStatus/>")).await?;
    equal("none again", xml_of(&cx.ok(show()).await?, "BucketLoggingStatus")?.children.len(), 0)
}

async fn wrong_targets_of_logs_are_refused(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let grants = "<TargetGrants><Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                  xsi:type=\"CanonicalUser\"><ID>x</ID></Grantee><Permission>READ</Permission></Grant></TargetGrants>";
    let wrong = "<TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>Noon</PartitionDateSource>\
                 </PartitionedPrefix></TargetObjectKeyFormat>";
    for (document, code) in [
        (into("no-such-bucket-to-log-in", ""), "InvalidTargetBucketForLogging"),
        (into("NO_BUCKET", ""), "InvalidTargetBucketForLogging"),
        (into(&bucket, grants), "AccessControlListNotSupported"),
        (into(&bucket, wrong), "MalformedXML"),
        (into(&bucket, "<Colour/>"), "MalformedXML"),
        (into(&bucket, "").replace("logs/", &"x".repeat(600)), "InvalidArgument"),
        ("<BucketLoggingStatus><LoggingEnabled/></BucketLoggingStatus>".to_string(), "MalformedXML"),
    ] {
        let answer = cx.refused(configuration("logging", &bucket, &document), 400, code).await;
        answer.map_err(|why| format!("{document:.300}: {why}"))?;
    }
    let Some(other) = cx.other() else { return Ok(()) };
    refused(&other, configuration("logging", &bucket, &into(&bucket, "")), 403, "AccessDenied").await?;
    let theirs = cx.bucket_name();
    ok(&other, Request::bucket("PUT", &theirs)).await?;
    cx.refused(configuration("logging", &bucket, &into(&theirs, "")), 400, "InvalidTargetBucketForLogging")
        .await
}

async fn a_bucket_without_notifications_says_so(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let nothing = "<NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>";
    for _ in 0..2 {
        let shown = cx.ok(Request::bucket("GET", &bucket).flag("notification")).await?;
        let found = xml_of(&shown, "NotificationConfiguration")?;
        ensure(found.children.is_empty(), || shown.describe())?;
        cx.ok(configuration("notification", &bucket, nothing)).await?;
    }
    Ok(())
}

async fn wrong_notifications_are_refused(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let queue = |arn: &str, event: &str, rest: &str| {
        format!(
            "<NotificationConfiguration><QueueConfiguration><Queue>{arn}</Queue><Event>{event}</Event>{rest}\
             </QueueConfiguration></NotificationConfiguration>"
        )
    };
    let created = "s3:ObjectCreated:*";
    let filter =
        "<Filter><S3Key><FilterRule><Name>infix</Name><Value>x</Value></FilterRule></S3Key></Filter>";
    let bridge = "<NotificationConfiguration><EventBridgeConfiguration/></NotificationConfiguration>";
    for (document, status, code) in [
        (queue("arn:aws:sqs:::no-such-target", created, ""), 400, "InvalidArgument"),
        (queue("no-such-target", created, ""), 400, "InvalidArgument"),
        (queue("arn:aws:sqs:::no-such-target", "s3:ObjectEaten", ""), 400, "InvalidArgument"),
        (queue("arn:aws:sqs:::no-such-target", created, filter), 400, "InvalidArgument"),
        (queue("arn:aws:sqs:::no-such-target", created, "<Colour/>"), 400, "MalformedXML"),
        ("<NotificationConfiguration><Queue/></NotificationConfiguration>".to_string(), 400, "MalformedXML"),
        (bridge.to_string(), 501, "NotImplemented"),
    ] {
        let answer = cx.refused(configuration("notification", &bucket, &document), status, code).await;
        answer.map_err(|why| format!("{document:.300}: {why}"))?;
    }
    let Some(other) = cx.other() else { return Ok(()) };
    refused(
        &other,
        configuration("notification", &bucket, "<NotificationConfiguration/>"),
        403,
        "AccessDenied",
    )
    .await
}
