//! `oswalk`: see the library.

fn main() -> std::process::ExitCode {
    oswalk_cli::main()
}
