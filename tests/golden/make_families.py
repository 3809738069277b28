#!/usr/bin/env python3
"""Golden values for tests/test_families.c: small models of other programs' families, and their logits.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors gguf numpy
    venv/bin/python tests/golden/make_families.py        # writes families/ beside itself

Each directory is written by the transformers package, each .gguf by the gguf package (names and order of rows as the
field's converter has them); weights are random. families/logits.safetensors holds for each model the logits of one
sequence, computed by transformers in f32 on the weights as stored (for a .gguf: dequantised by the gguf package); and
families/packed.gguf random blocks of every packed type beside what the gguf package makes of them.
"""
import os
import shutil

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
VOCAB, LENGTH = 40, 44
TOKENS = [(i * i * 7 + i * 3 + 5) % VOCAB for i in range(LENGTH)]
SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=32, bos_token_id=1, eos_token_id=2)
WIDE = dict(SMALL, head_dim=16, num_key_value_heads=2, max_position_embeddings=64)
THETA = {"rope_theta": 10000.0}

CASES = {  # name: (config, model, stored type)
    "llama": (LlamaConfig(**SMALL), LlamaForCausalLM, torch.float32),
    "llama-grouped": (LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                  rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
                      LlamaForCausalLM, torch.bfloat16),
    "llama-biases": (LlamaConfig(**SMALL, num_key_value_heads=1, head_dim=10, attention_bias=True, mlp_bias=True),
                     LlamaForCausalLM, torch.float16),
    "llama-linear": (LlamaConfig(**WIDE, rope_parameters={"rope_type": "linear", "factor": 2.5, **THETA}),
                     LlamaForCausalLM, torch.float16),
    "llama-llama3": (LlamaConfig(**WIDE, rope_parameters={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                                          "high_freq_factor": 4.0,
                                                          "original_max_position_embeddings": 24, **THETA}),
                     LlamaForCausalLM, torch.bfloat16),
    "llama-yarn": (LlamaConfig(**WIDE, rope_parameters={"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0,
                                                        "original_max_position_embeddings": 16, **THETA}),
                   LlamaForCausalLM, torch.float16),
    "qwen2": (Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True), Qwen2ForCausalLM, torch.bfloat16),
    "qwen2-window": (Qwen2Config(**SMALL, num_key_value_heads=2, use_sliding_window=True, sliding_window=7,
                                 max_window_layers=1,
                                 rope_parameters={"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.3,
                                                  "truncate": False, "original_max_position_embeddings": 16, **THETA}),
                     Qwen2ForCausalLM, torch.float16),
    "gpt_neox": (GPTNeoXConfig(**SMALL, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5,
                                                         **THETA}), GPTNeoXForCausalLM, torch.float16),
    "gpt_neox-serial": (GPTNeoXConfig(**SMALL, use_parallel_residual=False, attention_bias=False,
                                      tie_word_embeddings=True,
                                      rope_parameters={"rope_type": "linear", "factor": 2.0,
                                                       "partial_rotary_factor": 1.0, **THETA}),
                        GPTNeoXForCausalLM, torch.float32),
}


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.normal_(0, 0.25)
            else:
                p.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS]), use_cache=False).logits[0].float().numpy()


def directories(out):
    for name, (config, kind, dtype) in CASES.items():
        torch.manual_seed(len(name))
        path = os.path.join(HERE, name)
        model = kind(config)
        randomise(model)
        many = {"max_shard_size": "30KB"} if name == "llama-biases" else {}
        model.to(dtype).save_pretrained(path, **many)
        os.remove(os.path.join(path, "generation_config.json"))
        out[name] = logits_of(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32))


# ---- GGUF ----

def interleave(w, heads):
    """Rows of q and k as a Llama's GGUF has them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def by_part(w, heads):
    """Rows of q, k, v by head to all q, all k, all v."""
    return w.reshape(heads, 3, w.shape[0] // heads // 3, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if ".layers." in stem:
        layer, rest = stem.split(".layers.")[1].split(".", 1)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def write_gguf(name, arch, kind, config, types, more=(), extra=None):
    """types: packings taken in turn for the matrices. The model gets the dequantised weights."""
    torch.manual_seed(100 + len(name))
    model = kind(config)
    randomise(model)
    path = os.path.join(HERE, name + ".gguf")
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if arch == "gptneox":
        head = config.hidden_size // config.num_attention_heads
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_rope_dimension_count(int(head * config.rope_parameters["partial_rotary_factor"]))
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(getattr(config, "head_dim", None)
                                        or config.hidden_size // config.num_attention_heads)
    for add, value in more:
        getattr(writer, add)(value)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    state, turn = model.state_dict(), 0
    for key, value in state.items():
        if config.tie_word_embeddings and key in ("lm_head.weight", "embed_out.weight"):
            continue
        w, forth, back = value.numpy().astype(np.float32), None, None
        if arch == "llama" and ("q_proj" in key or "k_proj" in key):
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            forth = lambda x: interleave(x, heads)
        if arch == "gptneox" and "query_key_value" in key:
            forth = lambda x: by_part(x, config.num_attention_heads)
        packing = gguf.GGMLQuantizationType.F32
        if w.ndim == 2:
            packing = types[turn % len(types)]
            turn += 1
            if w.shape[1] % gguf.GGML_QUANT_SIZES[packing][0] != 0:
                packing = gguf.GGMLQuantizationType.F16
        theirs = forth(w) if forth else w
        packed = gguf.quants.quantize(np.ascontiguousarray(theirs), packing)
        shape = {"raw_shape": packed.shape} if packed.dtype == np.uint8 else {}
        writer.add_tensor(gguf_name(key), packed, raw_dtype=packing, **shape)
        # row by row, a packed form does not mind the order of the rows
        value.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(w, packing), packing).reshape(w.shape)))
    for key, value in (extra or {}).items():
        writer.add_tensor(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return logits_of(model.float())


def ggufs(out):
    T = gguf.GGMLQuantizationType
    wide = dict(WIDE, intermediate_size=64)
    out["llama.gguf"] = write_gguf("llama", "llama", LlamaForCausalLM,
                                   LlamaConfig(**dict(SMALL, intermediate_size=64), num_key_value_heads=2,
                                               tie_word_embeddings=True),
                                   [T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1])
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    config = LlamaConfig(**wide, rope_parameters=rope)
    plain = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    scaled = LlamaForCausalLM(config).model.rotary_emb.inv_freq.double().numpy()
    out["llama3.gguf"] = write_gguf("llama3", "llama", LlamaForCausalLM, config, [T.F16, T.BF16],
                                    [("add_key_length", 16), ("add_value_length", 16)],
                                    {"rope_freqs.weight": (plain / scaled).astype(np.float32)})
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **THETA}
    out["qwen2.gguf"] = write_gguf("qwen2", "qwen2", Qwen2ForCausalLM,
                                   Qwen2Config(**SMALL, num_key_value_heads=2, rope_parameters=rope), [T.F16, T.Q8_0],
                                   [("add_rope_scaling_type", gguf.RopeScalingType.YARN),
                                    ("add_rope_scaling_factor", 4.0), ("add_rope_scaling_orig_ctx_len", 16)])
    rope = {"rope_type": "default", "partial_rotary_factor": 0.25, **THETA}
    out["gpt_neox.gguf"] = write_gguf("gpt_neox", "gptneox", GPTNeoXForCausalLM,
                                      GPTNeoXConfig(**SMALL, rope_parameters=rope), [T.F16, T.Q5_0])


def packed():
    """Two rows of blocks of each type: random bits, with scales that are numbers."""
    T = gguf.GGMLQuantizationType
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(os.path.join(HERE, "packed.gguf"), "none")
    scales = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
              T.Q6_K: [208], T.F16: [0], T.BF16: [], T.F64: []}
    for packing, places in scales.items():
        numbers, size = gguf.GGML_QUANT_SIZES[packing]
        blocks = random.integers(0, 256, (2, 2 if numbers > 1 else 64, size), dtype=np.uint8)
        for at in places:
            blocks[..., at:at + 2] = random.normal(0, 1, blocks.shape[:2] + (1,)).astype(np.float16).view(np.uint8)
        if packing in (T.BF16, T.F64):
            wide = random.normal(0, 1, blocks.shape[:2] + (1,))
            blocks = (wide.view(np.uint8) if packing == T.F64 else
                      (wide.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8))
        blocks = blocks.reshape(2, -1)
        if packing == T.F64:
            expected = blocks.view(np.float64).astype(np.float32)
        else:
            expected = gguf.quants.dequantize(blocks, packing)
        if packing == T.F64:
            writer.add_tensor(packing.name, blocks.view(np.float64))
        else:
            writer.add_tensor(packing.name, blocks, raw_shape=blocks.shape, raw_dtype=packing)
        writer.add_tensor(packing.name + ".expected", expected.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    os.makedirs(HERE)
    out = {}
    directories(out)
    ggufs(out)
    packed()
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, os.path.join(HERE, "logits.safetensors"))
    for name, value in out.items():
        print(f"{name:16} logits {value.min():7.2f} .. {value.max():6.2f}")


main()
