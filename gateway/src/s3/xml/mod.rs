//! XML: a writer for answers and a strict reader of the few documents that clients send.

mod acl;
mod lifecycle;
mod logging;
mod notification;
mod reader;
mod replication;
mod website;
mod writer;

pub use acl::{AclDocument, GrantElement};
pub use lifecycle::{
    AbortElement, ConditionsElement, ExpirationElement, FilterElement, NoncurrentElement,
    NoncurrentTransitionElement, RuleElement, TransitionElement, lifecycle_rules,
};
pub use logging::{LoggingElement, logging};
pub use notification::{NotificationDocument, NotificationElement, notification};
pub use reader::{
    CompleteDocument, CompletePartElement, DefaultRetentionElement, DeleteDocument, DeleteElement,
    EncryptionDocument, ObjectLockDocument, RetentionDocument, VersioningDocument, cors_rules,
    create_bucket_location, legal_hold, object_ownership, payer, public_access_block, tagging,
};
pub use replication::{ReplicationDocument, ReplicationElement, replication};
pub use website::{ConditionElement, RedirectElement, RoutingRuleElement, WebsiteDocument};
pub use writer::{NAMESPACE, XmlWriter, escaped, url_encoded};
