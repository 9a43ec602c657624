//! What the documents promise is what the code has.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use integration::daemons::repository;

/// Names of metrics that begin where a text says so: `fluffy_` and what belongs to the word.
fn names(text: &str, before: &str) -> BTreeSet<String> {
    let start = format!("{before}fluffy_");
    let pieces = text.split(&start).skip(1);
    let word = |piece: &str| {
        let end = piece.find(|one: char| !one.is_ascii_alphanumeric() && one != '_').unwrap_or(piece.len());
        format!("fluffy_{}", &piece[..end])
    };
    pieces.map(word).collect()
}

/// The texts of all Rust files below a directory.
fn sources(directory: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// Metrics named in the macros that emit them, wherever the line breaks.
fn emitted() -> BTreeSet<String> {
    let mut texts = Vec::new();
    for crate_directory in ["consensus/src", "consensus/fabric/src", "storage/src", "gateway/src"] {
        sources(&repository().join(crate_directory), &mut texts);
    }
    let mut found = BTreeSet::new();
    for text in texts {
        let dense: String = text.split_whitespace().collect();
        for kind in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
            found.extend(names(&dense, kind));
        }
    }
    found
}

#[test]
fn every_metric_is_documented_and_nothing_else() {
    let text = fs::read_to_string(repository().join("integration/docs/operations.md")).unwrap();
    let documented = names(&text, "| `");
    let emitted = emitted();
    assert!(20 < emitted.len(), "the search finds too little: {emitted:?}");
    assert_eq!(documented, emitted);
}
