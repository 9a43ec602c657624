//! What the multipart operations share: finding an upload, and what its checksums are.

use consensus::meta::model::{Checksum, ChecksumAlgorithm, ChecksumKind, Part, Upload};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, PartsPage, Query as MetaQuery};
use consensus::meta::sealing::Sealing;
use fabric::ids::Stamp;
use fabric::limits::{LIST_KEYS_MAX, PARTS_MAX};

use super::checksum;
use super::error::{Code, S3Error, S3Result};
use super::op::{Context, unexpected};
use super::payload::Payload;
use super::request::Query;

/// What a part belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The upload.
    pub upload: Stamp,
    /// The number of the part.
    pub number: u16,
}

impl Place {
    /// Reads `partNumber` and `uploadId`.
    pub fn parse(query: &Query) -> S3Result<Place> {
        let number = query.number("partNumber", 1, u64::from(PARTS_MAX)).map_err(|_| {
            let text = query.get("partNumber").unwrap_or("");
            S3Error::argument(
                "partNumber",
                text,
                "Part number must be an integer between 1 and 10000, inclusive",
            )
        })?;
        let number = number.ok_or_else(|| S3Error::argument("partNumber", "", "partNumber is missing."))?;
        Ok(Place { upload: super::versions::upload(query)?, number: number as u16 })
    }
}

/// A page of the parts of an upload.
pub async fn parts(
    cx: &Context,
    key: &ObjectKey,
    upload: Stamp,
    after: u16,
    limit: u32,
) -> S3Result<PartsPage> {
    let query = MetaQuery::Parts { bucket: cx.bucket()?.id, key: key.clone(), upload, after, limit };
    match cx.ask(query).await {
        Ok(Answer::Parts(page)) => Ok(page),
        Ok(_) => Err(unexpected("Parts")),
        Err(error) if error.code() == Code::NoSuchUpload => Err(error.field("UploadId", upload.to_string())),
        Err(error) => Err(error),
    }
}

/// An upload, and how it is encrypted.
pub async fn find(cx: &Context, key: &ObjectKey, upload: Stamp) -> S3Result<(Upload, Option<Sealing>)> {
    let query = MetaQuery::Upload { bucket: cx.bucket()?.id, key: key.clone(), upload };
    match cx.ask(query).await {
        Ok(Answer::Upload { upload, sealing }) => Ok((upload, sealing)),
        Ok(_) => Err(unexpected("Upload")),
        Err(error) if error.code() == Code::NoSuchUpload => Err(error.field("UploadId", upload.to_string())),
        Err(error) => Err(error),
    }
}

/// All parts of an upload, at most 10,000.
pub async fn all_parts(cx: &Context, key: &ObjectKey, upload: Stamp) -> S3Result<(Upload, Vec<Part>)> {
    let mut page = parts(cx, key, upload, 0, LIST_KEYS_MAX).await?;
    let mut found = std::mem::take(&mut page.parts);
    while page.more && found.len() < usize::from(PARTS_MAX) {
        let after = found.last().map_or(0, |part| part.number);
        page = parts(cx, key, upload, after, LIST_KEYS_MAX).await?;
        if page.parts.is_empty() {
            break;
        }
        found.append(&mut page.parts);
    }
    Ok((page.upload, found))
}

/// Makes the checksum of a part the one that the upload was announced with; another one from the client is refused.
pub fn choose_checksum(upload: &Upload, payload: &mut Payload) -> S3Result<()> {
    let Some((announced, _)) = upload.checksum else {
        return Ok(());
    };
    if payload.names_checksum() && payload.algorithm() != announced {
        return Err(mismatch(announced, payload.algorithm()));
    }
    payload.prefer(announced);
    Ok(())
}

/// The client used another algorithm than it announced.
pub fn mismatch(announced: ChecksumAlgorithm, got: ChecksumAlgorithm) -> S3Error {
    let (announced, got) = (checksum::name(announced), checksum::name(got));
    Code::InvalidRequest.says(format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
        announced.to_lowercase(),
        got.to_lowercase(),
    ))
}

/// The checksum of the object that these parts become: what was announced, or else CRC64NVME of all bytes where
/// every part has it. `None` where a part lacks its own.
pub fn checksum_of(
    announced: Option<(ChecksumAlgorithm, ChecksumKind)>,
    parts: &[&Part],
) -> Option<Checksum> {
    let (algorithm, kind) = announced.unwrap_or((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject));
    let mut values = Vec::with_capacity(parts.len());
    for part in parts {
        let of_part = part.checksum.as_ref().filter(|checksum| checksum.algorithm == algorithm)?;
        values.push((&of_part.value[..], part.bytes));
    }
    match kind {
        ChecksumKind::FullObject => checksum::combined(algorithm, values),
        ChecksumKind::Composite => {
            Some(checksum::composite(algorithm, values.into_iter().map(|(value, _)| value)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::ClusterMs;

    use super::*;
    use crate::s3::checksum::Hasher;

    fn hashed(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    fn part(number: u16, bytes: &[u8], algorithm: ChecksumAlgorithm) -> Part {
        let checksum = Some(hashed(algorithm, bytes));
        Part {
            number,
            bytes: bytes.len() as u64,
            md5: [0; 16],
            checksum,
            modified: ClusterMs(0),
            extent: None,
        }
    }

    #[test]
    fn checksums_of_objects_come_from_their_parts() {
        let (crc, sha) = (ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256);
        let parts = [part(1, b"hello ", crc), part(2, b"world", crc)];
        let parts: Vec<&Part> = parts.iter().collect();
        assert_eq!(checksum_of(None, &parts), Some(hashed(crc, b"hello world")));
        assert_eq!(
            checksum_of(Some((crc, ChecksumKind::FullObject)), &parts),
            Some(hashed(crc, b"hello world"))
        );
        assert_eq!(checksum_of(Some((sha, ChecksumKind::Composite)), &parts), None);
        let parts = [part(1, b"a", sha), part(2, b"b", sha)];
        let parts: Vec<&Part> = parts.iter().collect();
        let both = [hashed(sha, b"a").value, hashed(sha, b"b").value].concat();
        let expected = Checksum { kind: ChecksumKind::Composite, ..hashed(sha, &both) };
        assert_eq!(checksum_of(Some((sha, ChecksumKind::Composite)), &parts), Some(expected));
        assert_eq!(checksum_of(None, &parts), None);
    }

    #[test]
    fn places() {
        let stamp = "000000000000000000010000";
        let parse = |text: &str| Place::parse(&Query::parse(text).unwrap());
        assert_eq!(parse(&format!("partNumber=10000&uploadId={stamp}")).unwrap().number, 10_000);
        for (text, code) in [
            (format!("partNumber=0&uploadId={stamp}"), Code::InvalidArgument),
            (format!("partNumber=10001&uploadId={stamp}"), Code::InvalidArgument),
            (format!("partNumber=-1&uploadId={stamp}"), Code::InvalidArgument),
            (format!("partNumber=2147483648&uploadId={stamp}"), Code::InvalidArgument),
            (format!("partNumber=&uploadId={stamp}"), Code::InvalidArgument),
            ("partNumber=1&uploadId=x".to_string(), Code::NoSuchUpload),
        ] {
            assert_eq!(parse(&text).unwrap_err().code(), code, "{text}");
        }
    }
}
