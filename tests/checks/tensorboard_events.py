"""Reads a run's event files back with the real TensorBoard package and compares them with metrics.jsonl.

    python tests/checks/tensorboard_events.py RUN_DIRECTORY

Needs the PyPI package tensorboard; not part of `make check`, which reads the files with a decoder of its own."""
import json
import math
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {"loss": "loss", "lr": "lr", "grad_norm": "grad_norm", "valid_loss": "valid/loss",
        "valid_bits_per_byte": "valid/bits_per_byte", "valid_accuracy": "valid/accuracy"}


def main(directory):
    events = EventAccumulator(directory, size_guidance={"scalars": 0})
    events.Reload()
    seen = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    compared = 0
    for line in (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines():
        metric = json.loads(line)
        for key, tag in TAGS.items():
            if key not in metric:
                continue
            value = seen[tag][metric["step"]]
            assert math.isclose(value, metric[key], rel_tol=1e-6), (tag, metric["step"], value, metric[key])
            compared += 1
    assert compared > 0, "no metrics"
    print(f"{compared} values agree: {', '.join(sorted(seen))}")


if __name__ == "__main__":
    main(sys.argv[1])
