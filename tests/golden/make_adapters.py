#!/usr/bin/env python3
"""Adapters as the peft package writes them, on models of tests/golden/families, and the logits that it computes with them.

    venv/bin/pip install torch transformers peft safetensors numpy
    venv/bin/python tests/golden/make_adapters.py

Fills tests/golden/adapters; test_peft.c reads it. The cases are what an adapter's config can turn on.
"""
import os
import shutil

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

FOLDER = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(FOLDER, "adapters")
VOCAB, LENGTH = 40, 44
TOKENS = [(i * i * 7 + i * 3 + 5) % VOCAB for i in range(LENGTH)]
CASES = {
    "llama": ("llama-grouped", dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])),
    "llama-patterns": ("llama-biases", dict(r=4, lora_alpha=8, target_modules="all-linear",
                                            rank_pattern={"k_proj": 2, "model.layers.1.mlp.up_proj": 5},
                                            alpha_pattern={"layers.0.self_attn.q_proj": 3, "gate_proj": 20})),
    "qwen2": ("qwen2", dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["o_proj", "k_proj"],
                            layers_to_transform=[1], rank_pattern={"k_proj": 1})),
    "gpt_neox": ("gpt_neox", dict(r=3, lora_alpha=7, target_modules=["query_key_value", "dense_4h_to_h"])),
}

shutil.rmtree(OUT, ignore_errors=True)
logits = {}
for name, (base, options) in CASES.items():
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_pretrained(os.path.join(FOLDER, "families", base), dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.normal_(0, 0.2)
        logits[name] = model(torch.tensor([TOKENS]), use_cache=False).logits[0].numpy()
        with model.disable_adapter():
            plain = model(torch.tensor([TOKENS]), use_cache=False).logits[0].numpy()
    path = os.path.join(OUT, name)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    print(f"{name:16} on {base:14} moves a logit by {np.abs(logits[name] - plain).max():.2f}")
save_file({k: np.ascontiguousarray(v) for k, v in logits.items()}, os.path.join(OUT, "logits.safetensors"))
