"""``python -m pivot_jax.cli``: the same as ``pivot-jax``."""

import sys

from pivot_jax.cli.main import main

sys.exit(main())
