"""Packages that can be called, for the public API: ``pj.train(config, workdir)`` besides ``pivot_jax.train.run``."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call is one of its functions, imported at the first call."""

    _called: tuple[str, str]  # module and function

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function, for ``inspect.signature`` and the help of notebooks."""
        module, function = self._called
        return inspect.signature(getattr(import_module(module), function))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, function = self._called
        return getattr(import_module(module), function)(*args, **kwargs)


def make_callable(package: str, module: str, function: str) -> None:
    """Makes ``package(...)`` call ``module.function``."""
    found = sys.modules[package]
    found.__class__ = CallablePackage
    found._called = (module, function)  # type: ignore[attr-defined]
