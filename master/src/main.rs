//! The binary `tesela`.

fn main() -> std::process::ExitCode {
    tesela::cli::run()
}
