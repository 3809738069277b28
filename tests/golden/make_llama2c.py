#!/usr/bin/env python3
"""A tiny model in llama2.c's first format (.bin) and its logits, computed here as that program computes them.

    venv/bin/python tests/golden/make_llama2c.py      (numpy; writes llama2c.bin and llama2c.json beside itself)

The format: seven 32-bit numbers (width, FFN, layers, heads, key/value heads, vocabulary, positions; a negative vocabulary
says that the head is a tensor of its own), then f32: embedding; of all layers the attention's norms, q, k, v, o, the FFN's
norms, w1 (gate), w2 (down), w3 (up); the last norm; two tables of RoPE's cosines and sines; the head where there is one.
RoPE turns neighbours (2i, 2i+1).
"""
import json
import os
import struct

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, FFN, LAYERS, HEADS, KV, VOCAB, POSITIONS = 16, 24, 2, 4, 2, 19, 16
HEAD = WIDTH // HEADS
random = np.random.default_rng(11)
SHAPES = [("embedding", (VOCAB, WIDTH)), ("norm1", (LAYERS, WIDTH)), ("q", (LAYERS, WIDTH, WIDTH)),
          ("k", (LAYERS, KV * HEAD, WIDTH)), ("v", (LAYERS, KV * HEAD, WIDTH)), ("o", (LAYERS, WIDTH, WIDTH)),
          ("norm2", (LAYERS, WIDTH)), ("gate", (LAYERS, FFN, WIDTH)), ("down", (LAYERS, WIDTH, FFN)),
          ("up", (LAYERS, FFN, WIDTH)), ("norm", (WIDTH,)), ("cosine", (POSITIONS, HEAD // 2)),
          ("sine", (POSITIONS, HEAD // 2)), ("head", (VOCAB, WIDTH))]
w = {name: random.normal(1 if "norm" in name else 0, 0.3, shape).astype(np.float32) for name, shape in SHAPES}
angle = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD)
w["cosine"], w["sine"] = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
tokens = [int(t) for t in random.integers(0, VOCAB, 12)]


def norm(x, weight):
    return weight * x / np.sqrt(np.mean(x * x) + 1e-5)


def turned(x, position):
    x = x.reshape(-1, HEAD // 2, 2)
    c, s = np.cos(angle[position]), np.sin(angle[position])
    return np.stack([x[..., 0] * c - x[..., 1] * s, x[..., 0] * s + x[..., 1] * c], -1).reshape(-1, HEAD)


w = {name: value.astype(np.float64) for name, value in w.items()}
keys, values, logits = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)], []
for position, token in enumerate(tokens):
    x = w["embedding"][token]
    for i in range(LAYERS):
        h = norm(x, w["norm1"][i])
        q = turned(w["q"][i] @ h, position)
        keys[i].append(turned(w["k"][i] @ h, position))
        values[i].append((w["v"][i] @ h).reshape(KV, HEAD))
        out = []
        for a in range(HEADS):
            k, v = (np.array(m)[:, a // (HEADS // KV)] for m in (keys[i], values[i]))
            p = np.exp(k @ q[a] / np.sqrt(HEAD))
            out.append(p @ v / p.sum())
        x = x + w["o"][i] @ np.concatenate(out)
        h = norm(x, w["norm2"][i])
        g = w["gate"][i] @ h
        x = x + w["down"][i] @ (g / (1 + np.exp(-g)) * (w["up"][i] @ h))
    logits.append(w["head"] @ norm(x, w["norm"]))

with open(os.path.join(HERE, "llama2c.bin"), "wb") as f:
    f.write(struct.pack("<7i", WIDTH, FFN, LAYERS, HEADS, KV, -VOCAB, POSITIONS))
    for name, _ in SHAPES:
        f.write(w[name].astype("<f4").tobytes())
with open(os.path.join(HERE, "llama2c.json"), "w") as f:
    json.dump({"tokens": tokens, "logits": [[float(f"{x:.12g}") for x in row] for row in logits]}, f)
    f.write("\n")
