#!/usr/bin/env bash
# example.sh - builds examples/ by the link line that docs/library.md gives, and runs them.
tree=$(cd "$(dirname "$0")/../.." && pwd)
. "$(dirname "$0")/common.bash"
text 200 >text.txt

# The page's own line, for this build: its paths begin with the tree's, and the flags are those that the library has.
line=$(grep -m1 -E '^ *cc .*examples/train_and_sample\.c' "$tree/docs/library.md")
line=${line//build\/libplexus.a/$BUILD/libplexus.a}
line=${line//-Iinclude/-I$tree/include}
line=${line//examples\/train_and_sample.c/$tree/examples/train_and_sample.c}
sanitizers=$(nm "$BUILD/libplexus.a" 2>/dev/null | grep -q __asan_init && echo '-fsanitize=address,undefined')
check "docs/library.md has the link line" test -n "$line"
check "the example builds without a warning" bash -c "$line -Wall -Wextra -Werror $sanitizers"
expect "it trains and writes" 0 '^step 100: loss [0-9.]+$' ./train_and_sample text.txt 100
mv .out trained
check "the loss has fallen" awk '/^step 50:/ { a = $4 } /^step 100:/ { b = $4 } END { exit !(b > 0 && b < a && b < 1.5) }' trained
check "the text begins as the file does" grep -q '^the cat sat on t' trained
check "and goes on in its words" bash -c "tail -n +3 trained | grep -Eq '(cat|dog|sat|mat|log)'"
./train_and_sample none.txt >out 2>err
check "without a text: usage, status 2" test $? -eq 2
check "the library alone is enough: only its header is included" bash -c "! grep -E '#include \"' '$tree/examples/train_and_sample.c'"
