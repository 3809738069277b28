#!/usr/bin/env bash
# bad-input.sh - what a user gets wrong, or a disk does: one clear line, status 1, and nothing lost.
. "$(dirname "$0")/common.bash"
text >text.txt
recipe good.yaml
"$plexus" train good.yaml --quiet 2>/dev/null >&2 || echo "not ok a model to begin with"

# ---- recipes ----
expect "a recipe that is missing" 1 'none\.yaml' "$plexus" train none.yaml
: >empty.yaml
expect "an empty recipe" 1 'empty\.yaml' "$plexus" train empty.yaml
head -c 2000 /dev/urandom >noise.yaml
expect "a recipe of noise" 1 'noise\.yaml' "$plexus" train noise.yaml
expect "a directory for a recipe" 1 '' "$plexus" train run/checkpoints
recipe typo.yaml 's/steps: 6/stepz: 6/'
expect "a key misspelt: file, line, nearest" 1 "typo\.yaml:[0-9]+: .*'stepz'.*'steps'" "$plexus" train typo.yaml
recipe section.yaml 's/^train:/trian:/'
expect "a section misspelt" 1 "section\.yaml:[0-9]+: .*'trian'.*'train'" "$plexus" train section.yaml
expect "an item that a list does not have" 1 "'7' is no item of a list of 2, which are counted from 0" \
    "$plexus" plan good.yaml --set model.layers.7.window=3
printf 'model:\n\thidden_size: 16\n' >tab.yaml
expect "a tab in a recipe" 1 'tab\.yaml:2: .*spaces, not tabs' "$plexus" plan tab.yaml
expect "a value in --set that is no YAML: which one" 1 "^plexus: --set train.lr:1: '.inf' is not a finite number" \
    "$plexus" plan good.yaml --set train.lr=.inf
expect "the place of a layer's key is that in the recipe" 1 "--set: model.layers\[0\].order: must be a whole number" \
    "$plexus" plan good.yaml --set 'model.layers=[{mixer: nexus, order: 0}]'
expect "and of what a layer repeats" 1 '--set: model.layers.repeat: ' "$plexus" plan good.yaml --set 'model.layers=[{mixer: nexus, repeat: 0}]'
expect "of rope_scaling too" 1 '--set: model.rope_scaling.type: ' "$plexus" plan good.yaml --set 'model.rope_scaling={type: no}'
expect "and of an adapter" 1 '--set: model.adapter.rank: ' "$plexus" plan good.yaml --set 'model.adapter={rank: 0}'
expect "more levels than the state has parts: how many there may be" 1 'at most 63' \
    "$plexus" plan good.yaml --set 'model.layers=[{mixer: nexus, order: 64}]'
expect "with one inner key a level more" 0 'nexus' \
    "$plexus" plan good.yaml --set 'model.layers=[{mixer: nexus, order: 64, branches: q}]'
expect "nowhere to write to" 1 "'out' is needed" "$plexus" train good.yaml --set out=
expect "a number for the directory" 1 '^plexus: --set: out: must be a text, not 3: put it in quotes' "$plexus" train good.yaml --set out=3
expect "a key misspelt in --set" 1 "'stepz'.*'steps'" "$plexus" train good.yaml --set train.stepz=3
recipe heads.yaml 's/num_attention_heads: 2/num_attention_heads: 3/'
expect "heads that do not divide" 1 'heads\.yaml:.*3 heads do not divide' "$plexus" train heads.yaml
recipe window.yaml 's/mixer: attention/mixer: attention, window: 0/'
expect "a window of 0" 1 'window\.yaml:.*window' "$plexus" plan window.yaml
recipe mixer.yaml 's/mixer: attention/mixer: atention/'
expect "a mixer misspelt" 1 "mixer\.yaml:.*'atention'.*attention" "$plexus" plan mixer.yaml
recipe negative.yaml 's/steps: 6/steps: -6/'
expect "a negative number" 1 'negative\.yaml:[0-9]+: .*steps' "$plexus" plan negative.yaml
recipe word.yaml 's/lr: .*/lr: fast/'
expect "a word for a number" 1 'word\.yaml:[0-9]+: .*lr' "$plexus" plan word.yaml
recipe offsets.yaml 's/offsets: \[1, 2\]/offsets: [1, 100000]/'
expect "offsets beyond the sequence are allowed" 0 'grassmann' "$plexus" plan offsets.yaml
recipe huge.yaml 's/hidden_size: 16/hidden_size: 131072/' 's/num_attention_heads: 2/num_attention_heads: 128/' \
    's/intermediate_size: 16/intermediate_size: 524288/' 's/out: run/out: huge/'
expect "plan shows what is larger than memory" 0 'MORE than' "$plexus" plan huge.yaml
expect "a model larger than memory is refused with the sum" 1 '[0-9] GB' "$plexus" train huge.yaml
check "and nothing of it was made" test ! -e huge/latest

mark=$'\xef\xbb\xbf'
sed "1s/^/$mark/; s/$/\r/" good.yaml >windows.yaml
expect "a recipe of a Windows editor: byte order mark, CR LF" 0 'memory for training' "$plexus" plan windows.yaml

# ---- data ----
recipe nodata.yaml 's/text\.txt/none.txt/' 's/out: run/out: nodata/'
expect "a text that is missing" 1 'none\.txt' "$plexus" train nodata.yaml
check "leaves no directory of a run behind" test ! -e nodata
mkdir mine
expect "nor its lock in one that was there" 1 'none\.txt' "$plexus" train nodata.yaml --set out=mine
check "which stays, empty" rmdir mine
expect "a run that began is left as it is" 1 'none\.txt' "$plexus" train nodata.yaml --set out=run --resume
check "with its lock" test -e run/lock -a -e run/latest
: >empty.txt
recipe emptydata.yaml 's/text\.txt/empty.txt/' 's/out: run/out: emptydata/'
expect "an empty text" 1 'empty\.txt' "$plexus" train emptydata.yaml
expect "an empty text to score" 1 'empty\.txt' "$plexus" eval run --text empty.txt
expect "no text to score" 1 'none\.txt' "$plexus" eval run --text none.txt
echo short >short.txt
recipe shortdata.yaml 's/text\.txt/short.txt/' 's/out: run/out: shortdata/'
expect "a text that is too short" 1 'short|window|tokens' "$plexus" train shortdata.yaml
expect "plain text for conversations" 1 "text.txt' is not named as JSON is: .jsonl .* .json" \
    "$plexus" train good.yaml --set data.format=conversations --set out=talk
recipe plain-tokenizer.yaml 's/tokenizer: bytes/tokenizer: text.txt/' 's/out: run/out: plain/'
expect "plain text for a tokenizer" 1 'text.txt is no GGUF.*tokenizers a tokenizer.json' "$plexus" train plain-tokenizer.yaml
expect "conversations that are missing" 1 "cannot open 'none.json'" "$plexus" sft run --data none.json --out talk
printf '{"text": "fine"}\n{"text": 3}\n' >bad.jsonl
expect "a JSON line without text: file and line" 1 'bad\.jsonl:2' "$plexus" eval run --text bad.jsonl
printf "$mark"'{"text": "fine", "prompt": "a", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\r\n' >marked.jsonl
expect "JSON lines with a byte order mark" 0 '"tokens":3' "$plexus" eval run --text marked.jsonl --json
expect "prompts" 0 '"prompt":"a"' "$plexus" generate run --prompts marked.jsonl --max-tokens 1 --json
printf "$mark"'a\r\n' >marked.txt
expect "of plain text" 0 '"prompt":"a"' "$plexus" generate run --prompts marked.txt --max-tokens 1 --json
(printf "$mark[" && tail -c +4 marked.jsonl && printf ']') >marked.json
talks() { "$plexus" sft run --data "$1" --out "talk-$1" --steps 1 --set data.valid_fraction=0 --sequence-length 16 --chat-template "$2"; }
expect "conversations, a line each" 1 'no example with an answer inside a row' talks marked.jsonl plain
expect "or a list of them" 1 'no example with an answer inside a row' talks marked.json plain
expect "a file name that no recipe can hold" 2 "is not UTF-8, as a recipe must be" "$plexus" sft run --data $'\xe9.json' --out talk
printf '\xff\xfe\xc0 not UTF-8 \x80\n%.0s' $(seq 300) >bytes.txt
recipe bytes.yaml 's/text\.txt/bytes.txt/' 's/out: run/out: bytes/'
expect "text that is not UTF-8 trains: it is bytes" 0 '' "$plexus" train bytes.yaml --quiet
expect "and can be scored" 0 '"tokens":4799' "$plexus" eval bytes --text bytes.txt --json

expect "a frozen tensor that there is not" 1 "^plexus: train.freeze: no tensor's name matches 'zzz'" \
    "$plexus" train bytes.yaml --set train.freeze=zzz --set out=frozen
expect "another model than the run's: which key" 1 'model.intermediate_size is not what it was' \
    "$plexus" train bytes.yaml --resume --set model.intermediate_size=24
expect "another batch" 1 'train.batch_size is not what it was' "$plexus" train bytes.yaml --resume --set train.batch_size=3
echo 'and more' >>bytes.txt
expect "a text that has grown since the run began" 0 'warning: the data.s files have changed since bytes/.* was written' \
    "$plexus" train bytes.yaml --resume --set train.steps=7
expect "which is said once" 0 '^done' "$plexus" train bytes.yaml --resume --set train.steps=8
check "as it is the run's now" bash -c '! grep -q changed "$0"' "$work/.err"
sed -i 's/and more/and MORE/' bytes.txt
expect "one of the same length" 0 'warning: the data.s files have changed since bytes/' \
    "$plexus" train bytes.yaml --resume --set train.steps=9
expect "a warm-up that is longer than the run: to what the rate rises" 0 \
    'warning: train.warmup_steps, 12, is more than the run has steps, 6: .* to 0.005, and never reaches train.lr, 0.01' \
    "$plexus" train good.yaml --set train.warmup_steps=12 --set out=warm
expect "as long as the run: it is reached" 0 '^done' "$plexus" train good.yaml --set train.warmup_steps=6 --set out=warm6
check "and nothing said" bash -c '! grep -q warning "$0"' "$work/.err"
explode=(--set train.steps=1 --set train.lr=1e6 --set train.weight_decay=1e6 --set train.warmup_steps=0 --set train.schedule=constant)
expect "a run whose weights overflow in its last step" 1 'step 1: the validation loss is not finite.*no checkpoint has been saved' \
    "$plexus" train good.yaml "${explode[@]}" --set out=exploded
check "does not leave them as its model" test ! -e exploded/latest
for out in "$(printf 'é%.0s' {1..110})" "a$(printf 'é%.0s' {1..110})"; do
    expect "a long name in no ASCII, in the first line of JSON" 0 "\"event\":\"started\".*in $out\"" \
        "$plexus" train good.yaml --json --set train.steps=1 --set train.warmup_steps=0 --set "out=$out"
done
expect "plan: a key set of what is no recipe" 2 '--set changes recipes' "$plexus" plan bytes --set train.steps=3
expect "plan: rows of a recipe" 2 'train.batch_size=N' "$plexus" plan bytes.yaml --rows 3

# ---- models ----
expect "a text instead of a model" 1 'text.txt is no GGUF file.*directories' "$plexus" eval text.txt --text text.txt
expect "a model without a name" 1 "'': there is nothing of that name" "$plexus" generate "" --prompt a
expect "a model that is missing" 1 'nowhere' "$plexus" generate nowhere --prompt a
mkdir hollow
expect "a directory without a model" 1 'hollow' "$plexus" generate hollow --prompt a
good=run/checkpoints/$(cat run/latest)
damage() { # NAME COMMAND...: a copy of the model changed by the command, which sees it as $1
    rm -rf damaged
    cp -r "$good" damaged
    (cd damaged && eval "$1")
}
damage 'truncate -s -100 model.safetensors'
expect "a truncated checkpoint" 1 'model\.safetensors' "$plexus" eval damaged --text text.txt
damage 'truncate -s 4 model.safetensors'
expect "a checkpoint of four bytes" 1 'model\.safetensors' "$plexus" eval damaged --text text.txt
damage ': >model.safetensors'
expect "an empty checkpoint" 1 'model\.safetensors' "$plexus" eval damaged --text text.txt
damage 'head -c 3000 /dev/urandom >model.safetensors'
expect "a checkpoint of noise" 1 'model\.safetensors' "$plexus" eval damaged --text text.txt
damage 'truncate -s -400 model.safetensors; head -c 400 /dev/zero | tr "\0" "\377" >>model.safetensors'
expect "weights that are no numbers: scoring" 1 'not finite: the model.s weights are damaged' "$plexus" eval damaged --text text.txt
expect "and retrofitting" 1 'not finite: its weights are damaged' "$plexus" retrofit damaged --layers 0:nexus --out nan-nexus
check "which writes nothing" test ! -e nan-nexus
damage 'rm model.safetensors; mkfifo model.safetensors'
expect "a pipe for a checkpoint: nobody waits" 1 'model\.safetensors. is a pipe' timeout 5 "$plexus" eval damaged --text text.txt
damage 'rm config.json; mkfifo config.json'
expect "nor for a config.json" 1 'config\.json' timeout 5 "$plexus" eval damaged --text text.txt
check "a recipe may come from a pipe with a writer" bash -c '"$0" train <(sleep 0.2; cat good.yaml) --set out=piped' "$plexus"
expect "of plan too" 0 'memory for training' bash -c '"$0" plan <(cat good.yaml)' "$plexus"
mkfifo pipe.gguf
expect "nor for a GGUF" 1 'pipe\.gguf: no model is there' timeout 5 "$plexus" eval pipe.gguf --text text.txt
damage 'rm model.safetensors'
expect "a checkpoint without weights" 1 'safetensors' "$plexus" eval damaged --text text.txt
damage 'sed -i "1s/^/$mark/" config.json'
expect "a config.json with a byte order mark" 0 'bits per byte' "$plexus" eval damaged --text text.txt
expect "a directory whose name is not UTF-8, in JSON" 0 '"out":"caf.*","family"' "$plexus" convert run --out $'caf\xe9' --json
damage 'sed -i "s/\"hidden_size\": *16/\"hidden_size\": 32/" config.json'
expect "weights that do not fit the config" 1 'damaged|shape|\[' "$plexus" eval damaged --text text.txt
damage 'echo "{" >config.json'
expect "a config.json that is cut off" 1 'config\.json' "$plexus" eval damaged --text text.txt
damage 'echo "{\"model_type\": \"gpt2\", \"n_embd\": 768}" >config.json'
expect "another program's checkpoint" 1 'config\.json.*gpt2' "$plexus" eval damaged --text text.txt
mkdir foreign
echo nothing >foreign/latest
expect "a run whose latest names nothing" 1 'foreign|nothing' "$plexus" generate foreign --prompt a
check "the good model is as it was" "$plexus" eval run --text text.txt
