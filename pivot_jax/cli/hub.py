"""``import-hf`` and ``export-hf``: Hugging Face folders."""

from __future__ import annotations

import argparse

from pivot_jax.cli import outputs

Overrides = dict[str, str]


def import_hf(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.train.hub_import import import_folder

    out = outputs.folder(args.workdir, "--workdir")
    found = import_folder(
        args.folder, out, adapter=args.adapter,
        chat_template=args.chat_template, allow_non_finite=args.allow_non_finite,
    )  # fmt: skip
    use = f"use it with --workdir, or as run:{out} in init" if found.kind == "run" else f"use it as pack:{out} in init"
    print(f"{out}: a {found.kind} of {found.summary}; {use}")


def export_hf(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.train.hub_export import export

    out = outputs.folder(args.out, "--out")
    export(
        args.workdir, out, part=args.what, step=args.step, dtype=args.dtype,
        drop_last=args.drop_last, overwrite=args.overwrite,
    )  # fmt: skip
    print(f"{args.out}: {args.what} of {args.workdir}, for {'peft' if args.what == 'adapter' else 'transformers'}")
