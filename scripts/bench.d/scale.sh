# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# sleep, echo, broker: many walks, one link, one broker.

SLEEPS=640
SLEEP_JOBS=64
ECHO_KEYS=500

# Jobs without CPU time show the time lost between the end of one walk and the start of the next.
measure_sleep() {
    local run
    another_lab 16 4
    # shellcheck disable=SC2016 # Make's, not the shell's.
    printf 'all: $(addprefix j,$(shell seq %d))\nj%%:\n\t@sleep 0.25\n' $SLEEPS >"$work/sleep.mk"
    "${BOUNDED[@]}" oswalk exec --walk sleep -- make -s -j$SLEEP_JOBS -f "$work/sleep.mk" j1 j2 j3 j4 >/dev/null
    for ((run = 0; run < runs; run++)); do
        record sleep_ideal "$SLEEPS * 0.25 / $SLEEP_JOBS"
        seconds_of sleep_native make -s -j$SLEEP_JOBS -f "$work/sleep.mk"
        seconds_of sleep oswalk exec --walk sleep --report "$work/sleep.json" -- make -s -j$SLEEP_JOBS -f "$work/sleep.mk"
        [ "$(jq '.walks | length' "$work/sleep.json")" = $SLEEPS ] || say "bench: not every sleep walked"
    done
    row sleep "$SLEEPS x sleep 0.25 by make -j$SLEEP_JOBS, 64 slots" s sleep peer ideal sleep_ideal must over 1.15
    row sleep "  the same natively" s sleep_native peer ideal sleep_ideal
}

# Measures keys echoed by a walked cat, while another walk on the same node writes as fast as it can.
measure_echo() {
    local run
    another_lab $SLOTS 1
    for ((run = 0; run < runs; run++)); do
        "${BOUNDED[@]}" python3 "$OSWALK_ROOT/scripts/bench.d/echo.py" $ECHO_KEYS >"$work/echo.json"
        for key in quiet_p50 quiet_p99 busy_p50 busy_p99 bulk_mb_s; do
            record "echo_$key" "$(jq ".$key" "$work/echo.json")"
        done
    done
    row echo "a key from a node and back, p50" ms echo_quiet_p50
    row echo "a key from a node and back, p99" ms echo_quiet_p99
    row echo "  beside bulk output on the same link, p50" ms echo_busy_p50
    row echo "  beside bulk output on the same link, p99" ms echo_busy_p99 must own 2
    row echo "  that bulk output" MB/s echo_bulk_mb_s
}

measure_broker() {
    local run
    cargo build --quiet --release --manifest-path "$OSWALK_ROOT/Cargo.toml" -p broker --example bench
    for ((run = 0; run < runs; run++)); do
        "$(target_dir)/release/examples/bench" --json >"$work/broker.json"
        record broker_us "1e6 / $(jq .jobs_per_second "$work/broker.json")"
        record broker_p50 "$(jq .submit_grant_p50_us "$work/broker.json")"
    done
    # 20,000 jobs a second.
    row broker "the broker alone: submit and finish" us broker_us must own 50
    row broker "the broker alone: submit to grant, p50" us broker_p50 must own 100
}
