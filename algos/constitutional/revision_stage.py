"""Stage 1, critique and revise: collect chains, then imitate their last revisions among answers to ordinary prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bakeoff.algos.constitutional.chain import Round, critique_and_revise, last_revisions
from bakeoff.algos.constitutional.feedback import judge, rate
from bakeoff.algos.constitutional.memory import CompletionMemory
from bakeoff.algos.constitutional.records import chain_figures, chain_records
from bakeoff.algos.constitutional.stage import Stage, StageContext, TrainingPhase
from bakeoff.algos.preference_data.sft_step import imitate


class CritiqueRevise(Stage[TrainingPhase]):
    """Stage 1."""

    memory: CompletionMemory

    def __init__(self, work: StageContext, seed: int) -> None:
        super().__init__(work, CompletionMemory(), seed)

    @property
    def wanted(self) -> int:
        """Responses to collect."""
        return self.work.config.chains

    def collect(self) -> Mapping[str, float]:
        """Answer a batch of prompts, criticize and revise the answers; those to ordinary prompts are left alone."""
        work = self.work
        work.envs.reset()
        prompts = work.envs.prompt_batch
        ordinary = self._ordinary(prompts.indices_B.tolist())
        rows = [i for i, plain in enumerate(ordinary) if not plain]
        # The second answers come in the same batch; they are the control, and nothing is learned from them.
        again = rows if work.config.resample else []
        sampled = work.policy.sample(prompts.select([*range(len(prompts)), *again]), work.envs.max_new_tokens, work.rng)
        responses = sampled.select(range(len(prompts)))
        control = sampled.select(range(len(prompts), len(sampled)))
        played = work.envs.play(responses, scored=False)
        work.envs.count_generated(control)
        self.memory.add(responses.select([i for i, plain in enumerate(ordinary) if plain]))
        self.collected += len(prompts)
        figures = {
            "ordinary_share": 1 - len(rows) / len(prompts),
            "length": float(responses.lengths_B.float().mean()),
        }
        if not rows:
            return figures
        chained, texts = prompts.select(rows), [played.prompts[i] for i in rows]
        answers = [played.texts[i] for i in rows]
        rounds = critique_and_revise(
            work.constitution,
            work.critic,
            work.author,
            chained,
            texts,
            answers,
            rounds=work.config.revisions,
            critique_tokens=work.config.critique_tokens,
            revision_tokens=work.envs.max_new_tokens,
            generator=work.rng,
        )
        revised, usable = last_revisions(responses.select(rows), rounds)
        self.memory.add(revised.select(usable))
        preferred, verdicts = self._opinion(texts, answers, rounds)
        second = work.author.model.decode(control.tokens_BT, control.mask_BT) if again else None
        indices = chained.indices_B.tolist()
        work.records += chain_records(indices, texts, answers, second, rounds, preferred, verdicts)
        figures |= chain_figures(answers, rounds) | {"usable_revisions": len(usable) / len(rows)}
        if preferred is not None:
            figures["revision_preferred"] = float(preferred.mean())
        return figures

    def begin_lesson(self) -> TrainingPhase:
        """Epochs over revisions and ordinary answers."""
        return TrainingPhase(self.work, len(self.memory), self.work.config.epochs, self.seed)

    def learn(self, lesson: TrainingPhase) -> Mapping[str, float]:
        """One supervised step."""
        progress = lesson.progress
        rows = lesson.draw(self.work.config.step_size)
        figures = imitate(self.work.policy, lesson.optimizer, self.memory.completions, rows, progress)
        return {**figures, "demonstrations": float(len(self.memory)), "learning_rate": lesson.optimizer.rate(progress)}

    def _ordinary(self, indices: Sequence[int]) -> list[bool]:
        """Which of some prompts are answered and not revised."""
        config = self.work.config
        column = self.work.envs.columns.get(config.ordinary_column)
        if column is not None:
            return [bool(column[i]) for i in indices]
        return (torch.rand(len(indices), generator=self.work.rng) < config.ordinary_share).tolist()

    def _opinion(
        self, prompts: Sequence[str], answers: Sequence[str], rounds: Sequence[Round]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What the critic itself thinks: that the last revision is better than the response (N,), and verdicts on the response."""
        work = self.work
        constitution = work.constitution
        if constitution.problems(revise=False, judge=True, chat=work.critic.chat):
            return None, None
        kept = rounds[-1].kept
        judgment = judge(constitution, work.critic, prompts, kept, answers, principles=1, generator=work.rng)
        verdicts = rate(constitution, work.critic, prompts, answers)[0] if constitution.judges_alone else None
        return judgment.preference_N, verdicts
