"""Pairs to learn from offline: given ones, or the reference's own completions, judged by the proxy in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt, model_validator

from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import check_groups
from bakeoff.algos.preference_data.given_pairs import encode_pairs
from bakeoff.algos.preference_data.labels import label_pairs
from bakeoff.algos.preference_data.objective import PreferenceConfig
from bakeoff.algos.preference_data.pairs import PairMemory, Pairs
from bakeoff.envs.preferences.load import load_pairs
from bakeoff.envs.text_generation.prompt_order import PromptOrder
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError


class OfflinePreferenceConfig(PreferenceConfig):
    """Settings of the algorithms that learn from pairs that they did not choose."""

    data: Path | tuple[dict[str, Any], ...] | None = None
    """Pairs: a file that `bakeoff train-reward` reads too (`.jsonl` of `prompt`, `chosen`, `rejected`), or a list of such objects.
    Where none are given, the reference makes them and the proxy judges: two reward queries a pair, metered as ever."""
    pairs: PositiveInt | None = None
    """Without `data`: how many pairs to make before learning begins; it then passes over them `epochs` times. Where none is given,
    each update makes `batch_size` / 2 more and learns from all there are, until the budget ends."""
    epochs: PositiveInt = 3
    """With `data` or `pairs`: passes over them; then it has finished."""
    capacity: PositiveInt = 65_536
    """Without `data` or `pairs`: how many to remember."""
    train_batch_size: PositiveInt = 64
    """Pairs a step, drawn from those there are."""
    gradient_steps: PositiveInt = 4
    """Steps an update."""
    max_completion_tokens: PositiveInt | None = None
    """With `data`: where completions are cut; they have no end-of-sequence token then, as in the environment. The task's
    max_new_tokens where none is given."""

    @model_validator(mode="after")
    def _data_are_given_or_made(self) -> OfflinePreferenceConfig:
        if self.data is not None and self.pairs is not None:
            raise ValueError('"pairs" says how many to make, and "data" gives them; leave one of them out')
        if self.max_completion_tokens is not None and self.data is None:
            raise ValueError('"max_completion_tokens" belongs to "data", and there are none')
        return self


class PreferenceData:
    """The pairs at hand: all from the start, or more at each update."""

    def __init__(
        self,
        algorithm: str,
        config: OfflinePreferenceConfig,
        policy: Policy,
        envs: TextGenerationVectorEnv,
        generator: torch.Generator,
    ) -> None:
        """Args:
        algorithm: its name, for messages.
        config: says where pairs come from.
        policy: its reference makes them, and judges given ones.
        envs: where the reference plays.
        generator: seeds the order of passes.

        Raises:
            ConfigError: pairs that cannot be used, or that the budget cannot pay for.
        """
        self._config, self._policy, self._envs = config, policy, envs
        self.seen = 0
        """Pairs learned from, each as often as it was."""
        self.notes: dict[str, float] = {}
        self.memory = PairMemory(config.capacity if self.grows else None)
        if config.data is not None:
            given = load_pairs(config.data)
            limit = envs.max_new_tokens if config.max_completion_tokens is None else config.max_completion_tokens
            chosen, rejected, self.notes = encode_pairs(policy.reference, given, limit)
            margins = [float("nan") if pair.margin is None else float(pair.margin) for pair in given]
            self.memory.add(Pairs.of(policy, chosen, rejected, reward_margin_B=torch.tensor(margins)))
        else:
            check_groups(algorithm, config.batch_size, "a pair's", 2)
        self._check_budget(algorithm)
        size = len(self.memory) if config.pairs is None else config.pairs
        seed = int(torch.randint(2**62, (1,), generator=generator))
        self.order = None if self.grows else PromptOrder(size, seed)

    @property
    def grows(self) -> bool:
        """Pairs are made at every update, until the budget ends."""
        return self._config.data is None and self._config.pairs is None

    def collect(self, generator: torch.Generator) -> dict[str, float]:
        """Make what pairs this update has to make; returns figures of them, and of the data."""
        config, made = self._config, []
        if self.grows:
            made = [self.make(generator)]
        elif config.pairs is not None:
            while len(self.memory) < config.pairs:
                made.append(self.make(generator, config.pairs - len(self.memory)))
        figures = {name: sum(part[name] for part in made) / len(made) for name in (made[0] if made else ())}
        passes = {} if self.grows else {"epoch": self.seen / len(self.memory)}
        return {**figures, **self.notes, **passes, "data_size": float(len(self.memory))}

    def make(self, generator: torch.Generator, most: int | None = None) -> dict[str, float]:
        """Two completions of the reference for each of a batch of prompts, the better one chosen by the proxy."""
        envs, reference = self._envs, self._policy.reference
        envs.reset(options={"group_size": 2})
        completions = reference.sample(envs.prompt_batch, envs.max_new_tokens, generator)
        rewards_B = envs.play(completions).rewards_B
        rewards_K2 = rewards_B.cpu().reshape(-1, 2)
        side_K, preference_K = label_pairs(rewards_K2, self._config.labels, self._config.label_temperature, generator)
        rows_K = torch.arange(len(rewards_K2))
        chosen_K, rejected_K = 2 * rows_K + side_K, 2 * rows_K + 1 - side_K
        known_K2 = None  # the reference has just said how likely its own answers are
        if completions.logprobs_BT is not None:
            known_K2 = completions.logprobs_BT.sum(1).cpu()[torch.stack([chosen_K, rejected_K], 1)]
        pairs = Pairs.of(
            self._policy,
            completions.select(chosen_K),
            completions.select(rejected_K),
            preference_B=preference_K,
            reward_margin_B=rewards_K2[rows_K, side_K] - rewards_K2[rows_K, 1 - side_K],
            reference_logps_B2=known_K2,
        )
        self.memory.add(pairs if most is None else pairs.select(rows_K[:most]))
        return {
            "reward": float(rewards_B.mean()),
            "length": float(completions.lengths_B.float().mean()),
            "label_accuracy": float((pairs.reward_margin_B > 0).float().mean()),
        }

    def draw(self, generator: torch.Generator) -> Pairs:
        """The next batch: in passes over the pairs, or any of those there are while they grow."""
        size = min(self._config.train_batch_size, len(self.memory))
        if self.order is None:
            rows = self.memory.draw(size, generator)
        else:
            rows = torch.from_numpy(self.order.draw(min(size, self.total - self.seen)))
        self.seen += len(rows)
        return self.memory.pairs.select(rows)

    @property
    def total(self) -> int:
        """Pairs it will have learned from at the end of its passes."""
        return self._config.epochs * len(self.memory)

    @property
    def progress(self) -> float:
        """From 0 to 1: of the passes, or of the budget, whichever ends sooner."""
        done = 0.0 if self.grows or not len(self.memory) else self.seen / self.total
        return min(1.0, max(done, self._envs.progress if self.grows or self._config.data is not None else 0.0))

    @property
    def finished(self) -> bool:
        """After the last pass."""
        return not self.grows and len(self.memory) > 0 and self.seen >= self.total

    def state_dict(self) -> dict[str, Any]:
        """The pairs, the order of passes, and how far they are."""
        order = {} if self.order is None else self.order.state_dict()
        return {"memory": self.memory.state_dict(), "seen": self.seen, "order": order}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.memory.load_state_dict(state["memory"])
        self.seen = int(state["seen"])
        if self.order is not None:
            self.order.load_state_dict(state["order"])

    def _check_budget(self, algorithm: str) -> None:
        pairs, budget = self._config.pairs, self._envs.budget
        limit = None if budget is None else budget.reward_queries
        if pairs is not None and limit is not None and limit <= 2 * pairs:
            raise ConfigError(
                algorithm,
                [
                    f"pairs {pairs} cost {2 * pairs} reward queries, and the budget of {limit} ends there, before learning begins; "
                    "lower pairs, or raise the budget"
                ],
            )
