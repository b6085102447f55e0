# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# The machine, its control groups, and the labs.

install_peers() {
    "$OSWALK_ROOT/scripts/install-missing" --check 2>/dev/null || "$OSWALK_ROOT/scripts/install-missing"
    command -v distccd >/dev/null || install_server distcc
    command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] || install_server openssh-server
}

# install_server PACKAGE: installs it without starting its server, which would disturb measurements.
install_server() {
    local policy=/usr/sbin/policy-rc.d log ours=no status=0
    log=$(mktemp)
    say "bench: installing $1"
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' | install -m 0755 /dev/stdin $policy; ours=yes; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1" >"$log" 2>&1 </dev/null || status=$?
    [ $ours = no ] || rm -f $policy
    [ $status = 0 ] ||
        { tail -n 20 "$log" >&2; fail "apt-get could not install $1" "run apt-get update, or install it yourself"; }
    rm -f "$log"
}

describe_machine() {
    local halt=/sys/module/haltpoll/parameters/guest_halt_poll_ns
    jq -n --arg kernel "$(uname -r)" --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" \
        --argjson cpus "$(nproc)" --arg load "$(cut -d' ' -f1-3 /proc/loadavg)" \
        --arg halt "$(cat $halt 2>/dev/null || echo none)" --arg date "$(date -u +%F)" \
        --arg gcc "$(gcc -dumpfullversion)" \
        --argjson runs "$runs" --argjson objects "$objects_max" \
        '{date: $date, kernel: $kernel, cpu: $cpu, cpus: $cpus, load_at_start: $load,
          guest_halt_poll_ns: $halt, gcc: $gcc, runs: $runs, objects_max: $objects}' >"$work/machine.json"
    jq -r '"\(.date)  Linux \(.kernel)  \(.cpus) × \(.cpu)  load \(.load_at_start)  " +
        "guest_halt_poll_ns \(.guest_halt_poll_ns)  gcc \(.gcc)  \(.runs) runs"' "$work/machine.json"
}

# Creates the control groups: cpuacct of version 1, or groups of version 2, which always count CPU time.
make_groups() {
    local root=/sys/fs/cgroup/cpuacct name
    if [ -e $root/cpuacct.usage ]; then
        usage_file=cpuacct.usage
    elif [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        root=/sys/fs/cgroup usage_file=cpu.stat
    else
        fail "this machine has no control groups" "mount them on /sys/fs/cgroup"
    fi
    groups=$root/oswalk-bench-$$
    mkdir "$groups"
    for name in "${COUNTED[@]}" beside; do
        mkdir "$groups/$name"
    done
}

# usage_us GROUP: prints its CPU time so far, in µs.
usage_us() {
    if [ $usage_file = cpu.stat ]; then
        sed -n 's/^usage_usec //p' "$groups/$1/cpu.stat"
    else
        echo $(($(<"$groups/$1/cpuacct.usage") / 1000))
    fi
}

# in_group GROUP COMMAND…: runs a program or a function of this script in a control group.
in_group() {
    (
        echo $BASHPID >"$groups/$1/cgroup.procs"
        shift
        [ "$(type -t "$1")" = function ] || exec "$@"
        "$@"
    )
}

# metered COMMAND…: runs a command; sets used[] to each group's CPU time in µs, and elapsed_ms to the wall time.
metered() {
    local name start
    declare -A before
    for name in "${COUNTED[@]}"; do before[$name]=$(usage_us "$name"); done
    start=$(now_ms)
    in_group client "$@" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        say "bench: failed: $*"
        return 1
    }
    elapsed_ms=$(($(now_ms) - start))
    sleep "$SETTLE_SECONDS"
    for name in "${COUNTED[@]}"; do used[$name]=$(($(usage_us "$name") - before[$name])); done
}

lab() { "$OSWALK_ROOT/scripts/lab" "$@" 2>>"$work/lab.log"; }

# start_lab SLOTS [NODES [OPTION…]]: starts a lab, with two nodes by default. n1 and n2 are in the groups of
# their names.
start_lab() {
    local slots=$1 nodes=${2:-2}
    shift $(($# < 2 ? $# : 2))
    # Never the lab that the caller's environment names, which must not be taken down.
    export OSWALK_LAB=bench$$ OSWALK_LAB_DIR=$work/lab
    lab_is_ours=yes
    AT_ORIGIN=(nsenter --net="/run/netns/osw-$OSWALK_LAB-origin" --)
    lab up --nodes "$nodes" --slots "$slots" "$@" || { cat "$work/lab.log" >&2; fail "the lab did not start" "the lines above say why"; }
    local environment member pid
    environment=$("$OSWALK_ROOT/scripts/lab" env)
    eval "$environment"
    for member in "${COUNTED[@]}"; do
        [ -e "/run/netns/osw-$OSWALK_LAB-$member" ] || continue
        for pid in $(ip netns pids "osw-$OSWALK_LAB-$member"); do
            echo "$pid" >"$groups/$member/cgroup.procs"
        done
    done
}

stop_lab() { lab down; }

# another_lab SLOTS [NODES [OPTION…]]: replaces the current lab.
another_lab() {
    stop_lab
    start_lab "$@"
}

# fresh_node NODE: resets a node, as if it had just joined for the first time.
fresh_node() {
    lab kill "$1"
    umount -l "$OSWALK_LAB_DIR/$1/"* 2>/dev/null || true
    remove_pages "${OSWALK_LAB_DIR:?}/$1"
    rm -rf --one-file-system "${OSWALK_LAB_DIR:?}/$1"
    in_group "$1" "$OSWALK_ROOT/scripts/lab" heal "$1" 2>>"$work/lab.log"
    until_alive "$1"
}

until_alive() {
    local try
    for ((try = 0; try < 100; try++)); do
        if timeout 5 oswalk status --json 2>/dev/null |
            jq -e --arg node "$1" '.nodes[] | select(.node == $node) | .state == "alive"' >/dev/null; then
            return 0
        fi
        sleep 0.1
    done
    oswalk status >&2 || true
    fail "$1 does not come back" "see $work/lab.log"
}

clean_up() {
    local status=$?
    trap - EXIT
    if [ -n "${groups:-}" ]; then
        # shellcheck disable=SC2046 # A list of numbers.
        kill $child $(cat "$groups/"{client,beside}/cgroup.procs) 2>/dev/null || true
    fi
    stop_alone
    stop_ssh
    [ $lab_is_ours = no ] || stop_lab || true
    if [ -n "${groups:-}" ]; then
        sleep 0.2
        rmdir "$groups"/*/ "$groups" 2>/dev/null || true
    fi
    [ $status != 0 ] || rm -rf --one-file-system "$work"
    [ $status = 0 ] || say "bench: what there is of it is in $work"
    exit $status
}

make_programs() {
    local name
    for name in noop pause; do
        gcc -O2 -static -nostdlib -o "$work/$name" "$OSWALK_ROOT/scripts/bench.d/$name.c"
    done
    gcc -O2 -o "$work/spawn" "$OSWALK_ROOT/scripts/bench.d/spawn.c"
    # A dynamic program, as most are, that does nothing.
    printf 'int main(void) { return 0; }\n' | gcc -O2 -x c -o "$work/dynamic" -
}
