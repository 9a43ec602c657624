//! The ten additional checksums, computed here a second time, from the crates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Digest;

/// One algorithm: its name in headers and XML, and its digest.
#[derive(Debug, Clone, Copy)]
pub struct Algorithm {
    /// As in `x-amz-checksum-algorithm`.
    pub name: &'static str,
    /// The header that carries it.
    pub header: &'static str,
    /// Whether multipart uploads may combine it over the whole object.
    pub full_object: bool,
    /// Whether multipart uploads may take it over the checksums of the parts.
    pub composite: bool,
    digest: fn(&[u8]) -> Vec<u8>,
}

impl Algorithm {
    /// The raw digest.
    pub fn digest(&self, bytes: &[u8]) -> Vec<u8> {
        (self.digest)(bytes)
    }

    /// The digest as S3 writes it.
    pub fn base64(&self, bytes: &[u8]) -> String {
        STANDARD.encode(self.digest(bytes))
    }
}

/// The composite checksum of parts: the digest of the digests, and `-N`.
pub fn composite(algorithm: &Algorithm, parts: &[&[u8]]) -> String {
    let digests: Vec<u8> = parts.iter().flat_map(|part| algorithm.digest(part)).collect();
    format!("{}-{}", algorithm.base64(&digests), parts.len())
}

/// All ten.
pub const ALGORITHMS: [Algorithm; 10] = [
    Algorithm {
        name: "CRC32",
        header: "x-amz-checksum-crc32",
        full_object: true,
        composite: true,
        digest: crc32,
    },
    Algorithm {
        name: "CRC32C",
        header: "x-amz-checksum-crc32c",
        full_object: true,
        composite: true,
        digest: crc32c,
    },
    Algorithm {
        name: "CRC64NVME",
        header: "x-amz-checksum-crc64nvme",
        full_object: true,
        composite: false,
        digest: crc64nvme,
    },
    Algorithm {
        name: "SHA1",
        header: "x-amz-checksum-sha1",
        full_object: false,
        composite: true,
        digest: sha1,
    },
    Algorithm {
        name: "SHA256",
        header: "x-amz-checksum-sha256",
        full_object: false,
        composite: true,
        digest: sha256,
    },
    Algorithm {
        name: "MD5",
        header: "x-amz-checksum-md5",
        full_object: false,
        composite: true,
        digest: md5_digest,
    },
    Algorithm {
        name: "SHA512",
        header: "x-amz-checksum-sha512",
        full_object: false,
        composite: true,
        digest: sha512,
    },
    Algorithm {
        name: "XXHASH3",
        header: "x-amz-checksum-xxhash3",
        full_object: false,
        composite: true,
        digest: xxhash3,
    },
    Algorithm {
        name: "XXHASH64",
        header: "x-amz-checksum-xxhash64",
        full_object: false,
        composite: true,
        digest: xxhash64,
    },
    Algorithm {
        name: "XXHASH128",
        header: "x-amz-checksum-xxhash128",
        full_object: false,
        composite: true,
        digest: xxhash128,
    },
];

fn crc32(bytes: &[u8]) -> Vec<u8> {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
    (crc as u32).to_be_bytes().to_vec()
}

fn crc32c(bytes: &[u8]) -> Vec<u8> {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    (crc as u32).to_be_bytes().to_vec()
}

fn crc64nvme(bytes: &[u8]) -> Vec<u8> {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes).to_be_bytes().to_vec()
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    sha1::Sha1::digest(bytes).to_vec()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest(bytes).to_vec()
}

fn sha512(bytes: &[u8]) -> Vec<u8> {
    sha2::Sha512::digest(bytes).to_vec()
}

fn md5_digest(bytes: &[u8]) -> Vec<u8> {
    md5::Md5::digest(bytes).to_vec()
}

fn xxhash3(bytes: &[u8]) -> Vec<u8> {
    xxhash_rust::xxh3::xxh3_64(bytes).to_be_bytes().to_vec()
}

fn xxhash64(bytes: &[u8]) -> Vec<u8> {
    xxhash_rust::xxh64::xxh64(bytes, 0).to_be_bytes().to_vec()
}

fn xxhash128(bytes: &[u8]) -> Vec<u8> {
    xxhash_rust::xxh3::xxh3_128(bytes).to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::ALGORITHMS;

    /// The check values of the published catalogues, over the nine digits.
    #[test]
    fn digests_of_the_nine_digits() {
        let expected = [
            ("CRC32", "cbf43926"),
            ("CRC32C", "e3069283"),
            ("CRC64NVME", "ae8b14860a799888"),
            ("SHA1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            ("MD5", "25f9e794323b453885f5181f1b624d0b"),
            ("XXHASH64", "8cb841db40e6ae83"),
        ];
        for (name, hex) in expected {
            let found = ALGORITHMS.iter().find(|algorithm| algorithm.name == name);
            assert_eq!(
                found.map(|algorithm| hex::encode(algorithm.digest(b"123456789"))),
                Some(hex.to_string())
            );
        }
    }
}
