"""What limits offline DPO on the task `exact`: how many pairs, how sure their labels, what they cover, how many updates.

    python benchmarks/studies/dpo_pairs.py run --out pairs.jsonl [--setting bradley_terry ..] [--pairs 500 0 ..] [--seeds 0 1]
    python benchmarks/studies/dpo_pairs.py figure pairs.jsonl --out docs/images/dpo-pairs.svg

Each setting changes one thing about the one before it:

- `bradley_terry`: completions of the reference, labels drawn with Bradley and Terry's probabilities, 500 steps;
- `more_updates`: the same with four times the steps;
- `soft`: as `bradley_terry`, the label is its own probability: what noise in the labels costs;
- `covered`: as `soft`, but every other completion comes from the optimum instead of the reference: what coverage costs.

A run has 500, 2,000, 8,000 or 32,000 pairs to draw its batches of 64 from, or fresh ones at every step. All have the same optimum:
that of the task (beta = kl_coef / tau), whose normalized score is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.dpo import train_on_pairs
from bakeoff.algos.preference_data.label_temperature import measure_temperature
from bakeoff.algos.preference_data.labels import Labels, label_pairs
from bakeoff.algos.preference_data.objective import PreferenceObjective
from bakeoff.algos.preference_data.pairs import TokenizedPairs
from bakeoff.envs.meter import Meter
from bakeoff.envs.tasks.base import Task, make_task
from bakeoff.seeding import torch_generator

SIZES: tuple[int | None, ...] = (500, 2_000, 8_000, 32_000, None)
"""None: fresh pairs at every step."""
BATCH, STEPS, POINTS = 64, 500, 10
MEASURED_ON = 4096
"""Pairs of the reference's answers that tau is measured on."""


@dataclass(frozen=True)
class Setting:
    """One curve."""

    text: str
    """How the figure calls it."""
    labels: Labels = "bradley_terry"
    """How pairs are judged."""
    covered: bool = False
    """Every other completion is drawn from the optimum."""
    steps: int = STEPS
    """Updates."""


SETTINGS = {
    "bradley_terry": Setting("drawn labels"),
    "more_updates": Setting("drawn labels, 4 x the updates", steps=4 * STEPS),
    "soft": Setting("soft labels", labels="soft"),
    "covered": Setting("soft labels, half of the answers from the optimum", labels="soft", covered=True),
}


def label_temperature(task: Task) -> float:
    """Tau by the rule of the algorithms' default, the same for all runs."""
    exact = task.enumeration
    assert exact is not None
    prompts, generator = torch.arange(MEASURED_ON) % len(exact.prompts), torch_generator(0, "temperature")
    first_B, second_B = (exact.sample_leaves(exact.reference_logprobs_QN, prompts, generator) for _ in range(2))
    found = measure_temperature(exact.rewards_QN[prompts, first_B], exact.rewards_QN[prompts, second_B])
    assert found is not None
    return found


def make_pairs(task: Task, setting: Setting, count: int, tau: float, generator: torch.Generator) -> TokenizedPairs:
    """Judged pairs on prompts in turn."""
    exact = task.enumeration
    assert exact is not None
    prompts = torch.arange(count) % len(exact.prompts)
    second = exact.optimal_logprobs_QN if setting.covered else exact.reference_logprobs_QN
    tables = (exact.reference_logprobs_QN, second)
    leaves_B2 = torch.stack([exact.sample_leaves(table, prompts, generator) for table in tables], 1)
    side_B, preference_B = label_pairs(exact.rewards_QN[prompts[:, None], leaves_B2], setting.labels, tau, generator)
    leaves_B2 = leaves_B2.gather(1, torch.stack([side_B, 1 - side_B], 1))  # chosen, rejected
    rewards_B2 = exact.rewards_QN[prompts[:, None], leaves_B2]
    return TokenizedPairs(
        exact.completions(prompts, leaves_B2[:, 0]),
        exact.completions(prompts, leaves_B2[:, 1]),
        exact.reference_logprobs_QN[prompts[:, None], leaves_B2].float(),
        preference_B,
        (rewards_B2[:, 0] - rewards_B2[:, 1]).float(),
    )


def one_run(task: Task, name: str, size: int | None, seed: int) -> dict[str, Any]:
    """Train once; the score along the way, every tenth of the steps."""
    setting, exact = SETTINGS[name], task.enumeration
    assert exact is not None
    config = AlgorithmConfig()
    policy = Policy(task.language_model, Meter(), config, torch_generator(seed, "policy"))
    optimizer = Optimizer(policy.parameters(), config, policy.model.width, planned_updates=setting.steps)
    tau = label_temperature(task)
    objective = PreferenceObjective(beta=task.kl_coef / tau)
    generator = torch_generator(seed, "pairs", name, str(size))
    start = time.perf_counter()
    kept = make_pairs(task, setting, setting.steps * BATCH if size is None else size, tau, generator)
    scores = []
    for step in range(setting.steps):
        fresh = torch.arange(step * BATCH, (step + 1) * BATCH)
        rows = fresh if size is None else torch.randint(len(kept), (BATCH,), generator=generator)
        batch = kept.select(rows)
        optimizer.start_update(step / setting.steps)
        train_on_pairs(policy, optimizer, batch, objective)
        if (step + 1) % (setting.steps // POINTS) == 0:
            scores.append(exact.objective(policy.sequence_logprobs(exact))["normalized_score"])
    seconds = time.perf_counter() - start
    return {"setting": name, "pairs": size, "seed": seed, "scores": scores, "seconds": round(seconds, 1)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The last score of each setting and size, mean over seeds and range, and the best on the way."""
    lines = ["| setting | pairs | seeds | last score | best on the way |", "|---|---|---|---|---|"]
    for name in SETTINGS:
        for size in SIZES:
            found = [r["scores"] for r in rows if r["setting"] == name and r["pairs"] == size]
            if found:
                last, best = [s[-1] for s in found], [max(s) for s in found]
                text = f"{statistics.mean(last):.3f} ({min(last):.3f} to {max(last):.3f})"
                pairs = "fresh" if size is None else f"{size:,}"
                lines.append(f"| {name} | {pairs} | {len(found)} | {text} | {statistics.mean(best):.3f} |")
    return "\n".join(lines)


def figure(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Last score against pairs, one line per setting, one dot per seed."""
    import matplotlib.pyplot as plt

    from bakeoff.reports.figures.style import styled

    colors = dict(zip(SETTINGS, ("#0072b2", "#56b4e9", "#d55e00", "#009e73"), strict=True))
    sizes = [size for size in SIZES if any(r["pairs"] == size for r in rows)]
    with styled():
        plot, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        for name in [name for name in SETTINGS if any(r["setting"] == name for r in rows)]:
            means = []
            for place, size in enumerate(sizes):
                last = [r["scores"][-1] for r in rows if r["setting"] == name and r["pairs"] == size]
                axes.plot([place] * len(last), last, "o", color=colors[name], markersize=3, alpha=0.6)
                means.append(statistics.mean(last) if last else float("nan"))
            axes.plot(range(len(sizes)), means, color=colors[name], label=SETTINGS[name].text)
        axes.axhline(1.0, color="#8a8a90", linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(sizes)), ["fresh" if size is None else f"{size:,}" for size in sizes])
        axes.set_xlabel("pairs to draw from")
        axes.set_ylabel("normalized score at the end (1: the optimum)")
        axes.legend(frameon=False, fontsize=8)
        plot.savefig(out, metadata={"Date": None})
        plt.close(plot)


def main() -> None:
    """Run settings, or draw the figure of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--setting", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    run.add_argument("--pairs", nargs="*", type=int, default=[size or 0 for size in SIZES], help="0 for fresh ones")
    run.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    draw = commands.add_parser("figure")
    draw.add_argument("runs", type=Path, nargs="+")
    draw.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "run":
        torch.set_num_threads(1)
        task = make_task("exact")
        with options.out.open("a", encoding="utf-8") as file:
            for name in options.setting:
                for size in options.pairs:
                    for seed in options.seeds:
                        print(json.dumps(one_run(task, name, size or None, seed)), file=file, flush=True)
        return
    rows = [json.loads(line) for path in options.runs for line in path.read_text(encoding="utf-8").splitlines()]
    figure(rows, options.out)
    print(table(rows))


if __name__ == "__main__":
    main()
