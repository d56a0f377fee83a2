"""Stage 2 by reinforcement learning: a preference model learns what the critic prefers, and PPO optimizes it (Bai et al. 2022).

The preference model is a linear head on the frozen features of the policy's start, fitted in seconds. It is the algorithm's own
judge: what it says is no query of the task's reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bakeoff.algos.constitutional.config import ConstitutionalConfig
from bakeoff.algos.constitutional.preference_stage import PreferenceStage
from bakeoff.algos.constitutional.stage import StageContext
from bakeoff.algos.core.build import parse_config
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.ppo import PPO, PPOConfig
from bakeoff.algos.reward_models.training import RewardModelConfig, RewardModelReport, train_reward_model
from bakeoff.envs.preferences.pair import PreferencePair
from bakeoff.errors import ConfigError


class PPOPhase:
    """Updates of PPO against a preference model, with a schedule of its own."""

    def __init__(
        self, context: StageContext, config: PPOConfig, report: RewardModelReport, total: int, seed: int
    ) -> None:
        """Args:
        context: the policy and where it plays.
        config: PPO's settings.
        report: the trained preference model, and how good it is.
        total: updates.
        seed: of the prompt order.
        """
        self.total, self.updates, self.accuracy = total, 0, report.measured.accuracy.value
        envs = context.envs.with_reward(
            report.model, "preference_model", seed, progress=lambda: self.progress, planned_updates=total
        )
        self.ppo = PPO(config, context.policy, envs, context.rng)

    @property
    def progress(self) -> float:
        """Share of the updates that are done, from 0 to 1."""
        return self.updates / self.total

    def update(self) -> Mapping[str, float]:
        """One update of PPO; what it calls reward is the preference model's score."""
        metrics = dict(self.ppo.update())
        self.updates += 1
        score = metrics.pop("reward")
        return {**metrics, "preference_score": score, "preference_model_accuracy": self.accuracy}

    def state_dict(self) -> dict[str, Any]:
        """PPO's state; the preference model is fitted anew from the pairs, to the same weights."""
        return {"ppo": self.ppo.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.ppo.load_state_dict(state["ppo"])
        self.updates = state["updates"]


class PreferencePPO(PreferenceStage[PPOPhase]):
    """Stage 2 with a preference model and PPO."""

    def __init__(self, context: StageContext, seed: int) -> None:
        super().__init__(context, seed)
        self.ppo_config = ppo_config(context.config)

    def begin_training(self) -> PPOPhase:
        """The preference model, fitted to the pairs, and PPO before its first update."""
        config = self.context.config
        return PPOPhase(self.context, self.ppo_config, self._fit(), config.ppo_updates, self.seed)

    def learn(self, phase: PPOPhase) -> Mapping[str, float]:
        """One update of PPO."""
        return phase.update()

    def _fit(self) -> RewardModelReport:
        """A preference model; labels are the likelier side, smoothed by how unsure the critic was on average."""
        context, pairs = self.context, self.buffer.pairs
        model, prompts = context.policy.reference, context.envs.episode_config.prompts
        sides = [model.decode(side.tokens_BT, side.mask_BT) for side in (pairs.chosen, pairs.rejected)]
        texts = [prompts[i].text for i in pairs.chosen.prompts.indices_B.tolist()]
        rows = [PreferencePair(p, *both) for p, *both in zip(texts, *sides, strict=True) if both[0] != both[1]]
        doubt = min(0.45, 1 - float(pairs.preference_B.mean()))
        settings = RewardModelConfig(
            pooling="answer_mean",
            format="chat" if model.chat else "plain",
            label_smoothing=doubt,
            device=str(model.device),
        )
        return train_reward_model(rows, model, settings)


def ppo_config(config: ConstitutionalConfig) -> PPOConfig:
    """PPO's settings: those that every algorithm has as they are, and PPO's own from ``ppo``.

    Raises:
        ConfigError: one of them is wrong.
    """
    common = {name: getattr(config, name) for name in AlgorithmConfig.model_fields}
    if config.feedback_learning_rate is not None:
        common["learning_rate"] = config.feedback_learning_rate
    taken = [name for name in config.ppo if name == "batch_size"]
    if taken:
        raise ConfigError("constitutional", ['"batch_size" is the same for all stages; set it beside "ppo"'])
    parsed = parse_config(PPO, {**common, **config.ppo}, 'constitutional, "ppo"')
    if not isinstance(parsed, PPOConfig):
        raise TypeError("PPO takes a PPOConfig")
    return parsed
