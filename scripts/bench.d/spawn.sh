# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# idle, true, stay: the cost of one process.

# Runs first, on a fresh lab, before any session is opened.
measure_idle() {
    local node pid before
    sleep 2
    declare -A before
    for node in origin n1 n2; do before[$node]=$(usage_us $node); done
    sleep $IDLE_SECONDS
    for node in origin n1 n2; do
        record idle_cpu "($(usage_us $node) - ${before[$node]}) / $IDLE_SECONDS / 1e4"
        # The agent, its launcher, and any other processes of the node.
        for pid in $(ip netns pids "osw-$OSWALK_LAB-$node"); do
            sed -n 's/^Rss: *\([0-9]*\) kB/\1/p' "/proc/$pid/smaps_rollup"
        done | awk '{ sum += $1 } END { print sum }' >"$work/rss"
        record idle_rss "$(<"$work/rss") / 1024"
    done
    row idle "resident memory of an idle agent" MiB idle_rss must own 15
    row idle "CPU of an idle agent, of one core" % idle_cpu must own 0.1
}

# --- true, stay ------------------------------------------------------------------------------

# spawned KEY FILE: records p50 and p99 of the lines of a file.
spawned() {
    record "$1_p50" "$(quantile 0.5 "$2") / 1000"
    record "$1_p99" "$(quantile 0.99 "$2") / 1000"
}

measure_true() {
    local run report=$work/true.json
    # Warm-up, not measured: sends the program and its libraries to the node.
    "${BOUNDED[@]}" oswalk exec --walk-all --stay "$work/spawn" --on n1 -- "$work/spawn" 20 /bin/true >/dev/null
    for ((run = 0; run < runs; run++)); do
        "$work/spawn" $TRUES /bin/true >"$work/native"
        spawned true_native "$work/native"
        "${BOUNDED[@]}" oswalk exec --walk-all --stay "$work/spawn" --on n1 --report "$report" -- \
            "$work/spawn" $TRUES /bin/true >"$work/walked"
        [ "$(jq '.walks | length' "$report")" -ge $((TRUES * 95 / 100)) ] || fail "/bin/true did not walk"
        spawned true_walked "$work/walked"
        jq '.walks[] | .wait_ms * 1000' "$report" >"$work/wait"
        jq '.walks[] | .run_ms * 1000' "$report" >"$work/run"
        spawned true_wait "$work/wait"
        spawned true_run "$work/run"
        measure_ssh_true
        record true_stub "$(jq '[.walks[].origin_cpu_ms] | add / length' "$report")"
        record true_origin_cpu "$(jq '.totals.origin_cpu_ms / .totals.walks' "$report")"
    done
    stop_ssh
    row true "a walked true over a native one, p50" ms true_walked_p50 peer native true_native_p50 compare - must over 1.5
    row true "a walked true over a native one, p99" ms true_walked_p99 peer native true_native_p99 compare - must over 5
    row true "  beside it: by ssh over a connection that is open, p50" ms true_ssh_p50 peer native true_native_p50 compare -
    row true "  of it: from the stub's hello to the grant, p50" ms true_wait_p50
    row true "  of it: on the runner, p50" ms true_run_p50
    row true "  CPU of its stub" ms true_stub must own 0.2
    row true "  CPU of origin, agent and stub" ms true_origin_cpu
}

measure_stay() {
    local run kind program
    for ((run = 0; run < runs; run++)); do
        for kind in static dynamic; do
            program=$work/noop
            [ $kind = static ] || program=$work/dynamic
            "$work/spawn" $STAYS "$program" >"$work/native"
            spawned "stay_${kind}_native" "$work/native"
            "${BOUNDED[@]}" oswalk exec --stay "$work/*" -- "$work/spawn" $STAYS "$program" >"$work/ours"
            spawned "stay_$kind" "$work/ours"
        done
    done
    for kind in static dynamic; do
        row stay "a $kind program that stays, p50" ms "stay_${kind}_p50" \
            peer native "stay_${kind}_native_p50" compare - must over 0.1
    done
}

# Measures ssh for comparison: an sshd on the node, and a connection that is kept open.
measure_ssh_true() {
    local dir=$work/ssh address=${NODE_ADDRESSES[0]} log=$work/ssh/log
    if [ ! -d "$dir" ]; then
        mkdir -p "$dir" /run/sshd
        ssh-keygen -q -t ed25519 -N '' -f "$dir/host"
        ssh-keygen -q -t ed25519 -N '' -f "$dir/user"
        cp "$dir/user.pub" "$dir/authorized"
        chmod 600 "$dir/authorized"
        printf '%s\n' "ListenAddress $address" 'Port 2222' "HostKey $dir/host" "AuthorizedKeysFile $dir/authorized" \
            'StrictModes no' 'PermitRootLogin yes' 'UsePAM no' "PidFile $dir/pid" >"$dir/sshd"
        setsid nsenter --net="/run/netns/osw-$OSWALK_LAB-n1" -- /usr/sbin/sshd -f "$dir/sshd" -E "$log" </dev/null
        printf '%s\n' 'Host node' "HostName $address" 'Port 2222' 'User root' "IdentityFile $dir/user" \
            'StrictHostKeyChecking no' "UserKnownHostsFile $dir/known" 'LogLevel ERROR' \
            'ControlMaster auto' "ControlPath $dir/open" 'ControlPersist 300' >"$dir/config"
        "${AT_ORIGIN[@]}" ssh -F "$dir/config" node true
    fi
    "${AT_ORIGIN[@]}" "$work/spawn" 50 "$(command -v ssh)" -F "$dir/config" node true >"$work/ssh_times"
    spawned true_ssh "$work/ssh_times"
}

stop_ssh() {
    [ -d "$work/ssh" ] || return 0
    "${AT_ORIGIN[@]}" ssh -F "$work/ssh/config" -O exit node 2>/dev/null || true
    [ ! -e "$work/ssh/pid" ] || kill "$(<"$work/ssh/pid")" 2>/dev/null || true
    rm -rf "$work/ssh"
}
