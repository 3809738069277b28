#!/usr/bin/env bash
# sft.sh - plexus sft: all weights, new ones, adapters; equal beginnings; going on after a stop.
. "$(dirname "$0")/common.bash"
text >text.txt
recipe tiny.yaml 's/hidden_size: [0-9]*/hidden_size: 32/; s/layers: .*/layers: [{mixer: attention}, {mixer: attention}]\n  max_position_embeddings: 64/'
check "a model to start from" "$plexus" train tiny.yaml --quiet
run=$(sed -n 's/^out: *//p' tiny.yaml)
for i in $(seq 40); do
    echo "{\"messages\": [{\"role\": \"user\", \"content\": \"say $((i % 4))\"}, {\"role\": \"assistant\", \"content\": \"aa$((i % 4))\"}]}"
done >talk.jsonl
"$plexus" retrofit "$run" --out nexus --layers 1:nexus --quiet >/dev/null 2>&1
"$plexus" retrofit "$run" --out simplicial --layers 1:simplicial --quiet >/dev/null 2>&1
sft() { "$plexus" sft "$1" --data talk.jsonl --out "$2" --sequence-length 64 --batch-size 2 --steps 12 "${@:3}"; }

expect "all weights" 0 'done: step 12' sft "$run" all --lr 3e-3
expect "adapters on a plain model" 0 'done: step 12' sft "$run" lora --lora-rank 4 --lr 1e-2
expect "adapters on a nexus model" 0 'done: step 12' sft nexus lora-nexus --lora-rank 4 --lr 1e-2 --train new,adapter
expect "adapters on a simplicial model" 0 'done: step 12' sft simplicial lora-simplicial --lora-rank 4 --lora-targets q_proj,v_proj --lr 1e-2
expect "the new weights alone" 0 'done: step 12' sft simplicial new --train new --lr 1e-2
first() { head -1 "$1/metrics.jsonl" | sed 's/.*"loss": *\([0-9.]*\).*/\1/' | cut -c1-7; }
check "equal first losses: $(first lora) $(first lora-nexus) $(first lora-simplicial)" \
    test "$(first lora)" = "$(first lora-nexus)" -a "$(first lora)" = "$(first lora-simplicial)"
expect "adapters on weights held as q8_0" 0 'done: step 12' sft "$run" q8 --lora-rank 4 --lr 1e-2 --weights q8_0
check "which begin nearly there: $(first lora) $(first q8)" \
    awk "BEGIN { d = $(first q8) / $(first lora) - 1; exit !(d < .01 && d > -.01) }"
expect "held weights cannot be trained" 1 'cannot be trained|freeze' sft "$run" held --weights q8_0
planned() { "$plexus" plan "$1/recipe.yaml" --json | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"; }
check "a plan counts gradients of what moves: $(planned lora gradients) $(planned all gradients)" \
    test "$(planned lora gradients)" -gt 0 -a "$((4 * $(planned lora gradients)))" -lt "$(planned all gradients)"
check "and weights as they are held: $(planned q8 weights) $(planned lora weights)" \
    test "$((3 * $(planned q8 weights)))" -lt "$((2 * $(planned lora weights)))"
expect "no such way to hold them" 1 'weights.*f8' sft "$run" x --lora-rank 4 --weights f8
falls() { grep '"loss"' "$1/metrics.jsonl" | sed 's/.*"loss": *\([0-9.]*\).*/\1/' | awk 'NR == 1 { a = $1 } { b = $1 } END { exit !(b < a) }'; }
for kind in all lora q8 lora-nexus lora-simplicial new; do check "the loss falls: $kind" falls $kind; done

# go_on NAME OPTION...: a run that was stopped after step 4 ends in the same bytes as one that was not.
go_on() {
    sft "$run" "whole$1" --lora-rank 4 --set train.save_every=4 --quiet "${@:2}" >/dev/null 2>&1
    cp -r "whole$1" "part$1"
    rm -r "part$1"/checkpoints/step-00000008 "part$1"/checkpoints/step-00000012
    echo step-00000004 >"part$1/latest"
    expect "going on from step 4 $*" 0 'done: step 12' sft "$run" "part$1" --lora-rank 4 --set train.save_every=4 --resume "${@:2}"
    check "it ends in the same weights" cmp "whole$1/checkpoints/step-00000012/model.safetensors" "part$1/checkpoints/step-00000012/model.safetensors"
}
go_on ""
go_on -q8_0 --weights q8_0
"$plexus" data tokenizer text.txt --out words --vocab 300 --quiet >/dev/null 2>&1
"$plexus" train tiny.yaml --quiet --set data.tokenizer=words --set out=words-model >/dev/null 2>&1
cp -r words-model gone
go_on_alone() { sft gone alone --lora-rank 4 --set train.save_every=4 --set train.keep=1 "$@"; }
expect "a run whose base is removed" 0 'done: step 12' go_on_alone
rm -r gone words
expect "goes on with what it has itself" 0 'warning: model.from, gone, is there no longer.*' go_on_alone --set train.steps=20 --resume
check "to its end, over several checkpoints" grep -q '"step": *20' alone/checkpoints/step-00000020/trainer.json
rm -r alone
expect "a new one does not begin" 1 'gone' go_on_alone
check "the resolved recipe says what is trained" grep -q "parameters: *\"\?adapter" whole/recipe.yaml
expect "the result is a model" 0 '' "$plexus" generate whole --prompt 'User: say 1' --max-tokens 4
expect "epochs" 0 'done: step' "$plexus" sft "$run" --data talk.jsonl --out epochs --sequence-length 64 --batch-size 4 --epochs 2 --seed 3
check "as many steps as rows say" test "$(grep -c '"loss"' epochs/metrics.jsonl)" -gt 5
sft_set() { "$plexus" sft "$run" --data talk.jsonl --sequence-length 64 --batch-size 2 "$@"; }
expect "train.steps wins over the usual one epoch" 0 'done: step 2,' sft_set --out set --set train.steps=2
expect "train.epochs as well" 0 'done: step 1,' sft_set --out set-epochs --set train.epochs=0.1
expect "and over those that were asked for" 0 'done: step 3,' sft_set --out set-over --epochs 1 --set train.steps=3
expect "nor do --steps" 2 'steps and --epochs exclude' sft_set --out x --epochs 1 --steps 2
expect "what is wrong is said by its key, without lines that nobody wrote" 1 '^plexus: plexus sft: train.parameters: is one of all' \
    sft "$run" x --train most
expect "rows longer than the model's positions: what to do" 1 'sequence_length, 9999: shorten that' sft "$run" x --sequence-length 9999
expect "no data" 2 'data' "$plexus" sft "$run" --out x
expect "all weights by name" 0 'done: step 12' sft "$run" all-named --train all
lr_of() { sed -n 's/^ *lr: *//p' "$1/recipe.yaml"; }
check "learning rates: $(lr_of all-named) $(lr_of whole)" test "$(lr_of all-named) $(lr_of whole)" = "2e-05 0.0002"
expect "an adapter goes on" 0 'done: step 12' sft lora lora-on
check "at the rate of adapters" test "$(lr_of lora-on)" = 0.0002
expect "another in its place is refused" 1 'model.adapter: lora has an adapter already, of rank 4.*--merge' sft lora x --lora-rank 2
expect "other weights in the middle of a run are refused" 1 'model.weights is not what it was' \
    sft "$run" lora --lora-rank 4 --lr 1e-2 --resume --weights q8_0 --set train.steps=14
expect "nothing left to train" 1 'train.freeze: nothing is left' sft "$run" x --set 'train.freeze=["*"]'
expect "a target that there is none of" 1 'c_attn' sft "$run" x --lora-rank 2 --lora-targets c_attn
expect "nothing new in a plain model" 1 'nothing new' sft "$run" x --train new
expect "an unknown template" 1 'chatmml' sft "$run" x --chat-template chatmml
expect "no conversations" 1 'jsonl' "$plexus" sft "$run" --data text.txt --out x

# ---- the model's tokenizer, and another ----
check "a vocabulary" "$plexus" data tokenizer text.txt --vocab 264 --out bpe
echo ab >ab.txt
expect "of a text that has no more" 0 '^few: 257 tokens, as the text has no more pairs to join' \
    "$plexus" data tokenizer ab.txt --vocab 300 --out few
recipe bpe.yaml 's/tokenizer: bytes/tokenizer: bpe/' 's/sequence_length: 16/sequence_length: 64/' 's/out: run/out: bpe-run/' 's/layers: .*/layers: [{mixer: attention}]/'
check "a model with a tokenizer of its own" "$plexus" train bpe.yaml --quiet
expect "bytes are no text for it" 1 'data.tokenizer: bpe-run has a tokenizer of its own' \
    "$plexus" sft bpe-run --data talk.jsonl --out x --steps 1 --chat-template plain --set data.tokenizer=bytes
expect "going on when the model that it began with has gone on" 0 'done: step 2' bash -c '
    "$0" sft bpe-run --data talk.jsonl --out from-bpe --steps 1 --chat-template plain &&
    "$0" train bpe.yaml --set train.steps=9 --set train.keep=1 --resume --quiet &&
    "$0" plan from-bpe/recipe.yaml &&
    "$0" sft bpe-run --data talk.jsonl --out from-bpe --steps 2 --chat-template plain --resume' "$plexus"
expect "its own are" 0 'done: step 1' "$plexus" sft bpe-run --data talk.jsonl --out own --steps 1 --chat-template plain \
    --set data.tokenizer=bpe

# ---- stopped ----
long=("$run" --data talk.jsonl --out stopped --sequence-length 64 --batch-size 2 --steps 1000000 --system "it's")
interrupt stopped "$plexus" sft "${long[@]}"
check "Ctrl-C: status 130" test $? = 130
check "and how to go on, word by word" diff <(words_to_go_on) <(printf '%s\n' --resume "${long[@]}")
