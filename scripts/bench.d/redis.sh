# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# cpu, fuse, bytes: the compile steps of Redis.

# prepare_redis: makes a tree with settings and dependencies built, and sets the list of its objects.
prepare_redis() {
    local source
    redis=$work/redis
    source=$(awk '$1 == "redis" { print $2 }' <<<"$sources")
    read -ra objects < <(sed -n 's/^REDIS_\(SERVER\|CLI\|BENCHMARK\)_OBJ=//p' "$source/src/Makefile" |
        tr ' ' '\n' | sort -u | every "$objects_max" | xargs)
    [ ! -d "$redis" ] || return 0
    cp -a "$source" "$redis"
    reproducibly "$redis" "${BOUNDED[@]}" make -j2 -C src .make-prerequisites "${REDIS_FLAGS[@]}" CC=gcc \
        >"$work/redis.log" 2>&1
}

# every N: prints N of the input lines, evenly spread.
every() { awk -v max="$1" '{ line[NR] = $0 } END { for (i = 0; i < NR && i < max; i++) print line[int(i * (NR > max ? NR / max : 1)) + 1] }'; }

# objects_by CC JOBS PREFIX…: compiles all objects of Redis, without linking.
objects_by() {
    local compiler=$1 jobs=$2
    shift 2
    rm -f "$redis"/src/*.o "$redis"/src/*.d
    metered reproducibly "$redis" "${BOUNDED[@]}" "$@" make "-j$jobs" -C src "${objects[@]}" "${REDIS_FLAGS[@]}" "CC=$compiler"
}

# all_there: checks that all objects exist.
all_there() {
    local found
    found=$(find "$redis/src" -maxdepth 1 -name '*.o' | wc -l)
    [ "$found" = ${#objects[@]} ] || { say "bench: $found of ${#objects[@]} objects"; return 1; }
}

measure_cpu() {
    local run
    prepare_redis
    # Warm-up, not measured: fills the page cache, and sends the toolchain to both nodes.
    objects_by gcc $JOBS oswalk exec --
    for run in 1 2 3; do cpu_baseline; done
    for ((run = 0; run < runs; run++)); do
        cpu_baseline
        # As many native compiles at once as there are slots, since the CPU time of a compile grows with the
        # number of others beside it.
        cpu_native native $((2 * SLOTS))
        cpu_walked warm
        cpu_distcc
        cpu_native native_first $SLOTS
        fresh_node n1
        cpu_walked first --on n1
    done
    row cpu "origin CPU per walked compile, warm" ms origin_warm peer distcc distcc_client must own 2
    row cpu "  the same, of distcc's client: must be a tenth" ms origin_warm peer distcc distcc_client must over 0.1
    row cpu "  of it: stubs, make's and sh's library, oswalk" ms origin_client_warm
    row cpu "  of it: the agent" ms origin_agent_warm
    row cpu "  beside it: Redis of the broker" ms broker_warm
    row cpu "  origin CPU per walked compile, first build" ms origin_first
    row cpu "runner CPU per compile, warm: the processes" ms runner_process_warm peer native native must over 1.03
    row cpu "runner CPU per compile, warm: all of the node" ms runner_all_warm peer native native must over 1.03
    row cpu "runner CPU per compile, first build: the processes" ms runner_process_first peer native native_first must over 1.25
    row cpu "runner CPU per compile, first build: all of the node" ms runner_all_first peer native native_first must over 1.25
    row cpu "distcc's node: all of it" ms distcc_node peer native native
    row cpu "wall time of these compiles, 2 nodes" s wall_warm peer native wall_native
}

# Measures make and sh alone, with a compiler that only waits; it is subtracted from the client's other
# figures. Other compiles keep the processors busy meanwhile, since make costs a third less on an idle one.
cpu_baseline() {
    # Runs in the subshell of a measurement. After a failure, the other compiles must end, too.
    trap stop_beside EXIT
    start_beside
    objects_by "$work/pause" $JOBS
    stop_beside
    trap - EXIT
    record baseline "${used[client]} / 1e3 / ${#objects[@]}"
    # The median so far, since single runs vary as much as the figures themselves.
    baseline_us=$(awk -v each="$(median "$work/values/baseline")" -v count=${#objects[@]} \
        'BEGIN { printf "%d", each * 1e3 * count }')
}

# Compiles another copy of the tree, with as many jobs as there are slots, until it is stopped.
start_beside() {
    [ -d "$work/beside" ] || cp -a "$redis" "$work/beside"
    in_group beside compile_beside >/dev/null 2>&1 &
    disown
}

compile_beside() {
    while :; do
        rm -f "$work/beside"/src/*.o "$work/beside"/src/*.d
        reproducibly "$work/beside" make "-j$((2 * SLOTS))" -C src "${objects[@]}" "${REDIS_FLAGS[@]}" CC=gcc || return
    done
}

stop_beside() {
    local pids
    while pids=$(<"$groups/beside/cgroup.procs") && [ -n "$pids" ]; do
        kill -KILL $pids 2>/dev/null || true
        sleep 0.05
    done
}

# cpu_native KEY JOBS: records the CPU time of native compiles.
cpu_native() {
    objects_by gcc "$2"
    all_there
    record "$1" "(${used[client]} - $baseline_us) / 1e3 / ${#objects[@]}"
    record "wall_$1" "$elapsed_ms / 1e3"
}

# cpu_walked KEY [OPTION…]: records the CPU times of walked compiles.
cpu_walked() {
    local key=$1 report=$work/cpu.json walks
    shift
    objects_by gcc $JOBS oswalk exec --report "$report" "$@" --
    all_there
    walks=$(walked_compiles "$report")
    [ "$walks" -ge $((${#objects[@]} * 95 / 100)) ] || { say "bench: only $walks of ${#objects[@]} compiles walked"; return 1; }
    record "origin_$key" "(${used[client]} - $baseline_us + ${used[origin]}) / 1e3 / $walks"
    record "origin_client_$key" "(${used[client]} - $baseline_us) / 1e3 / $walks"
    record "origin_agent_$key" "${used[origin]} / 1e3 / $walks"
    record "broker_$key" "${used[broker]} / 1e3 / $walks"
    record "runner_all_$key" "(${used[n1]} + ${used[n2]}) / 1e3 / $walks"
    record "runner_process_$key" "$(jq '[.walks[].runner_cpu_ms] | add' "$report") / $walks"
    record "wall_$key" "$elapsed_ms / 1e3"
}

cpu_distcc() {
    local index address hosts=''
    for index in 0 1; do
        address=${NODE_ADDRESSES[$index]}
        in_group "n$((index + 1))" setsid nsenter --net="/run/netns/osw-$OSWALK_LAB-n$((index + 1))" -- \
            distccd --daemon --no-detach --listen "$address" --allow 10.77.0.0/24 --jobs $JOBS \
            --enable-tcp-insecure --log-file "$work/distccd$index.log" >/dev/null 2>&1 </dev/null &
        hosts+="$address/$JOBS,lzo "
    done
    sleep 0.5
    mkdir -p "$work/distcc"
    DISTCC_HOSTS=$hosts DISTCC_FALLBACK=0 DISTCC_DIR=$work/distcc \
        objects_by "distcc gcc" $JOBS "${AT_ORIGIN[@]}" || { tail -n 5 "$work"/distccd?.log >&2; return 1; }
    stop_distccd
    all_there
    record distcc_client "(${used[client]} - $baseline_us) / 1e3 / ${#objects[@]}"
    record distcc_node "(${used[n1]} + ${used[n2]}) / 1e3 / ${#objects[@]}"
}

# Ends all distccd processes in this lab's nodes, also the servers, which hold the port.
stop_distccd() {
    local node pid
    for node in n1 n2; do
        for pid in $(ip netns pids "osw-$OSWALK_LAB-$node"); do
            [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != distccd ] || kill "$pid" 2>/dev/null || true
        done
    done
}

# --- fuse ------------------------------------------------------------------------------------

# Counts FUSE requests: each is one read of /dev/fuse by a thread of the agent, and byte 5 is its kind.
measure_fuse() {
    local pid thread threads=() run tracer code count name fetches
    prepare_redis
    for run in 1 2; do objects_by gcc $JOBS oswalk exec --on n1 --; done
    for ((run = 0; run < runs; run++)); do
        pid=$(<"$OSWALK_LAB_DIR/n1/pid")
        threads=()
        for thread in "/proc/$pid/task/"*; do threads+=(-p "${thread##*/}"); done
        strace -q -xx -s 48 -P /dev/fuse -e trace=read,readv -o "$work/fuse" "${threads[@]}" 2>"$work/strace.log" &
        tracer=$!
        sleep 1
        fetches=$(node_fetches n1)
        objects_by gcc $JOBS oswalk exec --on n1 --
        record fuse_fetches "($(node_fetches n1) - $fetches) / ${#objects[@]}"
        kill $tracer
        wait $tracer 2>/dev/null || true
        sed -nE 's/.*"(\\x..){4}\\x(..).*/\2/p' "$work/fuse" >"$work/kinds"
        record fuse "$(wc -l <"$work/kinds") / ${#objects[@]}"
        sort "$work/kinds" | uniq -c >"$work/counts"
    done
    row fuse "FUSE requests per compile, warm" "" fuse must own 5
    row fuse "  of them: those that need the network" "" fuse_fetches must own 0
    while read -r count code; do
        name=$(fuse_name "$code")
        record "fuse_$name" "$count / ${#objects[@]}"
        row fuse "  of them (last run): $name" "" "fuse_$name"
    done <"$work/counts"
}

fuse_name() {
    case $1 in
    01) echo LOOKUP ;; 02) echo FORGET ;; 03) echo GETATTR ;; 05) echo READLINK ;; 0e) echo OPEN ;; 0f) echo READ ;;
    11) echo STATFS ;; 16) echo GETXATTR ;; 17) echo LISTXATTR ;; 19) echo FLUSH ;; 1b) echo OPENDIR ;;
    1c) echo READDIR ;; 22) echo ACCESS ;; 24) echo INTERRUPT ;; 27) echo IOCTL ;; 2a) echo BATCH_FORGET ;; 2c) echo READDIRPLUS ;;
    *) echo "kind 0x$1" ;;
    esac
}

# --- bytes -----------------------------------------------------------------------------------

# Prints all bytes that the node's network card has received, headers and the broker's messages included.
node_bytes() { ip -n "osw-$OSWALK_LAB-n1" -s -j link show eth0 | jq '.[0].stats64.rx.bytes'; }

# sent_to_node KEY COMMAND…: runs a command, and records the bytes that the node received.
sent_to_node() {
    local key=$1 before
    shift
    before=$(node_bytes)
    "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; return 1; }
    record "$key" "($(node_bytes) - $before) / 1e6"
}

# Measures a build on a fresh node in two parts: the first compile, with which the toolchain is sent, and the
# rest. Compiles without optimization, since the inputs are the same and only bytes are counted.
measure_bytes() {
    local source flags=("${REDIS_FLAGS[@]/-O2/-O0}") walked=("${BOUNDED[@]}" oswalk exec --on n1 --) tree=$work/whole
    source=$(awk '$1 == "redis" { print $2 }' <<<"$sources")
    fresh_node n1
    printf 'int main(void) { return 0; }\n' >"$work/one.c"
    sent_to_node bytes_toolchain "${walked[@]}" gcc -g -O2 -c -o "$work/one.o" "$work/one.c"
    rm -rf "$tree"
    cp -a "$source" "$tree"
    sent_to_node bytes_known reproducibly "$tree" "${walked[@]}" make -j$JOBS -C src all "${flags[@]}"
    make -C "$tree/src" clean >/dev/null 2>&1
    sent_to_node bytes_rebuild reproducibly "$tree" "${walked[@]}" make -j$JOBS -C src all "${flags[@]}"
    record bytes_first "$(<"$work/values/bytes_toolchain") + $(<"$work/values/bytes_known")"
    row bytes "to one node: first build of Redis, everything" MB bytes_first must own 22
    row bytes "to one node: the first compile at all" MB bytes_toolchain
    row bytes "to one node: first build, toolchain known" MB bytes_known must own 3.5
    row bytes "to one node: rebuild after make clean" MB bytes_rebuild must own 0.1
}
