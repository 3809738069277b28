#!/usr/bin/env bash
# usage.sh - options, help, and exit statuses of wrong usage.
. "$(dirname "$0")/common.bash"

expect "without a command" 2 'usage: plexus COMMAND' "$plexus"
expect "help" 0 'usage: plexus COMMAND' "$plexus" help
expect "--help" 0 'usage: plexus COMMAND' "$plexus" --help
expect "--version" 0 '^plexus [0-9]+\.[0-9]+\.[0-9]+$' "$plexus" --version
for command in train generate eval compare plan info; do
    expect "$command --help" 0 "usage: plexus $command" "$plexus" "$command" --help
    expect "help $command" 0 '--threads N' "$plexus" help "$command"
    expect "$command --help after other words" 0 "usage: plexus $command" "$plexus" --json "$command" x --help
done
expect "a command misspelt" 2 "unknown command 'genrate'; did you mean 'generate'" "$plexus" genrate
expect "a command unlike any" 2 "^plexus: unknown command 'xyzzyx'$" "$plexus" xyzzyx
expect "an option misspelt" 2 "unknown option '--max-token'; did you mean '--max-tokens'" "$plexus" generate m --max-token 3
expect "an option misspelt, with a value" 2 "'--tempreature'; did you mean '--temperature'" "$plexus" generate m --tempreature=3
expect "a short option" 2 "options begin with --" "$plexus" info -j
expect "a value missing" 2 "seed wants a value" "$plexus" generate m --seed
expect "no number" 2 "wants a whole number, not 'ten'" "$plexus" generate m --max-tokens ten
expect "a negative number" 2 "wants a whole number, not '-3'" "$plexus" generate m --max-tokens -3
expect "a number too large" 2 'must be at most' "$plexus" generate m --max-tokens 99999999999
expect "whole numbers are whole in what they may be" 2 '--threads must be at most 1024, not 5000' "$plexus" info --threads 5000
expect "also large ones" 2 '--M must be at most 16777216, not 99999999' "$plexus" bench matmul.forward --M 99999999
expect "a number for ever" 2 'wants a whole number' "$plexus" generate m --seed 999999999999999999999999
expect "not a number" 2 'wants a number' "$plexus" generate m --temperature nan
expect "out of range" 2 'must be at most 1' "$plexus" generate m --top-p 1.5
expect "a value for a flag" 2 'takes no value' "$plexus" info --json=yes
expect "no threads" 2 'threads must be at least 1' "$plexus" info --threads 0
expect "an unknown level" 2 "PLX_LEVEL is portable, avx2, avx512, vnni, bf16 or amx, not 'avx3'" env PLX_LEVEL=avx3 "$plexus" info
expect "an unknown device" 2 "--device is cpu or fenced, not 'gpu'" "$plexus" info --device gpu
expect "an argument missing" 2 'too few arguments; it is plexus eval MODEL' "$plexus" eval
expect "an argument too many" 2 "unexpected argument 'x'" "$plexus" info x
expect "eval without a text" 2 "text FILE is missing" "$plexus" eval m
expect "bench: a mixer that there is not" 1 "no mixer 'fourier'; there are attention, nexus" "$plexus" bench train.step --mixer fourier
expect "bench: an operation that there is not" 2 "nothing matches 'zzz'; 'plexus info' lists" "$plexus" bench zzz
expect "compare: equal in what" 2 "--equal is tokens or flops, not bytes" "$plexus" compare a.yaml --equal bytes
for rates in 0 1e-3,x; do
    expect "compare: no learning rates: $rates" 2 "takes up to 16 numbers above 0 .*, not $rates" "$plexus" compare a.yaml --lr $rates
done
expect "two prompts" 2 'exclude each other' "$plexus" generate m --prompt a --prompt-file b

expect "info" 0 '^memory read ' "$plexus" info
expect "info --json" 0 '^\{"version":"[^"]*","cpu":"[^"]*","level":"[a-z0-9]+","threads":1,"peak_gflops":[0-9.e+]+,"read_gbs":[0-9.e+]+,.*"kernels":\{"matmul":"' \
    "$plexus" --threads 1 info --json
check "info --json is one line" test "$("$plexus" info --json 2>/dev/null | wc -l)" -eq 1
if [ -w /dev/full ]; then
    full() { "$plexus" info >/dev/full; }
    expect "a full standard output" 1 'standard output: No space left' full
fi
