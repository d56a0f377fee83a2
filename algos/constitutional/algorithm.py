"""Constitutional AI (Bai et al. 2022): a model's own critiques, revisions and preferences instead of a reward.

Stage 1, `critique_revise`: the model answers, criticizes its answer by a principle and revises it, for some rounds; then it is
fine-tuned on the last revisions, mixed with its own answers to ordinary prompts. Stage 2, `ai_feedback`: it answers twice, the
critic says by several principles which answer is the better one, and the policy learns from these preferences. The reward is
never called.

Departures from the paper: the critic is the model's own start (or another model), not a larger one; responses are judged without
chain of thought, and by several principles where the paper draws one; `feedback: dpo` trains on the preferences themselves; the
ordinary prompts' answers are sampled from the same model; and human labels of helpfulness have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from bakeoff.algos.constitutional.config import ConstitutionalConfig
from bakeoff.algos.constitutional.loader import load_constitution
from bakeoff.algos.constitutional.ppo_stage import PreferencePPO
from bakeoff.algos.constitutional.preference_stage import PreferenceDPO
from bakeoff.algos.constitutional.prompting import PromptedModel
from bakeoff.algos.constitutional.revision_stage import CritiqueRevise
from bakeoff.algos.constitutional.stage import Stage, StageContext
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import check_groups
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError


class Constitutional(Algorithm):
    """Constitutional AI: critique, revision, and the model's own preferences by written principles."""

    Config = ConstitutionalConfig
    data_source: ClassVar[DataSource] = DataSource.FEEDBACK
    config: ConstitutionalConfig

    def __init__(
        self, config: ConstitutionalConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        constitution = load_constitution(config.constitution)
        critic = policy.reference if config.critic is None else _load_critic(config.critic, policy.model)
        revise, judge = ("critique_revise" in config.stages), ("ai_feedback" in config.stages)
        problems = constitution.problems(revise=revise, judge=judge, chat=critic.chat)
        if problems:
            raise ConfigError("constitutional", problems)
        if judge:
            check_groups("constitutional", config.batch_size, "two responses per prompt:", 2)
        seeds = torch.randint(2**62, (2,), generator=rng).tolist()
        self.context = StageContext(
            config, policy, envs, rng, constitution, PromptedModel(policy.model, envs), PromptedModel(critic, envs)
        )
        self.critique_revise = CritiqueRevise(self.context, seeds[0]) if revise else None
        feedback = PreferencePPO if config.feedback == "ppo" else PreferenceDPO
        self.ai_feedback = feedback(self.context, seeds[1]) if judge else None

    @property
    def stages(self) -> Sequence[Stage[Any]]:
        """Those that run, in order."""
        return [stage for stage in (self.critique_revise, self.ai_feedback) if stage is not None]

    def update(self) -> Mapping[str, float]:
        """Collect or learn one batch of the first stage that is not over."""
        stage = next((stage for stage in self.stages if not stage.finished), self.stages[-1])
        return {**stage.update(), "stage": 1.0 if stage is self.critique_revise else 2.0}

    @property
    def finished(self) -> bool:
        """After the last stage."""
        return all(stage.finished for stage in self.stages)

    @property
    def progress(self) -> float:
        """Mean over the stages."""
        return sum(stage.progress for stage in self.stages) / len(self.stages)

    def records(self) -> list[dict[str, Any]]:
        """Chains and choices since the last call."""
        drained, self.context.records = self.context.records, []
        return drained

    @classmethod
    def example_settings(cls, task: Task) -> dict[str, Any]:
        """One rule in the words that the tokenizer has, the prompt's own; the verdicts are two words of the task's prompts."""
        words = sorted({word for prompt in task.prompts.train for word in prompt.split()})
        template = {"critique": "{prompt}", "revision": "{prompt}", "verdict": "{prompt}{response}"}
        constitution = {
            "name": "example",
            "principles": [{"critique": "", "revision": ""}],
            "templates": {"plain": template},
            "verdicts": [" " + word for word in words[:2]],
        }
        return {"constitution": constitution, "chains": 64, "pairs": 64, "critique_tokens": 2}


def _load_critic(source: str, like: LanguageModel) -> LanguageModel:
    """A frozen model that is asked in the same way as the policy, on the same device."""
    return LanguageModel.load(source, device=str(like.device), chat=like.chat).freeze()
