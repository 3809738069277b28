#!/usr/bin/env python3
"""Compares Plexus's tokenizers with the tokenizers package: ids token for token, decoded text, and speed on one thread.

usage: tokenizers_equal.py ENCODER DATA [MEGABYTES]

ENCODER is the program that `make build/tests/checks/encode_file` makes of tests/checks/encode_file.c; DATA is a folder with tok_*/
and text files (books, JSON lines, ...). The text is made here: real text of DATA and of Python's own source code, then
every assigned character of Unicode in random order with spaces between some, emoji, runs of spaces, control characters
and random bytes (what is not UTF-8 is compared after replacement by U+FFFD, which is what Plexus reads it as).
tokenizer.json files are opened by both. Where DATA has only vocab.json and merges.txt, a tokenizer.json is made of them
with the parts that the model's own has; one that the tokenizers package refuses is repaired first (merges as pairs).
Prints a line a tokenizer and fails on the first difference, showing it."""

import glob, json, os, random, subprocess, sys, sysconfig, tempfile, time, unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import numpy
from tokenizers import Tokenizer, __version__, normalizers, pre_tokenizers

encoder, data = sys.argv[1], sys.argv[2]
megabytes = float(sys.argv[3]) if len(sys.argv) > 3 else 24
work = tempfile.mkdtemp()
random.seed(5)


def characters(count):
    """Text of characters from all over Unicode."""
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Co", "Cn")]
    spaces = [" ", "  ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", "\u2009"]
    made, size = [], 0
    while size < count:
        kind = random.random()
        if kind < 0.4:
            start = random.randrange(len(assigned))
            run = "".join(assigned[start:start + random.randrange(1, 12)])
        elif kind < 0.7:
            run = "".join(random.choice(assigned) for _ in range(random.randrange(1, 6)))
        elif kind < 0.85:
            run = "".join(chr(random.randrange(32, 127)) for _ in range(random.randrange(1, 20)))
        elif kind < 0.9:
            run = "".join(chr(random.randrange(0, 32)) for _ in range(random.randrange(1, 4)))
        elif kind < 0.95:
            run = "".join(random.choice(["\U0001F468", "\u200d", "\U0001F4BB", "\U0001F1E9", "\ufe0f", "e\u0301", "\u1100\u1161\u11a8"])
                          for _ in range(random.randrange(1, 8)))
        else:
            run = random.choice([" ", "\n", "a", "\u0301", "1", "\u4e2d", "_", "=", "\u0644"]) * random.randrange(1, 90)
        run += random.choice(spaces) if random.random() < 0.5 else ""
        made.append(run)
        size += len(run.encode("utf-8", "replace"))
    return "".join(made)


def texts():
    """Name and bytes of each kind of text; together the megabytes asked for."""
    books = open(f"{data}/books_pd/books_valid.txt", "rb").read()
    wiki = open(f"{data}/wikitext2/wiki.valid.tokens", "rb").read()
    lines = b"".join(open(p, "rb").read() for p in sorted(glob.glob(f"{data}/*/*.jsonl")))
    code = b"".join(open(p, "rb").read() for p in sorted(glob.glob(sysconfig.get_paths()["stdlib"] + "/*.py")))
    packed = glob.glob(sysconfig.get_paths()["stdlib"] + "/encodings/*.py") + glob.glob(sysconfig.get_paths()["stdlib"] + "/test/*.py")
    code += b"".join(open(p, "rb").read() for p in sorted(packed))
    share = int(megabytes * 1e6)
    yield "books and Wikipedia", (books + wiki)[:share // 6]
    yield "JSON lines", lines[:share // 4]
    yield "source code", code[:share // 4]
    yield "all of Unicode", characters(share // 5).encode()
    noise = random.randbytes(share // 60)
    yield "random bytes", noise
    mixed = bytearray(books[:share // 12])
    for _ in range(len(mixed) // 200):
        mixed[random.randrange(len(mixed))] = random.randrange(256)
    yield "damaged text", bytes(mixed)
    yield "special tokens", "".join(random.choice(specials) + random.choice(["", " ", "  ", "\n", "a", " a", ".", "\u00e9", "_"])
                                    for _ in range(share // 400)).encode()


specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "<s>", "</s>", "<unk>", "[PAD]",
            "<|padding|>", "  ", "    ", "<|endoftext", "|>", "<s", "hello", "world", "[", "\u2581", "<0x0A>"]


def from_files(folder, vocab, merges, splitter, normalizer, added):
    """A tokenizer.json of vocab.json and merges.txt."""
    lines = open(merges, encoding="utf-8").read().split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    made = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": splitter, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": json.load(open(vocab, encoding="utf-8")), "merges": pairs}}
    path = f"{work}/{folder}.json"
    json.dump(made, open(path, "w", encoding="utf-8"), ensure_ascii=False)
    return path


def byte_level(regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def words(numbers):
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers +
               r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    return {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                                                   "invert": False}, byte_level(False)]}


def added_of(config):
    return [dict(id=int(id), **token) for id, token in json.load(open(config))["added_tokens_decoder"].items()]


def special(id, content):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizers():
    yield "bert-base-uncased", f"{data}/tok_bert/bert-base-uncased.tokenizer.json"
    yield "GPT-2", from_files("gpt2", f"{data}/tok_gpt2/encoder.json", f"{data}/tok_gpt2/vocab.bpe", byte_level(True), None,
                              [special(50256, "<|endoftext|>")])
    yield "Llama 2", f"{data}/tok_llama/tokenizer.json"
    yield "GPT-NeoX", f"{data}/tok_neox/20B_tokenizer.json"
    yield "Pythia", f"{data}/tok_pythia/tokenizer.json"
    qwen = f"{data}/tok_qwen2.5"
    yield "Qwen2.5", from_files("qwen", f"{qwen}/vocab.json", f"{qwen}/merges.txt", words(r"\p{N}"), {"type": "NFC"},
                                added_of(f"{qwen}/tokenizer_config.json"))
    yield "Qwen2.5 vocabulary, Llama 3 parts", llama3(f"{qwen}/vocab.json", f"{qwen}/merges.txt")
    yield "SmolLM", f"{data}/tok_smollm/tokenizer.json"


def llama3(vocab, merges):
    path = from_files("llama3", vocab, merges, words(r"\p{N}{1,3}"), None, [special(151643, "<|begin_of_text|>")])
    made = json.load(open(path))
    made["model"]["ignore_merges"] = True
    json.dump(made, open(path, "w"))
    return path


def outdated():
    """Characters that the tokenizers package's BERT parts and normal forms take for something else than today's Unicode does: its
    tables are older. Text for the tokenizers that use them is without these."""
    bert = normalizers.Sequence([normalizers.BertNormalizer(lowercase=False, strip_accents=True), normalizers.NFC()])
    split, differ = pre_tokenizers.BertPreTokenizer(), []
    for c in map(chr, [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]):
        kind = unicodedata.category(c)
        gone = kind in ("Cc", "Cf", "Co", "Mn") or c == "\ufffd"
        wrong = (bert.normalize_str("a" + c + "b") == "ab") != gone and unicodedata.normalize("NFD", c) == c
        wrong = wrong or (len(split.pre_tokenize_str("a" + c + "b")) == 3) != (kind[0] == "P")
        for form, name in ((normalizers.NFC(), "NFC"), (normalizers.NFD(), "NFD"), (normalizers.NFKD(), "NFKD")):
            wrong = wrong or form.normalize_str("a" + c + "\u0345\u0301") != unicodedata.normalize(name, "a" + c + "\u0345\u0301")
        if wrong: differ.append(c)
    return differ


def theirs(path):
    """The tokenizers package's, with truncation and padding off."""
    try:
        made = Tokenizer.from_file(path)
    except Exception as error:
        print(f"  the tokenizers package refuses the file ({str(error)[:70]}); merges given to it as pairs")
        content = json.load(open(path))
        vocab, pairs = content["model"]["vocab"], []
        for merge in content["model"]["merges"]:
            cuts = [(merge[:i], merge[i + 1:]) for i in range(1, len(merge) - 1) if merge[i] == " "]
            pairs += [list(cut) for cut in cuts if cut[0] in vocab and cut[1] in vocab][:1]
        content["model"]["merges"] = pairs
        repaired = f"{work}/repaired.json"
        json.dump(content, open(repaired, "w"))
        made = Tokenizer.from_file(repaired)
    made.no_truncation()
    made.no_padding()
    return made


def ours(path, file, repeat):
    out = f"{work}/ids"
    run = subprocess.run([encoder, path, file, out, str(repeat)], check=True, capture_output=True, text=True)
    values = dict(item.split("=") for item in run.stdout.split())
    return numpy.fromfile(out, dtype=numpy.int32), open(out + ".text", "rb").read(), float(values["seconds"])


def main():
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")][:1]
    print(f"tokenizers {__version__}, one thread each, {cpu[0] if cpu else 'unknown CPU'}")
    parts = list(texts())
    total = sum(len(part) for _, part in parts)
    print(f"{total / 1e6:.1f} MB:", ", ".join(f"{name} {len(part) / 1e6:.1f}" for name, part in parts))
    old = outdated()
    print(f"{len(old)} characters are left out for BERT, GPT-NeoX, Pythia and Qwen2.5: the package's tables for them are older")
    without = dict.fromkeys(map(ord, old))
    failed = False
    for name, path in tokenizers():
        old_tables = name.split("-")[0] in ("bert", "GPT", "Pythia", "Qwen2.5") and name != "GPT-2"
        other = theirs(path)
        count, spent, best, speeds, differs = 0, 0.0, 0.0, [], False
        for kind, part in parts:
            text = part.decode("utf-8", "replace")
            if old_tables and kind in ("all of Unicode", "random bytes", "damaged text"):
                text = text.translate(without)
                part = text.encode()
            file = f"{work}/text"
            open(file, "wb").write(part)
            started = time.perf_counter()
            # In one piece, as a document, without the positions that Plexus does not make either.
            expected = other.encode_batch_fast([text], add_special_tokens=False)[0]
            seconds = time.perf_counter() - started
            expected = numpy.array(expected.ids, dtype=numpy.int32)
            ids, decoded, mine = ours(path, file, 1)
            spent, best = spent + seconds, best + mine
            speeds.append(f"{kind} {seconds / mine:.0f}")
            count += len(ids)
            if len(ids) != len(expected) or (ids != expected).any():
                failed = differs = True
                same = min(len(ids), len(expected))
                differ = numpy.nonzero(ids[:same] != expected[:same])[0]
                at = int(differ[0]) if len(differ) else same
                print(f"  {name}: {kind}: {len(ids)} and {len(expected)} tokens, the first difference at {at}:")
                show = lambda list: [(int(i), other.id_to_token(int(i))) for i in list[max(0, at - 3):at + 4]]
                print("   ours  ", show(ids), "\n   theirs", show(expected))
                continue
            # Special tokens are left out by their ids: the package keeps those whose normalised text is another.
            special = [id for id, token in other.get_added_tokens_decoder().items() if token.special]
            back = other.decode(expected[~numpy.isin(expected, special)].tolist())
            if "\ufffd" not in back and decoded.decode("utf-8", "replace") != back:
                failed = differs = True
                mine_text = decoded.decode("utf-8", "replace")
                at = next((i for i, (a, b) in enumerate(zip(mine_text, back)) if a != b), min(len(back), len(mine_text)))
                print(f"  {name}: {kind}: decoded text differs at {at}: {mine_text[max(0, at - 20):at + 20]!r} {back[max(0, at - 20):at + 20]!r}")
        print(f"{name}: {count} tokens {'DIFFER' if differs else 'equal'}; {total / best / 1e6:.1f} MB/s against {total / spent / 1e6:.2f}, "
              f"{spent / best:.1f} times ({', '.join(speeds)})", flush=True)
    sys.exit(failed)


main()
