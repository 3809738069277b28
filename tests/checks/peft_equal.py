#!/usr/bin/env python3
"""Adapters go both ways between Plexus and the peft package, and merged models open in transformers.

    venv/bin/pip install torch transformers peft safetensors numpy
    venv/bin/python tests/checks/peft_equal.py [build/plexus]

For the models of tests/golden/families with adapters of tests/golden/adapters (written by peft, with its logits):
Plexus puts the adapter on the model and writes it again (convert --adapter --adapter-only), which peft opens; and merges
it (--merge --family), which transformers opens. Then the same with random adapters of Plexus's own layout, where q and v
of gpt_neox have one each. Fails above 1e-4 of the logits' range.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

PLEXUS = sys.argv[1] if len(sys.argv) > 1 else "build/plexus"
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
VOCAB, LENGTH = 40, 44
TOKENS = [(i * i * 7 + i * 3 + 5) % VOCAB for i in range(LENGTH)]
CASES = {"llama": ("llama-grouped", "llama"), "llama-patterns": ("llama-biases", "llama"), "qwen2": ("qwen2", "qwen2"),
         "gpt_neox": ("gpt_neox", "gpt_neox")}
failed = 0


def plexus(*words):
    subprocess.run([PLEXUS, *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([TOKENS]), use_cache=False).logits[0].numpy()


def opened(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def report(name, what, found, expected):
    global failed
    worst = np.abs(found - expected).max() / np.ptp(expected)
    failed += not worst <= 1e-4
    print(f"{'ok  ' if worst <= 1e-4 else 'FAIL'} {name:16} {what:34} {worst:.2g} of the range")


expected = load_file(os.path.join(GOLDEN, "adapters", "logits.safetensors"))
for name, (base, family) in CASES.items():
    base, theirs = os.path.join(GOLDEN, "families", base), os.path.join(GOLDEN, "adapters", name)
    with tempfile.TemporaryDirectory() as out:
        plexus("convert", base, "--adapter", theirs, "--adapter-only", "--out", f"{out}/again", "--family", family)
        report(name, "peft's, by Plexus, opened by peft", logits(PeftModel.from_pretrained(opened(base), f"{out}/again")),
               expected[name])
        plexus("convert", base, "--adapter", theirs, "--merge", "--family", family, "--out", f"{out}/merged")
        report(name, "peft's, merged by Plexus", logits(opened(f"{out}/merged")), expected[name])

        # ours: the tensors of a model with Plexus's own key "adapter", random
        plexus("convert", base, "--out", f"{out}/ours", "--type", "f32")
        config = json.load(open(f"{out}/ours/config.json"))
        config["adapter"] = {"rank": 3, "alpha": 5, "targets": ["q_proj", "v_proj", "model.layers.1.ffn.down_proj"]}
        json.dump(config, open(f"{out}/ours/config.json", "w"))
        tensors, random = load_file(f"{out}/ours/model.safetensors"), np.random.default_rng(3)
        for key in list(tensors):
            if key.endswith(("q_proj.weight", "v_proj.weight", "layers.1.ffn.down_proj.weight")):
                stem, (rows, columns) = key[:-len("weight")], tensors[key].shape
                tensors[stem + "lora_A.weight"] = random.normal(0, 0.2, (3, columns)).astype(np.float32)
                tensors[stem + "lora_B.weight"] = random.normal(0, 0.2, (rows, 3)).astype(np.float32)
        save_file(tensors, f"{out}/ours/model.safetensors")
        plexus("convert", f"{out}/ours", "--adapter-only", "--base", base, "--out", f"{out}/peft")
        plexus("convert", f"{out}/ours", "--merge", "--family", family, "--out", f"{out}/whole")
        found = logits(PeftModel.from_pretrained(opened(base), f"{out}/peft"))
        report(name, "Plexus's, peft against merged", found, logits(opened(f"{out}/whole")))
        if np.abs(found - logits(opened(base))).max() < 0.1:
            sys.exit("the adapter changes nothing: the check says nothing")
sys.exit(failed > 0)
