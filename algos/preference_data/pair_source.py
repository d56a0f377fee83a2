"""Where preference pairs come from: given ones, or two completions of a model for each prompt, labeled by the task's reward.

The environment's reward labels, so its meter counts the tokens and the queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import check_groups
from bakeoff.algos.core.schedule import updates_of_passes
from bakeoff.algos.losses.rounding import tied
from bakeoff.algos.preference_data.encoding import encode_pairs
from bakeoff.algos.preference_data.label_temperature import LabelTemperature, TemperatureSetting
from bakeoff.algos.preference_data.labels import Labels, label_pairs
from bakeoff.algos.preference_data.objective import PreferenceConfig
from bakeoff.algos.preference_data.pairs import PairBuffer, TokenizedPairs
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.preferences.load import load_pairs
from bakeoff.envs.preferences.pair import Pairs, PreferencePair
from bakeoff.envs.rewards.call import AnyReward
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.episodes import ScoredCompletions
from bakeoff.envs.text_generation.prompt_order import PromptOrder
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError, PreferenceError

Sampler = Callable[..., Completions]
"""``(prompts, max_new_tokens, generator) -> Completions``, such as ``LanguageModel.sample``."""

_MAX_ROUNDS_WITHOUT_PAIRS = 20


class OfflinePreferenceConfig(PreferenceConfig):
    """Settings of the algorithms that learn from pairs that they did not choose."""

    data: Path | tuple[dict[str, Any], ...] | None = None
    """Pairs: a file that `bakeoff train-reward` reads too (`.jsonl` of `prompt`, `chosen`, `rejected`), or a list of such objects.
    Default: the reference makes them and the task's reward labels them, which costs two reward queries per pair."""
    pairs: PositiveInt | None = None
    """Without `data`: how many pairs to make before learning begins; it then passes over them `epochs` times. Default:
    each update makes `batch_size` / 2 more and learns from all there are, until the budget ends."""
    epochs: PositiveInt = 3
    """With `data` or `pairs`: passes over them; then it has finished."""
    capacity: PositiveInt = 65_536
    """Without `data` or `pairs`: how many pairs to keep."""
    train_batch_size: PositiveInt = 64
    """Pairs per gradient step, drawn from those there are."""
    gradient_steps: PositiveInt = 4
    """Gradient steps per update."""
    max_completion_tokens: PositiveInt | None = None
    """With `data`: where completions are cut; they have no end-of-sequence token then, as in the environment. Default: the
    task's max_new_tokens."""

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
        envs: where the reference generates completions.
        generator: seeds the order of passes.

        Raises:
            ConfigError: pairs that cannot be used, or that the budget cannot pay for.
        """
        self._config, self._policy, self._envs = config, policy, envs
        self.seen = 0
        """Pairs learned from, each as often as it was."""
        self.notes: dict[str, float] = {}
        self.temperature = LabelTemperature(config.label_temperature, config.labels)
        """Tau of the labels; given pairs have their labels, so it is not measured on them."""
        self.buffer = PairBuffer(config.capacity if self.grows else None)
        if config.data is not None:
            given = load_pairs(config.data)
            limit = envs.max_new_tokens if config.max_completion_tokens is None else config.max_completion_tokens
            chosen, rejected, self.notes = encode_pairs(policy.reference, given, limit)
            margins = [float("nan") if pair.margin is None else float(pair.margin) for pair in given]
            self.buffer.add(
                TokenizedPairs.with_reference(policy, chosen, rejected, reward_margin_B=torch.tensor(margins))
            )
        else:
            check_groups(algorithm, config.batch_size, "a pair's", 2)
        self._check_budget(algorithm)
        size = len(self.buffer) if config.pairs is None else config.pairs
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
            while len(self.buffer) < config.pairs:
                made.append(self.make(generator, config.pairs - len(self.buffer)))
        figures = {name: sum(part[name] for part in made) / len(made) for name in (made[0] if made else ())}
        if config.data is None:
            figures |= self.temperature.metrics(config.labels)
        passes = {} if self.grows else {"epoch": self.seen / len(self.buffer)}
        return {**figures, **self.notes, **passes, "data_size": float(len(self.buffer))}

    def make(self, generator: torch.Generator, most: int | None = None) -> dict[str, float]:
        """Two completions of the reference for each of a batch of prompts, at most ``most``, labeled by the task's reward."""
        batch = sample_labeled_pairs(
            self._policy.reference.sample, self._envs, generator, self._config.labels, self.temperature, most
        )
        completions, rewards_B = batch.scored.completions, batch.scored.rewards_B
        pairs = TokenizedPairs.with_reference(
            self._policy,
            completions.select(batch.chosen_K),
            completions.select(batch.rejected_K),
            preference_B=batch.preference_K,
            reward_margin_B=rewards_B.cpu()[batch.chosen_K] - rewards_B.cpu()[batch.rejected_K],
        )
        self.buffer.add(pairs)
        return {
            "reward": float(rewards_B.mean()),
            "length": float(completions.lengths_B.float().mean()),
            "label_accuracy": label_accuracy(batch),
        }

    def draw(self, generator: torch.Generator) -> TokenizedPairs:
        """The next batch: in passes over the pairs, or any of those there are while they grow."""
        size = min(self._config.train_batch_size, len(self.buffer))
        if self.order is None:
            rows = self.buffer.draw(size, generator)
        else:
            rows = torch.from_numpy(self.order.draw(min(size, self.total - self.seen)))
        self.seen += len(rows)
        return self.buffer.pairs.select(rows)

    @property
    def total(self) -> int:
        """Pairs it will have learned from at the end of its passes."""
        return self._config.epochs * len(self.buffer)

    @property
    def queries_needed(self) -> int:
        """Reward queries of one pair, while pairs are to be made; else none."""
        to_make = self._config.pairs is not None and len(self.buffer) < self._config.pairs
        return 2 if self.grows or to_make else 0

    @property
    def planned_updates(self) -> int | None:
        """Updates that the passes take, or the budget allows while pairs grow."""
        if self.order is None:
            return self._envs.planned_updates
        config = self._config
        return updates_of_passes(self.order.size, config.epochs, config.train_batch_size, config.gradient_steps)

    @property
    def progress(self) -> float:
        """From 0 to 1: of the passes, or of the budget, whichever ends sooner."""
        done = 0.0 if self.grows or not len(self.buffer) else self.seen / self.total
        return min(1.0, max(done, self._envs.progress if self.grows or self._config.data is not None else 0.0))

    @property
    def finished(self) -> bool:
        """After the last pass."""
        return not self.grows and len(self.buffer) > 0 and self.seen >= self.total

    def state_dict(self) -> dict[str, Any]:
        """The pairs, the order of passes, how far they are, and the labels' temperature."""
        order = {} if self.order is None else self.order.state_dict()
        temperature = self.temperature.state_dict()
        return {"buffer": self.buffer.state_dict(), "seen": self.seen, "order": order, "temperature": temperature}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.buffer.load_state_dict(state["buffer"])
        self.seen = int(state["seen"])
        self.temperature.load_state_dict(state["temperature"])
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


@dataclass(frozen=True)
class LabeledBatch:
    """Two completions of each of K prompts, scored and labeled."""

    scored: ScoredCompletions
    """All completions; rows 2k and 2k + 1 share a prompt."""
    chosen_K: Tensor
    """Row of each pair's chosen completion, int64."""
    rejected_K: Tensor
    """Row of each pair's rejected completion, int64."""
    preference_K: Tensor
    """Probability that the chosen one is the better, float32."""


def sample_labeled_pairs(
    sample: Sampler,
    envs: TextGenerationVectorEnv,
    generator: torch.Generator,
    labels: Labels,
    temperature: LabelTemperature,
    most: int | None = None,
) -> LabeledBatch:
    """Two completions for each of a batch of prompts, and which of them the environment's reward prefers.

    Args:
        sample: draws completions.
        envs: scores them; needs an even number of sub-environments.
        generator: draws completions and labels.
        labels: see :func:`~bakeoff.algos.preference_data.labels.label_pairs`.
        temperature: tau, likewise; measured on these pairs if it is not known yet.
        most: how many pairs are wanted; fewer where the environment has fewer sub-environments, or its budget pays for fewer.
    """
    prompts = envs.begin_batch(2, most=None if most is None else 2 * most)
    scored = envs.play(sample(prompts, envs.max_new_tokens, generator))
    rewards_K2 = scored.rewards_B.cpu().reshape(-1, 2)
    tau = temperature.update(rewards_K2[:, 0], rewards_K2[:, 1])
    side_K, preference_K = label_pairs(rewards_K2, labels, tau, generator)
    evens_K = 2 * torch.arange(len(side_K))
    return LabeledBatch(scored, evens_K + side_K, evens_K + 1 - side_K, preference_K)


def label_accuracy(batch: LabeledBatch) -> float:
    """Share of pairs whose chosen side has the greater reward, among those whose rewards differ; one half where none do."""
    chosen_K, rejected_K = (batch.scored.rewards_B.cpu()[rows_K] for rows_K in (batch.chosen_K, batch.rejected_K))
    right_N = (chosen_K > rejected_K)[~tied(chosen_K, rejected_K)]
    return float(right_N.float().mean()) if len(right_N) else 0.5


def pairing_env(
    task: Task, num_envs: int = 64, *, reward: AnyReward | None = None, seed: int = 0
) -> TextGenerationVectorEnv:
    """A task's environment for making pairs, labeled by ``reward`` where that is another than the task's."""
    labeled = task if reward is None else dataclasses.replace(task, reward=reward)
    return TextGenerationVectorEnv.from_task(labeled, num_envs + num_envs % 2, seed=seed)


def make_pairs(
    sample: Sampler,
    envs: TextGenerationVectorEnv,
    count: int,
    generator: torch.Generator,
    *,
    labels: Literal["bradley_terry", "deterministic"] = "bradley_terry",
    temperature: TemperatureSetting = "auto",
    margins: bool = False,
) -> Pairs:
    """Pairs of a policy's own answers, until there are ``count``, or the environment's budget is spent.

    Equal answers make no pair, nor do equal rewards where labels are deterministic.

    Args:
        sample: draws completions, such as ``policy.sample`` or ``LanguageModel.sample``.
        envs: plays them; its reward labels, its meter counts. Needs an even number of sub-environments.
        count: how many pairs.
        generator: draws the completions and the labels.
        labels: ``bradley_terry`` or ``deterministic``.
        temperature: of Bradley-Terry, in reward units; ``auto`` measures it on the first pairs whose rewards differ
            (:func:`~bakeoff.algos.preference_data.label_temperature.measure_temperature`).
        margins: keep the difference of rewards as each pair's margin (negative where Bradley-Terry chose the worse one).

    Raises:
        PreferenceError: a setting out of its range, or no pair in many rounds: the policy always says the same, or the
            reward scores everything alike.
    """
    known = isinstance(temperature, int | float) and temperature > 0
    if (
        count < 1
        or envs.num_envs % 2
        or not (known or temperature == "auto")
        or labels not in ("bradley_terry", "deterministic")
    ):
        raise PreferenceError(
            f"cannot make {count} pairs with {envs.num_envs} sub-environments, labels {labels!r} and temperature "
            f"{temperature}; expected a count from 1, an even number of them, bradley_terry or deterministic, and a "
            'temperature above 0 or "auto"'
        )
    tau, pairs = LabelTemperature(temperature, labels), list[PreferencePair]()
    same_texts = ties = fruitless = 0
    while len(pairs) < count and envs.affordable(2) and not (envs.budget and envs.budget.exhausted(envs.meter)):
        batch = sample_labeled_pairs(sample, envs, generator, labels, tau)
        texts, rewards_B = batch.scored.texts, batch.scored.rewards_B
        before = len(pairs)
        for chosen, rejected in zip(batch.chosen_K.tolist(), batch.rejected_K.tolist(), strict=True):
            if texts[chosen].strip() == texts[rejected].strip():
                same_texts += 1
            elif labels == "deterministic" and rewards_B[chosen] == rewards_B[rejected]:
                ties += 1
            else:
                margin = float(rewards_B[chosen] - rewards_B[rejected]) if margins else None
                pairs.append(PreferencePair(batch.scored.prompts[chosen], texts[chosen], texts[rejected], margin))
        fruitless = 0 if len(pairs) > before else fruitless + 1
        if fruitless == _MAX_ROUNDS_WITHOUT_PAIRS:
            raise PreferenceError(
                f"no pair in {fruitless} rounds ({same_texts} times both answers were equal, {ties} times reward "
                f'"{envs.episode_config.reward_name}" scored them alike); take a reward that tells answers apart, or other prompts'
            )
    return Pairs(pairs[:count], f"{count} pairs by {envs.episode_config.reward_name}")
