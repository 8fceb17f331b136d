#!/bin/bash
# Instructions per event in the engine: enqueue, schedule, dequeue and release in one thread, free of the machine's noise.
#
#   benchmarks/instructions.sh BENCH_ENGINE [--check BUDGET | --write BUDGET] [WHAT ...]
#
# BENCH_ENGINE is the program built from csrc/tests/bench_engine.c, optimised but not with -march=native, which valgrind may not
# know. It moves n events and then 2n; (I(2n) - I(n)) / n, by callgrind, leaves the set-up out.
# WHAT: any of  types  growth  (default: both).
# BUDGET: a file with a line for each row. --check fails where a row costs more than 3 % above it, and leaves out, saying so,
# a machine without valgrind, or without AVX2, which the budget is written for.
set -euo pipefail

program=${1:?the path of bench_engine}
shift
mode= budget=
if [ "${1:-}" = --check ] || [ "${1:-}" = --write ]; then
  mode=$1 budget=${2:?the budget\'s file}
  shift 2
fi
what=("$@")
[ ${#what[@]} -gt 0 ] || what=(types growth)
if ! command -v valgrind >/dev/null; then
  echo "this machine has no valgrind: instructions are not counted"
  [ "$mode" = --check ] && exit 0
  exit 1
fi
if [ "$mode" = --check ] && ! grep -qw avx2 /proc/cpuinfo; then
  echo "this machine has no AVX2, for which the budget is written: instructions are not held against it"
  exit 0
fi
n=163840

instructions() { # for $1 events, with the options that follow
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" --events "$@" 2>&1 |
    sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}

status=0
lines=
row() { # NAME, options of bench_engine
  local name=$1 once twice cost most
  shift
  once=$(instructions "$n" "$@")
  twice=$(instructions $((2 * n)) "$@")
  [ -n "$once" ] && [ -n "$twice" ] || { echo "$name: the program failed or valgrind did not count" >&2; exit 1; }
  cost=$(awk -v more=$((twice - once)) -v n="$n" 'BEGIN { printf "%.1f", more / n }')
  lines+=$(printf '%-36s %8s' "$name" "$cost")$'\n'
  if [ "$mode" = --check ]; then
    most=$(sed -n "s/^$name  *//p" "$budget")
    if ! awk -v cost="$cost" -v most="${most:-0}" 'BEGIN { exit cost > most * 1.03 }'; then
      printf '%-36s %8s instructions/event: the budget is %s\n' "$name" "$cost" "${most:-not written}"
      status=1
      return
    fi
  fi
  printf '%-36s %8s instructions/event\n' "$name" "$cost"
}

for of in "${what[@]}"; do
  case $of in
    types)
      for batch in 32 1; do
        for sched in unordered atomic ordered directed; do
          row "$sched, batch $batch" --sched $sched --batch $batch
        done
        [ $batch = 32 ] || row "atomic, batch 1, released on recv" --batch 1 --on-recv
        row "ordered and forwarded, batch $batch" --sched ordered --forward --batch $batch
      done ;;
    growth)
      for ports in 4 16 64; do row "atomic, $ports ports" --ports $ports; done
      for queues in 8 32; do row "atomic, $queues queues" --queues $queues; done
      row "atomic, 8 queues in each batch" --queues 8 --spread
      for flows in 8192 65536; do row "atomic, $flows flows" --flows $flows; done
      for held in 4 1000 100000; do
        row "evenly, $held connections open" --held $held --even --ports 4 --sched unordered --batch 1
      done ;;
    *) echo "unknown: $of" >&2; exit 2 ;;
  esac
done
if [ "$mode" = --write ]; then printf '%s' "$lines" >"$budget"; fi
exit $status
