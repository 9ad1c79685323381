"""make_events.py - events.jsonl and events.tfevents: lines of metrics, and TensorBoard's own event file of them.

    make_events.py FOLDER        (tensorboard 2.21 from PyPI)

The file is written by TensorBoard's record writer and its generated classes; kd's writer has to give the same bytes.
"""
import json
import sys
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

LINES = [
    {"step": 5, "loss": 2.302585, "lr": 1e-3, "seconds": 0.25, "time": 1700000000.125},
    {"epoch": 1, "step": 300, "loss": 0.4711, "terms": {"kd": 0.5, "ce": 0.0}, "lr": 9.5e-4, "valid_loss": 3,
     "valid_accuracy": None, "seconds": 12.5, "stall_s": 0.0, "time": 1700000012.5},
    {"step": 70000000000, "loss": -1.5e-7, "lr": 0.0, "seconds": 1e9, "time": 1700000013.0},
    # more than 127 bytes in a message, and more than one byte of a length
    {"epoch": 2, "step": 601, "loss": 1.0, "terms": {f"term_number_{i}": i / 3 for i in range(12)}, "time": 1700000014.0},
]


def scalars(prefix, line):
    for key, v in line.items():
        if isinstance(v, dict):
            yield from scalars(f"{prefix}/{key}", v)
        elif v is not None and key not in ("epoch", "step", "time"):
            yield f"{prefix}/{key}", v


def main(folder):
    folder = Path(folder)
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    with (folder / "events.tfevents").open("wb") as f:
        out = RecordWriter(f)
        out.write(Event(wall_time=1700000000.0, file_version="brain.Event:2").SerializeToString())
        for line in LINES:
            event = Event(wall_time=line["time"], step=line["step"])
            for tag, v in scalars("epoch" if "epoch" in line else "step", line):
                event.summary.value.add(tag=tag, simple_value=v)
            out.write(event.SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1])
