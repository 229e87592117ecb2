"""Rewards of a config: checks, weights, failures, MAYE's penalty, and a user's functions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax import config
from pivot_jax.errors import UserError
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.composition import Penalty, build_rewards, penalised, weighted
from pivot_jax.rl.rewards.function import read_rewards

ATTACKS = Path(__file__).parent / "attacks.py"


def section(*rewards, **keys):
    loaded = config.base()
    config.merge(loaded, {"rl": {"rewards": rewards, **{f"{name}": value for name, value in keys.items()}}})
    config.validate(loaded)
    return loaded.rl


def items(texts, **columns):
    return [
        Completion(
            f"row{i}", "prompt", words, np.arange(3, dtype=np.int32), False, {k: v[i] for k, v in columns.items()}
        )
        for i, words in enumerate(texts)
    ]


def test_weights_and_order():
    rewards = section(
        {"name": "math"},
        {"name": "format", "style": "boxed", "weight": 0.5, "label": "form"},
        {"name": "repetition", "weight": 0},
        reward_workers=2,
    )
    texts = [rf"\boxed{{{i % 3}}}" if i % 4 else str(i) for i in range(100)]
    with build_rewards(rewards) as built:
        scores = built.score(items(texts, answer=[str(i % 2) if i % 5 else "" for i in range(100)]))
        empty = built.score([])
    right = [np.nan if i % 5 == 0 else float(i % 4 > 0 and i % 3 == i % 2) for i in range(100)]
    form = [float(i % 4 > 0) for i in range(100)]
    np.testing.assert_array_equal(scores.rewards["math"], right)
    np.testing.assert_array_equal(scores.rewards["form"], form)
    np.testing.assert_array_equal(scores.rewards["repetition"], np.zeros(100))
    np.testing.assert_array_equal(scores.total, np.nan_to_num(right) + 0.5 * np.array(form))
    assert scores.failures == () and not scores.counts
    assert scores.total.dtype == np.float64
    assert empty.total.shape == (0,)


def test_weighted_sum():
    nan = np.nan
    values = np.array([[1.0, nan, nan, 1.0], [2.0, 2.0, nan, nan], [nan, 5.0, 5.0, nan]])
    excluded = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]], bool)
    total = weighted(values, np.array([1.0, 0.5, 0.0]), excluded)
    np.testing.assert_array_equal(total, [2.0, 1.0, nan, nan])


def test_truncated_but_correct():
    """MAYE: the accuracy is 1 and the total -0.1; so for a bare end token, which has fewer than 2 tokens."""
    rewards = section({"name": "maye_math", "column": "answer"}, penalty_truncated=True, penalty_min_tokens=2)
    row = {"answer": r"\boxed{20}"}
    right = [
        Completion(str(i), "", r"\boxed{20}", np.arange(length), truncated, row)
        for i, (length, truncated) in enumerate([(9, False), (9, True), (1, False)])
    ]
    with build_rewards(rewards) as built:
        scores = built.score(right)
    np.testing.assert_array_equal(scores.rewards["maye_math"], [1, 1, 1])
    np.testing.assert_allclose(scores.total, [1, -0.1, -0.1])


def test_penalty_is_mayes(shared_data):
    path = shared_data.parent / "reference" / "maye_golden.json"
    if not path.is_file():
        pytest.skip(f"golden values not at {path}")
    cases = [case for case in json.loads(path.read_text())["cases"] if case["fn"] == "get_reward_penalty_mask"]
    assert len(cases) > 10
    for case in cases:
        given = case["inputs"]
        lengths = np.array(given["seq_lens"]) + 1  # theirs are the index of the last token
        truncated = ~np.isin(given["sequences"], given["stop_tokens"]).any(axis=1)
        minimum = given["min_response_length"]
        penalty = Penalty(given["penalise_no_eos"], 0 if minimum is None else minimum + 1)
        np.testing.assert_array_equal(penalised(truncated, lengths, penalty), case["outputs"]["mask"], case["id"])


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ((), r"rl.rewards: empty; name at least one"),
        (({"name": "maths"},), r"rl.rewards.0.name: there is no reward 'maths'; did you mean 'math'\?"),
        (({"name": "math", "unit": "same"},), r"rl.rewards.0.unit: unknown option; did you mean 'units'\?"),
        (({"name": "math", "units": "sane"},), r"rl.rewards.0.units: 'sane' is not allowed .*did you mean 'same'"),
        (({"name": "number", "relative": "5%"},), r"rl.rewards.0.relative: '5%' \(str\) is not allowed"),
        (({"name": "math"}, {"name": "math"}), r"rl.rewards.1: a second reward 'math'; give one of them a 'label'"),
        (({"name": "no/such.py:f"},), r"rl.rewards.0.name: there is no file .*no/such.py"),
        (({"name": "module:"},), r"is not module:function"),
        (
            ({"name": f"{ATTACKS}:absent"},),
            r"rl.rewards.0.name: .*attacks.py has no function 'absent' .functions: hangs",
        ),
        (({"name": "no_such_module:f"},), r"cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_wrong_rewards(rewards, words):
    with pytest.raises(UserError, match=words):
        build_rewards(section(*rewards)).close()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rewards": ("math",)}, r"rl.rewards.0: 'math' is not a dict with a 'name'"),
        ({"rewards": ({"name": "math", "weight": "1"},)}, r"rl.rewards.0.weight: '1' is not allowed"),
        ({"rewards": ({"name": "math", "timeout_s": 0},)}, r"rl.rewards.0.timeout_s: 0 is not allowed"),
        ({"rewards": ({"name": "math", "label": ""},)}, r"rl.rewards.0.label: '' is not allowed"),
        ({"rewards": ({"name": "math", "messages": 1},)}, r"rl.rewards.0.messages: 1 is not allowed"),
        ({"reward_failure": "skipp"}, r"rl.reward_failure: 'skipp' is not allowed .* did you mean 'skip'"),
        ({"reward_workers": 0}, r"rl.reward_workers: 0 is not allowed"),
        ({"reward_timeout_s": 0.0}, r"rl.reward_timeout_s: 0.0 is not allowed"),
    ],
)
def test_wrong_keys(keys, words):
    with pytest.raises(UserError, match=words):
        section(*keys.pop("rewards", ()), **keys)


def test_missing_columns():
    rewards = section(
        {"name": "math", "column": "solution"}, {"name": "choice", "label": "letter"}, {"name": f"{ATTACKS}:messages"}
    )
    with build_rewards(rewards) as built:
        built.check(["solution", "answer"])
        with pytest.raises(UserError, match=r"'math' reads the column 'solution', .*did you mean 'solutions'"):
            built.check(["solutions", "answer"])
        with pytest.raises(UserError, match=r"'letter' reads the column 'answer', .* \(columns: solution\); set"):
            built.check(["solution"])
    box = {"name": "box", "coordinates": "resized"}
    with build_rewards(section(box)) as built, pytest.raises(UserError, match=r"'resized_size'.*no row has"):
        built.check(["box", "image_size"])
    with build_rewards(section({"name": "box"})) as built:
        built.check(["box"])


def test_user_functions():
    """Called as TRL calls them: texts or messages, token ids, columns by name, options, coroutines."""
    rewards = section(
        {"name": f"{ATTACKS}:messages", "messages": True, "scale": 3.0},
        {"name": f"{ATTACKS}:awaits"},
        {"name": f"{ATTACKS}:batch_size"},
        {"name": f"{ATTACKS}:environment"},
        {"name": f"{ATTACKS}:runs_programs"},
    )
    with build_rewards(rewards) as built:
        scores = built.score(items(["20", "3"], answer=["20", "4"], other=[None, 1]))
    found = {name: value.tolist() for name, value in scores.rewards.items()}
    assert found.pop("messages")[0] == 9.0 and np.isnan(scores.rewards["messages"][1])
    assert found == {
        "awaits": [2.0, 1.0],
        "batch_size": [2.0, 2.0],
        "environment": [1.0, 1.0],
        "runs_programs": [20, 3],
    }


def test_trls_own_function():
    """One of TRL's rewards, named in the config."""
    pytest.importorskip("trl")
    rewards = section({"name": "trl.rewards:think_format_reward", "messages": True}, reward_workers=1)
    with build_rewards(rewards) as built:
        assert built.score(items(["<think>a</think> b", "b"])).total.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("failure", ["zero", "skip", "stop"])
def test_failure_policy(failure):
    rewards = section(
        {"name": f"{ATTACKS}:raises"}, {"name": "format", "style": "boxed"}, reward_failure=failure, reward_workers=1
    )
    batch = items([r"\boxed{1}", r"bad \boxed{1}", "none"])
    with build_rewards(rewards) as built:
        if failure == "stop":
            with pytest.raises(UserError, match=r"row 'row1': reward 'raises' failed \(error\): KeyError: 'bad'"):
                built.score(batch)
            assert built.score(batch[:1]).total.tolist() == [2.0]
            return
        scores = built.score(batch)
    np.testing.assert_array_equal(scores.total, [2, 1 if failure == "zero" else np.nan, 1])
    assert [tuple(one) for one in scores.failures] == [("row1", "raises", "error", "KeyError: 'bad'")]
    assert scores.counts == {"raises/error": 1}


def test_a_failed_reward_without_weight_changes_no_total():
    rewards = section({"name": f"{ATTACKS}:raises", "weight": 0}, {"name": "format", "style": "boxed"},
                      reward_failure="skip", reward_workers=1)  # fmt: skip
    with build_rewards(rewards) as built:
        scores = built.score(items([r"bad \boxed{1}"]))
    assert scores.total.tolist() == [1.0] and np.isnan(scores.rewards["raises"][0])


def test_speed():
    """A batch of 512 short answers is scored in a fraction of a second; the limit allows for a busy machine."""
    rng = np.random.default_rng(0)
    golds = [str(rng.integers(500)) if i % 2 else rf"\frac{{{rng.integers(1, 9)}}}{{7}}" for i in range(64)]
    batch = items(
        [rf"so \boxed{{{golds[i // 8] if rng.random() < 0.5 else rng.integers(500)}}}" for i in range(512)],
        answer=[golds[i // 8] for i in range(512)],
    )
    with build_rewards(section({"name": "math"}, {"name": "format", "style": "boxed"})) as built:
        built.score(batch[:64])
        times = []
        for _ in range(3):
            start = time.perf_counter()
            scores = built.score(batch)
            times.append(time.perf_counter() - start)
    assert 0.3 < scores.rewards["math"].mean() < 0.7
    assert min(times) < 2.0, times


def test_read_rewards_keeps_what_the_config_says():
    (one,) = read_rewards(({"name": f"{ATTACKS}:spins", "weight": 2, "timeout_s": 9, "factor": 3},), 5.0)
    assert (one.label, one.weight, one.timeout_s, one.options, one.built_in) == (
        "spins",
        2.0,
        9.0,
        {"factor": 3},
        False,
    )
