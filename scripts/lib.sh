# shellcheck shell=bash
# What the scripts share: messages, paths, and how the two real projects are built.
# Sourced, never run. The caller has already said `set -euo pipefail`.

OSWALK_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where rustup puts cargo and Debian its system programs; a plain `su` or a service has neither.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin

# --- Messages: stdout is data, stderr is talk ------------------------------------------------

say() { printf '%s\n' "$*" >&2; }

# fail WHAT [REMEDY]: names what failed and what to do about it.
fail() {
    say "${0##*/}: $1"
    [ $# -lt 2 ] || say "  remedy: $2"
    exit 1
}

# need PROGRAM PACKAGE: a script that only uses programs says which package brings a missing one.
need() {
    command -v "$1" >/dev/null || fail "$1 is missing" "run scripts/install-missing, or install the package $2"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root" "run it as root: sudo $0"
}

# has_value "$@": ends clearly when the option at hand has no argument.
has_value() { [ $# -ge 2 ] || fail "$1 needs a value" "see $0 --help"; }

# number OPTION VALUE MIN MAX
number() {
    local value=${2:-}
    if ! [[ $value =~ ^[0-9]{1,6}$ ]] || [ "$value" -lt "$3" ] || [ "$value" -gt "$4" ]; then
        fail "$1 takes a number from $3 to $4, not '$value'"
    fi
}

# usage: the comment block at the head of the script is its help text.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# --- Paths -----------------------------------------------------------------------------------

# A relative CARGO_TARGET_DIR means one below the root, since cargo is started there.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    [[ $dir = /* ]] || dir=$OSWALK_ROOT/$dir
    printf '%s' "$dir"
}
musl_target() { printf '%s-unknown-linux-musl' "$(uname -m)"; }
dist_dir() { printf '%s' "${OSWALK_DIST:-$(target_dir)/dist}"; }
cache_dir() { printf '%s' "${OSWALK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/oswalk}"; }

# remove_pages STATE: an agent that was killed leaves its policy pages in memory (agent/src/pages.rs).
remove_pages() {
    local device inode pages
    [ -d "$1" ] || return 0
    read -r device inode < <(stat -c '%d %i' "$1")
    pages=$(printf 'oswalk-%x-%x' "$device" "$inode")
    rm -rf --one-file-system "/run/$pages" "/dev/shm/$pages"
}

# --- Time ------------------------------------------------------------------------------------

now_ms() { date +%s%3N; }

# seconds MS: 12345 -> 12.3
seconds() { printf '%d.%d' "$(($1 / 1000))" "$(($1 % 1000 / 100))"; }

# --- Two real projects, unmodified -----------------------------------------------------------
#
# Both builds run with one fixed environment, natively and walked, so that any difference of the
# results is ours. What two *native* builds in the same path need to be identical, and why:
#   SOURCE_DATE_EPOCH         redis writes host name and time into src/release.h without it
#   GIT_CEILING_DIRECTORIES   redis writes the commit of a git repository around it into the same file
# and these pin what redis otherwise takes from the libraries it finds on the machine:
#   MALLOC=libc               no jemalloc (its configure asks the machine a few hundred questions)
#   OPTIMIZATION=-O2          no -flto: later versions add it, and LTO symbol names are random
#   USE_SYSTEMD=no            no libsystemd, present or not
# Lua needs none of them: `make linux` of its own Makefile (the distribution's needs libtool).

OSWALK_JOBS=${OSWALK_JOBS:-8}

# build_lua DIR [PREFIX…]: build Lua in DIR, with make started by PREFIX (say `oswalk exec --`).
build_lua() {
    local dir=$1
    shift
    reproducibly "$dir" "$@" make "-j$OSWALK_JOBS" linux
}

# build_redis DIR [PREFIX…]
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

# describe_tree DIR: one line per entry: type, mode, links, name, target or digest. Times are not compared.
describe_tree() {
    (
        cd "$1" || exit
        find . -mindepth 1 \( -type f -printf 'f %m %n %p\n' \) -o -printf '%y %m - %p %l\n' | LC_ALL=C sort -k4
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum
    )
}

# --- Native beside walked --------------------------------------------------------------------

# timed_build NAME SOURCE DIR LOG [PREFIX…]: builds project NAME in a fresh copy of SOURCE at DIR.
# Leaves what it took in elapsed_ms; fails as the build does.
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

# count_objects DIR: as many files as there were compiles, whatever any report says.
count_objects() { find "$1" -name '*.o' -type f | wc -l; }

# walked_compiles REPORT: walks of a compiler that ended well.
walked_compiles() {
    jq '[.walks[] | select(.status == 0 and (.argv0 | sub(".*/"; "")
        | test("^(.*-)?(gcc|g\\+\\+|cc|c\\+\\+|clang|clang\\+\\+)(-[0-9.]+)?$")))] | length' "$1"
}

# runners REPORT: a line for each node that executed something: name, walks, CPU and run time in ms.
runners() {
    jq -r '.walks | group_by(.runner)[] | [.[0].runner, length,
        (map(.runner_cpu_ms) | add | round), (map(.run_ms) | add | round)] | @tsv' "$1"
}
