#!/usr/bin/env python3
"""Makes tests/golden/tokenizers/: small tokenizers of each kind, trained here by the tokenizers package on this repository's
own documents and the sentences below, and cases.json: texts with the ids and the decoded text that the package gives.

usage: make_tokenizers.py (from the repository's root, with the tokenizers package installed)

The merges depend on the documents as they were; to make the files anew is to make all of them anew."""

import glob, json, os, random

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

out = "tests/golden/tokenizers"
random.seed(3)

sentences = ["Die Straße führt über den Fluß; größer wird's nicht.", "Où est l'été? Ça dépend: naïve cœur, garçon.",
             "Привет, мир! Это проверка.", "Καλημέρα κόσμε, τι κάνεις;", "你好，世界。今天天气很好。", "こんにちは世界。カタカナもあります。",
             "안녕하세요 세계, 한국어 문장입니다.", "مرحبا بالعالم، كيف الحال؟", "שלום עולם, מה שלומך?", "नमस्ते दुनिया, आप कैसे हैं?",
             "สวัสดีชาวโลก ภาษาไทย", "Tiếng Việt có dấu: ậ ở ữ ệ.", "emoji 👩‍💻 🇩🇪 👍🏽 😀😀 end", "x = [i**2 for i in range(10)]  # squares\n\treturn x\n"]
documents = [open(path, encoding="utf-8").read() for path in sorted(glob.glob("docs/*.md") + glob.glob("src/text/*.c"))]
corpus = documents + sentences * 30

fixed = ["", " ", "  ", "   a", "a   ", "\n", "\n\n\n", " \n \n ", "\t\tx\t", "a\r\nb\r\n\r\nc", "Hello world", " Hello  world ", "Hello, world! It's we'll I'M DON'T",
         "don't can't I've you're he'd she'll i'm 's 'S 'ſ", "1 22 333 4444 55555 3.14159 1,000,000", "x1y22z333", "half ½ four Ⅳ ٣ ३ ² ①",
         "ÀÉÎÕÜ àéîõü", "A\u030angstro\u0308m e\u0301 \u0301x", "\u1100\u1161\u11a8 가각", "ﬁne ﬂow Ω Å K", "İstanbul Iıİi ẞß", "中文字，标点。", "中a文b字1", "a\u00a0b\u3000c\u2009d\u200be",
         "\u180ea\u180e b", "a\u0085b\u2028c\u2029d", "a\u0000b\u0001c\u001fd\u007fe", "\ufeffBOM \ufffd \ufffe", "👩‍💻👩‍💻 🇩🇪🇫🇷 👍🏽!", "____ --- === ... !!! ?!?", "(a)[b]{c}<d>/e\\f|g",
         "foo.bar(baz)[0] != null; // comment", "    if (x > 0) {\n        return -1;\n    }\n", "https://example.org/path?q=1&r=%20#top", "CamelCaseHTTPServer snake_case_name",
         "a" * 100, "ab" * 60, " " * 90 + "x", "\n" * 40, "é" * 50, "中" * 60, "na na na na na na na na", "\u2581a\u2581 b \u2581\u2581", "<0x0A><0xFF> <0x",
         "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> <|endoftext|>", "<|endoftext", "<s> hello</s> a<s>b </s>", "<unk> <unk>x", "[CLS] a [SEP][MASK] b [UNK]",
         "<special>a <special>  b<special>", "the word inword word words word.word", "  strip  x strip  ", "MiXeD Plain plain PLAIN mixed", "\U0001F600\U00010348\U0002070E", "\u0644\u0644\u0647 \u0627\u0644\u0644",
         "ﷺ ㍿ ½ ﬃ", "a\u0301\u0327\u0323b", "\u0345\u0301\u0300 \u093c\u094d", "end.\nOf line. Then more,\nand more"]


def noise():
    pieces = ["a", "the ", " of", "é", "e\u0301", "中", "文", "😀", " ", "  ", "\n", "\t", "1", "23", ".", ",", "'s", "'", "<s>", "<|endoftext|>", "[MASK]", "word", "ß", "İ", "я", "ش", "\u200d", "\u0300", "-", "_", "Zx", "\u0000", "\u2581", "ﬁ"]
    return "".join(random.choice(pieces) for _ in range(random.randrange(2, 25)))


texts = fixed + [noise() for _ in range(40)] + sentences


def bpe(tokenizer, special, size=480, alphabet=None, **options):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                  limit_alphabet=len(alphabet) if alphabet else 150, initial_alphabet=alphabet or [], **options)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def byte_level(use_regex=True, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def words(numbers):
    return Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_bpe(splitter, special, normalizer=None, size=480):
    made = Tokenizer(models.BPE())
    if normalizer is not None: made.normalizer = normalizer
    made.pre_tokenizer = splitter
    made.decoder = decoders.ByteLevel()
    return bpe(made, special, size, pre_tokenizers.ByteLevel.alphabet())


def gpt2(): return byte_bpe(byte_level(prefix=True), ["<|endoftext|>"])


def llama3():
    made = byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Split(words(r"\p{N}{1,3}"), "isolated"), byte_level(False)]), ["<|endoftext|>", "<s>"])
    content = json.loads(made.to_str())
    content["model"]["ignore_merges"] = True
    # Whole words that no merge makes: only ignore_merges finds them.
    for word in ["\u0120Hello", "world", "\u0120333"]: content["model"]["vocab"].setdefault(word, len(content["model"]["vocab"]))
    made = Tokenizer.from_str(json.dumps(content))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return made


def qwen2():
    return byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Split(words(r"\p{N}"), "isolated"), byte_level(False)]), ["<|endoftext|>"], normalizers.NFC())


def smollm():
    return byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]), ["<|endoftext|>", "<special>"])


def neox():
    made = byte_bpe(byte_level(), ["<|endoftext|>"], normalizers.NFC())
    made.add_tokens([AddedToken(" " * n, normalized=True) for n in range(12, 1, -1)])
    made.add_tokens([AddedToken("strip", lstrip=True, rstrip=True), AddedToken("word", single_word=True)])
    return made


def llama(metaspace):
    """SentencePiece's BPE with bytes for what is no token; metaspace: without them, split by the pre-tokenizer."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bytes_ = [] if metaspace else [f"<0x{b:02X}>" for b in range(256)]
    bpe(made, ["<unk>", "<s>", "</s>"] + bytes_, 480 + len(bytes_))
    content = json.loads(made.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    if metaspace:
        content["normalizer"] = None
        content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
        content["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
        content["model"]["fuse_unk"] = False
    else:
        content["pre_tokenizer"] = None
        content["model"]["byte_fallback"] = True
        for token in content["added_tokens"]: token["normalized"] = True
        # As of a SentencePiece model: every way to make a token of two is a merge.
        vocab, merges = content["model"]["vocab"], []
        for token, id in sorted(vocab.items(), key=lambda item: item[1]):
            cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
            if id >= 3 + 256: merges += sorted(cuts, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
        content["model"]["merges"] = [" ".join(cut) for cut in merges]
        content["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
        content["post_processor"] = json.loads(processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]).__getstate__())
    return Tokenizer.from_str(json.dumps(content))


def bert():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False, limit_alphabet=150))
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def parts():
    """Parts that the others do not use."""
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\d+"), "0"),
                                            normalizers.Replace("--", "-"), normalizers.Strip()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.CharDelimiterSplit("|"), pre_tokenizers.Split("=", "merged_with_next"), pre_tokenizers.Digits(),
                                                  pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Punctuation("merged_with_previous")])
    bpe(made, ["[UNK]", "[MASK]"])
    made.add_tokens([AddedToken("plain", normalized=True), AddedToken("Mixed", normalized=True), AddedToken("word", single_word=True, normalized=False)])
    return made


def whitespace():
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.NFD()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("contiguous")])
    return bpe(made, ["[UNK]", "[MASK]"])


def fnv(ids):
    hash = 0xCBF29CE484222325
    for id in ids: hash = (hash ^ id) * 0x100000001B3 & (1 << 64) - 1
    return f"{hash:016x}"


os.makedirs(out, exist_ok=True)
made = {"gpt2": gpt2(), "llama3": llama3(), "qwen2": qwen2(), "smollm": smollm(), "neox": neox(), "llama": llama(False), "metaspace": llama(True), "bert": bert(),
        "parts": parts(), "whitespace": whitespace()}
long = " ".join(texts) + "\n" + "\n".join(texts)
cases = {"texts": texts, "repeat": 12, "expected": {}}
for name, tokenizer in made.items():
    content = json.loads(tokenizer.to_str())
    if content["model"]["type"] == "BPE": content["model"]["merges"] = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]]
    json.dump(content, open(f"{out}/{name}.json", "w"), ensure_ascii=True, separators=(",", ":"))
    tokenizer = Tokenizer.from_file(f"{out}/{name}.json")
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    # Special tokens are left out by their ids: the package, asked to skip them, keeps those whose normalised text is another.
    special = {token["id"] for token in content["added_tokens"] if token["special"]}
    decoded = [tokenizer.decode([id for id in row if id not in special]) for row in ids]
    whole = tokenizer.encode(long * 12, add_special_tokens=False).ids
    cases["expected"][name] = {"ids": ids, "decoded": decoded, "long_count": len(whole), "long_hash": fnv(whole)}
json.dump(cases, open(f"{out}/cases.json", "w"), ensure_ascii=True, separators=(",", ":"))
