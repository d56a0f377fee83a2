"""How much code one update runs through: distinct project files and functions, counted with ``sys.setprofile``.

    python benchmarks/studies/count_update.py [--list]

Counted are the second update of `ppo` and of `grpo` on the task `exact`, and one update of `dpo` on given pairs, from the call of
``update()`` to its return: every Python function of the package that is entered, lambdas and comprehensions included. Model code
of torch and transformers is not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import bakeoff
from bakeoff.algos.core.build import build
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import make_task

PACKAGE = [Path(bakeoff.__file__).parent, *(p.resolve() for p in Path(bakeoff.__file__).parent.iterdir() if p.is_dir())]


def trace(call: Callable[[], object]) -> set[CodeType]:
    """The package's functions that a call enters."""
    entered: set[CodeType] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            entered.add(frame.f_code)

    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {code for code in entered if any(Path(code.co_filename).resolve().is_relative_to(p) for p in PACKAGE)}


def main() -> None:
    """Print files and functions of each update."""
    torch.set_num_threads(1)
    task = make_task("exact")
    words = [text for text in task.prompts.train for text in text.split()][:3]
    pairs = [{"prompt": p, "chosen": words[0], "rejected": words[1]} for p in task.prompts.train[:8]]
    settings: dict[str, dict[str, Any]] = {"ppo": {}, "grpo": {}, "dpo": {"data": pairs, "gradient_steps": 1}}
    for name, own in settings.items():
        algorithm = build(name, own, task, Budget(reward_queries=10_000), seed=0)
        if name != "dpo":
            algorithm.update()
        functions = trace(algorithm.update)
        files = sorted({code.co_filename for code in functions})
        print(f"{name}: {len(files)} files, {len(functions)} functions")
        if "--list" in sys.argv:
            for file in files:
                inside = [code for code in functions if code.co_filename == file]
                named = ", ".join(code.co_qualname for code in sorted(inside, key=lambda code: code.co_firstlineno))
                print(f"  {file.rpartition('bakeoff/')[2]} ({len(inside)}): {named}")


if __name__ == "__main__":
    main()
