"""Stage 2, AI feedback: collect pairs of responses that the critic has judged, and learn from the preferences by DPO."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bakeoff.algos.constitutional.feedback import judge
from bakeoff.algos.constitutional.records import choice_records
from bakeoff.algos.constitutional.stage import AnyLearning, Stage, StageContext, TrainingPhase
from bakeoff.algos.dpo import train_on_pairs
from bakeoff.algos.preference_data.objective import PreferenceObjective, mean_pair_metrics
from bakeoff.algos.preference_data.pairs import PairBuffer, TokenizedPairs
from bakeoff.envs.language_model.completions import Completions


class PreferenceStage(Stage[AnyLearning]):
    """The first half of stage 2: pairs and what the critic thinks of them."""

    buffer: PairBuffer

    def __init__(self, work: StageContext, seed: int) -> None:
        super().__init__(work, PairBuffer(), seed)

    @property
    def wanted(self) -> int:
        """Pairs to judge."""
        return self.work.config.pairs

    def collect(self) -> Mapping[str, float]:
        """Two responses to each prompt of half a batch, and what the critic thinks of them."""
        work, config = self.work, self.work.config
        work.envs.reset(options={"group_size": 2})
        responses = work.policy.sample(work.envs.prompt_batch, work.envs.max_new_tokens, work.rng)
        played = work.envs.play(responses, scored=False)
        prompts, first, second = played.prompts[::2], played.texts[::2], played.texts[1::2]
        judgment = judge(
            work.constitution, work.critic, prompts, first, second, principles=config.principles, generator=work.rng
        )
        preference_N = judgment.preference_N.clamp(config.clamp, 1 - config.clamp)
        self.buffer.add(self._pairs(responses, preference_N))
        self.collected += len(prompts)
        work.records += choice_records(responses.prompts.indices_B[::2].tolist(), prompts, first, second, judgment)
        return {
            **judgment.figures(),
            "identical_pairs": sum(a == b for a, b in zip(first, second, strict=True)) / len(prompts),
            "length": float(responses.lengths_B.float().mean()),
        }

    def _pairs(self, responses: Completions, preference_N: Tensor) -> TokenizedPairs:
        """Pairs with the critic's favorite as the chosen side.

        DPO's reference is the policy that sampled them: what it gave them is known already.
        """
        evens = torch.arange(len(preference_N)) * 2
        behind = (preference_N < 0.5).long()
        chosen, rejected = responses.select(evens + behind), responses.select(evens + 1 - behind)
        sure_N = torch.maximum(preference_N, 1 - preference_N)
        if self.work.config.feedback_reference == "task" or chosen.logprobs_BT is None or rejected.logprobs_BT is None:
            return TokenizedPairs.with_reference(self.work.policy, chosen, rejected, preference_B=sure_N)
        logps_B2 = torch.stack([chosen.logprobs_BT.sum(1), rejected.logprobs_BT.sum(1)], 1).float().cpu()
        return TokenizedPairs(chosen, rejected, logps_B2, sure_N, torch.full_like(sure_N, float("nan")))


class PreferenceDPO(PreferenceStage[TrainingPhase]):
    """Stage 2 with DPO on the preferences themselves."""

    def __init__(self, work: StageContext, seed: int) -> None:
        super().__init__(work, seed)
        self.objective = PreferenceObjective(work.config.feedback_beta)

    def begin_lesson(self) -> TrainingPhase:
        """Epochs over the pairs."""
        config = self.work.config
        return TrainingPhase(
            self.work, len(self.buffer), config.feedback_epochs, self.seed, config.feedback_learning_rate
        )

    def learn(self, lesson: TrainingPhase) -> Mapping[str, float]:
        """One step of DPO on soft labels."""
        progress = lesson.progress
        rows = lesson.draw(self.work.config.step_size)
        pairs = self.buffer.pairs.select(rows)
        figures = train_on_pairs(self.work.policy, lesson.optimizer, pairs, self.objective, progress)
        return {**mean_pair_metrics([figures]), "learning_rate": lesson.optimizer.rate(progress)}
