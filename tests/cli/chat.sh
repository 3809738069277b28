#!/usr/bin/env bash
# chat.sh - plexus chat with a tiny model that has learnt to answer four questions.
. "$(dirname "$0")/common.bash"
for i in $(seq 96); do # one to five questions each
    turns=""
    for j in $(seq $((1 + i % 5))); do
        c=$(printf "\\x$(printf %x $((97 + (i * j + i / 4) % 4)))")
        turns="$turns${turns:+, }{\"role\": \"user\", \"content\": \"$c?\"}, {\"role\": \"assistant\", \"content\": \"$c$c$c\"}"
    done
    echo "{\"messages\": [$turns]}"
done >talk.jsonl
cat >talk.yaml <<'END'
model: {hidden_size: 48, intermediate_size: 96, num_attention_heads: 4, layers: [{mixer: attention, repeat: 2}], max_position_embeddings: 160}
data: {format: conversations, train: [talk.jsonl], tokenizer: bytes, sequence_length: 160}
train: {steps: 120, batch_size: 8, lr: 1.0e-2, eval_every: 0, save_every: 0}
out: talk
END
check "a model to talk with" "$plexus" train talk.yaml --quiet
expect "it answers" 0 '^bbb$' "$plexus" chat talk --prompt 'b?' --temperature 0 --quiet
expect "JSON" 0 '"text":"ccc","tokens":4?3?,' "$plexus" chat talk --prompt 'c?' --temperature 0 --json
printf 'a?\nd?\n/save saved.jsonl\n/reset\nb?\n/save saved.jsonl\n/nonsense\n/quit\nc?\n' >lines
# Lines that begin with / are commands where someone types: at a terminal, which script(1) stands for.
script -qec "'$plexus' chat talk --temperature 0 --quiet" /dev/null <lines >out 2>err
check "lines of a terminal, in order" test "$(grep -oE '([a-d])\1\1' out | tr '\n' ' ')" = "aaa ddd bbb "
check "an unknown command is named" grep -q "no '/nonsense'" out
check "what is saved can be learnt from" "$plexus" sft talk --data saved.jsonl --out again --steps 1 --set data.valid_fraction=0 --quiet
check "the first conversation has its four messages" test "$(head -1 saved.jsonl | grep -o role | wc -l)" -eq 4
check "after /reset there are two" test "$(tail -1 saved.jsonl | grep -o role | wc -l)" -eq 2
printf 'a?\n/save elsewhere.jsonl\n' | "$plexus" chat talk --temperature 0 --quiet >out 2>err
check "in a pipe every line is a question" test "$(head -1 out)" = aaa -a ! -e elsewhere.jsonl -a "$(wc -l <out)" -ge 2
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo 'a?'; done >many
"$plexus" chat talk --temperature 0 --context 140 <many >out 2>err
check "a full conversation forgets and goes on" test "$(grep -c '^aaa$' out)" -eq 12
check "and says so" grep -q 'oldest messages are forgotten' err
expect "a question that is too long" 1 'the question alone' "$plexus" chat talk --context 16 --prompt 'a question that is far too long for it'
expect "an unknown template" 1 'chatml, llama3, zephyr, plain' "$plexus" chat talk --prompt a --chat-template chatty
expect "another template" 0 '' "$plexus" chat talk --prompt a --chat-template chatml --max-tokens 3
expect "the model of a task" 1 'no tokenizer' bash -c "sed 's/tokenizer/tokenizerless/' /dev/null; mkdir t; sed 's/\"tokenizer\": \"bytes\",//' talk/checkpoints/*/config.json >t/config.json; cp talk/checkpoints/*/model.safetensors t/; '$plexus' chat t --prompt a"
