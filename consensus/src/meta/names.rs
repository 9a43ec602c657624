//! Names that cannot be wrong: parsed once, then relied on.

use std::fmt;

use fabric::limits::{ANNOTATION_NAME_BYTES_MAX, KEY_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// Why a text is not a name. The words go to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a bucket name by the rules of S3.
    #[error("the bucket name is not valid: {0}")]
    Bucket(&'static str),
    /// The key has more than 1,024 bytes.
    #[error("the key has {0} bytes; the limit is 1024")]
    KeyTooLong(usize),
    /// The key is empty or contains U+0000.
    #[error("the key is not valid: {0}")]
    Key(&'static str),
    /// Not a user name.
    #[error("the user name is not valid: {0}")]
    User(&'static str),
    /// Not the name of a policy.
    #[error("the name of the policy is not valid: {0}")]
    Policy(&'static str),
    /// Not an access key id.
    #[error("the access key is not valid: {0}")]
    AccessKey(&'static str),
    /// The name of an annotation has more than [`ANNOTATION_NAME_BYTES_MAX`] bytes.
    #[error("the name of the annotation has {0} bytes; the limit is {ANNOTATION_NAME_BYTES_MAX}")]
    AnnotationTooLong(usize),
    /// Not the name of an annotation.
    #[error("the name of the annotation is not valid: {0}")]
    Annotation(&'static str),
    /// Not the name of a cluster.
    #[error("the name of the cluster is not valid: {0}")]
    Cluster(&'static str),
    /// Not a client token.
    #[error("the client token is not valid: {0}")]
    ClientToken(&'static str),
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<$name, NameError> {
                $name::check(&text)?;
                Ok($name(text))
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::try_from(text.to_string())
            }
        }
    };
}

text_name! {
    /// Name of a bucket: 3–63 of a–z, 0–9, `-`, `.`, as S3 has it.
    BucketName
}

text_name! {
    /// Key of an object: 1–1,024 bytes of UTF-8 without U+0000, never normalised.
    ObjectKey
}

text_name! {
    /// Name of a user: 1–64 of letters, digits and `+=,.@_-`. A user of another cluster of the overlay has the name of
    /// that cluster and a slash before it, which no user of this cluster has.
    UserName
}

text_name! {
    /// Name of a cluster, which is its region: 1–32 of a–z, 0–9 and single `-` between them.
    ClusterName
}

text_name! {
    /// An access key id: 3–128 of letters, digits and `_.-`; no slash, as it is part of a credential scope.
    AccessKeyId
}

text_name! {
    /// Name of a policy of a user: 1–128 of letters, digits and `+=,.@_-`.
    PolicyName
}

text_name! {
    /// Name of an annotation: 1–512 bytes of letters, digits and `_.-`, not beginning with `aws` or `s3`.
    AnnotationName
}

text_name! {
    /// By what a client recognises a request of its own: 1–64 visible ASCII characters.
    ClientToken
}

impl BucketName {
    fn check(text: &str) -> Result<(), NameError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let wrong = |why| Err(NameError::Bucket(why));
        if !(3..=63).contains(&bytes.len()) {
            return wrong("it has 3 to 63 characters");
        }
        if !bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-' || byte == b'.') {
            return wrong("it consists of a-z, 0-9, '-' and '.'");
        }
        if !alphanumeric(bytes[0]) || !alphanumeric(bytes[bytes.len() - 1]) {
            return wrong("it begins and ends with a letter or digit");
        }
        if ["..", ".-", "-."].iter().any(|pair| text.contains(pair)) {
            return wrong("next to a dot stand letters or digits");
        }
        if text.split('.').count() == 4 && text.split('.').all(|part| part.parse::<u8>().is_ok()) {
            return wrong("it must not look like an IP address");
        }
        if ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| text.starts_with(prefix)) {
            return wrong("this prefix is reserved");
        }
        if ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|end| text.ends_with(end)) {
            return wrong("this suffix is reserved");
        }
        Ok(())
    }
}

impl ObjectKey {
    fn check(text: &str) -> Result<(), NameError> {
        if text.is_empty() {
            return Err(NameError::Key("it is empty"));
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(NameError::KeyTooLong(text.len()));
        }
        if text.contains('\0') {
            return Err(NameError::Key("it contains U+0000"));
        }
        Ok(())
    }
}

impl UserName {
    fn check(text: &str) -> Result<(), NameError> {
        let (home, name) = text.split_once('/').map_or((None, text), |(home, name)| (Some(home), name));
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_of_a_name) {
            return Err(NameError::User("it has 1 to 64 letters, digits and +=,.@_-"));
        }
        home.map_or(Ok(()), ClusterName::check)
    }

    /// The cluster that the user is of; `None`: of this one.
    pub fn home(&self) -> Option<&str> {
        self.0.split_once('/').map(|(home, _)| home)
    }

    /// How other clusters name a user of this cluster; users of others have the same name everywhere.
    pub fn at_home_in(&self, cluster: &ClusterName) -> UserName {
        match self.home() {
            Some(_) => self.clone(),
            None => UserName(format!("{cluster}/{self}")),
        }
    }

    /// How this cluster names a user whom others name like this: without the name of the cluster for its own.
    pub fn seen_in(&self, cluster: &ClusterName) -> UserName {
        match self.0.split_once('/') {
            Some((home, name)) if home == cluster.as_str() => UserName(name.to_string()),
            Some(_) | None => self.clone(),
        }
    }
}

impl ClusterName {
    fn check(text: &str) -> Result<(), NameError> {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = (1..=32).contains(&text.len()) && text.bytes().all(letters);
        if !good || text.contains("--") || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Cluster("it has 1 to 32 of a-z, 0-9 and single '-' between them"));
        }
        Ok(())
    }
}

impl PolicyName {
    fn check(text: &str) -> Result<(), NameError> {
        if !(1..=128).contains(&text.len()) || !text.bytes().all(is_of_a_name) {
            return Err(NameError::Policy("it has 1 to 128 letters, digits and +=,.@_-"));
        }
        Ok(())
    }
}

impl AnnotationName {
    fn check(text: &str) -> Result<(), NameError> {
        let wrong = |why| Err(NameError::Annotation(why));
        if ANNOTATION_NAME_BYTES_MAX < text.len() {
            return Err(NameError::AnnotationTooLong(text.len()));
        }
        let allowed = |letter: char| letter.is_alphanumeric() || "_.-".contains(letter);
        if text.is_empty() || !text.chars().all(allowed) {
            return wrong("it has letters, digits, underscores, periods and hyphens");
        }
        let begins =
            |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if begins("aws") || begins("s3") {
            return wrong("names that begin with aws or s3 are reserved");
        }
        Ok(())
    }
}

impl ClientToken {
    fn check(text: &str) -> Result<(), NameError> {
        if !(1..=64).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NameError::ClientToken("it has 1 to 64 visible ASCII characters"));
        }
        Ok(())
    }
}

/// What the names of users and of their policies are made of.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte)
}

impl AccessKeyId {
    fn check(text: &str) -> Result<(), NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !(3..=128).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(NameError::AccessKey("it has 3 to 128 letters, digits and _.-"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_rules_of_s3() {
        for good in ["abc", "a-b", "a.b.c", "1.2.3.4.5", "health", "192.168.0.999", &"a".repeat(63)] {
            assert!(good.parse::<BucketName>().is_ok(), "{good}");
        }
        for bad in [
            "aa",
            "",
            "A-b",
            "a_b",
            "a..b",
            "-ab",
            "ab-",
            ".ab",
            "192.168.0.1",
            "xn--a",
            "a-s3alias",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<BucketName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_any_text_of_1024_bytes() {
        for good in ["..", "a//b", "/", "a/", "\u{1}", "ü+%", &"é".repeat(512)] {
            assert!(good.parse::<ObjectKey>().is_ok(), "{good}");
        }
        assert_eq!("é".repeat(512).parse::<ObjectKey>().map(|key| key.as_str().len()), Ok(1024));
        assert_eq!((("é".repeat(512)) + "x").parse::<ObjectKey>(), Err(NameError::KeyTooLong(1025)));
        assert!("a\0b".parse::<ObjectKey>().is_err());
        assert!("".parse::<ObjectKey>().is_err());
    }
}
