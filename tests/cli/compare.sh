#!/usr/bin/env bash
# compare.sh - plexus compare: what is comparable, what is refused before anything runs, and going on.
. "$(dirname "$0")/common.bash"
text >text.txt
recipe a.yaml
recipe b.yaml 's/layers: .*/layers: [{mixer: attention}]/'

expect "two recipes, and what each writes" 0 'Report with loss curves: both/report.html' \
    "$plexus" compare a.yaml b.yaml --out both --sample "it's" --sample-tokens 5
check "the report says how to make it again" grep -qF "<pre>plexus compare a.yaml b.yaml --out both --sample 'it'\\''s' --sample-tokens 5" both/report.html
expect "--json: a line a run" 0 '^\{"recipe":"b.yaml","seed":0,"lr":0.01,"steps":6,.*"valid_bits_per_byte":[0-9.]+,"accuracy":null\}$' \
    "$plexus" compare a.yaml b.yaml --out json --json

# ---- stopped, and going on ----
interrupt stopped/a-lr0.01-seed0 "$plexus" compare a.yaml --out stopped --sample "it's" --set train.steps=1000000
check "Ctrl-C: status 130" test $? = 130
check "and how to go on, word by word" \
    diff <(words_to_go_on) <(printf '%s\n' --resume a.yaml --out stopped --sample "it's" --set train.steps=1000000)

# ---- going on with finished runs, and with one that had hardly begun ----
expect "a finished run has the rate that it ran at" 0 '"tokens_per_second":[1-9]' "$plexus" compare a.yaml --out json --resume --json
sed -i 's/"tokens_per_second"/"was"/' json/a-lr0.01-seed0/checkpoints/*/trainer.json
expect "null where it is not known" 0 '"tokens_per_second":null' "$plexus" compare a.yaml --out json --resume --json
expect "a dash in the table" 0 '^a +[0-9]+ +[0-9.]+ k +-  ' "$plexus" compare a.yaml --out json --resume
check "and in the report" grep -q '<td>&ndash;</td><td>0.01</td>' json/report.html
expect "which is no part of a mean" 0 '^a +[0-9]+ +[0-9.]+ k +[1-9][0-9]*  ' "$plexus" compare a.yaml --out json --resume --seeds 2
