"""Stage 2, AI feedback: collect pairs of responses that the critic has judged, and learn from the preferences by DPO."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bakeoff.algos.constitutional.feedback import judge
from bakeoff.algos.constitutional.records import choice_records
from bakeoff.algos.constitutional.stage import AnyPhase, Stage, StageContext, TrainingPhase
from bakeoff.algos.dpo import train_on_pairs
from bakeoff.algos.preference_data.objective import PreferenceObjective, mean_pair_metrics
from bakeoff.algos.preference_data.pairs import PairBuffer, TokenizedPairs
from bakeoff.envs.language_model.completions import Completions


class PreferenceStage(Stage[AnyPhase]):
    """The first half of stage 2: pairs and what the critic thinks of them."""

    buffer: PairBuffer

    def __init__(self, context: StageContext, seed: int) -> None:
        super().__init__(context, PairBuffer(), seed)

    @property
    def wanted(self) -> int:
        """Pairs to judge."""
        return self.context.config.pairs

    def collect(self) -> Mapping[str, float]:
        """Two responses to each prompt of half a batch, and what the critic thinks of them."""
        context, config = self.context, self.context.config
        context.envs.reset(options={"group_size": 2})
        responses = context.policy.sample(context.envs.prompt_batch, context.envs.max_new_tokens, context.rng)
        completed = context.envs.play(responses, scored=False)
        prompts, first, second = completed.prompts[::2], completed.texts[::2], completed.texts[1::2]
        judgment = judge(
            context.constitution,
            context.critic,
            prompts,
            first,
            second,
            principles=config.principles,
            generator=context.rng,
        )
        preference_N = judgment.preference_N.clamp(config.clamp, 1 - config.clamp)
        self.buffer.add(self._pairs(responses, preference_N))
        self.collected += len(prompts)
        context.records += choice_records(responses.prompts.indices_B[::2].tolist(), prompts, first, second, judgment)
        return {
            **judgment.figures(),
            "identical_pairs": sum(a == b for a, b in zip(first, second, strict=True)) / len(prompts),
            "length": float(responses.lengths_B.float().mean()),
        }

    def _pairs(self, responses: Completions, preference_N: Tensor) -> TokenizedPairs:
        """Pairs with the critic's favorite as the chosen side; DPO's reference is the policy that sampled them, or the task's."""
        evens = torch.arange(len(preference_N)) * 2
        behind = (preference_N < 0.5).long()
        chosen, rejected = responses.select(evens + behind), responses.select(evens + 1 - behind)
        sure_N = torch.maximum(preference_N, 1 - preference_N)
        policy = self.context.policy
        if self.context.config.feedback_reference == "task":
            return TokenizedPairs.with_reference(policy, chosen, rejected, preference_B=sure_N)
        logps_B = policy.logprobs(responses).sum(1).float().cpu()
        logps_B2 = torch.stack([logps_B[evens + behind], logps_B[evens + 1 - behind]], 1)
        return TokenizedPairs(chosen, rejected, logps_B2, sure_N, torch.full_like(sure_N, float("nan")))


class PreferenceDPO(PreferenceStage[TrainingPhase]):
    """Stage 2 with DPO on the preferences themselves."""

    def __init__(self, context: StageContext, seed: int) -> None:
        super().__init__(context, seed)
        self.objective = PreferenceObjective(context.config.feedback_beta)

    def begin_training(self) -> TrainingPhase:
        """Epochs over the pairs."""
        config = self.context.config
        return TrainingPhase(
            self.context, len(self.buffer), config.feedback_epochs, self.seed, config.feedback_learning_rate
        )

    def learn(self, phase: TrainingPhase) -> Mapping[str, float]:
        """One step of DPO on soft labels."""
        phase.optimizer.start_update(phase.progress)
        rows = phase.draw(self.context.config.step_size)
        pairs = self.buffer.pairs.select(rows)
        figures = train_on_pairs(self.context.policy, phase.optimizer, pairs, self.objective)
        return mean_pair_metrics([figures])
