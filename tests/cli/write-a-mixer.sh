#!/usr/bin/env bash
# write-a-mixer.sh - follows docs/write-a-mixer.md to the letter, in a copy of the tree: writes each code block that
# names a file to that file, runs each sh block, and looks at what the page promises.
tree=$(cd "$(dirname "$0")/../.." && pwd)
page=$tree/docs/write-a-mixer.md
. "$tree/tests/cli/common.bash"

mkdir "$work/tree" && cd "$work/tree" || exit 1
cp -a "$tree"/{Makefile,src,include,tests} . || exit 1
# What is built already is used again, so that only what the page adds is compiled. The dependency files name their
# objects by the directory that they were built in; here it is build/.
cp -a "$BUILD" build
rm -rf build/tests/test_* build/fuzz
find build -name '*.d' -exec sed -i -E '1s#^[^ :]*/(src|tests)/#build/\1/#' {} +
# A make that runs this test hands its variables down (compiler, flags); only the directory is another one.
case "${MAKEFLAGS:-}" in
*' -- '*) export MAKEFLAGS="$MAKEFLAGS BUILD=build" ;;
*) export MAKEFLAGS="${MAKEFLAGS:-} -- BUILD=build" ;;
esac

# Blocks "```LANGUAGE FILE" become files; blocks "```sh" become step-1.sh, step-2.sh, ...
mkdir steps
awk '
    /^```/ && inside { close(file); inside = 0; next }
    /^```/ {
        inside = 1; file = "/dev/null"
        if ($1 == "```sh") file = "steps/step-" ++steps ".sh"
        else if (NF == 2) {
            file = $2
            folder = file
            if (sub("/[^/]*$", "", folder)) system("mkdir -p " folder)
        }
        printf "" >file
        next
    }
    inside { print >file }
' "$page"
check "the page has its files" test -s src/mixers/shift/shift.c -a -s src/mixers/shift/cpu/shift.c -a -s shift.yaml
check "and two blocks of commands" test "$(ls steps | wc -l)" -eq 2
check "registered, built, tested alone" bash -ec '. steps/step-1.sh'
cp "$work/.out" tested
check "all of the mixer's tests were run" grep -Eq '^1[0-9] passed, 0 failed' tested
check "trained and compared" bash -ec '. steps/step-2.sh'
cp "$work/.out" compared
accuracy() { awk -v name="$1" '$1 == name { print $NF }' compared; } # of the table's row
check "the table has both" grep -Eq '^attention ' compared
check "the shift has learned the task" awk -v a="$(accuracy shift)" 'BEGIN { exit !(a > 0.9) }'
check "the program knows the mixer" bash -c "build/plexus info | grep -q 'shift.forward'"
