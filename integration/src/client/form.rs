//! Forms as browsers send them (POST object), signed by a policy of either version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Request, Signer};

const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";
/// When policies end that do not end before.
const FAR: &str = "2099-01-01T00:00:00Z";

/// Fields and a file.
#[derive(Debug, Clone)]
pub struct Form {
    /// In the order in which they are sent.
    pub fields: Vec<(String, String)>,
    file: Vec<u8>,
}

impl Form {
    /// An upload under this key, or one with the name of the file in it.
    pub fn new(key: &str, file: impl Into<Vec<u8>>) -> Form {
        Form { fields: vec![("key".to_string(), key.to_string())], file: file.into() }
    }

    /// With one more field, behind the others.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Form {
        self.fields.push((name.to_string(), value.into()));
        self
    }

    /// With another value in a field.
    #[must_use]
    pub fn edit(mut self, name: &str, change: impl Fn(&str) -> String) -> Form {
        for (_, value) in self.fields.iter_mut().filter(|(field, _)| field == name) {
            *value = change(value);
        }
        self
    }

    /// Without some fields.
    #[must_use]
    pub fn without(mut self, names: &[&str]) -> Form {
        self.fields.retain(|(field, _)| !names.contains(&field.as_str()));
        self
    }

    /// Conditions on the fields so far and on the bucket, and `more`, each with a comma before it.
    pub fn conditions(&self, bucket: &str, more: &str) -> String {
        let condition = |(name, value): &(String, String)| match value.strip_suffix("${filename}") {
            Some(start) => format!("[\"starts-with\",\"${name}\",\"{start}\"]"),
            None => format!("{{\"{name}\":\"{value}\"}}"),
        };
        let fields: Vec<String> = self.fields.iter().map(condition).collect();
        format!("[{{\"bucket\":\"{bucket}\"}},{}{more}]", fields.join(","))
    }

    /// With a policy of these conditions, signed by version 4.
    #[must_use]
    pub fn signed(self, signer: &Signer, bucket: &str, more: &str) -> Form {
        let conditions = self.conditions(bucket, more);
        self.signed_as(signer, &conditions, FAR)
    }

    /// With a policy that says this.
    #[must_use]
    pub fn signed_as(self, signer: &Signer, conditions: &str, expiration: &str) -> Form {
        let (date, credential) = (signer.amz_date(), format!("{}/{}", signer.access_key(), signer.scope()));
        let proof = format!(
            "{{\"x-amz-credential\":\"{credential}\"}},{{\"x-amz-date\":\"{date}\"}},\
             {{\"x-amz-algorithm\":\"AWS4-HMAC-SHA256\"}}"
        );
        let conditions = conditions.strip_suffix(']').unwrap_or(conditions);
        let policy = policy(&format!("{conditions},{proof}]"), expiration);
        let signature = signer.signature(&policy);
        self.with("x-amz-algorithm", "AWS4-HMAC-SHA256")
            .with("x-amz-credential", credential)
            .with("x-amz-date", date)
            .with("policy", policy)
            .with("x-amz-signature", signature)
    }

    /// The same by version 2.
    #[must_use]
    pub fn signed_v2_as(self, signer: &Signer, conditions: &str, expiration: &str) -> Form {
        let policy = policy(conditions, expiration);
        let signature = signer.signature_v2(&policy);
        self.with("AWSAccessKeyId", signer.access_key()).with("policy", policy).with("signature", signature)
    }

    /// The request that a browser makes of it.
    pub fn request(&self, bucket: &str) -> Request {
        let mut body = Vec::new();
        for (name, value) in &self.fields {
            let part =
                format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        let start = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"cat.png\"\r\n\
             Content-Type: image/png\r\n\r\n"
        );
        body.extend_from_slice(start.as_bytes());
        body.extend_from_slice(&self.file);
        body.extend_from_slice(Form::end().as_bytes());
        Form::posted(bucket, body)
    }

    /// How the body of a form ends.
    pub fn end() -> String {
        format!("\r\n--{BOUNDARY}--\r\n")
    }

    /// A body that says of itself that it is a form.
    pub fn posted(bucket: &str, body: Vec<u8>) -> Request {
        Request::bucket("POST", bucket)
            .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
            .body(body)
    }
}

fn policy(conditions: &str, expiration: &str) -> String {
    STANDARD.encode(format!("{{\"expiration\":\"{expiration}\",\"conditions\":{conditions}}}"))
}
