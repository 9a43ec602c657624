//! What the index knows objects by: runs of three bytes of their names, and their tags, metadata and types.
//!
//! A term is a number. Two things may share one: a term only says where to look, and what is found is compared. So is
//! the case of names: they are folded letter by letter, so that the folded whole is the whole of the folded parts. How
//! terms are made is stored: another way is another [`super::file::FORMAT`].

use consensus::meta::model::Attributes;
use fabric::codec::crc32c;

/// The type of what was stored without one, as S3 has it.
const TYPE_DEFAULT: &str = "binary/octet-stream";
/// Terms that are no trigrams have this bit.
const HASHED: u32 = 1 << 31;

/// Appends a text without its case.
pub fn fold_into(text: &str, folded: &mut String) {
    if text.is_ascii() {
        let begin = folded.len();
        folded.push_str(text);
        folded[begin..].make_ascii_lowercase();
    } else {
        folded.extend(text.chars().flat_map(char::to_lowercase));
    }
}

/// A text without its case.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    fold_into(text, &mut folded);
    folded
}

/// The runs of three bytes of a folded text.
pub fn trigrams(folded: &str) -> impl Iterator<Item = u32> + '_ {
    let number = |three: &[u8]| three.iter().fold(0, |number, &byte| (number << 8) | u32::from(byte));
    folded.as_bytes().windows(3).map(number)
}

fn hashed(kind: u8, key: &str, value: &str) -> u32 {
    HASHED | crc32c(&[&[kind], key.as_bytes(), &[0], value.as_bytes()])
}

/// Of having a tag.
pub fn tag(key: &str) -> u32 {
    hashed(1, key, "")
}

/// Of a tag with its value.
pub fn tag_value(key: &str, value: &str) -> u32 {
    hashed(2, key, value)
}

/// Of having user metadata of a name.
pub fn meta(key: &str) -> u32 {
    hashed(3, key, "")
}

/// Of it with its value.
pub fn meta_value(key: &str, value: &str) -> u32 {
    hashed(4, key, value)
}

/// Of a content type.
pub fn content_type(folded: &str) -> u32 {
    hashed(5, folded, "")
}

/// Of all content types of a kind, such as `image`.
pub fn content_kind(folded: &str) -> u32 {
    hashed(6, folded, "")
}

/// The content type of an object without its case: whole, and without its parameters.
pub fn types(attributes: &Attributes) -> (String, String) {
    let whole = attributes.headers.get("content-type").map_or(TYPE_DEFAULT, String::as_str).to_lowercase();
    let bare = whole.split(';').next().unwrap_or_default().trim().to_string();
    (whole, bare)
}

/// The terms of all but the name.
pub fn of_attributes(attributes: &Attributes, terms: &mut Vec<u32>) {
    for (key, value) in &attributes.tags {
        terms.extend([tag(key), tag_value(key, value)]);
    }
    for (key, value) in &attributes.user {
        terms.extend([meta(key), meta_value(key, value)]);
    }
    let (whole, bare) = types(attributes);
    let kind = bare.split('/').next().unwrap_or_default();
    terms.extend([content_type(&bare), content_kind(kind)]);
    if whole != bare {
        terms.push(content_type(&whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_goes_letter_by_letter() {
        for (left, right) in [("ΑΣ", "x"), ("İ", "I"), ("a", "B"), ("ſ", "S")] {
            assert_eq!(fold(&format!("{left}{right}")), fold(left) + &fold(right));
        }
    }

    #[test]
    fn terms_keep_their_numbers() {
        assert_eq!(trigrams("abcd").collect::<Vec<_>>(), [0x0061_6263, 0x0062_6364]);
        assert_eq!(trigrams("ab").count(), 0);
        assert_ne!(tag("a"), meta("a"));
        assert_ne!(tag_value("a", "b"), tag_value("ab", ""));
    }
}
