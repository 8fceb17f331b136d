#!/bin/bash
# Instructions that the device backend takes to send a line of four elements, credits included, and to receive four: what
# one more line in a call costs, and a call with one line as a whole, by callgrind. The store is left
# out: here it is a function that returns, and calling it takes 8 (three arguments, call and return, and what the call
# makes be loaded again).
#
#   benchmarks/device_instructions.sh BENCH_DEVICE
#
# BENCH_DEVICE is the program built from csrc/tests/bench_device.c. Fails if one more line costs more than 40, or 60.
set -euo pipefail
program=${1:?the path of bench_device}
n=5000

instructions() { # within function $1, for $2 lines in a call
  PDLB_COUNT=$n PDLB_BATCH=$2 valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
    "--toggle-collect=$1" "$program" 2>&1 | sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}

status=0
for row in "send:port_send:40:8" "receive:port_recv:60:0"; do
  IFS=: read -r name function most store <<<"$row"
  awk -v name="$name" -v one="$(instructions "$function" 1)" -v eight="$(instructions "$function" 8)" -v n=$n \
    -v most="$most" -v store="$store" 'BEGIN {
      more = (eight - one) / n / 7 - store
      printf "%-8s %6.1f for each more line (at most %d), %6.1f for a call with one\n", name, more, most, one / n
      exit more > most
    }' || status=1
done
exit $status
