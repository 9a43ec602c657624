//! Forms of browsers in the matrix: what signs them is a policy, which stands among their fields.

use super::{BESIDE, BUCKET, Expect, FAULTS, Fault, Ground, KEY, NOWHERE, SIGNED};
use crate::client::{Form, Signer};

/// By which version of the signature a policy is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    V4,
    V2,
}

pub(super) const CARRIERS: &[(Carrier, &str)] =
    &[(Carrier::V4, "policy of a form"), (Carrier::V2, "policy of a form, version 2")];

impl Carrier {
    /// The upload that everybody would like to happen, with what is signed so far.
    fn of(self, signer: &Signer, bucket: &str, expiration: &str) -> Form {
        let form = Form::new(KEY, "this must not come into force").with(SIGNED, "as it was signed");
        let conditions = form.conditions(bucket, "");
        match self {
            Carrier::V4 => form.signed_as(signer, &conditions, expiration),
            Carrier::V2 => form.signed_v2_as(signer, &conditions, expiration),
        }
    }

    fn signature(self) -> &'static str {
        match self {
            Carrier::V4 => "x-amz-signature",
            Carrier::V2 => "signature",
        }
    }

    /// The fields that prove something.
    fn proof(self) -> &'static [&'static str] {
        match self {
            Carrier::V4 => {
                &["x-amz-algorithm", "x-amz-credential", "x-amz-date", "policy", "x-amz-signature"]
            }
            Carrier::V2 => &["AWSAccessKeyId", "policy", "signature"],
        }
    }
}

impl Ground<'_> {
    /// Everything that is wrong with the answers to forms by one carrier.
    pub(super) async fn attack_by_form(
        &mut self,
        carrier: Carrier,
        judged: &mut usize,
    ) -> Result<(), String> {
        let mut wrong = Vec::new();
        for fault in FAULTS {
            let Some((status, code)) = expected(*fault) else { continue };
            let bucket = if *fault == Fault::OtherBucket { BESIDE } else { BUCKET };
            let form = self.form(*fault, carrier);
            let outcome = self.posted(&form, bucket, &Expect::error(status, code)).await;
            wrong.extend(outcome.err().map(|why| format!("{fault:?}: {why}")));
            *judged += 1;
        }
        // Without a fault, where there is nothing that it could do.
        let form = carrier.of(&self.client.signer(), NOWHERE, FAR);
        let outcome = self.posted(&form, NOWHERE, &Expect::error(404, "NoSuchBucket")).await;
        wrong.extend(outcome.err().map(|why| format!("without a fault: {why}")));
        *judged += 1;
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    async fn posted(&mut self, form: &Form, bucket: &str, expect: &Expect) -> Result<(), String> {
        // The request itself is signed by nobody.
        let nobody = Signer { credentials: None, ..self.client.signer() };
        let wire = nobody.sign(form.request(bucket));
        self.judged(&wire, expect).await
    }

    fn form(&self, fault: Fault, carrier: Carrier) -> Form {
        let end = if fault == Fault::Expired { PAST } else { FAR };
        let form = carrier.of(&self.signer(fault), BUCKET, end);
        match fault {
            Fault::Missing => form.without(carrier.proof()),
            Fault::Forged => form.edit(carrier.signature(), |signature| {
                let first = if signature.starts_with('a') { 'b' } else { 'a' };
                format!("{first}{}", &signature[1..])
            }),
            Fault::OtherKey => form.edit("key", |key| format!("x{key}")),
            Fault::SignedHeader => form.edit(SIGNED, |_| "as somebody on the way wants it".to_string()),
            Fault::UnsignedHeader => form.with("x-amz-meta-unsigned", "1"),
            // What is signed of a form is the policy and not the file.
            Fault::Body => form.edit("policy", |policy| policy.replacen("eyJ", "eyJA", 1)),
            _ => form,
        }
    }
}

const FAR: &str = "2099-01-01T00:00:00Z";
const PAST: &str = "2001-01-01T00:00:00Z";

/// The answer to a fault; `None` where a form cannot have it.
fn expected(fault: Fault) -> Option<(u16, &'static str)> {
    match fault {
        Fault::Query | Fault::OutOfTime => None,
        Fault::Forged | Fault::Body | Fault::WrongSecret | Fault::SwappedKey => {
            Some((403, "SignatureDoesNotMatch"))
        }
        Fault::UnknownKey => Some((403, "InvalidAccessKeyId")),
        Fault::Missing
        | Fault::OtherBucket
        | Fault::OtherKey
        | Fault::SignedHeader
        | Fault::UnsignedHeader
        | Fault::Expired
        | Fault::AnotherUser => Some((403, "AccessDenied")),
    }
}
