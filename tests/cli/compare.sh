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
rm -r json/b-lr0.01-seed0/{latest,checkpoints,metrics.jsonl}
expect "a run that was killed before its first line of metrics" 0 'Report' "$plexus" compare b.yaml --out json --resume

# ---- equal tokens ----
# made_equal NAME PATTERN RECIPE...: refused in the words of PATTERN; what that advises works
made_equal() {
    local name=$1 pattern=$2 advice
    shift 2
    expect "$name: refused, with what helps" 1 "$pattern" "$plexus" compare "$@" --out equal
    advice=$(sed -n 's/.* make them equal by \(.*\), or compare by .*/\1/p' .err)
    expect "$name: it does help" 0 'Report' "$plexus" compare "$@" --out equal $advice
    rm -rf equal
}
recipe longer.yaml 's/steps: 6/steps: 12/'
recipe wider.yaml 's/batch_size: 2/batch_size: 4/'
recipe tenth.yaml 's/steps: 6/epochs: 0.1/'
recipe tenth-wider.yaml 's/steps: 6/epochs: 0.1/' 's/batch_size: 2/batch_size: 4/'
recipe tenth-uneven.yaml 's/steps: 6/epochs: 0.1/' 's/batch_size: 2/batch_size: 3/'
made_equal "other steps" 'a.yaml trains on 192 tokens and longer.yaml on 384: make them equal by --set train.steps=6,' a.yaml longer.yaml
made_equal "other batches" 'on 384: .* by --set train.batch_size=2 --set train.accumulate=1 --set train.steps=6,' a.yaml wider.yaml
made_equal "epochs" 'by --set train.batch_size=2 --set train.accumulate=1 --set train.steps=8,' tenth.yaml tenth-uneven.yaml
expect "epochs are counted in steps" 0 '"recipe":"tenth-wider.yaml","seed":0,"lr":0.01,"steps":4,' \
    "$plexus" compare tenth.yaml tenth-wider.yaml --out tenth --json
cp .out tenth.lines
check "of each its own" grep -q '"steps":8,' tenth.lines
expect "also where flops are equal" 0 '"recipe":"b.yaml","seed":0,"lr":0.01,"steps":[0-9]+,' \
    "$plexus" compare tenth.yaml b.yaml --out flops --equal flops --json

# ---- learning rates ----
expect "a rate given twice" 1 'two learning rates are 0.001: give each once' "$plexus" compare a.yaml --out x --lr 1e-3,2e-3,0.001
expect "two that are one in a directory's name" 1 'two learning rates are 0.001' "$plexus" compare a.yaml --out x --lr 1e-3,0.00100000001
expect "nothing held out to choose by" 1 '^plexus: a.yaml: nothing is held out to choose' \
    "$plexus" compare a.yaml --out x --lr 1e-9,3e-3 --set data.valid_fraction=0
check "nothing has run" test ! -e x
expect "one rate needs nothing" 0 'Report' "$plexus" compare a.yaml --out one-rate --lr 3e-3 --set data.valid_fraction=0
expect "the better of two" 0 '^a .*  0.01  ' "$plexus" compare a.yaml --out two-rates --lr 1e-9,1e-2
expect "a directory whose name YAML would take for a list" 0 'Report' "$plexus" compare a.yaml --out '[a]: "b' --set train.steps=2
