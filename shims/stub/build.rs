//! Linker options of the stub: no libc, no start files, no relocations.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // In any other profile the stub links std, and only says that it was built wrongly.
    let is_shim_profile = std::env::var("OPT_LEVEL").is_ok_and(|level| level == "s");
    if is_shim_profile {
        for argument in [
            "-nostartfiles",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
            "-Wl,-z,norelro",
            "-Wl,-z,noseparate-code",
            "-Wl,--no-eh-frame-hdr",
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
