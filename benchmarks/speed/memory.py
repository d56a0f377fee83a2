"""What training a model takes at the peak, by which weights move: one process each, the most memory it ever held.

    python benchmarks/speed/memory.py [--model smollm2] [--updates 2] [--modes "full;lora;..."]

PPO with its default critic on 64 completions of 24 tokens, two minibatches, one epoch, CPU float32, unless
the name says otherwise. `loaded` is a process that has loaded the model and samples, nothing more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bakeoff.algos.core.build import build
from bakeoff.benchmarks.speed import models
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import PromptSet

MODES: dict[str, dict[str, Any]] = {
    "loaded": {},
    "full": {},
    "full, micro_batch_size 8": {"micro_batch_size": 8},
    "full, gradient_checkpointing": {"gradient_checkpointing": True},
    "lora": {"trainable": "lora"},
    "lora, micro_batch_size 8": {"trainable": "lora", "micro_batch_size": 8},
    "top_layers 2": {"trainable": "top_layers", "top_layers": 2},
    "top_layers 4": {"trainable": "top_layers", "top_layers": 4},
    "q_learning, top_layers 4": {
        "algorithm": "q_learning", "trainable": "top_layers", "top_layers": 4, "gradient_steps": 2, "train_batch_size": 64,
        "replay_group": 8, "micro_batch_size": 16,
    },
}  # fmt: skip


def length(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [len(text) / 100 for text in completions]


def one(model: str, folder: str, mode: str, updates: int) -> dict[str, float]:
    language_model = LanguageModel.load(folder)
    texts = models.prompts(model, 48 if model == "smollm2" else 64)
    task = Task("memory", language_model, PromptSet(tuple(dict.fromkeys(texts)), ("w9 w9",)), length, 24, 0.05)
    if mode == "loaded":
        prompts = language_model.pad(language_model.encode(texts[:8] * 8))
        update: Callable[[], object] = partial(language_model.sample, prompts, 24, torch.Generator())
        moving = 0
    else:
        settings = {"batch_size": 64, "algorithm": "ppo", **MODES[mode]}
        name = settings.pop("algorithm")
        if name == "ppo":
            settings["epochs"] = 1
        algorithm = build(name, settings, task, Budget(generated_tokens=10**9), 0)
        update, moving = algorithm.update, sum(p.numel() for p in algorithm.policy.parameters())
    seconds = []
    for _ in range(updates):
        start = time.process_time()
        update()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_bytes": peak, "moving": moving, "seconds": min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="smollm2")
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modes", default=None, help="names from the table, separated by semicolons")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one is not None:
        print(json.dumps(one(options.model, options.folder, options.one, options.updates)))
        return
    folder = tempfile.mkdtemp()  # reading a GGUF file takes more memory than training the top blocks
    models.load(options.model).save(folder)
    print("| | weights that move | peak memory, GB | CPU seconds per update |\n|---|---|---|---|")
    for mode in options.modes.split(";") if options.modes else MODES:
        command = [sys.executable, "-W", "ignore", __file__, "--folder", folder, "--one", mode]
        for name in ("model", "updates", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(run.stdout.strip().splitlines()[-1])
        print(f"| {mode} | {row['moving']:,} | {row['peak_bytes'] / 1e9:.2f} | {row['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
