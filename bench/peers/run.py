#!/usr/bin/env python3
"""Plexus against PyTorch on the same work, alternately, on the same threads; the ratios as a table.

    make bench-peers                                       everything, into docs/results/peers.md
    make bench-peers ROWS='simplicial|nexus'               some rows again, beside those that are there
    python bench/peers/run.py build/plexus --rows PATTERN  some rows, printed (--save FILE keeps them, --page writes them)

A row is measured in rounds: PyTorch, then `plexus bench` (or `plexus train`), and again. Each figure is the best of all
rounds. `plexus bench` checks every implementation against the reference before it times it, and shows no speed for a wrong
one. The whole table takes about six minutes, which should be the machine's own: what else runs is looked at before each row.
"""
import argparse
import datetime
import gc
import json
import os
import re
import subprocess
import tempfile
import time

# label; function of work.py (or "finetune"), its sizes; case of plexus bench or of its forward and backward, sizes for
# plexus bench; seconds that the row takes, about; rounds where fewer than usual are enough
ROWS = []


def add(label, work, sizes, case, flags, seconds, rounds=99):
    ROWS.append(dict(label=label, work=work, sizes=sizes, case=case, flags=flags, seconds=seconds, rounds=rounds))


def add_heads(name, case, seconds, rounds=99, label="", form=None, **sizes):
    shape = " ".join("%s%d" % (k, v) for k, v in sizes.items() if k not in ("w1", "w2"))
    windows = " windows %dx%d" % (sizes["w1"], sizes["w2"]) if "w1" in sizes else ""
    work = sizes if form is None else dict(sizes, form=form)
    add(name + ", " + shape + windows + label, case, work, case, dict(sizes, G=sizes["H"]), seconds, rounds)


def add_simplicial(d, w1, w2, forms):
    """forms: PyTorch's, with the seconds of each; of those that take long one round is enough."""
    for form, seconds in forms.items():
        label = {"chunks": "; unfolded for 32 queries at a time", "whole": "; unfolded, all queries at once",
                 "sliced": "; unfolded, then 32 queries at a time"}[form]
        add_heads("simplicial", "simplicial", seconds, 99 if form == "chunks" else 1, label, form, H=4, T=512, d=d, w1=w1,
                  w2=w2)


add_heads("attention", "attention", 14, H=8, T=1024, d=64)
add_heads("attention", "attention", 22, H=8, T=2048, d=128)
add_heads("nexus order 2, three attentions", "nexus", 18, H=8, T=1024, d=64)
add_simplicial(64, 64, 16, dict(chunks=13, whole=5, sliced=12))
add_simplicial(64, 512, 32, dict(chunks=21, whole=8, sliced=30))
add_simplicial(128, 512, 32, dict(chunks=27))
add("grassmann layer, T1024 D256", "grassmann", dict(T=1024, D=256), "grassmann", dict(T=1024, D=256, H=4), 13)
add("grassmann layer, T1024 D1024", "grassmann", dict(T=1024, D=1024), "grassmann", dict(T=1024, D=1024, H=16), 18)
TRAIN_8M = dict(B=8, T=256, D=256, ffn=1024, vocab=8192, layers=6)
TRAIN_1M = dict(B=16, T=256, D=128, ffn=384, vocab=257, layers=4)
add("training step, 8.4M parameters, 6 layers D256 V8192 T256 B8", "train", TRAIN_8M, "train.step", dict(TRAIN_8M, H=4),
    27)
add("training step, .89M parameters, bytes, 4 layers D128 T256 B16", "train", TRAIN_1M, "train.step",
    dict(TRAIN_1M, H=4), 16)
for rows in (2, 4):
    for kind in ("f32", "bf16"):
        add("fine-tuning step, 135M parameters (SmolLM2's shape), %d x 256 tokens" % rows +
            ("; PyTorch in bf16 too (autocast)" if kind == "bf16" else ""), "finetune",
            dict(rows=rows, length=256, kind=kind), "", {}, (5 + 10 * rows) / (1 if kind == "f32" else 1.6))


def best_of(function, seconds):
    """Seconds of the quickest of several calls; the first only counts when it takes so long that it need not warm up."""
    best, spent, first = float("inf"), 0.0, True
    while spent < seconds or best == float("inf"):
        begin = time.perf_counter()
        function()
        took = time.perf_counter() - begin
        if not first or took > 2:
            best, spent = min(best, took), spent + took
        first = False
    return best


def plexus(program, case, flags, impls, threads, seconds):
    """Best milliseconds of f32 and of bf16 (None where there is none)."""
    words = [program, "bench", case, "--json", "--quiet", "--seconds", str(seconds), "--threads", str(threads)]
    for name, value in flags.items():
        words += ["--" + name, str(value)]
    best = {}
    output = subprocess.run(words + ["--impl", impls], check=True, capture_output=True, text=True).stdout
    for line in map(json.loads, output.splitlines()):
        kind = "bf16" if line["impl"] in ("amx", "bf16") else "f32"
        if line["ms"] is not None:
            best[kind] = min(best.get(kind, line["ms"]), line["ms"])
    return best


def keep(best, found):
    for name, value in found.items():
        best[name] = min(best.get(name, value), value)


def measure(row, args):
    import work
    inference, training = getattr(work, row["work"])(**row["sizes"])
    whole = inference is None  # a step, not forward and backward
    cases = [row["case"]] if whole else [row["case"] + ".forward", row["case"] + ".backward"]
    torch_best, plexus_best = {}, [{} for _ in cases]
    for _ in range(min(args.rounds, row["rounds"])):
        found = {"both": 1e3 * best_of(training, args.seconds)}
        if not whole:
            found["forward"] = 1e3 * best_of(inference, args.seconds)
        keep(torch_best, found)
        for i, case in enumerate(cases):
            keep(plexus_best[i], plexus(args.plexus, case, row["flags"], args.impls, args.threads, args.seconds))
    result = dict(torch=torch_best)
    for kind in ("f32", "bf16"):
        times = [best.get(kind) for best in plexus_best]
        result[kind] = {} if None in times else {"both": sum(times)}
        if not whole and times[0] is not None:
            result[kind]["forward"] = times[0]
    return result


def measure_finetune(row, args):
    """Against transformers: f32 against f32 and Plexus's bf16 tiles; with kind bf16, both in bf16."""
    import train_135m
    rows, length, kind = (row["sizes"][name] for name in ("rows", "length", "kind"))
    kinds = [kind] if kind == "bf16" or not {"amx", "bf16"} & set(args.impls.split(",")) else ["f32", "bf16"]
    result = dict(torch={}, f32={}, bf16={})
    with tempfile.TemporaryDirectory() as base:
        peer = train_135m.Torch(rows, length, kind)
        peer.model.save_pretrained(base)
        for turn in range(min(args.rounds, 2)):
            took = [peer.step() for _ in range(2 + (turn == 0))]
            keep(result["torch"], {"both": 1e3 * min(took[turn == 0:])})  # the first of all warms up
            for name in kinds:
                took = train_135m.plexus(args.plexus, base, rows, length, name, 3, args.threads)
                keep(result[name], {"both": 1e3 * min(took)})
    del peer
    gc.collect()
    return result


def others_busy(seconds=0.5):
    """Processors that something else keeps busy, while this program waits."""
    def read():
        words = open("/proc/stat").readline().split()[1:]
        return sum(map(int, words)) - int(words[3]) - int(words[4])

    before = read()
    time.sleep(seconds)
    return (read() - before) / os.sysconf("SC_CLK_TCK") / seconds


def cell(result, kind, part):
    """Milliseconds of Plexus, and how many times as fast that is."""
    if kind not in result or part not in result[kind]:
        return "", ""
    return "%.4g" % result[kind][part], "**%.2f**" % (result["torch"][part] / result[kind][part])


def table(saved):
    lines = ["| work | pass | PyTorch ms | Plexus f32 ms | times as fast | Plexus bf16 ms | times as fast |",
             "|---|---|---|---|---|---|---|"]
    for row in ROWS:
        result = saved["rows"].get(row["label"])
        for part in ("forward", "both"):
            if result is None or part not in result["torch"]:
                continue
            name = "step" if "forward" not in result["torch"] else {"both": "forward + backward"}.get(part, part)
            lines.append("| %s | %s | %.4g | %s | %s | %s | %s |" % (
                (row["label"], name, result["torch"][part]) + cell(result, "f32", part) + cell(result, "bf16", part)))
    return "\n".join(lines)


def page(saved):
    shown = [saved["rows"][row["label"]] for row in ROWS if row["label"] in saved["rows"]]
    times, busy = sorted(r["when"] for r in shown), max(r["others"] for r in shown)
    missing = [row["label"] for row in ROWS if row["label"] not in saved["rows"]]
    return """# Beside PyTorch

%s. Plexus %s, %s. Measured from %s to %s. Made by `make bench-peers`.

Each figure is the best of several calls, in rounds that alternate between the two on the same threads. PyTorch runs what
its users write (bench/peers/work.py), in f32 where a row does not say otherwise; Plexus checks each result against its
reference in the same run. The bf16 column is of operands rounded to bf16 (train.precision bf16), so beside PyTorch in f32 its
ratio is one between precisions. Before each row, other work kept at most %.2f processors busy%s.

PyTorch has no simplicial attention; it is written by unfold() and matrix products, in three forms that are as natural: windows
unfolded for 32 queries at a time, those of the whole sequence at once, and those of the whole sequence of which 32 queries' are
taken at a time (whose backward fills a gradient of all windows for each slice). The fine-tuning steps are of transformers'
LlamaForCausalLM with torch.optim.AdamW (bench/peers/train_135m.py).

%s
%s""" % (saved["machine"], saved["version"], saved["torch"], times[0], times[-1], busy,
         "" if busy < 0.2 else ": such rows should be taken again", table(saved),
         "".join("\nNot measured: %s." % label for label in missing) + ("\n" if missing else ""))


def machine(program, threads):
    info = json.loads(subprocess.run([program, "info", "--json", "--threads", str(threads)], check=True,
                                     capture_output=True, text=True).stdout)
    return info["level"], "%s, level %s, %d threads, f32 peak %.0f GFLOP/s, memory read %.0f GB/s, measured" % (
        info["cpu"], info["level"], info["threads"], info["peak_gflops"], info["read_gbs"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plexus", help="the program")
    parser.add_argument("--rows", default="", help="those whose label this regular expression is found in")
    parser.add_argument("--list", action="store_true", help="show the labels and stop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="of timing in each round, for each side and pass")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", help="a JSON file that the rows are added to")
    parser.add_argument("--page", help="write the page of all saved rows here")
    args = parser.parse_args()
    rows = [row for row in ROWS if re.search(args.rows, row["label"])]
    if args.list or not rows:
        print("\n".join(row["label"] for row in ROWS))
        raise SystemExit(not args.list and "no label has %s" % args.rows)
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as plexus does for itself: kinder to both on a busy machine
    import torch
    import work
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    work.check()
    saved = dict(rows={})
    if args.save and os.path.exists(args.save):
        saved = json.load(open(args.save))
    version = subprocess.run([args.plexus, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    level, about = machine(args.plexus, args.threads)
    args.impls = {"amx": "avx512,amx_f32,amx", "bf16": "avx512,bf16", "vnni": "avx512"}.get(level, level)
    saved.update(machine=about, torch="PyTorch " + torch.__version__.split("+")[0], version=version)
    begin, expected, left = time.time(), 0, sum(row["seconds"] for row in rows)
    for number, row in enumerate(rows):
        pace = max((time.time() - begin) / expected, 0.5) if expected else 1
        print("%2d of %d, about %.1f minutes left: %s" % (number + 1, len(rows), left * pace / 60, row["label"]), flush=True)
        others, when = others_busy(), datetime.datetime.now().isoformat(" ", "minutes")
        result = measure_finetune(row, args) if row["work"] == "finetune" else measure(row, args)
        saved["rows"][row["label"]] = dict(result, when=when, others=others)
        expected, left = expected + row["seconds"], left - row["seconds"]
        if args.save:
            json.dump(saved, open(args.save, "w"), indent=1)
    print("%.1f minutes\n\n%s" % ((time.time() - begin) / 60, table(saved)))
    if args.page:
        open(args.page, "w").write(page(saved))


if __name__ == "__main__":
    main()
