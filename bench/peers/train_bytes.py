#!/usr/bin/env python3
"""The model and training of recipes/bible-bytes.yaml in PyTorch, as its users would write it: pace and loss to compare with.

    venv/bin/python bench/peers/train_bytes.py bible.txt [--steps 600] [--threads 2]

Prints tokens per second (best tenth of the run) and bits per byte on the last 5% of the text.
"""
import argparse
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, D))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self, vocab=257, width=128, layers=4, heads=4, inner=384, length=256):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))
        self.norm = Norm(width)
        half = width // heads // 2
        angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, 0, 0.02 / (math.sqrt(2 * layers) if name.endswith(("o.weight", "down.weight")) else 1))

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x) @ self.embed.weight.T


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = torch.frombuffer(bytearray(open(args.text, "rb").read()), dtype=torch.uint8).long()
    cut = int(len(data) * 0.95)
    train, valid, T, B = data[:cut], data[cut:], 256, 16
    model = Model()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)], lr=3e-3, betas=(0.9, 0.95))
    times = []
    for step in range(1, args.steps + 1):
        begin = time.perf_counter()
        lr = 3e-3 * (step / 50 if step <= 50 else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 50) / max(1, args.steps - 50))))
        for group in optimizer.param_groups:
            group["lr"] = lr
        at = torch.randint(0, len(train) - T - 1, (B,))
        x = torch.stack([train[i:i + T] for i in at])
        y = torch.stack([train[i + 1:i + T + 1] for i in at])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - begin)
        if step % 50 == 0:
            print("step %d loss %.4f %.0f tokens/s" % (step, loss.item(), B * T / (sum(times[-50:]) / len(times[-50:]))), flush=True)
    best = sorted(times)[:max(1, len(times) // 10)]
    total, count = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(valid) - T - 1, T * B):
            rows = [valid[j:j + T + 1] for j in range(i, min(i + T * B, len(valid) - T - 1), T)]
            batch = torch.stack(rows)
            total += F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
            count += batch[:, 1:].numel()
    print("%.0f tokens/s (mean), %.0f (best tenth); %.4f bits per byte" %
          (B * T * len(times) / sum(times), B * T / (sum(best) / len(best)), total / count / math.log(2)))


if __name__ == "__main__":
    main()
