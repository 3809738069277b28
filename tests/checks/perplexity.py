#!/usr/bin/env python3
"""Perplexity of a GGUF on a text: `plexus eval` with each --weights, beside transformers in f32 on the same windows.

    venv/bin/pip install torch transformers accelerate gguf numpy
    venv/bin/python tests/checks/perplexity.py MODEL.gguf TEXT [build/plexus] [WINDOW]

Windows of WINDOW (512) tokens overlap by one, so that every token but the first is scored once. Fails when --weights f32 is
not within 0.1% of transformers' (which computes with the weights that the gguf package unpacks), or stored or q8_0, with
activations of int8, not within 1% of f32.
"""
import json
import math
import os
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def expected(path, text, window, count):
    folder, file = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) - 1 != count:
        sys.exit(f"plexus scores {count} tokens, transformers has {len(ids)}: other windows")
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(ids) - 1, window - 1):
            part = torch.tensor([ids[first:first + window]])
            logits = model(part).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum").item()
    return total / count


def main():
    path, text = sys.argv[1:3]
    program = sys.argv[3] if len(sys.argv) > 3 else "build/plexus"
    window = int(sys.argv[4]) if len(sys.argv) > 4 else 512
    nll = {}
    for weights in ("f32", "stored", "q8_0", "q4_0", "bf16"):
        out = subprocess.run([program, "eval", path, "--text", text, "--window", str(window), "--weights", weights,
                              "--json"], check=True, capture_output=True, text=True).stdout
        found = json.loads(out)
        nll[weights] = found["nll"]
        print(f"{weights:8} {found['tokens']} tokens, loss {found['nll']:.6f}, perplexity {math.exp(found['nll']):.4f}, "
              f"{math.exp(found['nll'] - nll['f32']) - 1:+.3%} of f32", flush=True)
    other = expected(path, open(text, encoding="utf-8").read(), window, found["tokens"])
    apart = math.exp(nll["f32"] - other) - 1
    print(f"transformers loss {other:.6f}, perplexity {math.exp(other):.4f}; f32 is {apart:+.4%} apart")
    near = all(abs(math.exp(nll[w] - nll["f32"]) - 1) <= 0.01 for w in ("stored", "q8_0"))
    sys.exit(0 if abs(apart) <= 1e-3 and near else 1)


main()
