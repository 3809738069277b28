#!/usr/bin/env python3
"""Compares Plexus's regular expressions with the tokenizers package's, over every character of Unicode.

usage: regex_equal.py ENCODER
       regex_equal.py --golden FILE

ENCODER is the program that `make build/tests/checks/encode_file` makes. Each expression replaces what it finds by a mark,
in a tokenizer.json that both open. The text holds every assigned character between neighbours drawn at random, then
strings of the characters on which the two engines' dialects differ. Prints a line an expression; fails when ids differ, or
when Plexus refuses what is to be taken (or takes what is to be refused because it cannot be said). With --golden it writes
the same expressions with what the package makes of a short text, for tests/test_regex.c."""

import json, os, random, subprocess, sys, tempfile, unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import numpy
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

encoder = sys.argv[1]
work = tempfile.mkdtemp()
random.seed(11)

EQUAL = r"""\s \S \w \W \d \D \h \H \v \R \O \N . ^. .$ \A. .\z .\Z
[\s] [\S] [\w] [\d] [\h] [\v] [^\s] [^\w] [^\d\s] [\w-] [\S\n] [\b] [\w'] [^\h]
\b. .\b \B. .\B \b\w+\b \w+ \W+
\p{L} \p{Lu} \p{N} \p{P} \p{S} \P{L} \p{^L} [^\s\p{L}\p{N}] [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] \p{LC} \p{Any}
\p{Han} \p{Han}+ [\p{Han}] \P{Han} \p{^Han} [^\p{Han}] \p{Hiragana} \p{Katakana} \p{Latin} \p{Arabic} \p{Devanagari} \p{Common}
\p{Inherited} \p{Thai} \p{Hangul} \p{Cyrillic} \p{Greek} \p{han} \p{Old_Italic}
\p{Alpha} \p{Alphabetic} \p{Lower} \p{Upper} \p{Space} \p{White_Space} \p{Alnum} \p{Digit} \p{Blank} \p{Cntrl} \p{XDigit} \p{Word}
\p{Punct} \P{Punct} \P{Alnum} [\p{Alnum}] \p{ASCII} \p{Emoji} \p{Extended_Pictographic} \p{Ideographic} \p{Math} \p{Dash}
[[:alpha:]] [[:lower:]] [[:upper:]] [[:alnum:]] [[:digit:]] [[:space:]] [[:blank:]] [[:cntrl:]] [[:punct:]] [[:word:]] [[:xdigit:]]
[[:ascii:]] [^[:alpha:]] [[:^alpha:]] [[:^digit:]] [a[:digit:]_]
\p{N}{1,3} \p{N}{1,3}+ (?:\p{N}{1,3}+)(?!\p{N}) \d{2}+ a\d{2}? a\d{2}?a \d{,2}a \d{1,}? \P{Word} [\p{Word}] (?:a1|b){2}+ [a1]{2}+ \w{2,}+
\u4e00 [\u4e00-\u9fa5]+ [\u3040-\u30ff] (?m). (?m:a.) (?i)a|b (?i:'s|'t|'re|'ve|'m|'ll|'d) (?i)k (?i:k)b|(?i)a (?mi)A. (?-i:a)
(?#a[)a a(?#comment){2} (?<a>a) (?<=a)b (?<!a)b (?=a). (?!a). (?>a+)b a++ a*+a a?+a ]  {} a{ a{,} a{x} []a] [^]a] [a\]] \[ \{
'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|\x20?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*
(?:^|[^\w])\w{3}\b""".split()
REFUSED = [r"\pL", r"\K", r"a\Gb", r"\Qa\E", r"[\W]", r"[^\W]", r"[a-[b]]", r"a(?i)b|c", r"(?x)a b", r"(*ACCEPT)a", r"(?s).", r"(?P<a>a)",
           r"[[:^alnum:]]", r"[[:^punct:]]", r"[[:print:]]", r"\p{Print}", r"[\P{Alnum}]", r"\p{Han\}", r"[\X]", r"\N{U+41}", r"(?|a)",
           r"[\p{Lu}&&[^\p{Han}]]"]

# Characters whose properties changed between the two engines' versions of Unicode (14 and 16).
LATER = {*range(0x363, 0x370), 0xC04, 0xF82, 0xF83, 0x10FC, *range(0x1DD3, 0x1DE7), *range(0xA7F2, 0xA7F5), 0xAB69, 0x11080, 0x11081}


ODD = "aAb1 2\n\r\t\u00b2\u00bd\u2460\u2177_\u203f\u0301\u180e\u0085\u00a0\u3001\u3005\u30fc\u4e2d'sSkK\u212a\u017f$+.!-]{},x\\["


def text():
    near = ["", " ", "a", "1", "_", "\n", "-", "\u0301", "b"]
    pieces = []
    for c in range(1, 0x110000):
        if unicodedata.category(chr(c)) in ("Cs", "Co", "Cn") or c in LATER:
            continue
        pieces.append(random.choice(near) + chr(c) + random.choice(near))
    for _ in range(60000):
        pieces.append(random.choice(ODD))
    return "".join(pieces)


def tokenizer(expression):
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": {"type": "Replace", "pattern": {"Regex": expression}, "content": "<\u20ac>"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": []}}


def plexus(path, source):
    done = subprocess.run([encoder, path, source, f"{work}/ids"], capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip()
    return numpy.fromfile(f"{work}/ids", dtype=numpy.int32), ""


def golden(path):
    sample = "".join(random.choice(ODD) for _ in range(160)) + "aa1 a1a1b 'S we'll 12345 \x0b\x0c\u0660\u01c5"
    equal = [e for e in EQUAL if "&&" not in e]
    made = {"text": sample, "refused": REFUSED + [e for e in EQUAL if "&&" in e],
            "equal": [[e, normalizers.Replace(Regex(e), "\u20ac").normalize_str(sample)] for e in equal]}
    with open(path, "w") as f:
        json.dump(made, f, ensure_ascii=True, indent=0)
        f.write("\n")


def main():
    if sys.argv[1] == "--golden":
        return golden(sys.argv[2])
    sample = text()
    with open(f"{work}/text", "w", newline="") as f:
        f.write(sample)
    failures = 0
    for expression in EQUAL + REFUSED:
        path = f"{work}/tokenizer.json"
        with open(path, "w") as f:
            json.dump(tokenizer(expression), f)
        got, message = plexus(path, f"{work}/text")
        if expression in REFUSED or "&&" in expression:
            verdict = "refused" if got is None else "FAIL: taken"
        elif got is None:
            verdict = "FAIL: " + message.split("normalizer.pattern: ")[-1]
        else:
            want = numpy.array(Tokenizer.from_file(path).encode(sample).ids, dtype=numpy.int32)
            if numpy.array_equal(got, want):
                verdict = "equal"
            else:
                at = next((i for i in range(min(len(got), len(want))) if got[i] != want[i]), min(len(got), len(want)))
                letters = sorted(pre_tokenizers.ByteLevel.alphabet())
                show = lambda ids: "".join(letters[i] for i in ids[max(0, at - 12):at + 12])
                verdict = f"FAIL: at {at} {show(got)!r}, not {show(want)!r}"
        failures += verdict.startswith("FAIL")
        print(f"{expression}  {verdict}", flush=True)
    print(f"{len(EQUAL) + len(REFUSED) - failures} as wanted, {failures} not")
    return failures > 0


sys.exit(main())
