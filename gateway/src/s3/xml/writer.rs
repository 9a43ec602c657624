//! Writes XML into one growing string. The result is well formed whatever texts go in.

use std::fmt::Write;

/// Namespace of S3's documents.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Writes a document element by element. Names are ours and never escaped; texts are the world's and always.
#[derive(Debug)]
pub struct XmlWriter {
    out: String,
}

impl Default for XmlWriter {
    fn default() -> XmlWriter {
        XmlWriter::new()
    }
}

impl XmlWriter {
    /// A document with its declaration.
    pub fn new() -> XmlWriter {
        let mut out = String::with_capacity(512);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        XmlWriter { out }
    }

    /// Makes room for so many bytes that are about to come.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// Opens the root element in the namespace of S3.
    pub fn root(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push_str(" xmlns=\"");
        self.out.push_str(NAMESPACE);
        self.out.push_str("\">");
    }

    /// Opens an element.
    pub fn open(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Closes an element.
    pub fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// An element with a text, escaped.
    pub fn text(&mut self, name: &str, text: &str) {
        self.open(name);
        escape_into(&mut self.out, text);
        self.close(name);
    }

    /// The text of the element that is open, escaped.
    pub fn content(&mut self, text: &str) {
        escape_into(&mut self.out, text);
    }

    /// An element with something that prints (numbers, flags); escaped like every text.
    pub fn value(&mut self, name: &str, value: impl std::fmt::Display) {
        self.open(name);
        // What we print fails only where a `Display` says so, and none of ours does.
        let _ = write!(Escaping(&mut self.out), "{value}");
        self.close(name);
    }

    /// An element with a text, or nothing at all where there is none.
    pub fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// An element with children.
    pub fn element(&mut self, name: &str, children: impl FnOnce(&mut XmlWriter)) {
        self.open(name);
        children(self);
        self.close(name);
    }

    /// The document.
    pub fn finish(self) -> String {
        self.out
    }
}

/// Where printed values are escaped on their way.
struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        escape_into(self.0, text);
        Ok(())
    }
}

/// Bytes that do not go out as they are, or may not: 0xEF begins U+FFFE and U+FFFF.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = byte != b'\t' as usize && byte != b'\n' as usize;
        byte += 1;
    }
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'&' as usize] = true;
    special[b'"' as usize] = true;
    special[0xEF] = true;
    special
};

/// A text that is safe between tags.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape_into(&mut out, text);
    out
}

/// Escapes as AWS does. Control characters become character references: strict parsers of XML 1.0 refuse them,
/// which is why clients ask for `encoding-type=url`, but the document stays unambiguous. U+FFFE and U+FFFF are
/// written the same way.
fn escape_into(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| SPECIAL[usize::from(byte)]) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let mut characters = special.chars();
        let Some(character) = characters.next() else { return };
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("&#x{:x};", u32::from(character)))
            }
            other => out.push(other),
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
}

/// Percent-encodes a key for `encoding-type=url`: everything but letters, digits, `-`, `_`, `.`, `*` and `/`, with
/// a space as `+`, as AWS's encoder does.
pub fn url_encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                out.push(char::from(byte))
            }
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, expected) in [
            ("plain ü 🦀", "plain ü 🦀"),
            ("a<b>&\"c'", "a&lt;b&gt;&amp;&quot;c'"),
            ("]]>", "]]&gt;"),
            ("\u{1}\u{1f}\t\n\r", "&#x1;&#x1f;\t\n&#13;"),
            ("\u{fffe}x", "&#xfffe;x"),
            ("", ""),
        ] {
            let mut out = String::new();
            escape_into(&mut out, text);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn url_encoding_as_aws() {
        assert_eq!(url_encoded("a/b c+d~é\u{1}%*"), "a/b+c%2Bd%7E%C3%A9%01%25*");
    }
}
