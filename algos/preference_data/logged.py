"""Completions with rewards to learn from offline: the reference's own, or logged ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.replay_buffer import ReplayBuffer
from bakeoff.algos.core.rollout import Rollout
from bakeoff.algos.losses.rounding import scores_from
from bakeoff.algos.preference_data.encoding import encode_demonstrations, read_demonstrations
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError

REWARD_KEYS = ("reward", "proxy")


class OfflineConfig(AlgorithmConfig):
    """Settings of the algorithms that learn from given completions."""

    data: Path | tuple[dict[str, Any], ...] | None = None
    """A `.jsonl` file (another cell's samples.jsonl, say) or a list of objects with `prompt`, `completion` and `reward` (or
    `proxy`). Default: each update samples `batch_size` completions of the reference and scores them."""
    updates: PositiveInt = 300
    """With `data`: updates until it has finished. Without, the budget ends it."""
    replay_capacity: PositiveInt = 65_536
    """Completions that the replay buffer keeps; with `data` all of them."""
    train_batch_size: PositiveInt = 256
    """Completions per gradient step, drawn from those."""
    gradient_steps: PositiveInt = 8
    """Gradient steps per update."""
    decoding_beta: float | None = Field(default=None, ge=0)
    """How strongly answers follow what was learned: reference logits + this * (Q - V), in nats per unit of reward. Default:
    1 / kl_coef. It can be changed after training (`decoded`)."""


class LoggedCompletions:
    """The completions at hand: all from the start, or more of the reference's at each update."""

    def __init__(
        self, config: OfflineConfig, policy: Policy, envs: TextGenerationVectorEnv, *, discounted: bool = False
    ) -> None:
        """Args:
        config: says where they come from.
        policy: its reference samples, encodes, and judges what others have sampled.
        envs: where the reference generates completions.
        discounted: the algorithm discounts, so that a constant in the scores matters; without a discount they are counted from the
            mean of the data, or of the first batch, and values need not learn a number that says nothing.

        Raises:
            ConfigError: logged data that cannot be used: file, line and reason.
        """
        self._config, self._policy, self._envs = config, policy, envs
        self.replay = ReplayBuffer(config.replay_capacity)
        self.updates = 0
        self.origin: float | None = 0.0 if discounted else None
        """What scores are counted from; None before the first batch."""
        if config.data is not None:
            completions, scores_B = read_logged(config.data, policy.reference, envs.max_new_tokens)
            # The sampling policy is unknown, and not needed here.
            reference_BT = policy.reference_logprobs(completions).cpu()
            self.replay = ReplayBuffer(len(completions))
            self.replay.add(Rollout(completions, self._counted(scores_B), reference_BT, reference_BT))

    def grow(self, generator: torch.Generator) -> dict[str, float]:
        """Play a batch of the reference's completions, unless the data were given; returns their metrics."""
        self.updates += 1
        if self._config.data is not None:
            return {"data_size": float(len(self.replay))}
        envs, reference = self._envs, self._policy.reference
        envs.begin_batch()
        completions = reference.sample(envs.prompt_batch, envs.max_new_tokens, generator)
        scores_B, logprobs_BT = envs.play(completions).rewards_B, self._policy.reference_logprobs(completions)
        self.replay.add(Rollout(completions, self._counted(scores_B), logprobs_BT, logprobs_BT))
        return {
            "reward": float(scores_B.mean()),
            "length": float(completions.lengths_B.float().mean()),
            "data_size": float(len(self.replay)),
        }

    def _counted(self, scores_B: Tensor) -> Tensor:
        if self.origin is None:
            self.origin = float(scores_B.double().mean())
        return scores_from(self.origin, scores_B)

    def draw(self, generator: torch.Generator) -> Rollout:
        """A batch to learn from; its scores are counted from :attr:`origin`."""
        rows = self.replay.sample(self._config.train_batch_size, generator)
        return self.replay.batch(rows, self._policy.model.device)

    @property
    def queries_needed(self) -> int:
        """Reward queries with which it can still grow: one, or none where the data were given."""
        return 1 if self._config.data is None else 0

    @property
    def planned_updates(self) -> int | None:
        """Updates with given data, or as many as the budget allows."""
        return self._envs.planned_updates if self._config.data is None else self._config.updates

    @property
    def progress(self) -> float:
        """From 0 to 1: of the updates with given data, or of the budget, whichever ends sooner."""
        done = 0.0 if self._config.data is None else self.updates / self._config.updates
        return min(1.0, max(done, self._envs.progress))

    @property
    def finished(self) -> bool:
        """After the last update with given data."""
        return self._config.data is not None and self.updates >= self._config.updates

    def state_dict(self) -> dict[str, Any]:
        """The completions and how often they were learned from."""
        return {"replay": self.replay.state_dict(), "updates": self.updates, "origin": self.origin}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.replay.load_state_dict(state["replay"])
        self.updates, self.origin = state["updates"], state["origin"]


def read_logged(
    source: Path | Sequence[Mapping[str, Any]], language_model: LanguageModel, max_new_tokens: int
) -> tuple[Completions, Tensor]:
    """Logged completions and their rewards, shape (B,), float32.

    Args:
        source: a `.jsonl` file or rows, each with `prompt`, `completion` and `reward` or `proxy`.
        language_model: encodes them.
        max_new_tokens: longer completions are cut.

    Raises:
        ConfigError: what cannot be read, or a row without a finite reward, by its line.
    """
    rows = read_demonstrations(source)
    scores = []
    for place, row in rows:
        value = next((row[key] for key in REWARD_KEYS if key in row), None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(place, [f'the reward is {value!r}; give a finite number under "reward" or "proxy"'])
        scores.append(float(value))
    return encode_demonstrations(language_model, rows, max_new_tokens)[0], torch.tensor(scores)
