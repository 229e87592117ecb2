"""Data at size: what a run costs before its first step, and how fast rows come, from JSON Lines and ArrayRecord.

    PIVOT_SHARED_DATA=… python benchmarks/data_index.py --rows 3200000 --folder FOLDER
    PIVOT_SHARED_DATA=… python benchmarks/data_index.py --rows 20000 --tokenised 2000 --worker-kind process

The rows are made by data_rows.py and stay in the folder. Three parts, each run in a process of its own:

* "at size": all rows, data.tokenize_first=false. The first start, and a resume in the middle of the second epoch; the
  file is out of the page cache each time. Then the shuffle's z-scores (shuffle.py).
* "tokenised": the pass over fewer rows that tokenises each, with Qwen2.5's tokenizer; a second run finds its result.
* one row with an answer of 10 MB, and one with such a question.

"open" is the index of rows in the file, "plan" what says which rows are in which batch, "first batch" all until it is
there. "CPU" is user and system time of the whole process, where other programs on the machine distort the wall's.
"memory" is the peak above what the process had with its imports and tokenizer, in bytes per row: after the plan, and
after some batches, of which 'batch_size' rows and their images are in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import data_rows
import measure
import numpy as np
import shuffle
from measure import Record, Side, SideError

MIB = 1 << 20
LONG = 10_000_000  # characters
BATCH, BATCHES = 256, 6
COLUMNS = {"open_s": ".2f", "plan_s": ".2f", "first_batch_s": ".2f", "start_s": ".1f", "start_cpu_s": ".1f",
           "plan_memory": ".0f", "memory": ".0f", "read_rows_per_s": ".0f", "rows_per_s": ".0f"}  # fmt: skip


class Run:
    """A process that starts on some data; ``changes``: keys of the config."""

    def __init__(self, tokenizer: str, cache: str, changes: dict[str, Any]):
        os.environ["JAX_PLATFORMS"], os.environ["XDG_CACHE_HOME"] = "cpu", cache
        from pivot_jax import config as configs
        from pivot_jax.data.processing.processor import build_processor
        from pivot_jax.data.processing.tokenizer import load_tokenizer

        self._config = configs.load("", changes)
        self._processor = build_processor(self._config, load_tokenizer(tokenizer), "sft", patch_size=16)

    def start(self, entry: dict[str, Any], workdir: str, epochs: float, batches: int, shuffled: bool) -> dict[str, Any]:
        """Opens and plans the data, and reads batches from the middle of an epoch (``epochs`` done) on."""
        from pivot_jax.data.loading.loader import build_loader
        from pivot_jax.data.sources import read
        from pivot_jax.errors import UserError

        forget_peak()
        before, began = resident(), time.perf_counter()
        source = read(entry)
        opened = time.perf_counter()
        try:
            loader = build_loader(self._config, self._processor, sources=source, workdir=workdir)
        except UserError as error:
            return {"rows": 0, "memory_mib": (peak() - before) / MIB, "error": str(error)[:300]}
        planned, per_row = time.perf_counter(), lambda: (peak() - before) / loader.rows
        found = {
            "rows": loader.rows,
            "truncated": loader.data.index.truncated,
            "before_mib": before / MIB,
            "open_s": opened - began,
            "plan_s": planned - opened,
            "plan_memory": per_row(),
            "memory_mib": (peak() - before) / MIB,
        }
        if batches:
            iterator = iter(loader)
            state = iterator.get_state()
            state["grain"]["next_index"] = int(epochs * loader.steps_per_epoch)
            iterator.set_state(state)
            next(iterator)
            found |= {"first_batch_s": time.perf_counter() - planned, "start_cpu_s": time.process_time()}
            found["start_s"] = time.perf_counter() - began
            ready = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            found["rows_per_s"] = batches * loader.batch_size / (time.perf_counter() - ready)
            found |= {"memory": per_row(), "read_rows_per_s": self._reading(source)}
        if shuffled:
            steps = loader.steps_per_epoch
            two = [np.stack([loader.schedule.batch(epoch * steps + i) for i in range(steps)]) for epoch in (0, 1)]
            found["shuffle"] = shuffle.scores(*two)
        return found

    def _reading(self, source: Any) -> float:
        """Rows per second of CPU, in random order, as examples that are not tokenised."""
        rows, began = np.random.default_rng(0).integers(len(source), size=10_000), time.thread_time()
        for row in rows:
            source[int(row)]
        return len(rows) / (time.thread_time() - began)


def status(key: str) -> int:
    """Bytes of a line of ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def resident() -> int:
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def forget_peak() -> None:
    """The peak of resident memory starts again from what there is now."""
    Path("/proc/self/clear_refs").write_text("5")


def evict(path: Path) -> None:
    """Takes a file, or the files of a folder, out of the page cache."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def entry(name: str, path: Path, root: Path) -> dict[str, Any]:
    """The config's entry of a source."""
    return {"format": "llava" if name in ("JSONL", "JSON") else "tfds", "path": str(path), "image_root": str(root)}


class Bench:
    """Runs that share a cache folder, which starts empty."""

    def __init__(self, data: Path, scratch: Path, record: Record, kind: str):
        self.data, self.record, self._scratch = data, record, scratch
        self._base = {"data.worker_kind": kind, "data.batch_size": BATCH, "data.cache_rows_mib": 0, "train.epochs": 2.0}

    def run(self, name: str, source: dict[str, Any], changes: dict[str, Any], *start: Any) -> None:
        """One process; ``start``: arguments of :meth:`Run.start` after the source and its workdir."""
        evict(Path(source["path"]))
        began = time.perf_counter()
        tokenizer, cache = str(self.data / "qwen2_5_vl_processor"), str(self._scratch / "cache")
        side = Side(Run, tokenizer, cache, self._base | changes)
        try:
            found = side.ask("start", source, str(self._scratch / f"workdir {name}"), *start, limit=7200.0)
        except SideError as error:
            return self.record.leave_out(name, str(error))
        finally:
            side.close()
        found["process_s"] = time.perf_counter() - began
        self.record.add(name, found)
        cells = "".join(f"{found[key]:>{len(key) + 2}{form}}" if key in found else " " * (len(key) + 2)
                        for key, form in COLUMNS.items())  # fmt: skip
        print(f"{name:>24}{cells}  {found.get('shuffle', found.get('error', ''))}", flush=True)


def long_rows(data: Path, folder: Path) -> dict[str, Path]:
    """Files of one row, whose answer or question has :data:`LONG` characters."""
    row = next(data_rows.rows(data, 1))
    words = itertools.cycle(json.loads(row.conversations)[0]["value"].split()[1:])
    text = " ".join(itertools.islice(words, LONG // 6))[:LONG]
    paths = {}
    for what, turn in (("answer", 1), ("question", 0)):
        turns = json.loads(row.conversations)
        turns[turn]["value"] += f" {text}"
        paths[what] = folder / f"{what}.json"
        paths[what].write_text(json.dumps([{"id": row.id, "image": row.image, "conversations": turns}]))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_200_000)
    parser.add_argument("--tokenised", type=int, default=50_000, help="rows of the pass that tokenises each")
    parser.add_argument("--folder", type=Path, help="where the rows are kept; 3.2 million take 1.4 GB in each format")
    parser.add_argument("--worker-kind", choices=("thread", "process"), default="thread")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "data_index.json")
    args = parser.parse_args()
    data = Path(os.environ.get("PIVOT_SHARED_DATA", measure.ROOT.parent / "shared" / "data"))
    print(" " * 24 + "".join(f"  {name}" for name in COLUMNS))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(data, Path(scratch), Record(args.json, "cpu"), args.worker_kind)
        folder = args.folder or Path(scratch) / "rows"
        at_size = {"data.tokenize_first": False, "data.buckets": ((512, 256),)}
        for name in data_rows.FORMATS:
            source = entry(name, data_rows.prepared(data, folder, args.rows, name), data)
            bench.run(f"{name}, first", source, at_size, 0.0, BATCHES, True)
            bench.run(f"{name}, resume", source, at_size, 1.5, BATCHES, False)
        for name in data_rows.FORMATS:
            source = entry(name, data_rows.prepared(data, folder, args.tokenised, name), data)
            for which in ("first", "second"):
                bench.run(f"{name}, tokenised, {which}", source, {}, 0.0, BATCHES, False)
        for name, path in long_rows(data, Path(scratch)).items():
            changes = {"data.max_bad_share": 1.0, "data.batch_size": 1}
            bench.run(f"10 MB {name}", entry("JSON", path, data), changes, 0.0, 0, False)
    print(f"written: {bench.record.path}")


if __name__ == "__main__":
    main()
