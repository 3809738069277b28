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
