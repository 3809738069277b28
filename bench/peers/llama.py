#!/usr/bin/env python3
"""Plexus against llama.cpp (the llama-cpp-python package) on the same GGUF, alternately, on the same threads.

    python bench/peers/llama.py build/plexus MODEL.gguf ... [--threads 2] [--rounds 5] [--read 512] [--made 64]

Each round starts `plexus chat` and a process of llama.cpp in turn; both read as many tokens and then make tokens one by one.
Plexus's figures are those that chat itself gives, sampling and all; llama.cpp's are of eval() alone, on tokens given
beforehand. Each figure is the best of all rounds. "first" is the whole time of a process that answers a short question with
one token, its start and the loading of the model from the page cache included.

--without-tiles keeps llama.cpp from AMX, whose kernels it otherwise prefers: it is refused the permission that Linux gives for
tiles, and takes its AVX512-VNNI ones. (llama-cpp-python 0.3.36 built on a processor with AMX dies in them with these files.)
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

REFUSAL = """#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
long syscall(long number, long a, long b, long c, long d, long e, long f)
{
    long (*real)(long, long, long, long, long, long, long) = dlsym(RTLD_NEXT, "syscall");
    return number == SYS_arch_prctl && a == 0x1023 ? -1 : real(number, a, b, c, d, e, f);
}
"""


def refusal(folder):
    source, library = os.path.join(folder, "refusal.c"), os.path.join(folder, "refusal.so")
    with open(source, "w") as file:
        file.write(REFUSAL)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def llama(path, threads, read, made):
    import llama_cpp
    model = llama_cpp.Llama(path, n_ctx=max(1024, read + made + 8), n_batch=read, n_ubatch=read, n_threads=threads,
                            n_threads_batch=threads, verbose=False)
    tokens = [300 + i * 37 % 20000 for i in range(read + made)]
    model.eval(tokens[:read])
    model.reset()
    begin = time.perf_counter()
    model.eval(tokens[:read])
    middle = time.perf_counter()
    for token in tokens[read:]:
        model.eval([token])
    end = time.perf_counter()
    print(json.dumps(dict(read=read / (middle - begin), made=made / (end - middle))))


def plexus(program, path, threads, prompt, made, weights):
    command = [program, "chat", path, "--json", "--quiet", "--temperature", "0", "--threads", str(threads),
               "--prompt", prompt, "--max-tokens", str(made), "--weights", weights, "--context", "1024"]
    begin = time.perf_counter()
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    answer["wall"] = time.perf_counter() - begin
    return answer


def prompt_of(program, path, threads, read):
    """A prompt of as many tokens, the template's among them."""
    tale = ("Once there was a king who had a dog, a ship and seven daughters. One morning the eldest of them went down to "
            "the sea and did not come back. ").split(" ")
    words = read // 2
    for _ in range(5):
        some = (tale * (words // len(tale) + 1))[:words]
        prompt = "Here is the beginning of a story. " + " ".join(some) + "\n\nWrite a long story of your own like it."
        found = plexus(program, path, threads, prompt, 1, "stored")["read"]
        if found == read:
            break
        words += read - found
    return prompt


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read", type=int, default=512)
    parser.add_argument("--made", type=int, default=64)
    parser.add_argument("--weights", default="stored", help="Plexus's --weights")
    parser.add_argument("--without-tiles", action="store_true")
    parser.add_argument("--worker", action="store_true")
    a = parser.parse_args()
    if a.worker:
        llama(a.models[0], a.threads, a.read, a.made)
        return
    environment, folder = dict(os.environ), tempfile.TemporaryDirectory()
    if a.without_tiles:
        environment["LD_PRELOAD"] = refusal(folder.name)
    print("| file | tokens/s reading %d: Plexus | llama.cpp | times | tokens/s making %d: Plexus | llama.cpp | times | first |"
          % (a.read, a.made))
    print("|---|---|---|---|---|---|---|---|")
    for path in a.models:
        prompt = prompt_of(a.program, path, a.threads, a.read)
        ours, theirs, first = dict(read=0.0, made=0.0), dict(read=0.0, made=0.0), 1e9
        for _ in range(a.rounds):
            found = plexus(a.program, path, a.threads, prompt, a.made, a.weights)
            if found["tokens"] < a.made / 2:
                sys.exit("the answer ends after %d tokens: too few to measure" % found["tokens"])
            ours["read"] = max(ours["read"], found["read"] / found["read_seconds"])
            ours["made"] = max(ours["made"], found["tokens_per_second"])
            first = min(first, plexus(a.program, path, a.threads, "Hello", 1, a.weights)["wall"])
            command = [sys.executable, os.path.abspath(__file__), "--worker", a.program, path, "--threads", str(a.threads),
                       "--read", str(a.read), "--made", str(a.made)]
            other = json.loads(subprocess.run(command, check=True, capture_output=True, text=True,
                                              env=environment).stdout.splitlines()[-1])
            for key in theirs:
                theirs[key] = max(theirs[key], other[key])
        print("| %s | %.0f | %.0f | %.2f | %.0f | %.0f | %.2f | %.2f s |" % (
            os.path.basename(path), ours["read"], theirs["read"], ours["read"] / theirs["read"], ours["made"],
            theirs["made"], ours["made"] / theirs["made"], first), flush=True)


main()
