"""The evaluation scheme of online RL on anybody's logs: accuracy, response length, reflection, over steps and seeds.

MAYE (arXiv 2504.02587) §4 proposes it; what is computed otherwise than in the paper says so. ``read_arms`` reads logs
of this project, TRL, verl, EasyR1 and VLM-R1, and rows with columns of your own, by ``Settings`` (with ``LogSettings``
and ``Scoring``). ``summary``, ``differences``, ``curves`` and ``association`` are what ``pivot-jax scheme`` reports.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "association": ("associations", "association"),
    "curves": ("arms", "curves"),
    "differences": ("arms", "differences"),
    "LogSettings": ("logs", "LogSettings"),
    "read_arms": ("reading", "read_arms"),
    "Scoring": ("responses", "Scoring"),
    "Settings": ("reading", "Settings"),
    "summary": ("arms", "summary"),
}


def __getattr__(name: str) -> Any:  # imported on first use, so that `import pivot_jax` stays fast
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
