#!/usr/bin/env bash
# bench.sh - plexus bench: every operation at tiny shapes is right; JSON; what is asked for wrongly.
. "$(dirname "$0")/common.bash"
tiny=(--B 2 --T 33 --H 2 --G 1 --d 16 --D 32 --M 70 --N 65 --K 33 --ffn 40 --layers 1 --vocab 50 --count 1001
      --w1 20 --w2 3 --seconds 0.001 --rounds 2)

"$plexus" bench --json "${tiny[@]}" >all.json 2>err
check "every operation, tiny: status 0" test $? -eq 0
check "JSON only" bash -c '! grep -qv "^{.*}$" all.json'
check "all are right" bash -c '! grep -qv "\"ok\":true" all.json'
check "the keys of the Contracts" bash -c \
    '! grep -qvE "^\{\"op\":\"[a-z0-9_.]+\",\"impl\":\"[a-z0-9_]+\",\"shape\":\{\"[^}]*\},\"ms\":[^,]+,\"gflops\":[^,]+,\"peak_fraction\":[^,]+,\"max_error\":[^,]+,\"ok\":" all.json'
for op in matmul.forward matmul.dweight matmul.dinput norm.forward adamw cross_entropy attention.forward \
    attention.backward nexus.forward nexus.backward simplicial.forward simplicial.backward grassmann.forward \
    grassmann.backward attention.step nexus.step simplicial.step grassmann.step train.step generate.prefill \
    generate.decode; do
    check "$op is there" grep -q "\"op\":\"$op\"" all.json
done
check "a reference is checked, not timed" bash -c 'grep "\"impl\":\"ref\"" all.json | grep -q "\"ms\":null"'

expect "an operation's name stands for its parts" 0 'matmul.dinput' "$plexus" bench matmul "${tiny[@]}"
expect "a table names how flops are counted" 0 'flops are 4 d a visible pair' "$plexus" bench attention.forward "${tiny[@]}"
expect "one implementation" 0 'portable' "$plexus" bench rope --impl portable "${tiny[@]}"
"$plexus" bench rope --impl 'ref,port*' --json "${tiny[@]}" >two.json 2>err
check "several implementations" test "$(sed 's/.*"impl":"\([a-z]*\)".*/\1/' two.json | sort -u | tr '\n' ' ')" = "portable ref "
expect "an implementation that there is not" 2 'named zzz' "$plexus" bench rope --impl zzz "${tiny[@]}"
expect "an unknown name, and the nearest" 2 "did you mean 'attention.forward'" "$plexus" bench atention.forward
expect "another mixer in the models" 0 'tokens/s' "$plexus" bench train.step --mixer grassmann "${tiny[@]}"
expect "a mixer that there is not" 1 "no mixer 'x'" "$plexus" bench train.step --mixer x
expect "heads that do not fit" 1 'cannot share' "$plexus" bench attention.forward --H 4 --G 3
expect "sizes that cannot be" 1 'too large' "$plexus" bench matmul.forward --M 16777216 --N 16777216
expect "a report" 0 '' "$plexus" bench 'attention.*' --html report.html "${tiny[@]}"
check "with a roofline, complete and self-contained" bash -c \
    'grep -q "<svg" report.html && grep -q "</html>" report.html && grep -q "attention.backward" report.html && ! grep -qiE "src=|href=|@import|nan|inf[^o]" report.html'
expect "a report that cannot be written" 1 "no report can be written to 'no/such/report.html': No such file" "$plexus" bench rope --html no/such/report.html "${tiny[@]}"
check "before any time is spent on it" bash -c '! "$0" bench rope --html no/such/report.html 2>/dev/null | grep .' "$plexus"
expect "a directory for a report" 1 "'.' is a directory" "$plexus" bench rope --html .
expect "info says why no better level is taken" 0 'norm.forward +portable +not .*avx2: (held at portable|this processor has)' \
    env PLX_LEVEL=portable "$plexus" info
expect "info --json" 0 '"kernels":\{"matmul":"[a-z0-9]+",.*"passed_over":\{' "$plexus" info --json
expect "the fenced device" 0 'grassmann' "$plexus" bench 'grassmann.*' --device fenced "${tiny[@]}"
