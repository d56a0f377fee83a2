"""Registers our environments with Gymnasium without importing it.

``import bakeoff`` promises that ``gymnasium.make`` knows our ids, and the command line promises to answer at once, which
importing Gymnasium (and NumPy with it) would break. So the ids are registered as soon as somebody imports Gymnasium:
at once where that has happened already, else right after it happens.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_when_imported() -> None:
    """Register now if Gymnasium is imported, else as soon as it is; doing it twice does no harm."""
    if "gymnasium" in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    from bakeoff.envs.text_generation.registration import register_environments

    register_environments()


class _Watcher(MetaPathFinder):
    """Waits for the import of Gymnasium, lets it happen as ever, and registers afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Gymnasium's own spec with our registration behind it; None for any other module."""
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
