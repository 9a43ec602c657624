//! `cargo bench-s3`: see [`integration::load`].
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use integration::load::{self, Options};

fn main() -> ExitCode {
    match load::main(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
