# common.bash - for the scripts of this folder: a place to work in, and tests as single lines.
#
# check NAME COMMAND...                    the command must succeed
# expect NAME STATUS PATTERN COMMAND...    it must end with STATUS and say PATTERN (extended regular expression) on
#                                          stdout or stderr (anything, if it is empty); an error must be a single line that begins with "plexus: "
# recipe FILE [SED-EXPRESSION]...          writes a recipe of a tiny model, changed by the expressions
# interrupt RUN COMMAND...                 Ctrl-C after the third step that RUN/metrics.jsonl tells of; the status is the
#                                          command's, its errors are in the file err
# words_to_go_on                           a line for each word behind "plexus COMMAND" of the command in err that goes on
set -u
plexus=${PLEXUS:?the program to test}
work=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1

check() {
    local name=$1
    shift
    if "$@" >"$work/.out" 2>&1; then
        echo "ok $name"
    else
        echo "not ok $name"
        sed 's/^/    /' "$work/.out"
    fi
}

expect() {
    local name=$1 status=$2 pattern=$3 got problem=""
    shift 3
    "$@" >"$work/.out" 2>"$work/.err" </dev/null
    got=$?
    [ "$got" -eq "$status" ] || problem="status $got instead of $status"
    [ -z "$pattern" ] || cat "$work/.out" "$work/.err" | grep -aEqe "$pattern" || problem="$problem; says nothing like: $pattern"
    if [ "$status" -eq 1 ] && [ "$(grep -c '^plexus: ' "$work/.err")" -ne 1 ]; then
        problem="$problem; not one line of error"
    fi
    if [ -z "$problem" ]; then
        echo "ok $name"
    else
        echo "not ok $name: $problem"
        sed 's/^/    /' "$work/.out" "$work/.err" | head -20
    fi
}

interrupt() {
    local run=$1 waited=0 child status
    shift
    set -m # so that the child is not started with SIGINT ignored
    "$@" >/dev/null 2>err &
    child=$!
    set +m
    while ! grep -q '"step":3,"tokens"' "$run/metrics.jsonl" 2>/dev/null && [ $waited -lt 600 ]; do
        sleep 0.02
        waited=$((waited + 1))
    done
    kill -INT $child
    wait $child
    status=$?
    return $status
}

words_to_go_on() { eval "printf '%s\n' $(sed -n 's/^to go on: plexus [a-z]* //p' err)"; }

skip() { echo "# skipped: $1"; }

# A text that a model of a few weights can learn something from.
text() {
    for _ in $(seq "${1:-60}"); do echo "the cat sat on the mat and the dog sat on the log."; done
}

recipe() {
    local file=$1 expression
    shift
    cat >"$file" <<'END'
model:
  hidden_size: 16
  intermediate_size: 16
  num_attention_heads: 2
  layers: [{mixer: attention}, {mixer: grassmann, rank: 4, offsets: [1, 2]}]
data:
  train: [text.txt]
  tokenizer: bytes
  sequence_length: 16
  valid_fraction: 0.2
train:
  steps: 6
  batch_size: 2
  lr: 1.0e-2
  warmup_steps: 2
  eval_every: 3
  save_every: 2
  keep: 2
out: run
END
    for expression in "$@"; do sed -i -E "$expression" "$file"; done
}
