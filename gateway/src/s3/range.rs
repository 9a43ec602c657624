//! Ranges of objects. One range is answered with a part; several, or what is no range, with the whole object.

use super::error::{Code, S3Error, S3Result};

/// Bytes `start .. start + bytes` of an object; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// How many; at least one.
    pub bytes: u64,
}

impl ByteRange {
    /// `bytes 0-9/100`.
    pub fn content_range(&self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, self.start + self.bytes - 1)
    }
}

/// The range that a `Range` header names in an object of `size` bytes; `None` where the header means nothing and
/// the whole object is the answer.
pub fn parse(header: Option<&str>, size: u64) -> S3Result<Option<ByteRange>> {
    let Some(spec) = header.and_then(|text| text.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Ok(None);
    };
    if !is_digits(first) || !is_digits(last) {
        return Ok(None);
    }
    match (number(first), number(last)) {
        (None, None) => Ok(None),
        // The last so many bytes.
        (None, Some(0)) => Err(unsatisfiable(spec, size)),
        (None, Some(_)) if size == 0 => Err(unsatisfiable(spec, size)),
        (None, Some(bytes)) => {
            let bytes = bytes.min(size);
            Ok(Some(ByteRange { start: size - bytes, bytes }))
        }
        (Some(start), Some(end)) if end < start => Ok(None),
        (Some(start), _) if size <= start => Err(unsatisfiable(spec, size)),
        (Some(start), None) => Ok(Some(ByteRange { start, bytes: size - start })),
        (Some(start), Some(end)) => Ok(Some(ByteRange { start, bytes: end.min(size - 1) - start + 1 })),
    }
}

/// The range of `x-amz-copy-source-range` in a source of `size` bytes: both ends given and within, or refused.
pub fn parse_copy(text: &str, size: u64) -> S3Result<ByteRange> {
    let header = "x-amz-copy-source-range";
    let shape = || {
        let message = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last \
                       are the zero-based offsets of the first and last bytes to copy";
        S3Error::argument(header, text, message)
    };
    let (first, last) =
        text.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')).ok_or_else(shape)?;
    if !is_digits(first) || !is_digits(last) {
        return Err(shape());
    }
    let (start, end) = (number(first).ok_or_else(shape)?, number(last).ok_or_else(shape)?);
    if end < start {
        return Err(shape());
    }
    if size <= end {
        return Err(S3Error::argument(
            header,
            text,
            format!("Range specified is not valid for source object of size: {size}"),
        ));
    }
    Ok(ByteRange { start, bytes: end - start + 1 })
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number, or the largest one where it is larger; `None` for no digits.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(u64::MAX)) }
}

/// 416, with the size.
pub fn unsatisfiable(requested: &str, size: u64) -> S3Error {
    S3Error::from(Code::InvalidRange)
        .field("RangeRequested", format!("bytes={requested}"))
        .field("ActualObjectSize", size.to_string())
        .header(http::header::CONTENT_RANGE, &format!("bytes */{size}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let whole = Some(None);
        let part = |start, bytes| Some(Some(ByteRange { start, bytes }));
        let unsatisfiable = None;
        for (header, size, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=2-5", 10, part(2, 4)),
            ("bytes=2-", 10, part(2, 8)),
            ("bytes=-3", 10, part(7, 3)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=9-100", 10, part(9, 1)),
            ("bytes=0-18446744073709551615", 10, part(0, 10)),
            ("bytes=0-1000000000000000000000000000000", 10, part(0, 10)),
            ("bytes=-1000000000000000000000000000000", 10, part(0, 10)),
            ("bytes=1000000000000000000000000000000-", 10, unsatisfiable),
            ("bytes=10-", 10, unsatisfiable),
            ("bytes=10-20", 10, unsatisfiable),
            ("bytes=-0", 10, unsatisfiable),
            ("bytes=0-", 0, unsatisfiable),
            ("bytes=0-0", 0, unsatisfiable),
            ("bytes=-1", 0, unsatisfiable),
            ("bytes=10-5", 10, whole),
            ("bytes=abc", 10, whole),
            ("bytes=--1", 10, whole),
            ("bytes=-", 10, whole),
            ("bytes=", 10, whole),
            ("foo=0-1", 10, whole),
            ("bytes= -1", 10, whole),
            ("bytes=+1-2", 10, whole),
            ("bytes=0-0,1-2", 10, whole),
        ] {
            match parse(Some(header), size) {
                Ok(range) => assert_eq!(Some(range), expected, "{header} of {size}"),
                Err(error) => {
                    assert_eq!(expected, unsatisfiable, "{header} of {size}");
                    assert_eq!(error.code(), Code::InvalidRange);
                    assert_eq!(error.headers()[0].1, format!("bytes */{size}"));
                }
            }
        }
        assert_eq!(parse(None, 10).unwrap(), None);
        assert_eq!(ByteRange { start: 2, bytes: 4 }.content_range(10), "bytes 2-5/10");
    }

    #[test]
    fn copy_ranges_are_exact() {
        assert_eq!(parse_copy("bytes=0-9", 10).unwrap(), ByteRange { start: 0, bytes: 10 });
        for bad in
            ["bytes=0-10", "bytes=0-", "bytes=-1", "bytes=5-4", "0-9", "bytes=a-b", "bytes=0-1,2-3", ""]
        {
            assert_eq!(parse_copy(bad, 10).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
