# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# fs: a mounted volume beside the file system of the disk below it.

# The program is packetfs/benches/volume/; it prints its rows as they come, and adds them to the table.
measure_fs() {
    local source
    source=$(awk '$1 == "lua" { print $2 }' <<<"$sources")
    cargo bench --quiet --manifest-path "$OSWALK_ROOT/Cargo.toml" -p packetfs --bench volume -- \
        --dir "$work" --runs "$runs" --lua "$source" --json "$work/rows.json"
}
