"""Packages that can be called, for the public API: ``pj.train(config, workdir)`` besides ``pivot_jax.train.run``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call is one of its functions, imported at the first call."""

    _called: tuple[str, str]  # module and function

    @property
    def _function(self) -> Callable[..., Any]:
        module, name = self._called
        return getattr(import_module(module), name)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function, for ``inspect.signature`` and the help of notebooks."""
        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """The function's signature and docstring, then the package's own, for ``help``."""
        name = self.__name__.rpartition(".")[2]
        own = self.__dict__.get("__doc__") or ""
        return f"{name}{self.__signature__}\n\n{inspect.getdoc(self._function)}\n\n{own}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def make_callable(package: str, module: str, function: str) -> None:
    """Makes ``package(...)`` call ``module.function``."""
    found = sys.modules[package]
    found.__class__ = CallablePackage
    found._called = (module, function)  # type: ignore[attr-defined]
