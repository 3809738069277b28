#!/usr/bin/env bash
# run.sh - a run from its first step to text, and what interrupts it.
. "$(dirname "$0")/common.bash"
text >text.txt
recipe r.yaml

expect "train" 0 'step 6/6' "$plexus" train r.yaml
check "no terminal: plain lines without control characters" bash -c "! grep -q $'[\r\033]' .out .err"
expect "a run that exists is not overwritten" 1 '--resume' "$plexus" train r.yaml
check "latest names a checkpoint" test -f "run/checkpoints/$(cat run/latest)/model.safetensors"
check "the last two are kept" test "$(ls run/checkpoints | wc -l)" -eq 2
cp -r run unnamed
rm unnamed/latest
expect "a run without latest goes on from its newest checkpoint" 0 'step 7/7' \
    "$plexus" train r.yaml --set out=unnamed --set train.steps=7 --resume
check "with a warning" grep -q 'latest is missing.*step-00000006' .err
check "and loses none" test -d unnamed/checkpoints/step-00000006
flops() { "$plexus" train r.yaml --json --set train.steps=1 --set train.warmup_steps=1 "$@" | sed -n 's/.*"flops_per_token":\([0-9.]*\).*/\1/p'; }
check "flops count at the length of the rows" test "$(flops --set out=short)" = "$(flops --set out=long --set model.max_position_embeddings=4096)"
check "metrics.jsonl" grep -q '^{"step":6,"tokens":192,"loss":' run/metrics.jsonl
expect "train --profile ends with the time of each operation" 0 '^a step +[0-9.]+ +100' "$plexus" train r.yaml --set out=profiled --profile
expect "and in JSON" 0 '"event":"profile","op":"matmul.dweight","impl":"[a-z0-9]+","calls":' \
    "$plexus" train r.yaml --set out=profiled-json --profile --json
expect "train --json writes JSON only" 0 '' bash -c "'$plexus' train r.yaml --set out=json --json | grep -v '^{.*}$' | wc -l | grep -qx 0"

# ---- generate ----
expect "generate --json" 0 '^\{"prompt":"the","text":".*","tokens":5,"tokens_per_second":[0-9.e+]+,"read":3,"read_seconds":[0-9.e-]+\}$' \
    "$plexus" generate run --prompt the --max-tokens 5 --json
"$plexus" generate run --prompt the --max-tokens 40 --seed 7 >one 2>/dev/null
"$plexus" --threads 1 --device fenced generate run --prompt the --max-tokens 40 --seed 7 >two 2>/dev/null
"$plexus" generate run --prompt the --max-tokens 40 --seed 8 >three 2>/dev/null
check "the same seed writes the same text, whatever the threads and the device" cmp one two
check "another seed another one" bash -c '! cmp -s one three'
check "the prompt comes first" grep -qa '^the' one
printf 'the cat' >prompt.txt
expect "a prompt from a file" 0 '^the cat' "$plexus" generate run --prompt-file prompt.txt --max-tokens 3
expect "a prompt from standard input" 0 '^the cat' bash -c "'$plexus' generate run --prompt-file - --max-tokens 3 <prompt.txt"
expect "a prompt file that is missing" 1 'nofile' "$plexus" generate run --prompt-file nofile
expect "an empty prompt, far beyond the trained length" 0 '' "$plexus" generate run --max-tokens 100 --temperature 0
expect "a prompt beyond the positions" 0 "prompt of 200 tokens is longer than the [0-9]+ positions" "$plexus" generate run --prompt "$(printf "%200s")" --max-tokens 3
expect "a prompt of no UTF-8" 0 '"prompt":"..*","text"' "$plexus" generate run --prompt $'\xff\xe2\x82' --max-tokens 3 --json
several() { "$plexus" generate run --max-tokens 9 --seed 3 "$@" 2>/dev/null; }
printf 'the cat\n\nand\r\nthe dog sat\nx' >prompts.txt
printf '{"prompt": "the cat"}\n{"prompt": "and"}\n{"id": 3, "prompt": "the dog sat"}\n{"prompt": "x"}\n' >prompts.jsonl
several --prompts prompts.txt --batch 2 --json | sed 's/"tokens_per_second.*//' >many
several --prompts prompts.jsonl --batch 3 --json | sed 's/"tokens_per_second.*//' >lines
several --prompt 'the cat' --prompt and --prompt 'the dog sat' --prompt x --json | sed 's/"tokens_per_second.*//' >given
check "four prompts, in order" test "$(wc -l <many) $(head -2 many | tail -1 | cut -c1-15)" = '4 {"prompt":"and"'
check "from JSON lines the same" cmp many lines
check "and from the command line" cmp many given
"$plexus" generate run --max-tokens 9 --seed 5 --prompt 'the dog sat' --json | sed 's/"tokens_per_second.*//' >alone
check "the third alone has its own seed" test "$(sed -n 3p many)" = "$(cat alone)"
check "text of several" test "$(several --prompts prompts.txt | grep -c '^\(the cat\|and\|the dog sat\|x\)')" -ge 4
echo '{"text": "a"}' >wrong.jsonl
expect "JSON lines without a prompt" 1 'wrong.jsonl:1: wants an object with the text "prompt"' "$plexus" generate run --prompts wrong.jsonl
: >empty.txt
expect "a file without prompts" 1 'empty.txt: no prompts' "$plexus" generate run --prompts empty.txt
expect "keys and values in f16" 0 '' "$plexus" generate run --prompt the --max-tokens 5 --state f16
expect "keys and values in q8" 0 '' "$plexus" generate run --prompt the --max-tokens 5 --state q8
expect "another form of state" 2 'f32, f16 or q8' "$plexus" generate run --state q4
head_of() { "$plexus" generate run --max-tokens 3000 2>err | head -c 10 >/dev/null; echo "${PIPESTATUS[0]}"; }
check "a reader that goes away ends it quietly" test "$(head_of)" = 0
check "without a word" test ! -s err
check "one of the help too" bash -c '"$0" --help | true; exit "${PIPESTATUS[0]}"' "$plexus"
expect "closed standard streams: what is printed" 1 '' bash -c "'$plexus' train r.yaml --set out=closed-out >&-"
check "nowhere in the run's files" test -e closed-out/lock -a ! -s closed-out/lock
check "not of the errors either" bash -c '"$0" train r.yaml --set out=closed-err --set train.warmup_steps=9 2>&- && test ! -s closed-err/lock' "$plexus"
expect "sampling options" 0 '' "$plexus" generate run --max-tokens 5 --top-k 5 --top-p 0.9 --min-p 0.05 --repetition-penalty 1.2 --stop

# ---- eval ----
expect "eval --json" 0 '^\{"tokens":3059,"nll":[0-9.e+-]+,"perplexity":[0-9.e+-]+,"bits_per_byte":[0-9.e+-]+\}$' \
    "$plexus" eval run --text text.txt --json
expect "a window of one" 2 'at least 2' "$plexus" eval run --text text.txt --window 1
expect "any window" 0 'bits per byte' "$plexus" eval run --text text.txt --window 5
check "a checkpoint is a model" "$plexus" eval "run/checkpoints/$(cat run/latest)" --text text.txt


# ---- on a terminal: how far slow work is ----
terminal() { script -qec "$*" /dev/null </dev/null; }
printf '%600s' x >long.txt
check "eval shows how far it is" bash -c "$(declare -f terminal); terminal '$plexus' eval run --text text.txt | grep -q 'scoring text  0%'"
check "generate, how much of the prompt is read; then the prompt" bash -c \
    "$(declare -f terminal); terminal '$plexus' generate run --prompt-file long.txt --max-tokens 3 | grep -q 'reading the prompt  0%.*K  '"
check "--quiet shows nothing of it" bash -c "$(declare -f terminal); ! terminal '$plexus' eval run --text text.txt --quiet | grep -q scoring"

# ---- to other programs ----
"$plexus" train r.yaml --set 'model.layers=[{mixer: attention}]' --set train.steps=1 --set out=bytes --quiet >/dev/null 2>&1
expect "a model of bytes in a family's layout: its tokenizer is missed" 0 'warning: no tokenizer is written' \
    "$plexus" convert bytes --out family --family llama

# ---- plan ----
expect "plan --json of a recipe" 0 \
    '^\{"parameters":[0-9]+,"flops_per_token":[0-9.e+]+,"bytes":\{"weights":[0-9]+,"gradients":[0-9]+,"optimizer":[0-9]+,"activations":[0-9]+,"scratch":[0-9]+,"state":[0-9]+\},.*"layers":\[\{"mixer":"attention"' \
    "$plexus" plan r.yaml --json
expect "plan of a model" 0 'memory for training with 3 x 8 tokens' "$plexus" plan run --rows 3 --length 8

# ---- interrupted: saved first, and the rest as if nothing had happened ----
part=(--set train.steps=60 --set train.save_every=20 --set 'train.freeze=["*.ffn.*"]')
"$plexus" train r.yaml "${part[@]}" --set out=whole --quiet >/dev/null 2>&1
interrupt "it's" "$plexus" train r.yaml "${part[@]}" --set "out=it's"
status=$?
if [ "$status" = 0 ]; then
    skip "the run was over before it could be interrupted"
else
    check "Ctrl-C: status 130" test "$status" = 130
    check "saved" test -f "it's/checkpoints/$(cat "it's/latest")/trainer.json"
    check "and how to go on, word by word" diff <(words_to_go_on) <(printf '%s\n' --resume r.yaml "${part[@]}" --set "out=it's")
    mapfile -t words < <(words_to_go_on)
    expect "resume" 0 '' "$plexus" train "${words[@]}"
    check "the weights are those of the whole run, bit for bit" \
        cmp whole/checkpoints/step-00000060/model.safetensors "it's/checkpoints/step-00000060/model.safetensors"
fi
interrupt again "$plexus" train --set out=again r.yaml --set train.steps=1000000 --resume
check "a resumed run goes on with one --resume" diff <(words_to_go_on) <(printf '%s\n' --set out=again r.yaml --set train.steps=1000000 --resume)
