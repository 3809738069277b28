#!/usr/bin/env bash
# curves.sh RUN... >curves.svg: the held-out losses of runs, from before the first step (RUN-begin), drawn by gnuplot.
set -euo pipefail
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
plots=()
for run in "$@"; do
    name=${run##*smollm2-}
    { sed -n 's/.*"valid_loss":\([0-9.]*\).*/0 \1/p' "$run-begin/metrics.jsonl"
      sed -n 's/.*"step":\([0-9]*\),"valid_loss":\([0-9.]*\).*/\1 \2/p' "$run/metrics.jsonl"; } >"$data/$name"
    plots+=("'$data/$name' with linespoints pointtype 7 pointsize 0.6 title '$name'")
done
gnuplot <<GP
set terminal svg size 720,360 font "sans-serif,12" background "white"
set xlabel "step"
set ylabel "held-out loss, nats a token of the answers"
set grid
plot $(IFS=,; echo "${plots[*]}")
GP
