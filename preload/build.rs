//! Linker options that make the library cheap to load, since every process of a session loads it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in [
        // Binds calls between the library's own functions at link time.
        "-Wl,-Bsymbolic",
        // Leaves out the start files, which only C++ and profilers need.
        "-nostartfiles",
        // Saves one mapping: no relocated data is made read-only after loading.
        "-Wl,-z,norelro",
        // Saves another: read-only data shares the mapping of the code. Each fork copies all mappings.
        "-Wl,--no-rosegment",
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
