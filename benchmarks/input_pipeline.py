"""The loader's throughput, and the share of a step that waits for data.

    python benchmarks/input_pipeline.py                                  # synthetic images
    python benchmarks/input_pipeline.py --config configs/trial/sft.py    # a config's own data

Without a config, 640 x 480 JPEG images with short conversations in LLaVA's format are written to a scratch folder and
resized to 384 pixels. Images are decoded and rows tokenised again every time (``data.cache_images_mib=0``,
``data.cache_rows_mib=0``). For each step time a loop reads the loader and sleeps that long per step, as the host does
while a device works. The loop's wait for batches is ``perf/data_wait_s`` of a run. Rows/s are those of a loop that does
not sleep. "first pass" is the pass over all rows before training, in rows/s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Record

VOCABULARY = 320


def synthetic(folder: Path, count: int, rows: int) -> Any:
    """A config for ``count`` synthetic images, which it writes to ``folder``."""
    from PIL import Image

    from pivot_jax import config as configs
    from pivot_jax.data.processing.tokenizer import train_bpe

    rng = np.random.default_rng(0)
    written = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))  # smooth, like photographs
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
        turns = [("human", "<image>\nWhat is in the image?"), ("gpt", f"Colours, and the number {i}.")]
        row = {"id": str(i), "image": f"{i}.jpg", "conversations": [{"from": a, "value": b} for a, b in turns]}
        written.append(row)
    (folder / "rows.json").write_text(json.dumps(written))
    config = configs.base()
    config.model.vision.image_size = config.data.image.size = 384
    config.model.vision.patch_size = 16
    config.tokenizer.path = str(
        train_bpe([row["conversations"][1]["value"] for row in written], VOCABULARY, folder / "bpe")
    )
    config.data.sources = ({"format": "llava", "path": str(folder / "rows.json"), "image_root": str(folder)},)
    config.data.batch_size = rows
    return config


def read(loader: Any, batches: int, step: float) -> dict[str, Any]:
    """Reads two batches to warm up, then ``batches``; rows and bytes per second, seconds of waiting and their share."""
    stream = iter(loader)
    for _ in range(2):
        next(stream)
    waits, sizes, rows = [], 0, 0
    start = time.perf_counter()
    for _ in range(batches):
        begin = time.perf_counter()
        batch = next(stream)
        waits.append(time.perf_counter() - begin)
        sizes += sum(x.nbytes for x in vars(batch).values() if isinstance(x, np.ndarray))
        rows += len(batch.row_index)
        time.sleep(step)
    seconds = time.perf_counter() - start
    return {
        "step_seconds_given": step,
        "rows_per_second": rows / seconds,
        "mb_per_second": sizes / seconds / 1e6,
        "data_wait_s": measure.summary(waits),
        "share_waiting": sum(waits) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a run's config; default: synthetic images")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--kinds", nargs="+", choices=("thread", "process"), default=["thread", "process"])
    parser.add_argument("--images", type=int, default=4096, help="number of synthetic images")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="data.workers")
    parser.add_argument("--step-seconds", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "input_pipeline.json")
    args = parser.parse_args()
    from pivot_jax import config as configs
    from pivot_jax.data.loading import index_cache
    from pivot_jax.data.loading.loader import build_loader
    from pivot_jax.data.processing.processor import build_processor
    from pivot_jax.data.processing.tokenizer import load_tokenizer

    record = Record(args.json, "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        config = configs.load(args.config) if args.config else synthetic(Path(scratch), args.images, args.rows)
        config.data.batch_size, config.data.cache_images_mib, config.data.cache_rows_mib = args.rows, 0, 0
        config.train.epochs = 1000.0
        record.content |= {"config": args.config or "synthetic", "rows": args.rows}
        tokenizer = load_tokenizer(config.tokenizer.path)
        print(f"{'workers':>18}{'first pass':>12}{'step s':>8}{'rows/s':>10}{'MB/s':>9}{'wait s':>9}{'share':>8}")
        for kind, workers in itertools.product(args.kinds, args.workers):
            config.data.workers, config.data.worker_kind = workers, kind
            index_cache._RECENT.clear()  # every loader makes its own pass
            start = time.perf_counter()
            processor = build_processor(config, tokenizer, "sft", patch_size=config.model.vision.patch_size)
            loader = build_loader(config, processor)
            first = len(loader.source) / (time.perf_counter() - start)
            runs = [read(loader, args.batches, step) for step in (0.0, *args.step_seconds)]
            record.add(f"{workers} {kind}", {"first_pass_rows_per_second": first, "runs": runs})
            for x in runs:
                line = f"{f'{workers} {kind}':>18}{first:12.0f}{x['step_seconds_given']:8.2f}"
                line += f"{x['rows_per_second']:10.1f}{x['mb_per_second']:9.1f}"
                line += f"{x['data_wait_s']['median']:9.3f}{x['share_waiting']:8.1%}"
                print(line, flush=True)
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
