"""What a reward made of parts leaves in the store."""

import dataclasses

import pytest

from bakeoff.algos.core.build import build
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.envs.meter import Budget
from bakeoff.envs.rewards.composed import penalize_length


def test_parts_stand_beside_the_proxy(cache: TaskCache) -> None:
    exact = cache.task("exact", {})
    task = dataclasses.replace(exact, reward=penalize_length(exact.reward, price=0.1), enumeration=None)
    contestant = build("reference", {}, task, Budget(reward_queries=10), 0).contestant()
    found = Evaluator(task, 16, 3, 1, 2).evaluate(contestant)
    (own,) = {name for name in found.metrics if name.startswith("proxy/")} - {"proxy/length_penalty"}
    assert found.metrics["proxy/length_penalty"] == pytest.approx(-0.1 * found.metrics["length"])
    assert found.metrics["proxy"] == pytest.approx(found.metrics[own] + found.metrics["proxy/length_penalty"], abs=1e-6)
    for sample in found.samples:
        assert sample["proxy"] == pytest.approx(sum(sample["proxy_parts"].values()), abs=1e-6)
        assert sample["proxy_parts"]["length_penalty"] == pytest.approx(-0.1 * sample["length"])
