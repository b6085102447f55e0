//! `oswalkd`, the agent of OS Walk.

fn main() -> std::process::ExitCode {
    oswalk_agent::main()
}
