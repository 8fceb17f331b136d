#!/bin/bash
# Instructions per event in the engine: enqueue, schedule, dequeue and release in one thread, free of the machine's noise.
#
#   benchmarks/instructions.sh BENCH_ENGINE [n] [WHAT ...]
#
# BENCH_ENGINE is the program built from csrc/tests/bench_engine.c, optimised but not with -march=native, which valgrind may not
# know. It moves n events (default 320000) and then 2n; (I(2n) - I(n)) / n, by callgrind, leaves the set-up out.
# WHAT: any of  types  ports  queues  flows  (default: types).
set -euo pipefail

program=${1:?the path of bench_engine}
n=${2:-320000}
what=("${@:3}")
[ ${#what[@]} -gt 0 ] || what=(types)

instructions() { # for $1 events
  PDLB_COUNT=$1 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" 2>&1 |
    sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}

row() { # NAME, settings in the environment
  local once twice
  once=$(instructions "$n")
  twice=$(instructions $((2 * n)))
  [ -n "$once" ] && [ -n "$twice" ] || { echo "$1: the program failed or valgrind did not count" >&2; return 1; }
  awk -v name="$1" -v more=$((twice - once)) -v n="$n" \
    'BEGIN { printf "%-28s %8.1f instructions/event\n", name, more / n }'
}

for of in "${what[@]}"; do
  case $of in
    types)
      for type in unordered atomic ordered forward directed; do
        for batch in 32 1; do PDLB_TYPE=$type PDLB_BATCH=$batch row "$type batch $batch"; done
      done ;;
    ports) for ports in 1 4 16 64; do PDLB_PORTS=$ports row "${PDLB_TYPE:-atomic}, $ports ports"; done ;;
    queues) for queues in 1 8 32; do PDLB_QUEUES=$queues row "${PDLB_TYPE:-atomic}, $queues queues"; done ;;
    flows) for flows in 1000 8000 65000; do PDLB_FLOWS=$flows row "${PDLB_TYPE:-atomic}, $flows flows"; done ;;
    *) echo "unknown: $of" >&2; exit 2 ;;
  esac
done
