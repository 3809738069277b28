#!/usr/bin/env python3
"""Golden values for tests/test_golden.c, made by PyTorch, independently of Plexus.

    python3 -m venv venv && venv/bin/pip install torch numpy safetensors
    venv/bin/python tests/golden/make_golden.py          # writes cases.json and golden.safetensors beside itself

Everything is computed in double precision by autograd over code that follows the published formulas in the plainest
way (full T x T and T x T x T arrays, every wedge formed). Weights, tokens and masks are not stored: both sides make
them from the same hash (unit() below), whose values are exact in 32 bits. Stored: logits, loss and every gradient of
one batch for each case, and the losses of 20 training steps for one small model of each mixer.
"""
import json
import math
import os

import numpy as np
import torch
from safetensors.numpy import save_file

torch.set_default_dtype(torch.float64)
HERE = os.path.dirname(os.path.abspath(__file__))
M64 = (1 << 64) - 1


# ---- numbers that both sides make alike -----------------------------------------------------------------------

def fnv(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) & M64
    return h


def bits(stream, count):
    """splitmix64 of stream + index."""
    z = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit(name, count):
    """Numbers in [-1, 1) that are exact in f32."""
    with np.errstate(over="ignore"):
        return (bits(fnv(name), count) >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def integers(name, count, below):
    with np.errstate(over="ignore"):
        return (bits(fnv(name), count) >> np.uint64(33)).astype(np.int64) % below


def initial(name, shape, scale):
    u = unit(name, int(np.prod(shape))).reshape(shape)
    if "norm" in name and name.endswith(".weight"):
        u = 1.0 + 0.25 * u
    elif len(shape) == 2:
        u = scale * u
    else:
        u = 0.25 * u
    return torch.tensor(u, requires_grad=True)


# ---- the model, plainly ----------------------------------------------------------------------------------------

class Weights:
    """Tensors by name, made when first asked for."""

    def __init__(self, scale):
        self.t, self.scale = {}, scale

    def __call__(self, name, *shape):
        if name not in self.t:
            self.t[name] = initial(name, shape, self.scale)
        return self.t[name]


def norm(x, w, name, config, layer):
    eps, d = config["norm_eps"], x.shape[-1]
    if layer:
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(var + eps) * w(name + ".weight", d) + w(name + ".bias", d)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w(name + ".weight", d)


def linear(x, w, name, out, bias):
    y = x @ w(name + ".weight", out, x.shape[-1]).T
    return y + w(name + ".bias", out) if bias else y


def rope_halves(x, position, config):
    """x [B, T, heads, d]"""
    d = x.shape[-1]
    pairs = int(d * config["partial_rotary_factor"]) // 2
    if not config["rope"] or pairs == 0:
        return x
    frequency = config["rope_theta"] ** (-torch.arange(pairs) / pairs)
    angle = position[:, :, None, None] * frequency
    a, b, rest = x[..., :pairs], x[..., pairs:2 * pairs], x[..., 2 * pairs:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest], -1)


def rope_chunks(x, position, config):
    d = x.shape[-1]
    chunks = d // 3
    frequency = config["rope_theta"] ** (-3.0 * torch.arange(chunks) / d)
    angle = position[:, :, None, None] * frequency
    y = x.clone()
    a, b = x[..., 0:3 * chunks:3], x[..., 1:3 * chunks:3]
    y[..., 0:3 * chunks:3] = a * angle.cos() - b * angle.sin()
    y[..., 1:3 * chunks:3] = a * angle.sin() + b * angle.cos()
    return y


def split(x, heads):
    return x.reshape(*x.shape[:2], heads, -1)


def visible(start, window):
    """[B, T, J]: which keys j a query t sees."""
    T = start.shape[1]
    t, j = torch.arange(T)[None, :, None], torch.arange(T)[None, None, :]
    mask = (j <= t) & (j >= start[:, :, None])
    return mask & (j > t - window) if window else mask


def attend(q, k, v, start, window):
    """q [B,T,H,d], k, v [B,T,G,d] -> [B,T,H,d]"""
    H, G, d = q.shape[2], k.shape[2], q.shape[3]
    k, v = k.repeat_interleave(H // G, 2), v.repeat_interleave(H // G, 2)
    logits = torch.einsum("bthd,bjhd->bhtj", q, k) / math.sqrt(d)
    logits = logits.masked_fill(~visible(start, window)[:, None], -math.inf)
    return torch.einsum("bhtj,bjhd->bthd", logits.softmax(-1), v)


def flat(x):
    return x.reshape(*x.shape[:2], -1)


def roles(q, k, w, p, c, pos):
    """QK norm and RoPE of the query and key roles."""
    if c["qk_norm"]:
        q, k = norm(q, w, p + "q_norm", c, False), norm(k, w, p + "k_norm", c, False)
    return rope_halves(q, pos, c), rope_halves(k, pos, c)


def mix_attention(x, w, p, c, start, pos):
    H, G, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    b = c["attention_bias"]
    q, k, v = (split(linear(x, w, p + n, h * d, b), h) for n, h in (("q_proj", H), ("k_proj", G), ("v_proj", G)))
    q, k = roles(q, k, w, p, c, pos)
    return linear(flat(attend(q, k, v, start, c.get("window"))), w, p + "o_proj", c["hidden_size"], c["attention_out_bias"])


def mix_nexus(x, w, p, c, start, pos):
    H, G, d, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["hidden_size"]
    b, ob, window = c["attention_bias"], c["attention_out_bias"], c.get("window")
    order, branches, inner, gated = c.get("order", 2), c.get("branches", "qk"), c.get("inner", "reproject"), c.get("gate", "none") == "scalar"

    def project(h, name, heads):
        return split(linear(h, w, p + name, heads * d, b), heads)

    def gate(name, plain, refined):
        if not gated:
            return refined
        return plain + torch.tanh(w(p + "gate_" + name, 1)) * (refined - plain)

    v = project(x, "v_proj", G)

    def outer(q, k):
        q, k = roles(q, k, w, p, c, pos)
        return linear(flat(attend(q, k, v, start, window)), w, p + "o_proj", D, ob)

    refine_q, refine_k = "q" in branches and order > 1, "k" in branches and order > 1
    need_q, need_k = inner != "own" or gated or not refine_q, inner != "own" or gated or not refine_k
    q0 = project(x, "q_proj", H) if need_q else None
    k0 = project(x, "k_proj", G) if need_k else None
    if inner == "reproject":
        a = outer(q0, k0)
        for _ in range(2, order + 1):
            q = gate("q", q0, project(a, "q_proj", H)) if refine_q else q0
            k = gate("k", k0, project(a, "k_proj", G)) if refine_k else k0
            a = outer(q, k)
        return a
    if inner == "self":
        def own_attention(u0, name):
            u = u0
            for _ in range(order - 1):
                turned = norm(u, w, p + name + "_norm", c, False) if c["qk_norm"] else u
                turned = rope_halves(turned, pos, c)
                u = gate(name, u0, attend(turned, turned, u0, start, window))
            return u
        return outer(own_attention(q0, "q") if refine_q else q0, own_attention(k0, "k") if refine_k else k0)

    def inner_attention(name, heads):
        q, k, v1 = (split(linear(x, w, p + "inner_%s.%s_proj" % (name, r), heads * d, b), heads) for r in "qkv")
        return attend(*roles(q, k, w, p, c, pos), v1, start, window)
    q = gate("q", q0, inner_attention("q", H)) if refine_q else q0
    k = gate("k", k0, inner_attention("k", G)) if refine_k else k0
    return outer(q, k)


def mix_simplicial(x, w, p, c, start, pos):
    H, G, d, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["hidden_size"]
    b = c["attention_bias"]
    (w1, w2), (bk, bv) = c.get("window", [512, 32]), c.get("bias", [0.0, 0.0])
    q = split(linear(x, w, p + "q_proj", H * d, b), H)
    k, v, k2, v2 = (split(linear(x, w, p + n, G * d, b), G) for n in ("k_proj", "v_proj", "k2_proj", "v2_proj"))
    det = c.get("form", "trilinear") == "det"
    if c["qk_norm"]:
        q, k = norm(q, w, p + "q_norm", c, False), norm(k, w, p + "k_norm", c, False)
    if c.get("position", "none") == "rope":
        if det:
            q, k, k2 = (rope_chunks(u, pos, c) for u in (q, k, k2))
        else:
            q, k = rope_halves(q, pos, c), rope_halves(k, pos, c)
    k2, v2 = k2 + bk, v2 + bv
    k, v, k2, v2 = (u.repeat_interleave(H // G, 2) for u in (k, v, k2, v2))
    if det:
        n = d // 3 * 3
        chunk = lambda u: u[..., :n].reshape(*u.shape[:-1], n // 3, 3)
        cross = torch.linalg.cross(chunk(k2)[:, None], chunk(q)[:, :, None], dim=-1)  # [B,T,K,H,c,3]
        logits = torch.einsum("bjhcx,btkhcx->bhtjk", chunk(k), cross) / math.sqrt(d)
    else:
        logits = torch.einsum("bthd,bjhd,bkhd->bhtjk", q, k, k2) / math.sqrt(d)
    seen = visible(start, w1)[:, :, :, None] & visible(start, w2)[:, :, None, :]
    logits = logits.masked_fill(~seen[:, None], -math.inf)
    weights = logits.flatten(-2).softmax(-1).reshape(logits.shape)
    out = torch.einsum("bhtjk,bjhd,bkhd->bthd", weights, v, v2)
    return linear(flat(out), w, p + "o_proj", D, c["attention_out_bias"])


def mix_grassmann(x, w, p, c, start, pos):
    D, r, eps = c["hidden_size"], c.get("rank", 32), 1e-6
    offsets = c.get("offsets", [1, 2, 4, 8, 12, 16])
    B, T, _ = x.shape
    i, j = torch.triu_indices(r, r, 1)  # i < j, i slowest
    z = linear(x, w, p + "reduce", r, True)
    total, valid_count = torch.zeros(B, T, D), torch.zeros(B, T, 1)
    plucker, bias = w(p + "plucker.weight", D, r * (r - 1) // 2), w(p + "plucker.bias", D)
    for offset in offsets:
        if offset >= T:
            continue
        back = torch.cat([torch.zeros(B, offset, r), z[:, :T - offset]], 1)
        wedge = z[..., i] * back[..., j] - z[..., j] * back[..., i]
        size = torch.sqrt((wedge * wedge).sum(-1, keepdim=True) + 1e-300)
        n = wedge / torch.clamp(size, min=eps)
        valid = ((torch.arange(T)[None] - offset) >= start)[..., None].to(x.dtype)
        total = total + valid * (n @ plucker.T + bias)
        valid_count = valid_count + valid
    g = torch.where(valid_count > 0, total / valid_count.clamp(min=1), bias.expand(B, T, D))
    a = torch.sigmoid(torch.cat([x, g], -1) @ w(p + "gate.weight", D, 2 * D).T + w(p + "gate.bias", D))
    return a * x + (1 - a) * g


MIXERS = {"attention": mix_attention, "nexus": mix_nexus, "simplicial": mix_simplicial, "grassmann": mix_grassmann}
DEFAULTS = dict(norm_eps=1e-5, rope=True, rope_theta=10000.0, partial_rotary_factor=1.0, attention_bias=False,
                attention_out_bias=False, mlp_bias=False, qk_norm=False, norm="rms", hidden_act="silu",
                tie_word_embeddings=True, parallel_residual=False)


def feed_forward(x, w, p, c):
    inner, b = c["intermediate_size"], c["mlp_bias"]
    up = linear(x, w, p + "up_proj", inner, b)
    if c["hidden_act"] == "gelu":
        act = torch.nn.functional.gelu(up)
    else:
        act = torch.nn.functional.silu(linear(x, w, p + "gate_proj", inner, b)) * up
    return linear(act, w, p + "down_proj", c["hidden_size"], b)


def forward(config, w, inputs, start):
    c = {**DEFAULTS, **config}
    c.setdefault("num_key_value_heads", c["num_attention_heads"])
    V, D = c["vocab_size"], c["hidden_size"]
    T = inputs.shape[1]
    pos = (torch.arange(T)[None] - start).to(torch.float64)
    table = w("model.embed_tokens.weight", V, D)
    h = table[inputs]
    for l, layer in enumerate(c["layers"]):
        lc = {**c, **layer}
        p = "model.layers.%d." % l
        layer_norm = c["norm"] == "layer"
        mix = lambda x: MIXERS[layer["mixer"]](x, w, p + "mixer.", lc, start, pos)
        if layer.get("block") == "paper":
            u = norm(mix(h), w, p + "mixer_norm", c, True)
            h = norm(u + feed_forward(u, w, p + "ffn.", c), w, p + "ffn_norm", c, True)
            continue
        mixed = mix(norm(h, w, p + "mixer_norm", c, layer_norm))
        second = h if c["parallel_residual"] else h + mixed
        h = h + mixed + feed_forward(norm(second, w, p + "ffn_norm", c, layer_norm), w, p + "ffn.", c)
    h = norm(h, w, "model.norm", c, c["norm"] == "layer")
    head = table if c["tie_word_embeddings"] else w("lm_head.weight", V, D)
    return h @ head.T


# ---- the cases -------------------------------------------------------------------------------------------------

BASE = dict(model_type="plexus", vocab_size=11, hidden_size=12, intermediate_size=8, num_attention_heads=4,
            num_key_value_heads=2, head_dim=6, max_position_embeddings=32)
LAYERS = [
    ("attention", {}), ("attention", {"window": 4}), ("attention", {"num_key_value_heads": 4}), ("attention", {"num_key_value_heads": 1}),
    ("attention", {"qk_norm": True}), ("attention", {"attention_bias": True, "attention_out_bias": True}), ("attention", {"rope": False}),
    ("nexus", {}), ("nexus", {"order": 1}), ("nexus", {"order": 3}), ("nexus", {"order": 4, "window": 5}), ("nexus", {"branches": "q"}),
    ("nexus", {"branches": "k", "order": 3}), ("nexus", {"gate": "scalar"}), ("nexus", {"gate": "scalar", "order": 3, "qk_norm": True}),
    ("nexus", {"inner": "self"}), ("nexus", {"inner": "self", "order": 3, "gate": "scalar"}), ("nexus", {"inner": "self", "branches": "k", "window": 3}),
    ("nexus", {"inner": "self", "qk_norm": True, "attention_bias": True}), ("nexus", {"inner": "own"}),
    ("nexus", {"inner": "own", "gate": "scalar"}), ("nexus", {"inner": "own", "branches": "q"}), ("nexus", {"inner": "own", "qk_norm": True}),
    ("nexus", {"inner": "own", "branches": "k", "attention_bias": True, "window": 6}), ("nexus", {"attention_bias": True, "attention_out_bias": True, "order": 3}),
    ("simplicial", {}), ("simplicial", {"window": [5, 3]}), ("simplicial", {"window": [3, 7]}), ("simplicial", {"window": [1, 1]}),
    ("simplicial", {"window": [None, 2]}), ("simplicial", {"window": [8, 4], "bias": [0.25, 1.0]}),
    ("simplicial", {"window": [8, 4], "form": "det"}), ("simplicial", {"window": [8, 4], "form": "det", "position": "rope"}),
    ("simplicial", {"window": [8, 4], "form": "det", "head_dim": 7}), ("simplicial", {"window": [8, 4], "position": "rope", "bias": [1.0, 1.0]}),
    ("simplicial", {"window": [6, 4], "num_key_value_heads": 4}), ("simplicial", {"window": [6, 4], "num_key_value_heads": 1}),
    ("simplicial", {"window": [6, 4], "attention_bias": True, "attention_out_bias": True}), ("simplicial", {"window": [6, 4], "qk_norm": True, "position": "rope"}),
    ("grassmann", {}), ("grassmann", {"rank": 2}), ("grassmann", {"rank": 5, "offsets": [1]}), ("grassmann", {"rank": 6, "offsets": [1, 3, 20]}),
    ("grassmann", {"rank": 6, "offsets": [2, 1], "block": "paper"}), ("grassmann", {"rank": 8, "offsets": [40]}),
]
MODELS = [
    ("attention", {}, {"norm": "layer", "hidden_act": "gelu", "mlp_bias": True}),
    ("attention", {}, {"tie_word_embeddings": False, "parallel_residual": True}),
    ("attention", {}, {"partial_rotary_factor": 0.5, "rope_theta": 500.0}),
    ("nexus", {}, {"norm": "layer", "partial_rotary_factor": 0.34}),
    # A large vocabulary, so that few tokens repeat: at the start of a document an exact repeat stays one in layer 2, where
    # 1 / eps enters the gradients twice (1e12 times a cancelling term) and no arithmetic agrees with another to 1e-7.
    ("grassmann", {"rank": 4, "offsets": [1], "block": "paper"}, {"hidden_act": "gelu", "vocab_size": 97}),
]
ROWS, LENGTH = 2, 13


def make_cases():
    cases = []
    for mixer, options in LAYERS:
        cases.append((dict(BASE, layers=[dict(mixer=mixer, **options)])))
    for mixer, options, more in MODELS:
        cases.append(dict(BASE, **more, layers=[dict(mixer=mixer, **options)] * 2))
    cases.append(dict(BASE, layers=[dict(mixer="grassmann", rank=4, offsets=[1]), dict(mixer="simplicial", window=[6, 2]),
                                    dict(mixer="nexus"), dict(mixer="attention")]))
    return cases


def starts(name, rows, length):
    """A document begins at t = 0 and where the hash is 0 of 6."""
    begin = integers(name, rows * length, 6).reshape(rows, length) == 0
    start = np.zeros((rows, length), dtype=np.int64)
    for b in range(rows):
        for t in range(1, length):
            start[b, t] = t if begin[b, t] else start[b, t - 1]
    return torch.tensor(start)


def batch(name, vocab, rows, length):
    inputs = torch.tensor(integers(name + "/inputs", rows * length, vocab).reshape(rows, length))
    targets = torch.tensor(integers(name + "/targets", rows * length, vocab).reshape(rows, length))
    mask = torch.tensor((integers(name + "/mask", rows * length, 4).reshape(rows, length) != 0).astype(np.float64))
    return inputs, targets, mask, starts(name + "/start", rows, length)


def loss_of(config, w, data):
    inputs, targets, mask, start = data
    logits = forward(config, w, inputs, start)
    nll = torch.logsumexp(logits, -1) - logits.gather(-1, targets[..., None])[..., 0]
    return logits, (nll * mask).sum() / mask.sum()


TRAIN = dict(steps=20, lr=1e-2, warmup_steps=5, min_lr_ratio=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, grad_clip=1.0)
TRAINED = [
    [dict(mixer="attention")] * 2, [dict(mixer="nexus")] * 2, [dict(mixer="simplicial", window=[8, 4])] * 2,
    [dict(mixer="grassmann", rank=4, offsets=[1]), dict(mixer="grassmann", rank=4, offsets=[2])],
]


def learning_rate(step):
    t = TRAIN
    if step <= t["warmup_steps"]:
        return t["lr"] * step / t["warmup_steps"]
    progress = (step - t["warmup_steps"]) / (t["steps"] - t["warmup_steps"])
    return t["lr"] * (t["min_lr_ratio"] + (1 - t["min_lr_ratio"]) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(config, name):
    w = Weights(0.25)
    loss_of(config, w, batch(name + "/0", config["vocab_size"], 4, 16))  # makes the tensors
    decay = [t for t in w.t.values() if t.dim() == 2]
    rest = [t for t in w.t.values() if t.dim() != 2]
    optimizer = torch.optim.AdamW([dict(params=decay, weight_decay=TRAIN["weight_decay"]), dict(params=rest, weight_decay=0.0)],
                                  betas=(TRAIN["beta1"], TRAIN["beta2"]), eps=TRAIN["epsilon"])
    losses = []
    for step in range(1, TRAIN["steps"] + 1):
        _, loss = loss_of(config, w, batch("%s/%d" % (name, step), config["vocab_size"], 4, 16))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(w.t.values()), TRAIN["grad_clip"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    tensors, listing, trained = {}, [], []
    for index, config in enumerate(make_cases()):
        name = "case%02d" % index
        w = Weights(0.5)
        logits, loss = loss_of(config, w, batch(name, config["vocab_size"], ROWS, LENGTH))
        loss.backward()
        tensors[name + "/logits"] = logits.detach().numpy().astype(np.float32)
        for key, tensor in w.t.items():
            gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
            tensors["%s/%s" % (name, key)] = gradient.numpy().astype(np.float32)
        listing.append(dict(name=name, rows=ROWS, length=LENGTH, loss=loss.item(), tensors=len(w.t), config=config))
    for index, layers in enumerate(TRAINED):
        name = "train%d" % index
        config = dict(BASE, hidden_size=16, layers=layers)
        trained.append(dict(name=name, rows=4, length=16, losses=train(config, name), config=config))
    with open(os.path.join(HERE, "cases.json"), "w") as f:
        lines = ",\n".join(json.dumps(c) for c in listing)
        runs = ",\n".join(json.dumps(c) for c in trained)
        f.write('{"torch": "%s",\n"train": %s,\n"cases": [\n%s\n],\n"trained": [\n%s\n]}\n' % (torch.__version__.split("+")[0], json.dumps(TRAIN), lines, runs))
    save_file(tensors, os.path.join(HERE, "golden.safetensors"))
    print("%d cases, %d runs, %.0f kB" % (len(listing), len(trained), os.path.getsize(os.path.join(HERE, "golden.safetensors")) / 1e3))


if __name__ == "__main__":
    main()
