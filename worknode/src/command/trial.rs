//! Test compiles of configure scripts.

/// Tells whether a file belongs to a configure script's test of what the compiler can do. Such compiles
/// are tiny and sequential, and their results describe the machine that asked.
pub(super) fn is_trial(word: &[u8]) -> bool {
    let file = crate::policy::base_name(word);
    // Autoconf; Python's distutils.
    if file.starts_with(b"conftest.") || file.starts_with(b"_configtest.") {
        return true;
    }
    // CMake's try_compile; Meson.
    let dirs: [&[u8]; 4] = [b"CMakeScratch/", b"CMakeTmp/", b"/cmTC_", b"meson-private/"];
    dirs.iter().any(|dir| word.windows(dir.len()).any(|window| window == *dir))
}
