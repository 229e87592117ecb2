"""``launch``: the files with which a scheduler runs a config."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from pivot_jax.cli import outputs
from pivot_jax.errors import UserError
from pivot_jax.launch.options import Options


def launch(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax import config as configs
    from pivot_jax import files

    if not args.out and not args.dry_run:
        raise UserError("--out: the folder for the files is missing; name it, or write --dry-run to see them only")
    config = configs.load(args.config, overrides)
    if args.out:
        outputs.folder(args.out, "--out")
        files.check_folder(Path(args.out), overwrite=True)
    from pivot_jax.launch.generate import generate

    given: dict[str, Any] = {}
    for field in fields(Options):
        value = getattr(args, field.name)
        given[field.name] = tuple(value) if isinstance(value, list) else value
    options = Options(**given)
    made = generate(config, options)
    if args.dry_run:
        for name, text in made.contents.items():
            print(f"#### {name}\n{text}")
        print(f"#### {made.summary}\n# would be submitted with:")
    else:
        for path in made.write(Path(args.out)):
            print(path)
        print(f"{made.summary}\n# submit it with:")
    for command in made.commands(args.out or "DIR"):
        print(command)
