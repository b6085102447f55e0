# shellcheck shell=bash disable=SC2034,SC2086,SC2153,SC2154 # Part of scripts/bench, which sets what is used here.
# The values of the runs, and the table of results.

# record KEY EXPRESSION: records a value of this run.
record() { awk "BEGIN { printf \"%.6g\\n\", $2 }" >>"$work/values/$1"; }

median() { quantile 0.5 "$1"; }

# quantile Q FILE: prints the quantile of the file's lines.
quantile() {
    sort -g "$2" | awk -v q="$1" '{ v[NR] = $1 }
        END { at = 1 + (NR - 1) * q; low = int(at); high = low < NR ? low + 1 : low
              printf "%.6g\n", v[low] + (v[high] - v[low]) * (at - low) }'
}

# pairwise OPERATOR KEY OTHER: applies an operator to two lists of values, run by run.
pairwise() { paste "$work/values/$2" "$work/values/$3" | awk "{ printf \"%.6g\\n\", \$1 $1 \$2 }"; }

# row NAME WHAT UNIT KEY [PEER KEY] [compare OPERATOR] [must over|own LIMIT]: adds a line to the table.
# The comparison with the peer is a ratio (/) or a difference (-). The limit is on that (over), or on the
# value itself (own).
row() {
    local name=$1 what=$2 unit=$3 key=$4 peer='' peer_key='' operator=/ of=own limit=null
    shift 4
    while [ $# -gt 0 ]; do
        case $1 in
        peer) peer=$2 peer_key=$3; shift 3 ;;
        compare) operator=$2; shift 2 ;;
        must) of=$2 limit=$3; shift 3 ;;
        esac
    done
    local own_median peer_median=null over=null
    own_median=$(median "$work/values/$key")
    if [ -n "$peer" ]; then
        peer_median=$(median "$work/values/$peer_key")
        pairwise "$operator" "$key" "$peer_key" >"$work/values/.over"
        over=$(median "$work/values/.over")
    fi
    jq -nc --arg name "$name" --arg what "$what" --arg unit "$unit" --argjson measured "$own_median" \
        --arg peer "$peer" --argjson beside "$peer_median" --arg operator "$operator" --argjson over "$over" \
        --arg of "$of" --argjson limit "$limit" --argjson values "$(jq -s . "$work/values/$key")" \
        --argjson peer_values "$(if [ -n "$peer" ]; then jq -s . "$work/values/$peer_key"; else echo null; fi)" '
        {name: $name, what: $what, unit: $unit, measured: $measured, peer: $peer, beside: $beside,
         operator: $operator, over: $over, limit_on: $of, limit: $limit,
         met: (if $limit == null then null elif $of == "own" then $measured <= $limit else $over <= $limit end),
         values: $values, peer_values: $peer_values}' >>"$work/rows.json"
}

show() {
    touch "$work/rows.json"
    local format='%-6s %-50s %11s %-9s %20s %11s %-14s %s\n'
    # shellcheck disable=SC2059 # One format for head and rows.
    printf "$format" NAME WHAT MEASURED UNIT BESIDE RATIO/DIFF 'MUST REACH' ''
    jq -r 'def short: if . == null then "" elif . >= 1000 then (. | round | tostring)
               elif fabs >= 100 then (. * 10 | round / 10 | tostring) else (. * 1000 | round / 1000 | tostring) end;
           [.name, .what, (.measured | short), .unit,
            (if .peer == "" then "-" else "\(.peer) \(.beside | short)" end),
            (if .over == null then "-" elif .operator == "-" then "+\(.over | short)" else "\(.over | short) x" end),
            (if .limit == null then "-" else "<= \(.limit)" + (if .limit_on == "own" then " \(.unit)"
                elif .operator == "-" then " more" else " x" end) end),
            (if .met == null then "-" elif .met then "met" else "MISSED" end)] | join("\u001f")' "$work/rows.json" |
        while IFS=$'\x1f' read -r name what measured unit beside over must met; do
            # shellcheck disable=SC2059
            printf "$format" "$name" "$what" "$measured" "$unit" "$beside" "$over" "$must" "$met"
        done
}

# draw FILE: draws the table as a chart.
draw() {
    jq -s '{rows: .}' "$work/rows.json" >"$work/chart.json"
    cargo run --quiet --manifest-path "$OSWALK_ROOT/Cargo.toml" -p oswalk-tests --example chart -- "$work/chart.json" "$1"
}
