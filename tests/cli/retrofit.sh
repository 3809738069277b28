#!/usr/bin/env bash
# retrofit.sh - plexus retrofit on a model that was trained here.
. "$(dirname "$0")/common.bash"
text >text.txt
recipe tiny.yaml 's/layers: .*/layers: [{mixer: attention}, {mixer: attention}, {mixer: grassmann, rank: 4, offsets: [1, 2]}]/'
check "a model to start from" "$plexus" train tiny.yaml --quiet
run=$(sed -n 's/^out: *//p' tiny.yaml)
expect "a gated nexus layer begins as attention" 0 'the same up to rounding' \
    "$plexus" retrofit "$run" --out nexus --layers 1:nexus,order=2,gate=scalar
expect "simplicial and window too, JSON" 0 '"equal":true' \
    "$plexus" retrofit "$run" --out both --layers 0:simplicial --layers 1:attention --json
expect "both models write the same" 0 '' "$plexus" generate nexus --prompt 'the ' --max-tokens 40 --temperature 0
mv .out first
"$plexus" generate "$run" --prompt 'the ' --max-tokens 40 --temperature 0 >second 2>/dev/null
check "the same text" cmp first second
expect "an unequal beginning is said and measured" 0 'another model from the start' \
    "$plexus" retrofit "$run" --out other --layers 'every 2:grassmann,rank=4'
check "with its reason" grep -q 'does not begin as the attention layer' .err
expect "what is there stays" 1 'nexus' "$plexus" retrofit "$run" --out nexus --layers 1:nexus
expect "no layers named" 2 'layers' "$plexus" retrofit "$run" --out x
expect "no directory named" 2 'out' "$plexus" retrofit "$run" --layers 1:nexus
expect "a layer too far" 1 'no layer 3' "$plexus" retrofit "$run" --out x --layers 3:nexus
expect "no such mixer" 1 "layer 1: there is no mixer 'nexsus'; there are .*nexus" "$plexus" retrofit "$run" --out x --layers 1:nexsus
expect "an unknown key" 1 "ordr" "$plexus" retrofit "$run" --out x --layers 1:nexus,ordr=2
recipe paper.yaml 's/layers: .*/layers: [{mixer: grassmann, rank: 4, offsets: [1, 2], block: paper}]\n  dropout: 0.1/' 's/out: run/out: paper/'
expect "new weights of a model with dropout" 0 'done' "$plexus" train paper.yaml --set train.parameters=new
expect "its last layer with dropout replaced" 0 '' "$plexus" retrofit paper --out no-paper --layers 0:attention
check "nothing is left of a failure" test ! -e x
