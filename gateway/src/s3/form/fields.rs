//! The fields of a form: `multipart/form-data`, up to the file.

use bytes::BytesMut;

use super::file::{File, find, read_more};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::payload::RawBody;

/// All before the file, as S3 has it.
const BYTES_MAX: usize = 20 * 1024;
const BOUNDARY_BYTES_MAX: usize = 70;

/// The fields before the file, in order, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    pairs: Vec<(String, String)>,
    filename: String,
}

impl Fields {
    /// The value of a field by its name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Puts the name of the file where a field says `${filename}`; of a path only its end.
    pub(super) fn fill_in_filename(&mut self) {
        let filename = self.filename.rsplit(['/', '\\']).next().unwrap_or("").to_string();
        for (name, value) in &mut self.pairs {
            if name != "policy" {
                *value = value.replace("${filename}", &filename);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(pairs: &[(&str, &str)]) -> Fields {
        let pairs = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Fields { pairs, filename: String::new() }
    }
}

/// The boundary that a `Content-Type` names, if it is one of a form.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()).then_some(boundary)
}

/// A parameter of a header, with or without quotes.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// The value at the start of a text, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim().to_string(), &text[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, letter) in quoted.char_indices() {
        match letter {
            '"' if !escaped => return Some((value, &quoted[at + 1..])),
            // Only quotes are escaped: browsers send the backslashes of paths as they are.
            '\\' if !escaped && quoted[at + 1..].starts_with('"') => escaped = true,
            letter => {
                value.push(letter);
                escaped = false;
            }
        }
    }
    None
}

pub(super) fn malformed() -> S3Error {
    Code::MalformedPOSTRequest.into()
}

/// Reads the fields; what follows is the file.
pub(super) async fn read(body: RawBody, boundary: &str) -> S3Result<(Fields, File)> {
    let mut head = Head { body, buffer: BytesMut::new(), read: 0 };
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    // The first delimiter has no line before it.
    head.skip_to(&delimiter[2..]).await?;
    let mut fields = Fields::default();
    loop {
        head.skip_to(b"\r\n").await?;
        let part = Part::parse(&head.take_to(b"\r\n\r\n").await?).ok_or_else(malformed)?;
        if part.name == "file" {
            fields.filename = part.filename.unwrap_or_default();
            return Ok((fields, File::new(head.body, head.buffer, delimiter)));
        }
        let value = head.take_to(&delimiter).await?;
        let value = String::from_utf8(value).map_err(|_| malformed())?;
        if head.starts_with(b"--").await? {
            let message = "POST requires exactly one file upload per request.";
            return Err(S3Error::argument("file", "0", message));
        }
        fields.pairs.push((part.name, value));
    }
}

/// The part of a form before its file.
struct Head {
    body: RawBody,
    buffer: BytesMut,
    read: usize,
}

impl Head {
    /// Bytes up to a mark, which is taken away with them.
    async fn take_to(&mut self, mark: &[u8]) -> S3Result<Vec<u8>> {
        loop {
            let found = find(&self.buffer, mark);
            let end = found.map_or(self.buffer.len(), |at| at + mark.len());
            if BYTES_MAX < self.read + end {
                return Err(Code::MaxPostPreDataLengthExceededError.into());
            }
            if let Some(at) = found {
                self.read += end;
                return Ok(self.buffer.split_to(end)[..at].to_vec());
            }
            read_more(&mut self.body, &mut self.buffer).await?;
        }
    }

    async fn skip_to(&mut self, mark: &[u8]) -> S3Result<()> {
        let skipped = self.take_to(mark).await?;
        if skipped.iter().all(|byte| b" \t\r\n".contains(byte)) { Ok(()) } else { Err(malformed()) }
    }

    async fn starts_with(&mut self, mark: &[u8]) -> S3Result<bool> {
        while self.buffer.len() < mark.len() {
            read_more(&mut self.body, &mut self.buffer).await?;
        }
        Ok(self.buffer.starts_with(mark))
    }
}

/// What the headers of a part say.
struct Part {
    name: String,
    filename: Option<String>,
}

impl Part {
    fn parse(headers: &[u8]) -> Option<Part> {
        let text = std::str::from_utf8(headers).ok()?;
        let disposition = text.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then_some(value.trim())
        })?;
        let (kind, parameters) = disposition.split_once(';')?;
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return None;
        }
        let name = parameter(parameters, "name")?.to_ascii_lowercase();
        Some(Part { name, filename: parameter(parameters, "filename") })
    }
}
