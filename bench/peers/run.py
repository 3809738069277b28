#!/usr/bin/env python3
"""Plexus against PyTorch on the same work, alternately, on the same threads; the ratios as a table.

    make bench-peers                                       everything, into docs/results/peers.md
    python bench/peers/run.py build/plexus --only WORD     some rows, printed (--save FILE keeps them, --page writes them)

A row is measured in rounds: PyTorch, then `plexus bench`, and again. Each figure is the best of all rounds. `plexus bench`
checks every implementation against the reference before it times it, and shows no speed for a wrong one.
"""
import argparse
import datetime
import json
import os
import subprocess
import time

# label, function of work.py, its sizes, case of plexus bench or of its forward and backward, sizes for plexus bench
ROWS = []


def add(label, work, sizes, case, flags):
    ROWS.append(dict(label=label, work=work, sizes=sizes, case=case, flags=flags))


def add_heads(name, case, **sizes):
    shape = " ".join("%s%d" % (k, v) for k, v in sizes.items() if k not in ("w1", "w2"))
    windows = " windows %dx%d" % (sizes["w1"], sizes["w2"]) if "w1" in sizes else ""
    add(name + ", " + shape + windows, case, sizes, case, dict(sizes, G=sizes["H"]))


add_heads("attention", "attention", H=8, T=1024, d=64)
add_heads("attention", "attention", H=8, T=2048, d=128)
add_heads("nexus order 2, three attentions", "nexus", H=8, T=1024, d=64)
add_heads("simplicial", "simplicial", H=4, T=512, d=64, w1=64, w2=16)
add_heads("simplicial", "simplicial", H=4, T=512, d=64, w1=512, w2=32)
add_heads("simplicial", "simplicial", H=4, T=512, d=128, w1=512, w2=32)
add("grassmann layer, T1024 D256", "grassmann", dict(T=1024, D=256), "grassmann", dict(T=1024, D=256, H=4))
add("grassmann layer, T1024 D1024", "grassmann", dict(T=1024, D=1024), "grassmann", dict(T=1024, D=1024, H=16))
TRAIN_8M = dict(B=8, T=256, D=256, ffn=1024, vocab=8192, layers=6)
TRAIN_1M = dict(B=16, T=256, D=128, ffn=384, vocab=257, layers=4)
add("training step, 8.4M parameters, 6 layers D256 V8192 T256 B8", "train", TRAIN_8M, "train.step", dict(TRAIN_8M, H=4))
add("training step, .89M parameters, bytes, 4 layers D128 T256 B16", "train", TRAIN_1M, "train.step",
    dict(TRAIN_1M, H=4))


def best_of(function, seconds):
    """Seconds of the quickest of several calls; the first only counts when it takes so long that it need not warm up."""
    best, spent, first = float("inf"), 0.0, True
    while spent < seconds or best == float("inf"):
        begin = time.perf_counter()
        function()
        took = time.perf_counter() - begin
        if not first or took > 5:
            best, spent = min(best, took), spent + took
        first = False
    return best


def plexus(program, case, flags, threads, seconds):
    """Best milliseconds of f32 and of bf16 (None where there is none)."""
    words = [program, "bench", case, "--json", "--quiet", "--seconds", str(seconds), "--threads", str(threads)]
    for name, value in flags.items():
        words += ["--" + name, str(value)]
    best = {}
    for impl in ("[!pre]*", "*"):  # without portable, ref and emulated, where there are others
        output = subprocess.run(words + ["--impl", impl], check=True, capture_output=True, text=True).stdout
        for line in map(json.loads, output.splitlines()):
            kind = "bf16" if line["impl"] == "amx" else "f32"
            if line["ms"] is not None:
                best[kind] = min(best.get(kind, line["ms"]), line["ms"])
        if "f32" in best:
            break
    return best


def measure(row, args):
    import work
    inference, training = getattr(work, row["work"])(**row["sizes"])
    whole = inference is None  # a step, not forward and backward
    cases = [row["case"]] if whole else [row["case"] + ".forward", row["case"] + ".backward"]
    torch_best, plexus_best = {}, [{} for _ in cases]

    def keep(best, found):
        for name, value in found.items():
            best[name] = min(best.get(name, value), value)

    for _ in range(args.rounds):
        found = {"both": 1e3 * best_of(training, args.seconds)}
        if not whole:
            found["forward"] = 1e3 * best_of(inference, args.seconds)
        keep(torch_best, found)
        for i, case in enumerate(cases):
            keep(plexus_best[i], plexus(args.plexus, case, row["flags"], args.threads, args.seconds))
    result = dict(label=row["label"], torch=torch_best)
    for kind in ("f32", "bf16"):
        times = [best.get(kind) for best in plexus_best]
        result[kind] = {} if None in times else {"both": sum(times)}
        if not whole and times[0] is not None:
            result[kind]["forward"] = times[0]
    return result


def cell(result, kind, part):
    """Milliseconds of Plexus, and how many times as fast that is."""
    if kind not in result or part not in result[kind]:
        return "", ""
    return "%.4g" % result[kind][part], "**%.2f**" % (result["torch"][part] / result[kind][part])


def table(saved):
    lines = ["| work | pass | PyTorch f32 ms | Plexus f32 ms | times as fast | Plexus bf16 ms | times as fast |",
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


def machine(program, threads):
    info = json.loads(subprocess.run([program, "info", "--json", "--threads", str(threads)], check=True,
                                     capture_output=True, text=True).stdout)
    return "%s, level %s, %d threads, f32 peak %.0f GFLOP/s, memory read %.0f GB/s, measured" % (
        info["cpu"], info["level"], info["threads"], info["peak_gflops"], info["read_gbs"])


def page(saved):
    return """# Beside PyTorch

%s. Plexus %s, %s. %s. Made by `make bench-peers`.

Each figure is the best of several calls, in rounds that alternate between the two on the same threads. PyTorch runs what
its users write (bench/peers/work.py), in f32; Plexus checks each result against its reference in the same run. The bf16 column is
of operands rounded to bf16 (train.precision bf16), so its ratio is one between precisions.

PyTorch's simplicial attention unfolds the windows of 32 queries at a time. Unfolding those of the whole sequence first is
as natural to write and its backward is many times slower (measured at 64x16 on an AVX-512 Xeon: 3.6 s instead of .09);
the faster form is the one compared with.

%s
""" % (saved["machine"], saved["version"], saved["torch"], saved["date"], table(saved))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plexus", help="the program")
    parser.add_argument("--only", default="", help="rows whose label has this in it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of timing in each round, for each side and pass")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", help="a JSON file that the rows are added to")
    parser.add_argument("--page", help="write the page of all saved rows here")
    args = parser.parse_args()
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
    saved.update(machine=machine(args.plexus, args.threads), torch="PyTorch " + torch.__version__.split("+")[0],
                 version=version, date=datetime.date.today().isoformat())
    for row in ROWS:
        if args.only in row["label"]:
            print(row["label"], flush=True)
            saved["rows"][row["label"]] = measure(row, args)
            if args.save:
                json.dump(saved, open(args.save, "w"), indent=1)
    print(table(saved))
    if args.page:
        open(args.page, "w").write(page(saved))


if __name__ == "__main__":
    main()
