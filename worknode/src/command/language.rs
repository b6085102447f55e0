//! What file names tell about their language.

#[cfg(feature = "std")]
use super::item::Stage;

/// Returns a file name's extension, without the dot.
pub(super) fn extension(name: &[u8]) -> &[u8] {
    let base = crate::policy::base_name(name);
    match base.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > 0 => &base[dot + 1..],
        _ => b"",
    }
}

/// Tells whether a driver compiles a file of this name, rather than passing it to the linker.
pub(super) fn is_source(name: &[u8]) -> bool {
    matches!(
        extension(name),
        b"c" | b"i"
            | b"h"
            | b"s"
            | b"S"
            | b"sx"
            | b"asm"
            | b"cc"
            | b"cp"
            | b"cxx"
            | b"cpp"
            | b"CPP"
            | b"c++"
            | b"C"
            | b"ii"
            | b"hh"
            | b"H"
            | b"hp"
            | b"hxx"
            | b"hpp"
            | b"HPP"
            | b"h++"
            | b"tcc"
            | b"cppm"
            | b"ixx"
            | b"ccm"
            | b"cxxm"
            | b"c++m"
            | b"pcm"
            | b"mpp"
            | b"m"
            | b"mi"
            | b"mm"
            | b"M"
            | b"mii"
            | b"f"
            | b"for"
            | b"ftn"
            | b"F"
            | b"FOR"
            | b"fpp"
            | b"FPP"
            | b"FTN"
            | b"f90"
            | b"f95"
            | b"f03"
            | b"f08"
            | b"F90"
            | b"F95"
            | b"F03"
            | b"F08"
            | b"ads"
            | b"adb"
            | b"d"
            | b"di"
            | b"dd"
            | b"go"
            | b"bc"
            | b"ll"
            | b"ast"
            | b"cu"
            | b"cui"
            | b"hip"
            | b"cl"
            | b"ptx"
    )
}

/// Tells whether a file is a header by its language or name: compiling one means precompiling it.
pub(super) fn is_header(name: &[u8], language: Option<&[u8]>) -> bool {
    match language {
        Some(language) => language.ends_with(b"-header"),
        None => matches!(
            extension(name),
            b"h" | b"hh" | b"H" | b"hp" | b"hxx" | b"hpp" | b"HPP" | b"h++" | b"tcc"
        ),
    }
}

/// Tells whether compiling a file also makes files that are named in its text: Fortran modules, files
/// for Ada's binder.
#[cfg(feature = "std")]
pub(super) fn makes_modules(name: &[u8], language: Option<&[u8]>) -> bool {
    match language {
        Some(language) => {
            [b"f77".as_slice(), b"f95", b"ada"].iter().any(|known| language.starts_with(known))
        }
        None => match extension(name) {
            b"ads" | b"adb" => true,
            extension => extension.first().is_some_and(|first| first.eq_ignore_ascii_case(&b'f')),
        },
    }
}

/// Returns the extension of a stage's output, with the dot.
#[cfg(feature = "std")]
pub(super) fn extension_of(stage: Stage, is_bitcode: bool) -> &'static [u8] {
    match stage {
        Stage::Assembly if is_bitcode => b".ll",
        Stage::Assembly => b".s",
        Stage::Object if is_bitcode => b".bc",
        Stage::Object | Stage::Intermediate | Stage::Check | Stage::Precompiled => b".o",
    }
}
