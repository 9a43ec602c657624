//! `cargo verify`: see [`integration::verify`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if integration::verify::main(&arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
