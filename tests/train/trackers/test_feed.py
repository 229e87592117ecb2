"""Trackers that raise, hang or fall behind: the run goes on, and nothing is stored twice or left out."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.train.trackers import feed as module
from pivot_jax.train.trackers import table
from pivot_jax.train.trackers.base import Bundle, Memory, TextTable
from pivot_jax.train.trackers.table import TRACKERS, Kind, check_installed, open_trackers


class Kept:
    """A tracker that remembers its calls, and fails where a test says so."""

    holds = False

    def __init__(self, facts, fails=None):
        self.facts, self.calls, self.fails = facts, [], fails or (lambda call: None)
        self._call("open")

    def _call(self, *call):
        self.fails(call)
        self.calls.append(call)

    def write(self, step, metrics):
        self._call("write", step, dict(metrics))

    def show(self, step, shown):
        self._call("show", step, shown.name)

    def keep(self, bundle):
        self._call("keep", bundle.name)

    def close(self, finished):
        self._call("close", finished)


@pytest.fixture
def opened(monkeypatch):
    """Function (kind of failure) → list of the trackers that are then opened, in place of W&B's."""
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))

    def choose(fails=None, rewinds=False):
        made = []

        def make(facts):
            made.append(Kept(facts, fails))
            return made[-1]

        monkeypatch.setattr(table, "TRACKERS", {**TRACKERS, "wandb": Kind(make, "json", rewinds=rewinds)})
        return made

    return choose


def config(*trackers):
    return configs.load("", {"train.trackers": trackers or ("wandb",)})


def tables():
    return TextTable("completions", ("prompt",), (("a",),))


def written(tracker) -> list[tuple[int, float]]:
    return [(call[1], call[2]["loss"]) for call in tracker.calls if call[0] == "write"]


def train(workdir, first, last, resumed=0, finished=True, **losses):
    """Lines of the steps ``first`` to ``last``."""
    trackers = open_trackers(config(), workdir, resumed)
    for step in range(first, last + 1):
        trackers.write(step, {"loss": float(step), **losses})
    trackers.close(finished, Bundle("run", ()) if finished else None)


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_tracker_gets_everything_in_order(opened, tmp_path):
    made = opened()
    trackers = open_trackers(config(), tmp_path, 0)
    trackers.write(1, {"loss": 1.0})
    trackers.show(2, tables())
    trackers.write(2, {"loss": 2.0})
    trackers.write(2, {"loss": 3.0})  # such as an evaluation after the step
    trackers.close(True, Bundle("run", ()))
    assert made[0].calls == [
        ("open",), ("write", 1, {"loss": 1.0}), ("show", 2, "completions"), ("write", 2, {"loss": 2.0}),
        ("write", 2, {"loss": 3.0}), ("keep", "run"), ("close", True),
    ]  # fmt: skip
    assert made[0].facts.workdir == tmp_path and made[0].facts.config["train"]["trackers"] == ("wandb",)


def test_a_resumed_run_sends_no_line_twice(opened, tmp_path):
    """Killed after step 5, resumed from the checkpoint of step 3."""
    made = opened()
    train(tmp_path, 1, 5, finished=False)
    train(tmp_path, 4, 7, resumed=3)
    assert written(made[0]) == [(step, float(step)) for step in range(1, 6)]
    assert written(made[1]) == [(6, 6.0), (7, 7.0)]


def test_lines_that_a_killed_process_held_are_sent_again(opened, tmp_path, monkeypatch):
    """Of the last step; after an orderly end there are none."""
    made = opened()
    monkeypatch.setattr(Kept, "holds", True)
    trackers = open_trackers(config(), tmp_path, 0)
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (3, 3.5)):
        trackers.write(step, {"loss": loss})
    while len(made) < 1 or len(written(made[0])) < 4:
        time.sleep(0.001)
    assert Memory(tmp_path / "trackers" / "wandb.json", {}).get("mark") == [2, 1]
    resumed = open_trackers(config(), tmp_path, 3)  # the first ones as a killed process leaves them
    resumed.write(4, {"loss": 4.0})
    resumed.close(False)
    assert written(made[1]) == [(3, 3.0), (3, 3.5), (4, 4.0)]
    train(tmp_path, 5, 5, resumed=4)
    assert written(made[2]) == [(5, 5.0)]


def test_an_evaluation_that_a_signal_postponed_is_sent(opened, tmp_path):
    """It is the second line of the step that was saved last."""
    made = opened()
    train(tmp_path, 1, 3, finished=False)
    trackers = open_trackers(config(), tmp_path, 3)
    trackers.write(3, {"loss": 0.5})
    trackers.close(True)
    assert written(made[1]) == [(3, 0.5)] and made[1].facts.first_step == 4


def test_a_tracker_that_rewinds_gets_lines_again(opened, tmp_path):
    made = opened(rewinds=True)
    train(tmp_path, 1, 5, finished=False)
    train(tmp_path, 4, 6, resumed=3)
    assert written(made[1]) == [(4, 4.0), (5, 5.0), (6, 6.0)] and made[1].facts.first_step == 4


def test_tables_are_not_shown_twice(opened, tmp_path):
    made = opened()
    for resumed in (0, 2):
        trackers = open_trackers(config(), tmp_path, resumed)
        for step in (3, 7 + resumed):
            trackers.show(step, tables())
        trackers.close(False)
    assert [call[1] for one in made for call in one.calls if call[0] == "show"] == [3, 7, 9]


def test_what_a_tracker_lacks_is_sent_when_it_is_chosen_later(opened, tmp_path):
    """Also what was not finite, which the log has as null."""
    made = opened()
    trackers = open_trackers(configs.load("", {"train.trackers": ()}), tmp_path, 0)
    trackers.write(1, {"loss": float("nan")})
    trackers.write(2, {"loss": 2.0})
    trackers.close(False)
    train(tmp_path, 3, 3, resumed=2)
    assert str(written(made[0])) == "[(1, nan), (2, 2.0), (3, 3.0)]" and made[0].facts.first_step == 1


def test_another_place_gets_the_whole_log(opened, tmp_path, monkeypatch):
    made = opened()
    monkeypatch.setitem(table.TRACKERS, "wandb", table.TRACKERS["wandb"]._replace(variables=("WANDB_PROJECT",)))
    train(tmp_path, 1, 2)
    monkeypatch.setenv("WANDB_PROJECT", "other")
    train(tmp_path, 3, 3, resumed=2)
    assert [step for step, _ in written(made[1])] == [1, 2, 3]


def test_one_that_fails_for_a_while_is_tried_again(opened, tmp_path, caplog):
    """Nothing is lost, and the reason is reported once."""
    left = [2]

    def fails(call):
        if call[0] == "write" and left[0]:
            left[0] -= 1
            raise ConnectionError("the server is gone\nsecond line")

    made = opened(fails)
    trackers = open_trackers(config(), tmp_path, 0)
    trackers.write(1, {"loss": 1.0})
    while left[0]:
        time.sleep(0.001)
    trackers.write(2, {"loss": 2.0})
    trackers.close(True)
    assert written(made[0]) == [(1, 1.0), (2, 2.0)]
    assert warnings(caplog) == ["train.trackers: wandb failed (ConnectionError: the server is gone); the run continues"]


@pytest.mark.parametrize("at", ["open", "write", "show", "keep", "close"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit(1), RuntimeError()])
def test_one_that_keeps_failing_is_left_out(opened, tmp_path, caplog, at, error):
    """The log is complete; the next process sends what it lacks."""

    def fails(call):
        if call[0] == at:
            raise error

    made = opened(fails)
    trackers = open_trackers(config(), tmp_path, 0)
    for step in (1, 2, 3):
        trackers.write(step, {"loss": float(step)})
        trackers.show(step, tables())
    trackers.close(True, Bundle("run", ()))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    first, second = warnings(caplog)
    assert f"wandb failed ({type(error).__name__}" in first and "left out from here on" in second
    before = {step for one in made for step, _ in written(one)}
    healthy = opened()
    train(tmp_path, 4, 4, resumed=3)
    after = [step for step, _ in written(healthy[0])]
    assert sorted([*before, *after]) == [1, 2, 3, 4]


@pytest.mark.parametrize("at", ["open", "write", "show", "keep", "close"])
def test_one_that_hangs_costs_a_few_seconds_at_the_end_only(opened, tmp_path, caplog, monkeypatch, at):
    monkeypatch.setattr(table, "PATIENCE", 1.0)
    end = threading.Event()
    made = opened(lambda call: end.wait() if call[0] == at else None)
    began = time.monotonic()
    trackers = open_trackers(config(), tmp_path, 0)
    for step in range(1, 10):
        trackers.write(step, {"loss": 1.0})
    trackers.show(10, tables())
    assert time.monotonic() - began < 1.0
    began = time.monotonic()
    trackers.close(True, Bundle("run", ()))
    assert 0.9 < time.monotonic() - began < 3.0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9
    (said,) = warnings(caplog)
    assert "wandb has not finished in time" in said and "pivot-jax report --track" in said
    end.set()  # the thread, which is still there, ends its call and makes no other
    trackers._feeds[0]._thread.join()
    sent = [step for step, _ in written(made[0])]
    assert sent == {"open": [], "write": [1]}.get(at, list(range(1, 10)))
    assert Memory(tmp_path / "trackers" / "wandb.json", {}).get("mark", [0, 1]) == [len(sent), 1]


def test_one_that_hangs_does_not_fill_the_memory(opened, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 10)
    monkeypatch.setattr(table, "HURRY", 0.1)
    end = threading.Event()
    opened(lambda call: end.wait())
    trackers = open_trackers(config(), tmp_path, 0)
    for step in range(1, 100):
        trackers.write(step, {"loss": 1.0})
    trackers.close(False)
    assert len(warnings(caplog)) == 1 and "hangs (10 calls waiting)" in warnings(caplog)[0]
    end.set()
    caplog.clear()
    end = threading.Event()
    opened(lambda call: end.wait())
    monkeypatch.setattr(module, "TABLES", 3)
    trackers = open_trackers(config(), tmp_path, 99)
    for step in range(100, 110):
        trackers.show(step, tables())
    trackers.close(False)
    assert len(warnings(caplog)) == 1 and "hangs (" in warnings(caplog)[0]
    end.set()


def test_a_log_that_cannot_be_written_ends_the_run(opened, tmp_path):
    """It is the run's own record, not a copy."""
    opened()
    trackers = open_trackers(config(), tmp_path, 0)
    trackers._log._file.close()
    trackers._log._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(UserError, match="metrics.jsonl could not be written .No space left on device.; free disk"):
        trackers.write(1, {"loss": 1.0})
    trackers.close(False)


def test_a_damaged_memory_is_an_error_that_names_the_file(opened, tmp_path):
    opened()
    train(tmp_path, 1, 1)
    (tmp_path / "trackers" / "wandb.json").write_text('{"pl')
    with pytest.raises(UserError, match=r"trackers/wandb.json is damaged .*; remove it"):
        open_trackers(config(), tmp_path, 1)


def test_missing_libraries_are_found_before_training(monkeypatch, tmp_path):
    """A folder of W&B's logs in the working directory is not the library."""
    (tmp_path / "nosuchlibrary").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for library in ("nosuchlibrary", "anothermissing"):
        monkeypatch.setattr(table, "TRACKERS", {**TRACKERS, "mlflow": Kind(Kept, library)})
        with pytest.raises(UserError, match=f"'mlflow' needs the package {library}; pip install 'pivot-jax.trackers.'"):
            check_installed(("tensorboard", "mlflow"))
    check_installed(())


def test_config_names_the_trackers_that_there_are():
    from pivot_jax.config import check

    assert set(check.TRACKERS) == set(TRACKERS)
    for wrong in (("wandbb",), ("wandb", "wandb"), (1,), ({},)):
        with pytest.raises(
            UserError, match=r"train.trackers: .* some of tensorboard, wandb, mlflow, trackio, each once"
        ):
            config(*wrong)
    plain, other = configs.load(), configs.load("", {"train.trackers": ("wandb",), "train.tracker_project": "p"})
    assert configs.fingerprint(plain) == configs.fingerprint(other)
    assert plain.train.trackers == ("tensorboard",)
