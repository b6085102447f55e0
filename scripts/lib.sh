# shellcheck shell=bash
# Shared by the scripts: messages, paths, and the builds of the two real projects.
# Sourced, never run; the caller sets `set -euo pipefail`.

OSWALK_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Adds the directories of cargo and of system programs, which `su` and services leave out of PATH.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin

# --- Messages: stdout is for data, stderr for messages ----------------------------------------

say() { printf '%s\n' "$*" >&2; }

# fail WHAT [REMEDY]: prints what failed and what to do about it, and exits with 1.
fail() {
    say "${0##*/}: $1"
    [ $# -lt 2 ] || say "  remedy: $2"
    exit 1
}

# need PROGRAM PACKAGE: fails if the program is missing, naming the package that contains it.
need() {
    command -v "$1" >/dev/null || fail "$1 is missing" "run scripts/install-missing, or install the package $2"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root" "run it as root: sudo $0"
}

# has_value "$@": fails if the option in $1 has no value.
has_value() { [ $# -ge 2 ] || fail "$1 needs a value" "see $0 --help"; }

# number OPTION VALUE MIN MAX: fails if the value is not a number in this range.
number() {
    local value=${2:-}
    if ! [[ $value =~ ^[0-9]{1,6}$ ]] || [ "$value" -lt "$3" ] || [ "$value" -gt "$4" ]; then
        fail "$1 takes a number from $3 to $4, not '$value'"
    fi
}

# usage: prints the comment block at the head of the script, which is its help text.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# --- Paths -----------------------------------------------------------------------------------

# A relative CARGO_TARGET_DIR is relative to the root, where cargo is started.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    [[ $dir = /* ]] || dir=$OSWALK_ROOT/$dir
    printf '%s' "$dir"
}
musl_target() { printf '%s-unknown-linux-musl' "$(uname -m)"; }
dist_dir() { printf '%s' "${OSWALK_DIST:-$(target_dir)/dist}"; }
cache_dir() { printf '%s' "${OSWALK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/oswalk}"; }

# own_program NAME: prints the path of a program that serves these scripts and is not installed.
own_program() { printf '%s/%s/oswalk-%s' "$(target_dir)" "${OSWALK_PROFILE:-release}" "$1"; }

# remove_pages STATE: removes what a killed agent has left in memory; its state directory names it.
remove_pages() {
    [ ! -s "$1/pages" ] || rm -rf --one-file-system "$(<"$1/pages")"
}

# unseal STATE: lets the directories be written again on which an agent that is gone has mounted its volume.
unseal() {
    local point
    [ -f "$1/volume/mounts.json" ] || return 0
    grep -o '"/[^"]*"' "$1/volume/mounts.json" | tr -d '"' | while read -r point; do
        if [ -d "$point" ]; then
            chattr -i "$point" 2>/dev/null || true
            chmod 755 "$point" || true
        fi
    done
}

# --- Time ------------------------------------------------------------------------------------

now_ms() { date +%s%3N; }

# seconds MS: prints milliseconds as seconds, 12345 as 12.3.
seconds() { printf '%d.%d' "$(($1 / 1000))" "$(($1 % 1000 / 100))"; }

# --- Two real projects, unmodified -----------------------------------------------------------
#
# Native and walked builds run with the same fixed environment, so that OS Walk causes any difference.
# Two *native* builds at the same path need these variables to be identical:
#   SOURCE_DATE_EPOCH         without it, redis writes host name and time into src/release.h
#   GIT_CEILING_DIRECTORIES   without it, redis writes the commit of a surrounding repository there
# These fix what redis would otherwise choose by the libraries that it finds:
#   MALLOC=libc               no jemalloc, whose configure runs a few hundred trial programs
#   OPTIMIZATION=-O2          no -flto, which later versions add: LTO symbol names are random
#   USE_SYSTEMD=no            no libsystemd, even if it is installed
# Lua needs none of them. It is built by `make linux` with its own Makefile; the distribution's needs libtool.

OSWALK_JOBS=${OSWALK_JOBS:-8}

# build_lua DIR [PREFIX…]: builds Lua in DIR, with make started by PREFIX, such as `oswalk exec --`.
build_lua() {
    local dir=$1
    shift
    reproducibly "$dir" "$@" make "-j$OSWALK_JOBS" linux
}

# build_redis DIR [PREFIX…]: builds Redis in the same way.
build_redis() {
    local dir=$1
    shift
    reproducibly "$dir" "$@" make "-j$OSWALK_JOBS" -C src all MALLOC=libc OPTIMIZATION=-O2 USE_SYSTEMD=no
}

reproducibly() {
    local dir=$1
    shift
    (cd "$dir" && SOURCE_DATE_EPOCH=1700000000 GIT_CEILING_DIRECTORIES=$(dirname "$dir") "$@")
}

# --- Native beside walked --------------------------------------------------------------------

# timed_build NAME SOURCE DIR LOG [PREFIX…]: builds project NAME in a fresh copy of SOURCE at DIR.
# Sets elapsed_ms; fails if the build fails.
timed_build() {
    local name=$1 source=$2 dir=$3 log=$4 start
    shift 4
    rm -rf "$dir"
    cp -a "$source" "$dir"
    start=$(now_ms)
    "build_$name" "$dir" "$@" >"$log" 2>&1 || return
    # shellcheck disable=SC2034 # For the caller.
    elapsed_ms=$(($(now_ms) - start))
}

# compare_builds NATIVE WALKED: fails if any file differs, and prints which ones, and how, in three lines each.
compare_builds() {
    local compare
    compare=$(own_program compare)
    [ -x "$compare" ] || fail "there is no $compare" "run scripts/build"
    "$compare" "$1" "$2"
}

count_files() { find "$1" -type f | wc -l; }

# count_objects DIR: prints the number of object files, which is that of the compile steps.
count_objects() { find "$1" -name '*.o' -type f | wc -l; }

# walked_compiles REPORT: prints the number of successful walks of compile steps, which alone have an output.
walked_compiles() { jq '[.walks[] | select(.status == 0 and .output)] | length' "$1"; }
