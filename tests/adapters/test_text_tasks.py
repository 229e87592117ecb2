"""Messages of ``pivot-jax text --tasks`` that need no lm-eval; what it computes is in tests/adapters."""

from __future__ import annotations

import sys

import pytest

from pivot_jax import adapters
from pivot_jax.adapters.text_tasks import text_tasks
from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError


def test_without_lm_eval_the_message_says_what_to_install(monkeypatch):
    for name in ("lm_eval", "lm_eval_tasks"):
        monkeypatch.delattr(adapters, name, raising=False)
        monkeypatch.delitem(sys.modules, f"pivot_jax.adapters.{name}", raising=False)
    for name in [one for one in sys.modules if one.startswith("lm_eval.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"lm-eval is not installed; pip install 'pivot-jax\[lm-eval\]'"):
        text_tasks("hf:nothing", ["mmlu"])


@pytest.mark.parametrize(
    "option", [["--limit", "3"], ["--few-shot", "1"], ["--chat-template"], ["--include-path", "."]]
)
def test_options_of_tasks_alone(capsys, option):
    assert cli.main(["text", "hf:nothing", *option]) == 1
    assert f"{option[0]}: only with --tasks" in capsys.readouterr().err
