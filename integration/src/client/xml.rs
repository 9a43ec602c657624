//! A tree of an XML answer: enough to ask for elements, strict about being well-formed.

use quick_xml::Reader;
use quick_xml::events::Event;

/// An element with its text (entities resolved) and children in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Name without a prefix.
    pub name: String,
    /// All text directly inside, joined.
    pub text: String,
    /// Children in order.
    pub children: Vec<Element>,
}

impl Element {
    /// The first child called `name`.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child called `name`; empty where there is none.
    pub fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.as_str())
    }

    /// All children called `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> + 'a {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// Parses a whole document; an error says what is not well-formed.
pub fn parse(bytes: &[u8]) -> Result<Element, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    let mut reader = Reader::from_str(text);
    let mut stack = vec![Element::default()];
    loop {
        let event = reader.read_event().map_err(|error| format!("not well-formed: {error}"))?;
        match event {
            Event::Start(start) => {
                stack.push(Element { name: local_name(start.name().as_ref()), ..Element::default() });
            }
            Event::Empty(start) => {
                let element = Element { name: local_name(start.name().as_ref()), ..Element::default() };
                last(&mut stack)?.children.push(element);
            }
            Event::End(_) => {
                let element = stack.pop().ok_or("an end without a start")?;
                last(&mut stack)?.children.push(element);
            }
            Event::Text(piece) => {
                last(&mut stack)?.text.push_str(&piece.into_inner());
            }
            Event::CData(piece) => {
                last(&mut stack)?.text.push_str(&piece.into_inner());
            }
            Event::GeneralRef(name) => {
                let reference = format!("&{};", name.into_inner());
                let resolved = quick_xml::escape::unescape(&reference).map_err(|error| error.to_string())?;
                last(&mut stack)?.text.push_str(&resolved);
            }
            Event::Eof => break,
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::DocType(_) => return Err("a document type in an answer".to_string()),
        }
    }
    let root = stack.pop().ok_or("nothing left")?;
    if !stack.is_empty() || root.children.len() != 1 || !root.text.trim().is_empty() {
        return Err("not exactly one root element".to_string());
    }
    root.children.into_iter().next().ok_or_else(|| "empty".to_string())
}

fn last(stack: &mut [Element]) -> Result<&mut Element, String> {
    stack.last_mut().ok_or_else(|| "an end without a start".to_string())
}

fn local_name(name: &str) -> String {
    name.rsplit(':').next().unwrap_or_default().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::parse;

    #[test]
    fn text_entities_and_children_are_read() {
        let root =
            parse(b"<?xml version=\"1.0\"?><A xmlns=\"x\"><B>a&amp;b&#x41;</B><B/><C>d</C></A>").unwrap();
        assert_eq!(root.name, "A");
        assert_eq!(root.text_of("B"), "a&bA");
        assert_eq!(root.all("B").count(), 2);
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for bad in ["<a>", "<a></b>", "<a/><b/>", "", "text", "<a>&nope;</a>", "</a>"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
