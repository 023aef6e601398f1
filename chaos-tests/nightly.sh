#!/usr/bin/env bash
# The long run: every fault there is, alone and with others, over new seeds; then simulated clusters, and then every
# seeded bug.
#
#     chaos-tests/nightly.sh [--hours H] [--seconds S] [--seed N] [--simulate M] [--no-mutants]
#
# H (default 6) is how long chaos runs begin, S (default 120) how long faults begin in each, N the first
# seed (default: from the date), M how many seeds are simulated (default 10000). Status 1 if a promise was broken, a run failed, or a bug survived; what is
# needed to look into it stays in target/chaos/nightly. A run that tried too little is told and is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."

hours=6 seconds=120 seed=$(date +%y%m%d00) simulate=10000 mutants=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --hours) hours=$2 && shift 2 ;;
        --seconds) seconds=$2 && shift 2 ;;
        --seed) seed=$2 && shift 2 ;;
        --simulate) simulate=$2 && shift 2 ;;
        --no-mutants) mutants=no && shift ;;
        *) echo "usage: $0 [--hours H] [--seconds S] [--seed N] [--simulate M] [--no-mutants]" >&2 && exit 2 ;;
    esac
done

deadline=$(($(date +%s) + hours * 3600))
reports=target/chaos/nightly
rm -rf "$reports"
mkdir -p "$reports"
cargo build --quiet -p muster-chaos --bins
chaos=target/debug/muster-chaos

engines=(process)
if docker info >/dev/null 2>&1; then
    engines+=(docker)
else
    echo "no Docker Engine answers: functions run as processes only"
fi

passed=0 failures=() inconclusive=()

run() { # engine, faults with commas between them
    local dir="$reports/$seed-$1-$2"
    local command=("$chaos" --seed "$seed" --seconds "$seconds" --faults "$2" --engine "$1")
    # Debug builds on few cores recover more slowly than the product's own bound of 5 s.
    command+=(--recovery-bound-ms 15000 --report "$dir")
    seed=$((seed + 1))
    mkdir -p "$dir"
    if "${command[@]}" >"$dir/output.txt" 2>&1; then
        passed=$((passed + 1))
        rm -rf "$dir"
    elif head -n 1 "$dir/report.txt" 2>/dev/null | grep -q ^INCONCLUSIVE; then
        inconclusive+=("${command[*]}")
        rm -rf "$dir"
    else
        failures+=("${command[*]}")
        echo "FAILED: ${command[*]}"
    fi
}

# Some of the faults by chance, of the seed's making.
some() { # how many, of which
    local count=$1
    shift
    printf '%s\n' "$@" | shuf -n "$count" --random-source=<(yes "$seed") | paste -sd,
}

while [ "$(date +%s)" -lt "$deadline" ]; do
    for engine in "${engines[@]}"; do
        mapfile -t faults < <("$chaos" --list-faults --engine "$engine")
        for fault in "${faults[@]}"; do
            [ "$(date +%s)" -lt "$deadline" ] || break 2
            run "$engine" "$fault"
        done
        for count in 2 3 2 3 "${#faults[@]}"; do
            [ "$(date +%s)" -lt "$deadline" ] || break 2
            run "$engine" "$(some "$count" "${faults[@]}")"
        done
    done
done

simulated=yes
if [ "$simulate" -gt 0 ]; then
    cargo build --quiet --release -p muster-simulation
    target/release/muster-simulation --seed "$seed" --seeds "$simulate" --seconds 10 \
        | tee "$reports/simulation.txt" || simulated=no
fi

survivors=no
if [ "$mutants" = yes ]; then
    cargo run --quiet -p muster-chaos --bin muster-mutants | tee "$reports/mutants.md" || survivors=yes
fi

echo
echo "$passed runs passed, ${#inconclusive[@]} tried too little, ${#failures[@]} failed"
for command in "${inconclusive[@]}"; do echo "  too little: $command"; done
for command in "${failures[@]}"; do echo "  failed:     $command"; done
[ "$survivors" = no ] || echo "a seeded bug survived, or a proof fails without one: see above"
[ "$simulated" = yes ] || echo "a simulated cluster broke a promise: see above"
[ ${#failures[@]} -eq 0 ] && [ "$survivors" = no ] && [ "$simulated" = yes ]
