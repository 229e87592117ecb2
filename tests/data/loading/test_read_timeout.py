"""A row that hangs, as on a network disk that is gone: an error that names it, and no process that waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.processing.processor import Processor, build_processor
from pivot_jax.errors import UserError
from tests.data.conftest import config, llava_row, write_jsonl
from tests.data.loading.test_workers import children, gone

FOR_EVER = 300.0  # seconds; a test ends long before


@dataclass(frozen=True, eq=False)
class Hanging(Processor):
    """Hangs in the given step of the row whose image is 7.png. A class of its own, so that processes find it too."""

    step: str = "read"

    def encode(self, example):
        if self.step == "encode" and example.images[0].endswith("/7.png"):
            time.sleep(FOR_EVER)
        return super().encode(example)

    def read_images(self, images):
        if self.step == "read" and images[0].endswith("/7.png"):
            time.sleep(FOR_EVER)
        return super().read_images(images)


def load(path, images, tokenizer, step, **changes):
    cfg = config({"format": "llava", "path": str(path), "image_root": str(images)}, shuffle=False, **changes)
    with cfg.unlocked():
        cfg.data.image.size, cfg.train.epochs = 8, 2.0
    made = build_processor(cfg, tokenizer, "sft", patch_size=4)
    return build_loader(cfg, Hanging(made.chat, made.geometry, made.kind, made.check_images, step))


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", [llava_row(i) for i in range(40)])


@pytest.mark.parametrize(("kind", "workers"), [("thread", 1), ("thread", 2), ("process", 1)])
@pytest.mark.parametrize("step", ["read", "encode"])
@pytest.mark.heavy_after(2)
def test_a_row_that_hangs_ends_the_run(rows, image_folder, tokenizer, kind, step, workers):
    """While it is read for a batch and in the pass over all rows; every batch after it says the same at once."""
    says = rf"row 'row7' \(image {image_folder}/7.png\) was not read in data.read_timeout_s=0.5 seconds; check the disk"
    more = {"worker_kind": kind, "workers": workers, "read_timeout_s": 0.5}
    if step == "encode":
        with pytest.raises(UserError, match=says):
            load(rows, image_folder, tokenizer, step, **more)
    else:
        loader = load(rows, image_folder, tokenizer, step, batch_size=4, **more)
        loader.batch_at(0)
        with pytest.raises(UserError, match=says):
            loader.batch_at(1)
        start = time.monotonic()
        with pytest.raises(UserError, match=says):
            loader.batch_at(2)
        assert time.monotonic() - start < 5
    assert gone(children())  # the hanging process was killed, and its loader is gone


def test_a_slow_row_is_waited_for(rows, image_folder, tokenizer, monkeypatch):
    """Rows that together take longer than the limit, and one row without a limit."""
    read = Processor.read_images
    monkeypatch.setattr(Processor, "read_images", lambda self, images: time.sleep(0.3) or read(self, images))
    loader = load(rows, image_folder, tokenizer, "", batch_size=8, workers=2, read_timeout_s=1.5)
    assert (loader.batch_at(0).row_index >= 0).all()
    monkeypatch.setattr(Processor, "read_images", lambda self, images: time.sleep(1.2) or read(self, images))
    loader = load(rows, image_folder, tokenizer, "", batch_size=2, workers=2, read_timeout_s=0)
    assert (loader.batch_at(0).row_index >= 0).all()


SCRIPT = """
import sys, time
from tests.data.loading.test_read_timeout import load

if __name__ == "__main__":
    from pivot_jax.data.processing.tokenizer import load_tokenizer
    path, images, tokenizer, kind, limit = sys.argv[1:]
    loader = load(path, images, load_tokenizer(tokenizer), "read", batch_size=4, worker_kind=kind,
                  workers=2, read_timeout_s=float(limit))
    batches = iter(loader)
    next(batches)
    print("first", flush=True)
    if float(limit):
        next(batches)
    time.sleep(1)  # batches are read ahead, and hang
"""


@pytest.mark.parametrize(("kind", "limit"), [("thread", "0.5"), ("thread", "0"), ("process", "0")])
@pytest.mark.heavy_after(1)
def test_a_hanging_row_does_not_keep_the_process(tmp_path, rows, image_folder, tokenizer, kind, limit):
    """Neither after the error nor where the main thread ends for another reason."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), rows, str(image_folder), str(tmp_path / "tokenizer")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path[:1]])}
    run = subprocess.run(
        [*command, kind, limit], capture_output=True, text=True, timeout=400, env=environment, check=False
    )
    assert run.stdout == "first\n", run.stderr
    assert run.returncode == (1 if float(limit) else 0), run.stderr
    assert ("row 'row7'" in run.stderr) == bool(float(limit))


def test_images_between_two_steps_have_a_limit_too():
    """Of a rollout, an update or an evaluation; while they are awaited a signal can stop the run."""
    reader = ImageReader(lambda images: time.sleep(FOR_EVER) if "hangs.png" in images else images, 0.5)
    assert reader(("a.png",)) == ("a.png",)
    ahead = [reader.start((f"{name}.png",)) for name in ("b", "hangs", "c")]
    assert reader.finish(ahead[0], ()) == ("b.png",) and reader.finish(ahead[2], ()) == ("c.png",)
    with pytest.raises(UserError, match=r"image hangs.png was not read in data.read_timeout_s=0.5 seconds; check"):
        reader.finish(ahead[1], ("hangs.png",))

    def stop():
        raise KeyboardInterrupt

    reader.listen = stop
    with pytest.raises(KeyboardInterrupt):
        reader.finish(ahead[1], ("hangs.png",))
