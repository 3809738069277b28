#!/usr/bin/env python3
"""What plexus convert writes opens in transformers, with the logits of the model that it was made of.

    venv/bin/pip install torch transformers safetensors numpy
    venv/bin/python tests/checks/convert_equal.py [build/plexus]

Takes every model of tests/golden/families to Plexus's layout and from there to its family's, as f32, opens that in
transformers, and compares with the committed logits. Fails above 1e-5 of their range.
"""
import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

PLEXUS = sys.argv[1] if len(sys.argv) > 1 else "build/plexus"
VOCAB, LENGTH = 40, 44
TOKENS = [(i * i * 7 + i * 3 + 5) % VOCAB for i in range(LENGTH)]
folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "families")
expected = load_file(os.path.join(folder, "logits.safetensors"))
failed = 0
for path in sorted(glob.glob(os.path.join(folder, "*"))):
    name = os.path.basename(path)
    if name not in expected:
        continue
    family = "gpt_neox" if name.startswith("gpt") else "qwen2" if name.startswith("qwen2") else "llama"
    with tempfile.TemporaryDirectory() as out:
        for made, source, more in [("ours", path, []), ("theirs", f"{out}/ours", ["--family", family])]:
            subprocess.run([PLEXUS, "convert", source, "--out", f"{out}/{made}", "--type", "f32", "--quiet", *more],
                           check=True, stdout=subprocess.DEVNULL)
        model, info = AutoModelForCausalLM.from_pretrained(f"{out}/theirs", dtype=torch.float32,
                                                           output_loading_info=True)
        with torch.no_grad():
            found = model(torch.tensor([TOKENS])).logits[0].numpy()
    worst = np.abs(found - expected[name]).max() / np.ptp(expected[name])
    ok = worst <= 1e-5 and not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    failed += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {name:16} {worst:.2g} of the range")
sys.exit(failed > 0)
