"""The work that Plexus is compared on, in PyTorch as its users write it. f32, causal, one sequence unless said otherwise.

Each function returns a pair of callables: forward alone (without gradients), and forward with backward.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from train_bytes import Model


def pair(inputs, forward):
    """Times of `forward(*inputs)`: as inference does it, and with the gradients of all inputs."""
    def inference():
        with torch.no_grad():
            return forward(*inputs)

    trained = [x.detach().clone().requires_grad_() for x in inputs]
    gradient = torch.randn_like(inference())

    def training():
        for x in trained:
            x.grad = None
        forward(*trained).backward(gradient)

    return inference, training


def attention(H, T, d):
    def forward(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return pair([torch.randn(1, H, T, d) for _ in range(3)], forward)


def nexus(H, T, d):
    """Order 2, an inner attention for the queries and one for the keys."""
    def forward(q1, k1, v1, q2, k2, v2, v):
        q = F.scaled_dot_product_attention(q1, k1, v1, is_causal=True)
        k = F.scaled_dot_product_attention(q2, k2, v2, is_causal=True)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return pair([torch.randn(1, H, T, d) for _ in range(7)], forward)


def simplicial_forward(w1, w2, form):
    """2-simplicial attention by matrix products over windows that unfold() lays out. Forms: "chunks", 32 queries at a time;
    "sliced", windows of the whole sequence of which 32 queries' are taken at a time; "whole", all at once."""
    def windows(x, w):  # [H, T, d] -> [H, T, w, d], the w tokens that end at each
        return F.pad(x, (0, 0, w - 1, 0)).unfold(1, w, 1).transpose(2, 3)

    def windows_of(x, w, a, b):  # those of tokens a .. b-1
        return F.pad(x, (0, 0, w - 1, 0))[:, a:b + w - 1].unfold(1, w, 1).transpose(2, 3)

    def forward(q, k, v, k2, v2):
        H, T, d = q.shape
        t = torch.arange(T)[:, None]
        seen1 = t - (w1 - 1) + torch.arange(w1) >= 0
        seen2 = t - (w2 - 1) + torch.arange(w2) >= 0
        step = T if form == "whole" else 32
        laid = [windows(x, w) for x, w in ((k, w1), (v, w1), (k2, w2), (v2, w2))] if form == "sliced" else None
        outs = []
        for a in range(0, T, step):
            b = min(a + step, T)
            kw, vw, k2w, v2w = ([x[:, a:b] for x in laid] if laid else
                                [windows_of(x, w, a, b) for x, w in ((k, w1), (v, w1), (k2, w2), (v2, w2))])
            scores = (q[:, a:b, None, :] * k2w * d ** -0.5) @ kw.transpose(2, 3)  # [H, step, w2, w1]
            seen = seen2[a:b, :, None] & seen1[a:b, None, :]
            scores = scores.masked_fill(~seen, float("-inf"))
            p = scores.flatten(2).softmax(-1).view_as(scores)
            outs.append(((p @ vw) * v2w).sum(2))
        return torch.cat(outs, 1)

    return forward


def simplicial(H, T, d, w1, w2, form):
    return pair([torch.randn(H, T, d) for _ in range(5)], simplicial_forward(w1, w2, form))


class Grassmann(nn.Module):
    """The layer as its paper writes it: each offset's wedge is made, divided by its length and projected."""

    def __init__(self, width, rank=32, offsets=(1, 2, 4, 8, 12, 16)):
        super().__init__()
        self.offsets = offsets
        self.reduce = nn.Linear(width, rank)
        self.plucker = nn.Linear(rank * (rank - 1) // 2, width)
        self.gate = nn.Linear(2 * width, width)
        self.register_buffer("upper", torch.triu_indices(rank, rank, 1))

    def forward(self, h):  # [B, T, D]
        z = self.reduce(h)
        i, j = self.upper
        g, valid = torch.zeros_like(h), torch.zeros(h.shape[1], 1)
        for offset in self.offsets:
            now, before = z[:, offset:], z[:, :-offset]
            p = now[..., i] * before[..., j] - now[..., j] * before[..., i]
            n = p / p.norm(dim=-1, keepdim=True).clamp(min=1e-6)
            g = g + F.pad(self.plucker(n), (0, 0, offset, 0))
            valid[offset:] += 1
        g = g / valid.clamp(min=1)
        a = torch.sigmoid(self.gate(torch.cat([h, g], -1)))
        return a * h + (1 - a) * g


def grassmann(T, D):
    layer = Grassmann(D)
    inference, training = pair([torch.randn(1, T, D)], layer)

    def step():
        layer.zero_grad()
        training()

    return inference, step


def train(B, T, D, ffn, vocab, layers, heads=4):
    """A whole step of AdamW; there is no forward alone."""
    model = Model(vocab, D, layers, heads, ffn, T)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95))
    tokens = torch.randint(0, vocab, (B, T + 1))

    def step():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return None, step


def check():
    """All forms of simplicial attention against its definition."""
    H, T, d, w1, w2 = 2, 40, 8, 17, 5
    q, k, v, k2, v2 = (torch.randn(H, T, d, dtype=torch.float64) for _ in range(5))
    found = [simplicial_forward(w1, w2, form)(q, k, v, k2, v2) for form in ("chunks", "sliced", "whole")]
    for t in range(T):
        j, m = slice(max(0, t - w1 + 1), t + 1), slice(max(0, t - w2 + 1), t + 1)
        score = torch.einsum("hl,hjl,hkl->hjk", q[:, t], k[:, j], k2[:, m]) * d ** -0.5
        p = score.flatten(1).softmax(-1).view_as(score)
        wanted = torch.einsum("hjk,hjl,hkl->hl", p, v[:, j], v2[:, m])
        for made in found:
            assert torch.allclose(made[:, t], wanted), "simplicial attention is not what it should be"
