//! Skeleton, see the next commit.

use consensus::meta::names::{AccessKeyId, UserName};

use super::signature::PayloadAuth;

/// Proof that the request was signed by a user. Made by [`verify`] and by nothing else.
#[derive(Debug)]
pub struct Verified {
    user: UserName,
    key: AccessKeyId,
    payload: PayloadAuth,
}
impl Verified {
    /// Who asks.
    pub fn user(&self) -> &UserName {
        &self.user
    }
}
