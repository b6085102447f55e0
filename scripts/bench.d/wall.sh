# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# wall: a whole build of Lua.

# lua_in KEY [PREFIX…]: builds all of Lua with make -j2, and records the seconds.
lua_in() {
    local key=$1 source
    shift
    source=$(awk '$1 == "lua" { print $2 }' <<<"$sources")
    OSWALK_JOBS=$lua_jobs timed_build lua "$source" "$work/lua" "$work/lua.log" "${BOUNDED[@]}" "$@" ||
        { tail -n 20 "$work/lua.log" >&2; return 1; }
    record "$key" "$elapsed_ms / 1e3"
}

measure_wall() {
    local run
    another_lab 1
    start_alone
    lua_jobs=$JOBS
    lua_in wall_unmeasured oswalk exec --
    for ((run = 0; run < runs; run++)); do
        lua_jobs=2
        lua_in lua_native
        lua_jobs=$JOBS
        lua_in lua_walked oswalk exec --
        lua_jobs=2
        OSWALK_STATE=$work/alone lua_in lua_alone oswalk exec --
    done
    lab kill n1
    lab kill n2
    for ((run = 0; run < runs; run++)); do
        lua_in lua_native_dead
        lua_in lua_dead oswalk exec --
    done
    stop_alone
    row wall "Lua, make -j$JOBS on 2 nodes with 1 slot, over -j2" s lua_walked peer native lua_native
    row wall "Lua, oswalk exec make -j2, no other node" s lua_alone peer native lua_native must over 1.05
    row wall "Lua, oswalk exec make -j2, every node dead" s lua_dead peer native lua_native_dead must over 1.05
}

# start_alone: starts an agent without a cluster.
start_alone() {
    "${AT_ORIGIN[@]}" "${BOUNDED[@]}" oswalk up --state "$work/alone" --name alone --slots 2 \
        </dev/null >"$work/alone.log" 2>&1 || { cat "$work/alone.log" >&2; return 1; }
}

stop_alone() {
    [ ! -e "$work/alone/door" ] || OSWALK_STATE=$work/alone timeout -k 2 15 oswalk down >/dev/null 2>&1 || true
}
