#!/usr/bin/env python3
"""Perplexity of a GGUF on a text: `plexus eval` with each --weights, beside transformers in f32 on the same windows.

    venv/bin/pip install torch transformers accelerate gguf numpy
    venv/bin/python tests/checks/perplexity.py MODEL.gguf TEXT [--program build/plexus] [--window 512] [--weights f32,...]

Windows of 512 tokens overlap by one, so that every token but the first is scored once. Fails when --weights f32 is
not within 0.1% of transformers' (which computes with the weights that the gguf package unpacks), or stored or q8_0, with
activations of int8, not within 1% of f32.
"""
import argparse
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
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--program", default="build/plexus")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--weights", default="f32,stored,q8_0,q4_0,bf16", help="f32 first: the others are set against it")
    args = parser.parse_args()
    nll = {}
    for weights in args.weights.split(","):
        out = subprocess.run([args.program, "eval", args.model, "--text", args.text, "--window", str(args.window), "--weights",
                              weights, "--json"], check=True, capture_output=True, text=True).stdout
        found = json.loads(out)
        nll[weights] = found["nll"]
        print(f"{weights:8} {found['tokens']} tokens, loss {found['nll']:.6f}, perplexity {math.exp(found['nll']):.4f}, "
              f"{math.exp(found['nll'] - nll['f32']) - 1:+.3%} of f32", flush=True)
    other = expected(args.model, open(args.text, encoding="utf-8").read(), args.window, found["tokens"])
    apart = math.exp(nll["f32"] - other) - 1
    print(f"transformers loss {other:.6f}, perplexity {math.exp(other):.4f}; f32 is {apart:+.4%} apart")
    near = all(abs(math.exp(nll[w] - nll["f32"]) - 1) <= 0.01 for w in ("stored", "q8_0") if w in nll)
    sys.exit(0 if abs(apart) <= 1e-3 and near else 1)


main()
