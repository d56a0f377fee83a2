"""DPO here and in TRL, step by step in turn in one run: same model, pairs, batch and optimizer.

    python benchmarks/speed/vs_trl_dpo.py --model tiny|smollm2 [--batch 16] [--steps 4] [--precomputed]

Needs ``pip install trl==1.16.0``. Both take Adam steps down the mean of -log sigmoid(beta h) over the same batches of pairs of
8 to 32 tokens per answer. TRL computes the reference's log-probabilities at every step unless ``--precomputed`` is given;
here they are computed once, when the pairs are read, and the time for that is printed apart. Its gradient checkpointing is off.
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from bakeoff.algos.core.build import build
from bakeoff.algos.dpo import DPO
from bakeoff.benchmarks.speed import models
from bakeoff.benchmarks.speed.paired import Timing, report
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import PromptSet

TOKENS, BETA, RATE = 40, 0.1, 1e-6
SENTENCE = "the old food of our great room was cold and a very good view from some place on the table in that window"


def make_pairs(name: str, count: int) -> list[dict[str, str]]:
    """Pairs whose sides have 8 to 32 words each, drawn with a fixed seed."""
    draw = random.Random(0)
    words = SENTENCE.split() if name == "smollm2" else [f"w{i}" for i in range(2, 500)]

    def side() -> str:
        return " " + " ".join(draw.choice(words) for _ in range(draw.randint(8, 32)))

    return [{"prompt": text, "chosen": side(), "rejected": side()} for text in models.prompts(name, count)]


def nothing(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Never called: the pairs are given."""
    return [0.0] * len(completions)


def ours(model: LanguageModel, rows: Sequence[Mapping[str, str]], options: argparse.Namespace) -> DPO:
    prompts = PromptSet(("w2 w3",), ("w9 w9",))
    task = Task("speed", model, prompts, nothing, TOKENS, BETA)
    settings = {
        "data": list(rows), "train_batch_size": options.batch, "gradient_steps": 1, "epochs": 10**6, "beta": BETA,
        "learning_rate": RATE, "learning_rate_schedule": "constant", "warmup_steps": 0,
    }  # fmt: skip
    algorithm = build(DPO, settings, task, Budget(generated_tokens=10**9), 0)
    assert isinstance(algorithm, DPO)
    return algorithm


def theirs(model: LanguageModel, rows: Sequence[Mapping[str, str]], options: argparse.Namespace) -> Any:
    trl: Any = importlib.import_module("trl")
    config = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.batch, gradient_accumulation_steps=1,
        max_length=None, beta=BETA, loss_type="sigmoid", precompute_ref_log_probs=options.precomputed,
        learning_rate=RATE, lr_scheduler_type="constant", adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.0,
        max_grad_norm=1.0, max_steps=options.steps + 1, seed=0, gradient_checkpointing=False, bf16=False, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    folder = tempfile.mkdtemp()
    model.save(folder)
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False) for _ in range(2)
    )
    data = importlib.import_module("datasets").Dataset.from_list([dict(row) for row in rows])
    return trl.DPOTrainer(
        model=policy, ref_model=reference, args=config, train_dataset=data, processing_class=model.tokenizer
    )


def side_by_side(options: argparse.Namespace) -> None:
    model = models.load(options.model)
    rows = make_pairs(options.model, options.batch * (options.steps + 1))
    start = time.perf_counter()
    algorithm = ours(model, rows, options)
    once = time.perf_counter() - start
    walls: dict[str, list[float]] = {"TRL": [], "ours": []}
    cpus: dict[str, list[float]] = {"TRL": [], "ours": []}

    def note(name: str, start: tuple[float, float]) -> None:
        walls[name].append(time.perf_counter() - start[0])
        cpus[name].append(time.process_time() - start[1])

    class Turns(TrainerCallback):
        start = (0.0, 0.0)

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = (time.perf_counter(), time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            note("TRL", self.start)
            start = (time.perf_counter(), time.process_time())
            algorithm.update()
            note("ours", start)
            self.start = (time.perf_counter(), time.process_time())

    trainer = theirs(model, rows, options)
    trainer.add_callback(Turns())
    trainer.train()
    timings = {name: Timing(tuple(walls[name][1:]), tuple(cpus[name][1:])) for name in walls}  # the first warms up
    lengths = algorithm.data.buffer.pairs.lengths_B2.float()
    how = "TRL's reference precomputed" if options.precomputed else "TRL's reference at each step"
    print(
        report(
            f"DPO, {options.batch} pairs, {lengths.mean():.0f} tokens per side, {model.name}, {how}", timings, "ours"
        )
    )
    for name, timing in timings.items():
        print(f"{name}: {options.batch / statistics.median(timing.wall):.2f} pairs/s")
    print(f"reading {len(rows)} pairs and the reference's log-probabilities, once: {once:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precomputed", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    side_by_side(options)


if __name__ == "__main__":
    main()
