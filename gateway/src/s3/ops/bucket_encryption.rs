//! GetBucketEncryption, PutBucketEncryption and DeleteBucketEncryption: how objects are encrypted whose writer does not say.

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, DefaultEncryption, DefaultKey, SettingKind};
use consensus::meta::sealing::KEY_NAME_BYTES_MAX;
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{EncryptionDocument, XmlWriter};

const SUB_RESOURCE: &str = "encryption";

/// See the module.
pub struct GetBucketEncryption;

#[async_trait]
impl Op for GetBucketEncryption {
    fn name(&self) -> &'static str {
        "GetBucketEncryption"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with(SUB_RESOURCE)
    }

    fn action(&self) -> Action {
        Action::GetEncryptionConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::Encryption).await? {
            Some(BucketSetting::Encryption(default)) => Ok(Response::xml(document(&default))),
            _ => Err(Code::ServerSideEncryptionConfigurationNotFoundError.into()),
        }
    }
}

fn document(default: &DefaultEncryption) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("ServerSideEncryptionConfiguration");
    xml.element("Rule", |xml| {
        if let Some(key) = &default.key {
            xml.element("ApplyServerSideEncryptionByDefault", |xml| match key {
                DefaultKey::Store => xml.text("SSEAlgorithm", "AES256"),
                DefaultKey::Named(name) => {
                    xml.text("SSEAlgorithm", "aws:kms");
                    if let Some(name) = name {
                        xml.text("KMSMasterKeyID", name);
                    }
                }
            });
        }
        xml.value("BucketKeyEnabled", default.bucket_key);
        if default.no_customer_keys {
            xml.element("BlockedEncryptionTypes", |xml| xml.text("EncryptionType", "SSE-C"));
        }
    });
    xml.close("ServerSideEncryptionConfiguration");
    xml
}

/// See the module.
pub struct PutBucketEncryption;

#[async_trait]
impl Op for PutBucketEncryption {
    fn name(&self) -> &'static str {
        "PutBucketEncryption"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with(SUB_RESOURCE)
    }

    fn action(&self) -> Action {
        Action::PutEncryptionConfiguration
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let document = EncryptionDocument::parse(&request.configuration().await?)?;
        cx.set(BucketSetting::Encryption(configuration(document)?)).await?;
        Ok(Response::ok())
    }
}

/// What a document wants. Whether the ring has the key is found out when it is used, as with AWS.
fn configuration(document: EncryptionDocument) -> S3Result<DefaultEncryption> {
    let key = match (document.algorithm.as_deref(), document.key) {
        (None, None) => None,
        (Some("AES256"), None) => Some(DefaultKey::Store),
        (Some("AES256"), Some(_)) => {
            return Err(Code::InvalidArgument
                .says("a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms"));
        }
        (Some("aws:kms"), Some(name)) if KEY_NAME_BYTES_MAX < name.len() => {
            return Err(Code::InvalidArgument.says("The KMSMasterKeyID is too long."));
        }
        (Some("aws:kms"), name) => Some(DefaultKey::Named(name)),
        (Some("aws:kms:dsse"), _) => {
            return Err(Code::NotImplemented.says("Objects are encrypted once here."));
        }
        (Some(_) | None, _) => return Err(Code::MalformedXML.into()),
    };
    let mut no_customer_keys = false;
    for refused in &document.refused {
        match refused.as_str() {
            "NONE" => {}
            "SSE-C" => no_customer_keys = true,
            _ => return Err(Code::MalformedXML.into()),
        }
    }
    if key.is_none() && document.refused.is_empty() {
        return Err(Code::MalformedXML.into());
    }
    Ok(DefaultEncryption { key, bucket_key: document.bucket_key, no_customer_keys })
}

/// See the module.
pub struct DeleteBucketEncryption;

#[async_trait]
impl Op for DeleteBucketEncryption {
    fn name(&self) -> &'static str {
        "DeleteBucketEncryption"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with(SUB_RESOURCE)
    }

    fn action(&self) -> Action {
        Action::PutEncryptionConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Encryption).await?;
        Ok(Response::no_content())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(rule: &str) -> S3Result<DefaultEncryption> {
        let body = format!("<ServerSideEncryptionConfiguration>{rule}</ServerSideEncryptionConfiguration>");
        configuration(EncryptionDocument::parse(body.as_bytes())?)
    }

    fn by_default(content: &str) -> String {
        format!(
            "<Rule><ApplyServerSideEncryptionByDefault>{content}</ApplyServerSideEncryptionByDefault></Rule>"
        )
    }

    #[test]
    fn documents_say_what_they_said() {
        let kms = "<SSEAlgorithm>aws:kms</SSEAlgorithm>";
        for (rule, key, bucket_key, no_customer_keys) in [
            (by_default("<SSEAlgorithm>AES256</SSEAlgorithm>"), Some(DefaultKey::Store), false, false),
            (by_default(kms), Some(DefaultKey::Named(None)), false, false),
            (
                by_default(&format!("{kms}<KMSMasterKeyID>k</KMSMasterKeyID>"))
                    .replace("</Rule>", "<BucketKeyEnabled>true</BucketKeyEnabled></Rule>"),
                Some(DefaultKey::Named(Some("k".to_string()))),
                true,
                false,
            ),
            (
                "<Rule><BlockedEncryptionTypes><EncryptionType>SSE-C</EncryptionType></BlockedEncryptionTypes></Rule>"
                    .to_string(),
                None,
                false,
                true,
            ),
        ] {
            let expected = DefaultEncryption { key, bucket_key, no_customer_keys };
            let found = parse(&rule).unwrap();
            assert_eq!(found, expected, "{rule}");
            let shown = document(&found).finish();
            let again = EncryptionDocument::parse(shown.as_bytes()).unwrap();
            assert_eq!(configuration(again).unwrap(), expected);
        }
    }

    #[test]
    fn documents_that_are_wrong() {
        let aes = "<SSEAlgorithm>AES256</SSEAlgorithm>";
        for (rule, code) in [
            (String::new(), Code::MalformedXML),
            ("<Rule/>".to_string(), Code::MalformedXML),
            (by_default(aes).repeat(2), Code::MalformedXML),
            (by_default(""), Code::MalformedXML),
            (by_default("<SSEAlgorithm>DES</SSEAlgorithm>"), Code::MalformedXML),
            (by_default("<KMSMasterKeyID>k</KMSMasterKeyID>"), Code::MalformedXML),
            (by_default(&format!("{aes}<KMSMasterKeyID>k</KMSMasterKeyID>")), Code::InvalidArgument),
            (by_default("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), Code::NotImplemented),
            ("<Rule><Other/></Rule>".to_string(), Code::MalformedXML),
        ] {
            assert_eq!(parse(&rule).unwrap_err().code(), code, "{rule}");
        }
    }
}
