"""GRPO here and in TRL, step by step in turn in one run: same model, prompts, reward, batch, groups and number of updates.

    python benchmarks/speed/vs_trl_grpo.py --model tiny|smollm2|small [--epochs 1] [--trainable full] [--steps 4] [--beta 0.04]
    python benchmarks/speed/vs_trl_grpo.py --model small --curve [--steps 30] [--seeds 3]

Needs ``pip install trl==1.16.0``. Both have the KL in the loss, k3 times the ratio (TRL's default), on 64 completions of
24 tokens in groups of 4. TRL's gradient checkpointing, on by default, is switched off: it would only make it slower. `--curve`
trains both to the end and prints reward against steps, so that one sees that speed was not bought with another algorithm; it
asks for a small vocabulary.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.benchmarks.speed import models
from bakeoff.benchmarks.speed.paired import Timing, report
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import PromptSet

BATCH, TOKENS, GROUP = 64, 24, 4


def even(prompts: list[str], completions: Any, **columns: Any) -> list[float]:
    """A reward that costs nothing and can be learned: the share of even token ids."""
    rows: Sequence[Sequence[int]] = columns["completion_ids"]
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in rows]


def ours(model: LanguageModel, texts: Sequence[str], options: argparse.Namespace, seed: int) -> Algorithm:
    task = Task("speed", model, PromptSet(tuple(texts), ("w9 w9",)), even, max_new_tokens=TOKENS, kl_coef=options.beta)
    settings: dict[str, Any] = {
        "batch_size": BATCH, "group_size": GROUP, "epochs": options.epochs, "minibatches": 1, "kl_placement": "k3_ratio_loss",
        "learning_rate": options.rate, "learning_rate_schedule": "constant", "warmup_steps": 0,
    }  # fmt: skip
    if options.trainable != "full":
        settings["trainable"] = options.trainable
    if options.trainable == "top_layers":
        settings["top_layers"] = options.top_layers
    return build("grpo", settings, task, Budget(generated_tokens=10**9), seed)


def theirs(model: LanguageModel, texts: Sequence[str], options: argparse.Namespace, seed: int, steps: int) -> Any:
    trl: Any = importlib.import_module("trl")
    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, gradient_accumulation_steps=1,
        num_generations=GROUP, max_completion_length=TOKENS, num_iterations=options.epochs, beta=options.beta,
        loss_type="grpo", scale_rewards="group", epsilon=0.2, learning_rate=options.rate, lr_scheduler_type="constant",
        adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.0, max_grad_norm=1.0, max_steps=steps * options.epochs, seed=seed,
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1,
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = importlib.import_module("datasets").Dataset.from_list([{"prompt": text} for text in texts])
    folder = tempfile.mkdtemp()  # TRL loads its reference by name
    model.save(folder)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    return trl.GRPOTrainer(
        model=module, reward_funcs=even, args=config, train_dataset=rows, processing_class=model.tokenizer
    )


def side_by_side(options: argparse.Namespace) -> None:
    model = models.load(options.model)
    texts = models.prompts(options.model, 4 * BATCH)
    algorithm = ours(model, texts, options, 0)
    walls: dict[str, list[float]] = {"TRL": [], "ours": []}
    cpus: dict[str, list[float]] = {"TRL": [], "ours": []}

    def note(name: str, start: tuple[float, float]) -> None:
        walls[name].append(time.perf_counter() - start[0])
        cpus[name].append(time.process_time() - start[1])

    class Turns(TrainerCallback):
        start = (0.0, 0.0)

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = (time.perf_counter(), time.process_time())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % options.epochs:
                return
            note("TRL", self.start)
            start = (time.perf_counter(), time.process_time())
            algorithm.update()
            note("ours", start)
            self.start = (time.perf_counter(), time.process_time())

    trainer = theirs(model, texts, options, 0, options.steps + 1)
    trainer.add_callback(Turns())
    trainer.train()
    timings = {name: Timing(tuple(walls[name][1:]), tuple(cpus[name][1:])) for name in walls}  # the first warms up
    what = options.trainable if options.trainable != "top_layers" else f"top_layers {options.top_layers}"
    title = (
        f"GRPO, {BATCH} x {TOKENS} tokens, {options.epochs} epoch(s), beta {options.beta}, {model.name}, ours: {what}"
    )
    print(report(title, timings, "ours"))
    for name, timing in timings.items():
        print(f"{name}: {BATCH * TOKENS / statistics.median(timing.wall):.0f} tokens/s")
    if options.verbose:
        print(walls, cpus)


def curve(options: argparse.Namespace) -> None:
    model = models.load(options.model)
    texts = models.prompts(options.model, 4 * BATCH)
    rows: dict[str, list[list[float]]] = {"TRL": [], "ours": []}
    for seed in range(options.seeds):
        trainer = theirs(model, texts, options, seed, options.steps)
        trainer.train()
        history = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
        rows["TRL"].append(history[:: options.epochs])
        algorithm = ours(model, texts, options, seed)
        rows["ours"].append([algorithm.update()["reward"] for _ in range(options.steps)])
    print(
        f"reward against steps, mean of {options.seeds} seeds (standard deviation), {model.name}, rate {options.rate}\n"
    )
    print("| step | TRL | ours |\n|---|---|---|")
    for step in sorted({*range(0, options.steps, max(1, options.steps // 6)), options.steps - 1}):
        cells = []
        for name in ("TRL", "ours"):
            values = [run[step] for run in rows[name]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ({spread:.3f})")
        print(f"| {step + 1} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="tiny")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--beta", type=float, default=0.04)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--trainable", choices=("full", "lora", "top_layers"), default="full")
    parser.add_argument("--top-layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    curve(options) if options.curve else side_by_side(options)


if __name__ == "__main__":
    main()
