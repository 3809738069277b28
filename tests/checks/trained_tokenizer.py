#!/usr/bin/env python3
"""Trains a vocabulary with `plexus data tokenizer` and opens it with the tokenizers package: ids and text must be equal.

usage: trained_tokenizer.py PLEXUS ENCODER TEXT VOCAB (ENCODER: tests/checks/encode_file)"""

import json, subprocess, sys, tempfile
import numpy
from tokenizers import Tokenizer

plexus, encoder, path, vocab = sys.argv[1:5]
folder = tempfile.mkdtemp() + "/made"
made = json.loads(subprocess.run([plexus, "data", "tokenizer", path, "--vocab", vocab, "--out", folder, "--json"], check=True, capture_output=True).stdout)
theirs = Tokenizer.from_file(f"{folder}/tokenizer.json")
text = open(path, "rb").read()
subprocess.run([encoder, folder, path, folder + "/ids"], check=True, capture_output=True)
ids = numpy.fromfile(folder + "/ids", dtype=numpy.int32)
expected = numpy.array(theirs.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids, dtype=numpy.int32)
equal = len(ids) == len(expected) and (ids == expected).all()
print(f"{made['tokens']} tokens; {len(text)} bytes become {len(ids)} tokens ({len(text) / len(ids):.2f} bytes a token); equal: {equal}")
sys.exit(not equal)
