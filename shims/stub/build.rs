//! Links the stub without anything but itself: no libc, no start files, no relocations.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A build of the whole workspace in another profile gets a stub that only says what it lacks.
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
