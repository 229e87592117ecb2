"""One seed of the demo in its own process: ``python -m pivot_jax.study.worker ROOT SEED CONFIGS``."""

from __future__ import annotations

import sys
from pathlib import Path

from pivot_jax.errors import UserError

FAILED = "error: "  # prefix of the log line with the reason of a failure


def main(arguments: list[str]) -> int:
    root, seed, configs = arguments
    from pivot_jax.parallel import runtime

    runtime.keep_freed_memory()
    from pivot_jax.study.settings import Study
    from pivot_jax.study.tasks import perform
    from pivot_jax.train.signals import Interrupted

    try:
        perform(Study.open(Path(root), Path(configs)), int(seed))
    except UserError as error:
        print(f"{FAILED}{error}", flush=True)
        return 1
    except Interrupted as stop:
        return 128 + stop.signum
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
