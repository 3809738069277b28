#!/usr/bin/env bash
# disk.sh - a directory that cannot be written, and a disk that is full: an error, and the last good checkpoint stays.
. "$(dirname "$0")/common.bash"
text >text.txt
recipe r.yaml

# root may write anywhere, so that part runs as somebody else
as_user() { "$@"; }
if [ "$(id -u)" -eq 0 ]; then
    as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
    chmod 755 "$work"
    cp "$plexus" ./plexus-copy && chmod 755 plexus-copy && user_plexus=$work/plexus-copy
else
    user_plexus=$plexus
fi
mkdir locked
chmod 555 locked
if as_user test -x "$user_plexus" 2>/dev/null && ! as_user test -w locked; then
    expect "a read-only directory" 1 'locked' as_user "$user_plexus" train r.yaml --set out=locked/run
    check "nothing was written" test -z "$(ls locked)"
    mkdir -m 700 hidden && chmod 000 hidden
    expect "a model's directory that may not be entered" 1 "cannot open 'hidden': Permission denied" \
        as_user "$user_plexus" generate hidden --prompt a
    chmod 755 hidden
    mkdir drop && chmod 733 drop
    expect "a directory that may be written but not read" 0 'tokens' \
        as_user "$user_plexus" data tokenizer text.txt --vocab 260 --out drop/tokenizer
    check "holds what was written" test -e drop/tokenizer/tokenizer.json
else
    skip "a read-only directory: no other user to be"
fi

# 400 KB are enough for the run's files and some checkpoints, not for all.
mkdir small
if mount -t tmpfs -o size=400k plexus-test small 2>/dev/null; then
    trap 'umount "$work/small"; rm -rf "$work"' EXIT
    expect "a run that fits" 0 '' "$plexus" train r.yaml --set out=small/run --set train.steps=2 --quiet
    good=$(cat small/run/latest)
    cp -r "small/run/checkpoints/$good" kept
    head -c 10000000 /dev/zero >small/filler 2>/dev/null
    "$plexus" train r.yaml --set out=small/run --set train.steps=6 --resume >out 2>err
    status=$?
    check "a full disk while saving: an error, no crash" test "$status" -eq 1
    check "which says so" grep -q 'No space left' err
    check "the last good checkpoint is still the latest" test "$(cat small/run/latest)" = "$good"
    check "and as it was" diff -r kept "small/run/checkpoints/$good"
    check "and works" "$plexus" eval small/run --text text.txt
    rm small/filler
    expect "with room again it goes on" 0 '' "$plexus" train r.yaml --set out=small/run --set train.steps=6 --resume
    expect "no room from the start" 1 'No space left' bash -c "head -c 10000000 /dev/zero >small/filler 2>/dev/null; '$plexus' train r.yaml --set out=small/other"
    umount small
    trap 'rm -rf "$work"' EXIT
else
    skip "a full disk: no right to mount one"
fi
