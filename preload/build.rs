//! Links the library so that loading it costs little: every process of a session does that.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in [
        // Its own functions call each other without being looked up.
        "-Wl,-Bsymbolic",
        // No code that only C++ and profilers need, and no names of it to look up.
        "-nostartfiles",
        // One part to map in place of two: nothing that is written becomes read-only afterwards.
        "-Wl,-z,norelro",
        // And one more: what is only read lies with the code. Each fork copies what is mapped.
        "-Wl,--no-rosegment",
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
