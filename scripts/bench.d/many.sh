# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# many: a first build of Redis on one fresh node, and on many with as many slots together.

MANY=8

measure_many() {
    local run
    for ((run = 0; run < runs; run++)); do
        first_build one 1 $MANY
        first_build many $MANY 1
    done
    row many "from the origin: first build of Redis on $MANY nodes" MB sent_many peer "1 node" sent_one must over 2.5
    row many "  time of that build" s wall_many peer "1 node" wall_one must over 1.25
}

# first_build KEY NODES SLOTS: builds on nodes that know nothing, and records the time, and the bytes that the origin's network
# card has sent. Compiles without optimization, since the inputs are the same.
first_build() {
    local key=$1 source before start flags=("${REDIS_FLAGS[@]/-O2/-O0}") tree=$work/many
    another_lab "$3" "$2"
    source=$(awk '$1 == "redis" { print $2 }' <<<"$sources")
    rm -rf "$tree"
    cp -a "$source" "$tree"
    before=$(origin_bytes)
    start=$(now_ms)
    reproducibly "$tree" "${BOUNDED[@]}" oswalk exec -- make -j$MANY -C src all "${flags[@]}" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; return 1; }
    record "wall_$key" "($(now_ms) - $start) / 1e3"
    record "sent_$key" "($(origin_bytes) - $before) / 1e6"
}

# Prints all bytes that the origin's network card has sent, headers and the broker's messages included.
origin_bytes() { ip -n "osw-$OSWALK_LAB-origin" -s -j link show eth0 | jq '.[0].stats64.tx.bytes'; }
