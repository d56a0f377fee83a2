"""What an algorithm spends outside the meter is noted; one that plays fair never is."""

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Cache, DynamicCache

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.audit import WatchedReward, in_words
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.envs.language_model.cache_names import cache_argument, passes_cache
from bakeoff.envs.rewards.call import reward_name, score
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class Fair(Algorithm):
    """Plays 16 completions of 2 to 5 tokens per update."""

    data_source = DataSource.ONLINE

    def update(self) -> Mapping[str, float]:
        self.envs.reset()
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        return {"reward": float(self.envs.play(completions).rewards_B.mean())}


class AsksTheReward(Fair):
    def update(self) -> Mapping[str, float]:
        found = super().update()
        ids = [[1, 2, 3, 4, 5]] * 7
        self.envs.episode_config.reward(
            prompts=["a b"] * 7, completions=["x"] * 7, completion_ids=ids, prompt_index=[0] * 7
        )
        return found


class PlaysElsewhere(Fair):
    def update(self) -> Mapping[str, float]:
        rules = self.envs.episode_config
        other = TextGenerationVectorEnv(
            4, rules.language_model, [p.text for p in rules.prompts], rules.reward, max_new_tokens=5,
            autoreset_mode=self.envs.autoreset_mode, seed=0,
        )  # fmt: skip
        other.reset()
        other.play(self.policy.sample(other.prompt_batch, 5, self.rng))
        return super().update()


class SamplesMore(Fair):
    def update(self) -> Mapping[str, float]:
        self.envs.reset()
        for _ in range(3):
            self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        return super().update()


class Generates(Fair):
    """Goes past our sampler, with transformers' own loop."""

    def update(self) -> Mapping[str, float]:
        prompts = torch.ones(64, 2, dtype=torch.long)
        self.policy.model.module.generate(prompts, max_new_tokens=5, min_new_tokens=5, do_sample=True, pad_token_id=0)
        return super().update()


class FeedsCache(Fair):
    """Runs its own loop of forward passes; the cache is in ``call``."""

    call: Callable[[Any, torch.Tensor, Cache], Any]

    def update(self) -> Mapping[str, float]:
        module = self.policy.model.module
        cache = DynamicCache(config=module.config)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # an old name
            for width in (2, 1, 1, 1, 1):
                type(self).call(module, torch.ones(64, width, dtype=torch.long), cache)
        return super().update()


class FeedsByName(FeedsCache):
    """By the name that this transformers documents."""

    call = staticmethod(lambda module, tokens, cache: module(tokens, **{cache_argument(module.forward): cache}))


class FeedsByOldName(FeedsCache):
    """By the name before 5.24, which later versions still take."""

    call = staticmethod(lambda module, tokens, cache: module.base_model(tokens, past_key_values=cache))


class FeedsByPosition(FeedsCache):
    """By no name."""

    call = staticmethod(lambda module, tokens, cache: module.base_model(tokens, None, None, cache))


class SetsBack(Fair):
    def update(self) -> Mapping[str, float]:
        found = super().update()
        if self.envs.meter.reward_queries == 32:
            self.envs.meter.reward_queries = 8
        return found


class Pauses(Fair):
    def update(self) -> Mapping[str, float]:
        with self.envs.meter.pause():
            super().update()
        return super().update()


class BeforeItBegins(Fair):
    """Asks before its first update, and where it is asked how far it is."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.ask(5)

    def ask(self, count: int) -> None:
        with self.envs.meter.pause():
            ids = [[1, 2, 3, 4, 5]] * count
            rest = {"completion_ids": ids, "prompt_index": [0] * count}
            self.envs.episode_config.reward(prompts=["a b"] * count, completions=["x"] * count, **rest)

    @property
    def progress(self) -> float:
        self.ask(1)
        return 0.0


class AsksAsItAnswers(Fair):
    """Its contestant calls the reward four times per answer, and does not say so."""

    def contestant(self) -> Any:
        policy, reward = copy.copy(self.policy), self.envs.episode_config.reward

        def generate(envs: TextGenerationVectorEnv, generator: torch.Generator) -> Any:
            completions = self.policy.generate(envs, generator)
            count = 4 * len(completions)
            rest = {"completion_ids": [[1, 2, 3, 4, 5]] * count, "prompt_index": [0] * count}
            reward(prompts=["a b"] * count, completions=["x"] * count, **rest)
            return completions

        policy.generate = generate  # type: ignore[method-assign]
        return policy


class AsksAsItIsChosen(Fair):
    """Has ten answers of its own scored before each evaluation, to choose what answers."""

    def contestant(self) -> Any:
        rest = {"completion_ids": [[1, 2, 3, 4, 5]] * 10, "prompt_index": [0] * 10}
        self.envs.episode_config.reward(prompts=["a b"] * 10, completions=["x"] * 10, **rest)
        return self.policy


class AsksOnceAndKeepsIt(AsksAsItIsChosen):
    """The same, the first time that it is asked who answers."""

    chosen = None

    def contestant(self) -> Any:
        self.chosen = self.chosen or super().contestant()
        return self.chosen


class PlaysToChoose(Fair):
    """Plays one batch before each evaluation, as metered as any."""

    def contestant(self) -> Any:
        self.envs.reset()
        self.envs.play(self.policy.generate(self.envs, self.rng))
        return self.policy


def run(kind: type[Algorithm], folder: Path, cache: TaskCache, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    real = registry.Registry.load
    monkeypatch.setattr(registry.Registry, "load", lambda self, name: kind if name == "mine" else real(self, name))
    evaluate = {"every": {"reward_queries": 48}, "completions": 8, "samples": 1}
    cell = Cell("exact", "exact", {}, "mine", "mine", {"batch_size": 16}, 0, {"reward_queries": 48}, evaluate)
    run_cell(cell, folder, cache, **options)
    return atomic_files.read_json(folder / "config.json")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Fair, {}),
        (AsksTheReward, {"reward_queries": 21}),
        (PlaysElsewhere, {"reward_queries": 12}),
        (BeforeItBegins, {"reward_queries": 5 + 3}),  # three updates, each asked once how far it is; the last not
        (AsksAsItIsChosen, {"reward_queries": 20}),  # two evaluations
        (AsksOnceAndKeepsIt, {"reward_queries": 10}),
        (PlaysToChoose, {}),
        (SetsBack, {"lowered": 1}),
    ],
)
def test_what_is_found(
    kind: type[Algorithm], expected: Any, cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run(kind, tmp_path, cache, monkeypatch)
    found = config["outside_meter"]
    assert {name: found[name] for name in expected} == expected
    assert bool(found) == bool(expected)
    assert config["notes"] == ([in_words(found)] if found else [])


def test_what_an_answer_costs_is_counted(cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run(AsksAsItAnswers, tmp_path, cache, monkeypatch)
    assert config["outside_meter"] == {}
    rows = [row for row in atomic_files.read_rows(tmp_path / "metrics.jsonl") if row["phase"] == "eval"]
    assert {row["metrics"]["queries_per_answer"] for row in rows} == {4.0}


@pytest.mark.parametrize("kind", [SamplesMore, Generates, Pauses, FeedsByName, FeedsByOldName, FeedsByPosition])
def test_generation_that_is_never_played(
    kind: type[Algorithm], cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run(kind, tmp_path, cache, monkeypatch)
    assert config["outside_meter"]["generated_tokens"] > 0
    assert "tokens that it never played" in config["notes"][0]


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params", "something_newer"])
def test_a_cache_is_seen_under_any_name(name: str) -> None:
    assert passes_cache((torch.ones(1, 1),), {name: DynamicCache()})


def test_no_cache_is_seen_where_there_is_none() -> None:
    assert not passes_cache((torch.ones(1, 1), None), {"past_key_values": None, "cache": None, "use_cache": True})


def test_it_is_remembered_over_an_interruption(
    cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    while True:
        try:
            config = run(AsksTheReward, tmp_path, cache, monkeypatch, should_stop=lambda: True)
            break
        except Stopped:
            pass
    assert config["outside_meter"] == {"reward_queries": 21}


@pytest.mark.slow
def test_no_registered_algorithm_is_flagged(cache: TaskCache, tmp_path: Path) -> None:
    """What plays fair must never be accused: every algorithm, on a task whose completions end early and late."""
    for name in registry.algorithms.names():
        kind = registry.algorithms.load(name)
        settings = {"batch_size": 16, **kind.example_settings(cache.task("exact", {}))}
        evaluate = {"every": {"reward_queries": 64}, "completions": 8, "samples": 1}
        cell = Cell("exact", "exact", {}, name, name, settings, 0, {"reward_queries": 64}, evaluate)
        run_cell(cell, tmp_path / name, cache)
        assert atomic_files.read_json(tmp_path / name / "config.json")["outside_meter"] == {}, name


def test_a_watched_reward_is_the_reward_in_all_else() -> None:
    def polite(completions: list[str], prompt_index: list[int]) -> list[float]:
        return [float(len(text)) for text in completions]

    polite.table = 3  # type: ignore[attr-defined]
    watched = WatchedReward(polite)
    assert reward_name(watched) == "polite"
    assert watched.table == 3
    columns = {"prompt_index": [0, 1], "completion_ids": [[1], [2]], "other": [1, 2]}
    assert score(watched, "polite", ["a", "b"], ["x", "yy"], columns).tolist() == [1.0, 2.0]
    assert watched.scored == 2
    with pytest.raises(AttributeError):
        _ = watched.nothing
