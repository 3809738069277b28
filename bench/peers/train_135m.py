#!/usr/bin/env python3
"""Full fine-tuning of a model of SmolLM2-135M's shape: Plexus against transformers' LlamaForCausalLM with AdamW.

    venv/bin/python bench/peers/train_135m.py build/plexus [--kinds f32,bf16] [--rounds 2] [--steps 3]

Rows of `make bench-peers` are of this; alone it shows each step, and takes other sizes.

Both take steps on batches of the same size (tokens are random: the work does not depend on them), clip the gradient's norm
and update all 134.5 million weights, in turns on the same threads. A figure is the best step of all rounds. Kinds: f32
against f32; bf16: Plexus's train.precision bf16 against torch.autocast to bf16, weights and optimiser in f32 on both sides.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.utils.logging.disable_progress_bar()

SHAPE = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3,
             tie_word_embeddings=True, rope_theta=100000.0)
LAYERS = 30
RECIPE = """
model: {from: %s}
data:  {train: [%s], tokenizer: bytes, sequence_length: %d}
train: {steps: %d, batch_size: %d, lr: 1.0e-5, warmup_steps: 0, eval_every: 0, eval_rows: 1, save_every: 0,
        precision: %s}
out:   %s
"""


class Torch:
    def __init__(self, rows, length, kind):
        config = LlamaConfig(num_hidden_layers=LAYERS, max_position_embeddings=1024, **SHAPE)
        self.model = LlamaForCausalLM(config).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.tokens = torch.randint(0, SHAPE["vocab_size"], (rows, length))
        self.kind = kind

    def step(self):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.kind == "bf16"):
            loss = self.model(input_ids=self.tokens, labels=self.tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return time.perf_counter() - begin


def plexus(program, base, rows, length, kind, steps, threads):
    """Seconds of each step."""
    with tempfile.TemporaryDirectory() as out:
        text = os.path.join(out, "text")
        with open(text, "wb") as f:
            f.write(os.urandom(rows * length * (steps + 2) * 2))
        with open(f"{out}/recipe.yaml", "w") as f:
            f.write(RECIPE % (base, text, length, steps + 1, rows, kind, f"{out}/run"))
        run = subprocess.Popen([program, "train", f"{out}/recipe.yaml", "--quiet", "--threads", str(threads)],
                               stdout=subprocess.DEVNULL)
        at = []
        while len(at) < steps and run.poll() is None:
            time.sleep(0.2)
            if os.path.exists(f"{out}/run/metrics.jsonl"):
                lines = open(f"{out}/run/metrics.jsonl").read().split("\n")[:-1]
                at = [json.loads(line)["seconds"] for line in lines if "seconds" in line]
        run.kill()  # its last checkpoint, 1.6 GB, is not measured
        run.wait()
    return [b - a for a, b in zip(at, at[1:])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--kinds", default="f32,bf16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as base:
        measure(args, base)


def measure(args, base):
    for kind in args.kinds.split(","):
        theirs, ours, model = [], [], Torch(args.rows, args.length, kind)
        if not os.path.exists(f"{base}/config.json"):
            model.model.save_pretrained(base)
        for turn in range(args.rounds):
            took = [model.step() for _ in range(args.steps + (turn == 0))]
            print(f"{kind}, PyTorch: " + " ".join(f"{t:.2f}" for t in took), flush=True)
            theirs += took[turn == 0:]  # the first of all warms up
            ours += plexus(args.program, base, args.rows, args.length, kind, args.steps + 1, args.threads)
            print(f"{kind}, Plexus: " + " ".join(f"{t:.2f}" for t in ours), flush=True)
        tokens = args.rows * args.length
        print(f"{kind}: {args.rows} x {args.length} tokens, {args.threads} threads: "
              f"Plexus {tokens / min(ours):.0f} tokens/s, PyTorch {torch.__version__} {tokens / min(theirs):.0f}, "
              f"ratio {min(theirs) / min(ours):.2f} (steps of {min(ours):.2f} to {max(ours):.2f} s and "
              f"{min(theirs):.2f} to {max(theirs):.2f} s)", flush=True)


if __name__ == "__main__":
    main()
