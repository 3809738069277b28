#!/usr/bin/env python3
"""A model of llama2.c (its first format, .bin) as a GGUF, read by Plexus: logits against transformers, and a story.

    venv/bin/pip install torch transformers accelerate gguf numpy
    venv/bin/python tests/checks/stories.py stories260K.bin tok512.bin [build/libplexus.so] [OUT.gguf]

The .bin begins with seven 32-bit numbers (width, FFN, layers, heads, key/value heads, vocabulary, positions); then come
the weights in f32, each kind for all layers. Its rows of q and k are those of a RoPE that turns neighbours, as in a
Llama's GGUF. The story is what Plexus finds likeliest, token by token, from the beginning of a text.
"""
import os
import struct
import sys
import tempfile

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from logits_equal import plexus_logits  # noqa: E402


def read_tokens(path, count):
    with open(path, "rb") as f:
        f.read(4)
        scores, tokens = [], []
        for _ in range(count):
            score, length = struct.unpack("<fi", f.read(8))
            scores.append(score)
            tokens.append(f.read(length).decode("utf-8", "replace"))
    return tokens, scores


def to_gguf(source, vocabulary, path):
    data = np.fromfile(source, dtype=np.float32, offset=28)
    width, ffn, layers, heads, kv_heads, vocab, positions = np.fromfile(source, dtype=np.int32, count=7).tolist()
    tied, vocab, at = vocab > 0, abs(vocab), 0
    head = width // heads

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return data[at - int(np.prod(shape)):at].reshape(shape)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(positions)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens, scores = read_tokens(vocabulary, vocab)
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [
        gguf.TokenType.BYTE if t.startswith("<0x") else gguf.TokenType.NORMAL for t in tokens[3:]]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t.replace(" ", "\u2581") if i > 2 else ["<unk>", "<s>", "</s>"][i]
                           for i, t in enumerate(tokens)])
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_tensor("token_embd.weight", take(vocab, width))
    for name, shape in [("attn_norm", (width,)), ("attn_q", (width, width)), ("attn_k", (kv_heads * head, width)),
                        ("attn_v", (kv_heads * head, width)), ("attn_output", (width, width)), ("ffn_norm", (width,)),
                        ("ffn_gate", (ffn, width)), ("ffn_down", (width, ffn)), ("ffn_up", (ffn, width))]:
        for layer in range(layers):
            writer.add_tensor(f"blk.{layer}.{name}.weight", take(*shape))
    writer.add_tensor("output_norm.weight", take(width))
    take(positions, head)  # RoPE's tables
    if not tied:
        writer.add_tensor("output.weight", take(vocab, width))
    assert at == data.size, "the file has another size than its numbers say"
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokens


def main():
    library = sys.argv[3] if len(sys.argv) > 3 else "build/libplexus.so"
    with tempfile.TemporaryDirectory() as folder:
        path = sys.argv[4] if len(sys.argv) > 4 else os.path.join(folder, "stories.gguf")
        words = to_gguf(sys.argv[1], sys.argv[2], path)
        story = [1]
        for _ in range(160):
            logits, _ = plexus_logits(library, path, story, len(words))
            story.append(int(logits[-1].argmax()))
            if story[-1] in (1, 2):
                break
        model = AutoModelForCausalLM.from_pretrained(os.path.dirname(os.path.abspath(path)),
                                                     gguf_file=os.path.basename(path), dtype=torch.float32)
        with torch.no_grad():
            expected = model(torch.tensor([story])).logits[0].double().numpy()
        found, _ = plexus_logits(library, path, story, len(words))
    worst = np.abs(found - expected).max() / np.ptp(expected)
    print(f"largest difference {worst:.2g} of the logits' range")
    print("".join(words[t] for t in story[1:] if t > 2).replace("<0x0A>", "\n").strip())
    sys.exit(0 if worst <= 1e-4 else 1)


if __name__ == "__main__":
    main()
