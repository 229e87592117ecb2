"""Rows tokenised and read by threads or by processes: the same batches, errors with their rows, and no process left."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.processing.processor import build_processor
from pivot_jax.errors import UserError
from tests.data.conftest import config, llava_row, preference_row, write_jsonl
from tests.data.loading.test_loader import same


def children():
    return [process for process in multiprocessing.active_children() if process.name == "rows"]


def gone(processes, seconds=10.0):
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(process.is_alive() for process in processes)


def load(source, tokenizer, kind="sft", **changes):
    cfg = config(source, **changes)
    with cfg.unlocked():
        cfg.data.image.size = 8
    return build_loader(cfg, build_processor(cfg, tokenizer, kind, patch_size=4))


def source(tmp_path, image_folder, make=llava_row, extra=()):
    path = write_jsonl(tmp_path / "rows.jsonl", [*(make(i) for i in range(40)), *extra])
    return {"format": "llava" if make is llava_row else "mmpr", "path": path, "image_root": str(image_folder)}


@pytest.mark.parametrize("make", [llava_row, preference_row])
@pytest.mark.heavy_after(1)
def test_processes_change_nothing(tmp_path, image_folder, tokenizer, make):
    """The first pass and both epochs, with rows kept and not, and bad rows of both kinds among them."""
    (image_folder / "7.png").write_text("this is no image")  # found when it is read
    where = source(tmp_path, image_folder, make, [make(99)])  # found in the first pass: there is no 99.png
    kind = "sft" if make is llava_row else "preference"
    own = {"max_bad_share": 0.5, "cache_images_mib": 0, "workers": 2}
    threads = load(where, tokenizer, kind, cache_rows_mib=1, **own)
    processes = load(where, tokenizer, kind, cache_rows_mib=0, worker_kind="process", **own)
    assert threads.rows == processes.rows == 40 and threads.fingerprint() == processes.fingerprint()
    for _ in range(2):
        for a, b in zip(threads, processes, strict=True):
            assert same(a, b)
    assert threads.skipped.entries == processes.skipped.entries and set(processes.skipped.entries) == {7, 40}
    assert 1 <= len(children()) <= 2
    working = children()
    del processes
    gc.collect()
    assert gone(working)


def test_a_signal_to_the_group_stops_no_worker_and_a_dead_one_is_named(tmp_path, image_folder, tokenizer):
    loader = load(source(tmp_path, image_folder), tokenizer, workers=2, worker_kind="process", cache_images_mib=0)
    loader.batch_at(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        for process in children():
            os.kill(process.pid, number)
    loader.batch_at(1)
    for process in children():
        process.kill()
    with pytest.raises(UserError, match=r"data\.worker_kind: a process that reads rows ended unexpectedly"):
        for step in range(5):
            loader.batch_at(step)


def test_a_fault_in_a_worker_comes_with_its_traceback(tmp_path, image_folder, tokenizer, monkeypatch):
    loader = load(source(tmp_path, image_folder), tokenizer, workers=2, worker_kind="process", cache_images_mib=0)
    monkeypatch.setattr(loader.data, "_job", lambda row: None)
    with pytest.raises(AttributeError) as caught:
        loader.batch_at(0)
    assert "in _finish" in caught.value.__notes__[0]


SCRIPT = """
import os, sys
from tests.data.loading.test_workers import children, load

if __name__ == "__main__":
    from pivot_jax.data.processing.tokenizer import load_tokenizer
    where = {"format": "llava", "path": sys.argv[1], "image_root": sys.argv[2]}
    loader = load(where, load_tokenizer(sys.argv[3]), workers=2, worker_kind="process", cache_images_mib=0)
    iterator = iter(loader)
    next(iterator)
    print(*[process.pid for process in children()], flush=True)
    if sys.argv[4] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["finished", "killed"])
@pytest.mark.heavy_after(1)
def test_workers_end_with_the_main_process(tmp_path, image_folder, tokenizer, end):
    """However it ends, and though they take no notice of signals."""
    where = source(tmp_path, image_folder)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), str(where["path"]), str(image_folder)]
    run = subprocess.run(
        [*command, str(tmp_path / "tokenizer"), end], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path[:1]])}, check=False,
    )  # fmt: skip
    assert run.returncode == (0 if end == "finished" else -9), run.stderr
    pids = [int(pid) for pid in run.stdout.split()]
    assert pids
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
