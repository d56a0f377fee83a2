"""Run folders as the store writes them, with numbers that a test can predict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 2">',
    "</textarea></style></script><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %} <!-- ]]>",
    "<style>body { display: none }</style>",
    "\u202egnitirw desrever\u202c \u2066isolated\u2069 \u200b\ufeff\u061c",
    "null \x00 bell \x07 escape \x1b[31m delete \x7f next line \x85",
    "x" * 5000,
    "z\u0301\u0302\u0303\u0304" * 60 + " علي " + "日本語",
    "\ud800 lone surrogate",
    "```\nfence\n``` | pipe | `tick` [link](http://example.invalid/) <http://example.invalid/>",
    '=HYPERLINK("http://example.invalid/")',
)


def write_cell(
    run: Path,
    task: str,
    label: str,
    seed: int,
    *,
    final: Mapping[str, float],
    first: Mapping[str, float] | None = None,
    algorithm: str | None = None,
    data_source: str = "online",
    settings: Mapping[str, Any] | None = None,
    evaluations: int = 5,
    budget: int = 2000,
    status: str = "done",
    error: str | None = None,
    texts: Sequence[str] = ("a good film",),
    task_settings: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
    scores: tuple[Sequence[float], Sequence[float], Sequence[int]] | None = None,
) -> Path:
    """One cell whose metrics go in a straight line from ``first`` to ``final``; returns its folder.

    ``scores`` are proxy, KL and prompt of each stored text, at every evaluation.
    """
    folder = run / "cells" / task / label / f"seed-{seed}"
    folder.mkdir(parents=True)
    first = {**dict.fromkeys(final, 0.0), **(first or {})}
    config = {
        "schema": 2,
        "task": task,
        "task_settings": dict(task_settings or {}),
        "label": label,
        "algorithm": algorithm or label.partition("[")[0],
        "settings": dict(settings or {}),
        "seed": seed,
        "budget": {"reward_queries": budget},
        "data_source": data_source,
        "evaluate": dict(evaluate or {}),
        "notes": [],
    }
    _write_json(folder / "config.json", config)
    state = {"status": status, "error": error, "traceback": None, "attempts": 1, "seconds": 2.5 + seed}
    _write_json(folder / "status.json", state)
    rows, samples = [], []
    learns = data_source != "none"
    for step in range(evaluations if status in ("done", "running") else 1):
        share = step / (evaluations - 1)
        spent = round(share * budget) if learns else 0
        meters = {
            "generated_tokens": 20 * spent,
            "reward_queries": spent,
            "trained_tokens": 60 * spent,
            "seconds": spent / 100,
        }
        values = {name: (1 - share) * first[name] + share * final[name] for name in final} if learns else dict(final)
        rows.append({"step": step * 10, "phase": "eval", **meters, "metrics": values})
        if learns:
            rows.append({"step": step * 10, "phase": "train", **meters, "metrics": {"loss": 1.0 - share}})
        samples += [
            {
                "step": step * 10,
                "prompt": f"opening {index}",
                "prompt_index": index,
                "completion": f"{text} {label} {seed}" if len(text) < 100 else text,
                "proxy": values.get("proxy", 0.0) + 0.01 * index,
                "gold": None,
                "kl": values.get("kl", 0.0),
                "length": 7 + index,
                "win": 0.5,
                "reference_completion": "the reference text",
                **_tokens(f"{text} {label} {seed}" if len(text) < 100 else text, share if learns else None),
            }
            for index, text in enumerate(texts)
        ]
    if scores is not None:
        for number, sample in enumerate(samples):
            proxy, kl, prompt = (values[number % len(texts)] for values in scores)
            sample |= {
                "proxy": float(proxy),
                "kl": float(kl),
                "prompt_index": int(prompt),
                "prompt": f"opening {prompt}",
            }
    _write_lines(folder / "metrics.jsonl", rows)
    _write_lines(folder / "samples.jsonl", samples)
    return folder


def _tokens(completion: str, share: float | None) -> dict[str, Any]:
    """Pieces of three characters, an end token, and ratios that grow along the text; none where ``share`` is none."""
    pieces = [completion[at : at + 3] for at in range(0, len(completion), 3)][:256]
    ratios = None if share is None else [share * (index % 7 - 3) for index in range(len(pieces) + 1)]
    return {"tokens": [*pieces, "</s>"], "log_ratios": ratios}


def write_manifest(
    run: Path, *, suite: Mapping[str, Any], planned: Sequence[tuple[str, str, int]], tasks: Mapping[str, Any]
) -> None:
    """The manifest and one file per task."""
    manifest = {
        "schema": 2,
        "bakeoff": "0.1.0",
        "suite": dict(suite),
        "versions": {"torch": "2.13", "python": "3.11"},
        "git_commit": "0123abc",
        "machine": {"processor": "test", "cores": 2},
        "created": "2026-01-02T03:04:05+00:00",
        "command": "bakeoff run quick --out out",
        "cells": [
            {
                "task": task,
                "label": label,
                "algorithm": label.partition("[")[0],
                "seed": seed,
                "path": f"cells/{task}/{label}/seed-{seed}",
            }
            for task, label, seed in planned
        ],
    }
    run.mkdir(parents=True, exist_ok=True)
    _write_json(run / "manifest.json", manifest)
    for name, info in tasks.items():
        (run / "tasks").mkdir(exist_ok=True)
        _write_json(run / "tasks" / f"{name}.json", info)


def write_run(run: Path, *, seeds: int = 3, hostile: bool = True) -> Path:
    """Two tasks, four contestants; one cell failed, one never started, one was cut in mid-write."""
    labels = ("reference", "best_of_n", "ppo", "dpo")
    planned = [(task, label, seed) for task in ("exact", "reviews") for seed in range(seeds) for label in labels]
    frontier = [{"kl": kl, "reward": 1.1 * float(np.sqrt(kl))} for kl in np.linspace(0, 8, 30)]
    tasks = {
        "exact": {
            "kl_coef": 0.3,
            "max_new_tokens": 5,
            "proxy": "table",
            "gold": None,
            "model": "exact",
            "parameters": 26000,
            "j_reference": 0.0,
            "j_optimum": 1.78,
            "frontier": frontier,
        },
        "reviews": {
            "kl_coef": 0.05,
            "max_new_tokens": 24,
            "proxy": "vader",
            "gold": "human",
            "model": "reviews",
            "parameters": 1300000,
        },
    }
    suite = {
        "name": "quick",
        "description": "A first look.",
        "seeds": seeds,
        "algorithms": {"reference": {}, "best_of_n": {"n": 8}, "ppo": {}, "dpo": {}},
    }
    write_manifest(run, suite=suite, planned=planned, tasks=tasks)
    texts = HOSTILE if hostile else tuple(f"text {i}" for i in range(8))
    score = {"reference": 0.0, "best_of_n": 0.6, "ppo": 0.96, "dpo": 0.7}
    for task, label, seed in planned:
        if (task, label, seed) == ("reviews", "dpo", 2):
            continue  # never started
        noise = 0.01 * (seed - 1) if label in ("ppo", "dpo") else 0.0
        value = score[label] + noise
        kl = 4 * value + (0.5 if label == "dpo" else 0)
        final = {
            "proxy": 1.5 * value,
            "kl": kl,
            "kl_se": 0.01,
            "objective": 1.2 * value - 0.05 * kl,
            "win_rate": 0.5 + 0.4 * value,
            "entropy": 2 - value,
            "length": 8 + 4 * value,
            "distinct_1": 0.6,
            "distinct_2": 0.9 - 0.4 * value,
            "repetition": 0.1 * value,
        }
        first = {"win_rate": 0.5, "entropy": 2.0, "length": 8.0, "distinct_1": 0.6, "distinct_2": 0.9}
        if task == "exact":
            final |= {
                "exact_reward": 1.5 * value,
                "exact_kl": kl,
                "exact_objective": 1.78 * value,
                "normalized_score": value,
            }
        else:
            final |= {"gold": 0.4 - 0.3 * value}
            first |= {"gold": 0.4}
        if label == "best_of_n":
            final["queries_per_answer"] = 8.0
        failed = (task, label, seed) == ("exact", "dpo", 1)
        folder = write_cell(
            run,
            task,
            label,
            seed,
            final=final,
            first=first,
            texts=texts,
            data_source="online" if label in ("ppo", "dpo") else "none",
            status="failed" if failed else "done",
            error='RewardError: reward "<b>bold</b>" returned NaN' if failed else None,
        )
        if (task, label, seed) == ("reviews", "ppo", 0):
            with (folder / "metrics.jsonl").open("ab") as file:
                file.write(b'{"step": 99, "phase": "ev')  # killed in mid-write
    return run


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))
