//! Prints `docs/envoy-support.md`.

use std::process::ExitCode;

use outrigger_proxy::config::from_proto::support_page;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]
fn main() -> ExitCode {
    match support_page() {
        Ok(page) => {
            print!("{page}");
            ExitCode::SUCCESS
        }
        Err(open) => {
            eprintln!("{}", open.join("\n"));
            ExitCode::FAILURE
        }
    }
}
