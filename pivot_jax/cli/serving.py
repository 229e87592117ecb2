"""``serve``: an OpenAI-compatible endpoint over a model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def serve(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from pivot_jax.serve.model import open_served
    from pivot_jax.serve.server import TOKEN, Settings, listen
    from pivot_jax.serve.server import serve as answer
    from pivot_jax.train.source import run_config

    settings = Settings(
        host=args.host,
        port=args.port,
        token=args.token or os.environ.get(TOKEN, ""),
        slots=args.slots,
        queue=args.queue,
        body_mib=args.max_body_mib,
        image_pixels=args.max_image_pixels,
        tokens=args.max_tokens,
    )
    if args.workdir:
        run_config(Path(args.workdir))
        source = f"run:{args.workdir}" + (f"@{args.step}" if args.step is not None else "")
    else:
        source = args.weights
    with listen(settings) as listening:  # a port in use is an error before the weights are read
        return answer(open_served(source, name=args.model_name, tokenizer=args.tokenizer), settings, listening)
