"""The arguments of ``serve``."""

from __future__ import annotations

import argparse

from pivot_jax.cli import serving
from pivot_jax.cli.options import command, count, positive, step, tokens, whole

MOST_PORT = (1 << 16) - 1


def add(subparsers) -> None:
    parser = command(
        subparsers, "serve", serving.serve,
        "answer requests in OpenAI's form over HTTP: chat with images, completions, log-probs, streaming",
        "lmms-eval, VLMEvalKit, lm-eval and the openai client take its address as their base URL (docs/serve.md).\n"
        "Needs FastAPI and uvicorn: pip install 'pivot-jax[serve]'.",
    )  # fmt: skip
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", metavar="DIR", default="", help="the run")
    model.add_argument(
        "--weights", metavar="SOURCE", default="", help="any model: run:DIR[@STEP], hf:DIR, hf:ORG/NAME or pack:DIR"
    )
    step(parser)
    parser.add_argument("--tokenizer", metavar="DIR", default="", help="folder of the tokenizer of a pack:DIR")
    parser.add_argument(
        "--model-name", metavar="NAME", default="", help="the model's name in requests (default: DIR's)"
    )
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="default 127.0.0.1: this machine only")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default 8000; 0: any free one")
    parser.add_argument(
        "--token", metavar="TEXT", default="",
        help="bearer token that requests have to show; better in $PIVOT_SERVE_TOKEN, where no process list shows it",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=positive, default=16, metavar="N", help="responses that are decoded together (default 16)"
    )
    parser.add_argument(
        "--queue", type=count, default=256, metavar="N", help="requests that wait beyond these (default 256)"
    )
    parser.add_argument(
        "--max-tokens", type=tokens, default=4096, metavar="N",
        help="largest max_tokens of a request, and a chat's default (default 4096)",
    )  # fmt: skip
    parser.add_argument("--max-body-mib", type=positive, default=64, metavar="N", help="of a request (default 64)")
    parser.add_argument(
        "--max-image-pixels", type=positive, default=1 << 26, metavar="N", help="of an image (default 67,108,864)"
    )


def _port(text: str) -> int:
    try:
        return whole(text, 0, MOST_PORT)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} (a port)") from None
