//! The ten additional checksums: names, text forms, incremental hashing, and checksums of objects from those of
//! their parts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use consensus::meta::model::{Checksum, ChecksumAlgorithm, ChecksumKind};
use crc_fast::{CrcAlgorithm, checksum_combine};
use http::HeaderMap;
use sha2::Digest as _;

use super::error::{Code, S3Error, S3Result};
use super::request::header_text;

/// Names of one algorithm.
struct Names {
    algorithm: ChecksumAlgorithm,
    /// In `x-amz-checksum-algorithm` and in XML.
    name: &'static str,
    /// Of the header and trailer with the value.
    header: &'static str,
    /// Of the element with the value.
    element: &'static str,
    /// Of the raw digest.
    bytes: usize,
}

const fn names(
    algorithm: ChecksumAlgorithm,
    name: &'static str,
    header: &'static str,
    element: &'static str,
    bytes: usize,
) -> Names {
    Names { algorithm, name, header, element, bytes }
}

/// In the order of [`ChecksumAlgorithm`], so that an algorithm is its own index.
const NAMES: [Names; 10] = [
    names(ChecksumAlgorithm::Crc32, "CRC32", "x-amz-checksum-crc32", "ChecksumCRC32", 4),
    names(ChecksumAlgorithm::Crc32c, "CRC32C", "x-amz-checksum-crc32c", "ChecksumCRC32C", 4),
    names(ChecksumAlgorithm::Crc64Nvme, "CRC64NVME", "x-amz-checksum-crc64nvme", "ChecksumCRC64NVME", 8),
    names(ChecksumAlgorithm::Sha1, "SHA1", "x-amz-checksum-sha1", "ChecksumSHA1", 20),
    names(ChecksumAlgorithm::Sha256, "SHA256", "x-amz-checksum-sha256", "ChecksumSHA256", 32),
    names(ChecksumAlgorithm::Md5, "MD5", "x-amz-checksum-md5", "ChecksumMD5", 16),
    names(ChecksumAlgorithm::Sha512, "SHA512", "x-amz-checksum-sha512", "ChecksumSHA512", 64),
    names(ChecksumAlgorithm::XxHash3, "XXHASH3", "x-amz-checksum-xxhash3", "ChecksumXXHASH3", 8),
    names(ChecksumAlgorithm::XxHash64, "XXHASH64", "x-amz-checksum-xxhash64", "ChecksumXXHASH64", 8),
    names(ChecksumAlgorithm::XxHash128, "XXHASH128", "x-amz-checksum-xxhash128", "ChecksumXXHASH128", 16),
];

fn of(algorithm: ChecksumAlgorithm) -> &'static Names {
    &NAMES[algorithm as usize]
}

/// The name in headers and XML: `CRC32`.
pub fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    of(algorithm).name
}

/// The header (and trailer) with the value: `x-amz-checksum-crc32`.
pub fn header_name(algorithm: ChecksumAlgorithm) -> &'static str {
    of(algorithm).header
}

/// The XML element with the value: `ChecksumCRC32`.
pub fn element(algorithm: ChecksumAlgorithm) -> &'static str {
    of(algorithm).element
}

/// All algorithms.
pub fn all() -> impl Iterator<Item = ChecksumAlgorithm> {
    NAMES.iter().map(|names| names.algorithm)
}

/// The algorithm by its name, in any case.
pub fn by_name(name: &str) -> Option<ChecksumAlgorithm> {
    NAMES.iter().find(|names| names.name.eq_ignore_ascii_case(name)).map(|names| names.algorithm)
}

/// The algorithm by the name of its header, in any case.
pub fn by_header(header: &str) -> Option<ChecksumAlgorithm> {
    NAMES.iter().find(|names| names.header.eq_ignore_ascii_case(header)).map(|names| names.algorithm)
}

/// The raw digest of a base64 text, if it has the algorithm's length.
pub fn decode(algorithm: ChecksumAlgorithm, text: &str) -> Option<Bytes> {
    let bytes = STANDARD.decode(text).ok()?;
    (bytes.len() == of(algorithm).bytes).then(|| Bytes::from(bytes))
}

/// The text of a digest: base64.
pub fn encode(value: &[u8]) -> String {
    STANDARD.encode(value)
}

/// The text of an object's checksum as clients see it: a composite one ends in `-N`, the count of its parts.
pub fn display(checksum: &Checksum, parts: u16) -> String {
    match checksum.kind {
        ChecksumKind::FullObject => encode(&checksum.value),
        ChecksumKind::Composite => format!("{}-{parts}", encode(&checksum.value)),
    }
}

/// `FULL_OBJECT` or `COMPOSITE`.
pub fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// The value of `x-amz-checksum-type`.
pub fn kind_by_name(name: &str) -> S3Result<ChecksumKind> {
    match name {
        "FULL_OBJECT" => Ok(ChecksumKind::FullObject),
        "COMPOSITE" => Ok(ChecksumKind::Composite),
        _ => Err(Code::InvalidRequest.says("Value for x-amz-checksum-type header is invalid.")),
    }
}

/// Whether checksums of parts can be combined to one of all bytes.
pub fn combines(algorithm: ChecksumAlgorithm) -> bool {
    crc(algorithm).is_some()
}

/// The one `x-amz-checksum-*` header of a request, decoded. Two of them, or a malformed one: 400 InvalidRequest.
pub fn from_headers(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, Bytes)>> {
    let mut found = None;
    for names in &NAMES {
        let Some(text) = header_text(headers, names.header)? else {
            continue;
        };
        if found.is_some() {
            return Err(Code::InvalidRequest.says("Expecting a single x-amz-checksum- header."));
        }
        let value = decode(names.algorithm, text).ok_or_else(|| invalid_value(names.header))?;
        found = Some((names.algorithm, value));
    }
    Ok(found)
}

/// The value of a checksum header or trailer is not base64 of the right length.
pub fn invalid_value(header: &str) -> S3Error {
    Code::InvalidRequest.says(format!("Value for {header} header is invalid."))
}

/// The algorithm that a header such as `x-amz-checksum-algorithm` names.
pub fn algorithm_header(headers: &HeaderMap, header: &str) -> S3Result<Option<ChecksumAlgorithm>> {
    let Some(text) = header_text(headers, header)? else {
        return Ok(None);
    };
    let unsupported = || Code::InvalidRequest.says("Checksum algorithm provided is unsupported.");
    by_name(text).map(Some).ok_or_else(unsupported)
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1
        | ChecksumAlgorithm::Sha256
        | ChecksumAlgorithm::Md5
        | ChecksumAlgorithm::Sha512
        | ChecksumAlgorithm::XxHash3
        | ChecksumAlgorithm::XxHash64
        | ChecksumAlgorithm::XxHash128 => None,
    }
}

/// Hashes bytes as they come.
pub struct Hasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

enum State {
    Crc(Box<crc_fast::Digest>),
    Sha1(Box<sha1::Sha1>),
    Sha256(Box<sha2::Sha256>),
    Sha512(Box<sha2::Sha512>),
    Md5(Box<md5::Md5>),
    /// 64 and 128 bits come from one state.
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
    Xxh64(Box<xxhash_rust::xxh64::Xxh64>),
}

impl Hasher {
    /// Starts with no bytes.
    pub fn new(algorithm: ChecksumAlgorithm) -> Hasher {
        let state = match (algorithm, crc(algorithm)) {
            (_, Some(crc)) => State::Crc(Box::new(crc_fast::Digest::new(crc))),
            (ChecksumAlgorithm::Sha1, _) => State::Sha1(Box::default()),
            (ChecksumAlgorithm::Sha256, _) => State::Sha256(Box::default()),
            (ChecksumAlgorithm::Sha512, _) => State::Sha512(Box::default()),
            (ChecksumAlgorithm::Md5, _) => State::Md5(Box::default()),
            (ChecksumAlgorithm::XxHash64, _) => State::Xxh64(Box::new(xxhash_rust::xxh64::Xxh64::new(0))),
            // XXHASH3 and XXHASH128; the CRCs were taken above.
            _ => State::Xxh3(Box::new(xxhash_rust::xxh3::Xxh3::new())),
        };
        Hasher { algorithm, state }
    }

    /// Which one it is.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Xxh3(state) => state.update(bytes),
            State::Xxh64(state) => state.update(bytes),
        }
    }

    /// The checksum of everything taken, as a full-object checksum.
    pub fn finish(self) -> Checksum {
        let value = match self.state {
            State::Crc(state) => crc_bytes(self.algorithm, state.finalize()),
            State::Sha1(state) => Bytes::copy_from_slice(&state.finalize()),
            State::Sha256(state) => Bytes::copy_from_slice(&state.finalize()),
            State::Sha512(state) => Bytes::copy_from_slice(&state.finalize()),
            State::Md5(state) => Bytes::copy_from_slice(&state.finalize()),
            State::Xxh3(state) if self.algorithm == ChecksumAlgorithm::XxHash128 => {
                Bytes::copy_from_slice(&state.digest128().to_be_bytes())
            }
            State::Xxh3(state) => Bytes::copy_from_slice(&state.digest().to_be_bytes()),
            State::Xxh64(state) => Bytes::copy_from_slice(&state.digest().to_be_bytes()),
        };
        Checksum { algorithm: self.algorithm, kind: ChecksumKind::FullObject, value }
    }
}

/// The low bytes of a CRC, big endian.
fn crc_bytes(algorithm: ChecksumAlgorithm, value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes()[8 - of(algorithm).bytes..])
}

/// The checksum of all bytes from the full checksums of consecutive parts with their lengths. `None` unless the
/// algorithm is a CRC and every value has its length.
pub fn combined<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = (&'a [u8], u64)>,
) -> Option<Checksum> {
    let crc = crc(algorithm)?;
    let mut whole: Option<u64> = None;
    for (value, bytes) in parts {
        if value.len() != of(algorithm).bytes {
            return None;
        }
        let number = value.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        whole = Some(match whole {
            None => number,
            Some(before) => checksum_combine(crc, before, number, bytes),
        });
    }
    let value = crc_bytes(algorithm, whole?);
    Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value })
}

/// The checksum of the checksums of parts.
pub fn composite<'a>(algorithm: ChecksumAlgorithm, parts: impl IntoIterator<Item = &'a [u8]>) -> Checksum {
    let mut hasher = Hasher::new(algorithm);
    for value in parts {
        hasher.update(value);
    }
    Checksum { kind: ChecksumKind::Composite, ..hasher.finish() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Check values of the catalogues of the algorithms, over "123456789" (CRCs) and "" or "abc".
    #[test]
    fn known_values() {
        for (algorithm, input, expected) in [
            (ChecksumAlgorithm::Crc32, "123456789", "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "123456789", "e3069283"),
            (ChecksumAlgorithm::Crc64Nvme, "123456789", "ae8b14860a799888"),
            (ChecksumAlgorithm::Sha1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                ChecksumAlgorithm::Sha256,
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (ChecksumAlgorithm::Md5, "abc", "900150983cd24fb0d6963f7d28e17f72"),
            (ChecksumAlgorithm::XxHash3, "", "2d06800538d394c2"),
            (ChecksumAlgorithm::XxHash64, "", "ef46db3751d8e999"),
            (ChecksumAlgorithm::XxHash128, "", "99aa06d3014798d86001c324468d497f"),
        ] {
            let mut hasher = Hasher::new(algorithm);
            for byte in input.as_bytes() {
                hasher.update(&[*byte]);
            }
            assert_eq!(hex::encode(hasher.finish().value), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn names_and_lengths_agree() {
        for (at, algorithm) in all().enumerate() {
            assert_eq!(algorithm as usize, at);
            assert_eq!(by_name(&name(algorithm).to_lowercase()), Some(algorithm));
            assert_eq!(by_header(header_name(algorithm)), Some(algorithm));
            let value = Hasher::new(algorithm).finish().value;
            assert_eq!(decode(algorithm, &encode(&value)), Some(value));
            assert_eq!(decode(algorithm, "AAA="), None);
            assert_eq!(decode(algorithm, "!"), None);
        }
    }

    #[test]
    fn crcs_of_parts_combine_to_that_of_the_whole() {
        let whole: Vec<u8> = (0..100_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for algorithm in all() {
            let digest = |bytes: &[u8]| {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(bytes);
                hasher.finish()
            };
            let parts = [&whole[..1], &whole[1..70_000], &whole[70_000..]];
            let values: Vec<Bytes> = parts.iter().map(|part| digest(part).value).collect();
            let pairs = values.iter().zip(parts).map(|(value, part)| (&value[..], part.len() as u64));
            match combined(algorithm, pairs) {
                Some(checksum) => assert_eq!(checksum, digest(&whole), "{algorithm:?}"),
                None => assert!(!combines(algorithm)),
            }
        }
    }

    #[test]
    fn headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(from_headers(&headers).unwrap(), None);
        headers.insert("x-amz-checksum-crc32", "y/Q5Jg==".parse().unwrap());
        let (algorithm, value) = from_headers(&headers).unwrap().unwrap();
        assert_eq!((algorithm, hex::encode(value)), (ChecksumAlgorithm::Crc32, "cbf43926".to_string()));
        headers.insert("x-amz-checksum-sha1", "bad".parse().unwrap());
        assert_eq!(from_headers(&headers).unwrap_err().code(), Code::InvalidRequest);
    }
}
