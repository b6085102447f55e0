//! Trials of configure scripts.

/// Is this a file of a configure script that finds out what the compiler can do? Those compiles are
/// tiny, one after the other, and their results are of use where they were asked for.
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
