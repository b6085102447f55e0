# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# hello, configure, cold, far: the time that a user waits.

HELLOS=20
RTTS=(1 20)

# seconds_of KEY COMMAND…: runs a command, and records its wall time.
seconds_of() {
    local key=$1 start
    shift
    start=$(now_ms)
    "${BOUNDED[@]}" "$@" >"$work/log" 2>&1 </dev/null || { tail -n 20 "$work/log" >&2; return 1; }
    record "$key" "($(now_ms) - $start) / 1e3"
}

# by_turns COUNT FUNCTION: calls the function so many times natively and in a session. The order alternates,
# because the speed of a machine drifts.
by_turns() {
    local run
    for ((run = 0; run < $1; run++)); do
        if [ $((run % 2)) = 0 ]; then
            "$2" "$2_native"
            "$2" "$2" oswalk exec --
        else
            "$2" "$2" oswalk exec --
            "$2" "$2_native"
        fi
    done
}

# one_hello KEY [PREFIX…]: builds the project of one file, and records the time.
one_hello() {
    local key=$1
    shift
    rm -f "$work"/hello/hello "$work"/hello/*.o
    seconds_of "$key" "$@" make -s -C "$work/hello"
}

make_hello() {
    mkdir -p "$work/hello"
    printf '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n' >"$work/hello/hello.c"
    printf 'hello: hello.o\n\tgcc -o hello hello.o\nhello.o: hello.c\n\tgcc -O2 -c hello.c\n' >"$work/hello/Makefile"
}

# One compile and one link: walking can gain nothing here, but may lose time.
measure_hello() {
    another_lab $SLOTS
    make_hello
    oswalk exec -- make -s -C "$work/hello" >/dev/null
    by_turns $HELLOS one_hello
    row hello "a project of one file, whose compile walks" s one_hello peer native one_hello_native
    # With the default policy, by which a compile step that is alone stays.
    rm "$work"/values/one_hello*
    unset OSWALK_POLICY
    by_turns $HELLOS one_hello
    row hello "a project of one file" s one_hello peer native one_hello_native must over 1.05
}

measure_configure() {
    another_lab $SLOTS
    # Twice the runs, since their times vary by a tenth.
    by_turns $((runs * 2)) one_configure
    row configure "./configure of GNU hello" s one_configure peer native one_configure_native must over 1.02
}

# one_configure KEY [PREFIX…]: runs ./configure in a fresh directory, and records the time.
one_configure() {
    local key=$1 source
    shift
    source=$(awk '$1 == "hello" { print $2 }' <<<"$sources")
    rm -rf "$work/configure"
    mkdir "$work/configure"
    (cd "$work/configure" && seconds_of "$key" "$@" "$source/configure" --quiet)
}

# The first compile of a project, on a node that has the toolchain from another project; then on a second
# such node, which is sent in advance what the first one asked for.
measure_cold() {
    local rtt run tree node
    for rtt in "${RTTS[@]}"; do
        another_lab $SLOTS 2 --rtt "$rtt"
        prepare_redis
        printf '#include <stdio.h>\nint main(void) { return 0; }\n' >"$work/one.c"
        for node in n1 n2 n1 n2; do
            "${BOUNDED[@]}" oswalk exec --on $node -- gcc -O2 -c -o "$work/one.o" "$work/one.c" >/dev/null 2>&1
        done
        for ((run = 0; run < runs; run++)); do
            # A tree with a new name is a project that no node has seen.
            tree=$work/cold$rtt-$run
            cp -a "$redis" "$tree"
            # The first make records the settings and builds the dependencies.
            (cd "$tree/src" && make ae.o "${REDIS_FLAGS[@]}" CC=gcc) >"$work/log" 2>&1
            rm -f "$tree/src/ae.o"
            (cd "$tree/src" && seconds_of "cold_native_$rtt" make ae.o "${REDIS_FLAGS[@]}" CC=gcc)
            for node in n1 n2; do
                rm -f "$tree/src/ae.o"
                fetches=$(node_fetches $node)
                (cd "$tree/src" && seconds_of "cold_${node}_$rtt" oswalk exec --on $node -- make ae.o "${REDIS_FLAGS[@]}" CC=gcc)
                record "cold_fetches_${node}_$rtt" "$(node_fetches $node) - $fetches"
            done
            rm -rf "$tree"
        done
        row cold "first compile of a project at $rtt ms" s "cold_n1_$rtt" peer native "cold_native_$rtt" \
            must over "$([ "$rtt" = 1 ] && echo 2 || echo 3)"
        row cold "  questions to the origin, at most one round trip each" "" "cold_fetches_n1_$rtt" must own 60
        row cold "the same on a second node" s "cold_n2_$rtt" peer native "cold_native_$rtt"
        row cold "  questions to the origin" "" "cold_fetches_n2_$rtt" must own 5
    done
}

# A first build, with far nodes that have no files yet: nothing to gain, and much to send.
measure_far() {
    another_lab $SLOTS 2 --rtt 20 --mbit 50
    unset OSWALK_POLICY
    make_hello
    mkdir -p "$work/crate/src"
    printf '[package]\nname = "one"\nversion = "0.1.0"\nedition = "2024"\n[workspace]\n' >"$work/crate/Cargo.toml"
    printf 'fn main() {\n    println!("hello");\n}\n' >"$work/crate/src/main.rs"
    # Warms the page cache for both.
    one_crate warm
    by_turns $((runs * 2)) one_hello
    row far "a project of one file, 50 Mbit/s and 20 ms" s one_hello peer native one_hello_native must over 1.1
    by_turns $((runs * 2)) one_crate
    row far "a first cargo build of one crate" s one_crate peer native one_crate_native must over 1.1
}

# one_crate KEY [PREFIX…]: builds the crate from scratch, and records the time.
one_crate() {
    local key=$1
    shift
    rm -rf "$work/crate/target"
    (cd "$work/crate" && seconds_of "$key" "$@" cargo build --quiet --offline)
}

node_fetches() { OSWALK_STATE=$OSWALK_LAB_DIR/$1 oswalk status --json | jq .fuse.fetches; }
