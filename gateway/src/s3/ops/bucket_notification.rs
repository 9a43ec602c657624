//! GetBucketNotificationConfiguration and PutBucketNotificationConfiguration. The rules themselves are in
//! [`crate::s3::notification`], the delivery in [`crate::notify`].

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, NotificationRule, SettingKind};
use futures::future::try_join_all;
use http::Method;

use crate::notify::test_event;
use crate::s3::error::S3Result;
use crate::s3::notification::{check, document, target, unusable};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::notification;

/// See the module.
pub struct GetBucketNotificationConfiguration;

#[async_trait]
impl Op for GetBucketNotificationConfiguration {
    fn name(&self) -> &'static str {
        "GetBucketNotificationConfiguration"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("notification")
    }

    fn action(&self) -> Action {
        Action::GetBucketNotification
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        let rules = match cx.setting(SettingKind::Notifications).await? {
            Some(BucketSetting::Notifications(rules)) => rules,
            _ => Vec::new(),
        };
        Ok(Response::xml(document(&rules)))
    }
}

/// See the module.
pub struct PutBucketNotificationConfiguration;

#[async_trait]
impl Op for PutBucketNotificationConfiguration {
    fn name(&self) -> &'static str {
        "PutBucketNotificationConfiguration"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("notification")
    }

    fn action(&self) -> Action {
        Action::PutBucketNotification
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let skip = header_text(request.headers(), "x-amz-skip-destination-validation")?;
        let skip = skip.is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let document = notification(&request.configuration().await?)?;
        let new_id = || {
            let mut id = [0; 16];
            cx.env.random(&mut id);
            hex::encode(id)
        };
        let rules = check(document, |name| cx.notifier.get(name).is_some(), new_id)?;
        if rules.is_empty() {
            cx.unset(SettingKind::Notifications).await?;
            return Ok(Response::ok());
        }
        if !skip {
            try_join_all(targets(&rules).into_iter().map(|rule| try_out(cx, rule))).await?;
        }
        cx.set(BucketSetting::Notifications(rules)).await?;
        Ok(Response::ok())
    }
}

/// One rule for each target.
fn targets(rules: &[NotificationRule]) -> Vec<&NotificationRule> {
    let mut found: Vec<&NotificationRule> = Vec::new();
    for rule in rules {
        if !found.iter().any(|other| target(&other.arn) == target(&rule.arn)) {
            found.push(rule);
        }
    }
    found
}

/// A target that does not take a test is not configured.
async fn try_out(cx: &Context, rule: &NotificationRule) -> S3Result<()> {
    let webhook = target(&rule.arn).and_then(|name| cx.notifier.get(name));
    let webhook = webhook.ok_or_else(|| unusable(rule, "does not exist"))?;
    let test = test_event(cx.bucket()?.name.as_str(), &cx.origin.request_id, cx.env.wall_ms());
    cx.notifier.post(webhook, test).await.map_err(|error| {
        tracing::info!(webhook = webhook.name, %error, "a webhook did not take a test event");
        unusable(rule, "did not take a test event")
    })
}
