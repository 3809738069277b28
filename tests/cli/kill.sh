#!/usr/bin/env bash
# kill.sh - a run that is killed (SIGKILL) at random moments and resumed each time ends as one that was left alone, and
# so does one on another number of threads.
#
# Saves after every step and a text that takes a moment to prepare make many of the moments fall into those. KILLS and
# SEED (of the moments; the machine's pace is chance in any case) may be given.
. "$(dirname "$0")/common.bash"
kills=${KILLS:-20}
RANDOM=${SEED:=$$}
echo "# SEED=$SEED"
steps=100
text 100 >hundred.txt
for _ in {1..600}; do cat hundred.txt; done >text.txt # 3 MB
text 20 >short.txt
layers='{mixer: attention, window: 8}, {mixer: nexus}, {mixer: simplicial, window: [8, 4]}, {mixer: grassmann, rank: 4}'
recipe r.yaml "s/steps: 6/steps: $steps/" 's/save_every: 2/save_every: 1/' \
    's/eval_every: 3/eval_every: 10\n  eval_rows: 4/' \
    's/sequence_length: 16/sequence_length: 32/' 's/(hidden|intermediate)_size: 16/\1_size: 32/' \
    "s/layers: .*/layers: [$layers]/"

begin=$EPOCHREALTIME
"$plexus" --threads 1 train r.yaml --set out=alone --quiet 2>err ||
    { echo "not ok a run to compare with: $(cat err)"; exit; }
milliseconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%d", (b - a) * 1000 }')
last=$(cat alone/latest)

# Losses by step, without what depends on time.
losses() { grep '"loss"' "$1/metrics.jsonl" | sed -E 's/,"tokens_per_second".*//'; }
same_end() { # NAME RUN
    local checkpoint=checkpoints/$last
    check "$1: the weights" cmp "alone/$checkpoint/model.safetensors" "$2/$checkpoint/model.safetensors"
    check "$1: the optimiser" cmp "alone/$checkpoint/optimizer.safetensors" "$2/$checkpoint/optimizer.safetensors"
    check "$1: each step once in metrics.jsonl" test "$(losses "$2" | wc -l)" -eq "$steps"
    check "$1: the losses" diff <(losses alone) <(losses "$2")
    check "$1: the evaluations" diff <(grep valid_loss alone/metrics.jsonl) <(grep valid_loss "$2/metrics.jsonl")
    check "$1: nothing half-written" test -z "$(find "$2" -name '*.tmp*')"
}

"$plexus" --threads 2 train r.yaml --set out=two --quiet 2>err
same_end "two threads" two

# Runs that end before they are killed often enough are checked (only what is wrong is shown, so that the number of
# tests does not depend on chance), and another one begins.
killed=0 early=0 saving=0 reading=0 unloadable=0 errors=0 runs=1
while [ "$killed" -lt "$kills" ]; do
    out=killed-$runs
    resume=--resume
    [ -e "$out" ] || resume=
    # The text's tokens are made anew where they are missing: the next kill shall come meanwhile.
    range=$((milliseconds / 3))
    reads=0
    before=$(cat "$out/latest" 2>/dev/null)
    if [ -e "$out/data" ] && [ $((RANDOM % 4)) -eq 0 ]; then
        find "$out/data" -type f -not -name '*.tmp*' -delete
        range=$((range / 6))
        reads=1
    fi
    "$plexus" train r.yaml --set out="$out" $resume --quiet >said 2>&1 &
    process=$!
    sleep "$(awk -v range="$range" -v r="$RANDOM" 'BEGIN { printf "%.4f", r / 32768 * range / 1000 }')"
    kill -9 "$process" 2>/dev/null
    wait "$process" 2>/dev/null
    status=$?
    if [ "$status" -eq 0 ]; then
        same_end "run $runs, killed and resumed" "$out" | grep -v '^ok '
        milliseconds=$((milliseconds * 2 / 3)) # too patient
        runs=$((runs + 1))
        continue
    elif [ "$status" -ne 137 ]; then
        errors=$((errors + 1))
        sed 's/^/# /' said
        [ "$errors" -lt 5 ] || break
        continue
    fi
    killed=$((killed + 1))
    [ "$(cat "$out/latest" 2>/dev/null)" != "$before" ] || milliseconds=$((milliseconds * 5 / 4)) # got nowhere
    ls -d "$out"/checkpoints/*.tmp* >/dev/null 2>&1 && saving=$((saving + 1))
    [ "$reads" -eq 1 ] && ls "$out"/data/*.tmp* >/dev/null 2>&1 && reading=$((reading + 1))
    if [ ! -e "$out/latest" ]; then
        early=$((early + 1))
    elif ! "$plexus" eval "$out" --text short.txt >said 2>&1; then
        unloadable=$((unloadable + 1))
        sed 's/^/# /' said
    fi
done
echo "# $killed kills in $runs runs: $early before a checkpoint was there, $saving in a save, $reading in reading text"
check "a killed run can be resumed" test "$errors" -eq 0
check "latest names a model that loads, after each kill" test "$unloadable" -eq 0
expect "the last one goes on to its end" 0 '' "$plexus" train r.yaml --set out="killed-$runs" --resume --quiet
same_end "killed and resumed" "killed-$runs"
