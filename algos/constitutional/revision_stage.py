"""Stage 1, critique and revise: collect chains, then imitate their last revisions among answers to ordinary prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.constitutional.chain import Round, critique_and_revise, last_revisions
from bakeoff.algos.constitutional.feedback import judge, rate
from bakeoff.algos.constitutional.records import chain_figures, chain_records
from bakeoff.algos.constitutional.stage import Stage, StageContext, TrainingPhase
from bakeoff.algos.preference_data.sft_step import imitate
from bakeoff.envs.language_model.completions import Completions, PromptBatch


class CritiqueRevise(Stage[TrainingPhase]):
    """Stage 1."""

    buffer: CompletionBuffer

    def __init__(self, context: StageContext, seed: int) -> None:
        super().__init__(context, CompletionBuffer(), seed)

    @property
    def wanted(self) -> int:
        """Responses to collect."""
        return self.context.config.chains

    def collect(self) -> Mapping[str, float]:
        """Answer a batch of prompts, criticize and revise the answers; those to ordinary prompts are left alone."""
        context = self.context
        context.envs.reset()
        prompts = context.envs.prompt_batch
        ordinary = self._ordinary(prompts.indices_B.tolist())
        rows = [i for i, plain in enumerate(ordinary) if not plain]
        # The second answers come in the same batch; they are the control, and nothing is learned from them.
        again = rows if context.config.resample else []
        sampled = context.policy.sample(
            prompts.select([*range(len(prompts)), *again]), context.envs.max_new_tokens, context.rng
        )
        responses = sampled.select(range(len(prompts)))
        control = sampled.select(range(len(prompts), len(sampled)))
        completed = context.envs.play(responses, scored=False)
        context.envs.count_generated(control)
        self.buffer.add(responses.select([i for i, plain in enumerate(ordinary) if plain]))
        self.collected += len(prompts)
        figures = {
            "ordinary_share": 1 - len(rows) / len(prompts),
            "length": float(responses.lengths_B.float().mean()),
        }
        if not rows:
            return figures
        chained, texts = prompts.select(rows), [completed.prompts[i] for i in rows]
        answers = [completed.texts[i] for i in rows]
        rounds = critique_and_revise(
            context.constitution,
            context.critic,
            context.author,
            chained,
            texts,
            answers,
            rounds=context.config.revisions,
            critique_tokens=context.config.critique_tokens,
            revision_tokens=context.envs.max_new_tokens,
            generator=context.rng,
        )
        revised, usable = last_revisions(responses.select(rows), rounds)
        self.buffer.add(revised.select(usable))
        preferred, verdicts = self._opinion(texts, answers, rounds)
        second = context.author.model.decode(control.tokens_BT, control.mask_BT) if again else None
        indices = chained.indices_B.tolist()
        context.records += chain_records(indices, texts, answers, second, rounds, preferred, verdicts)
        figures |= chain_figures(answers, rounds) | {"usable_revisions": len(usable) / len(rows)}
        if preferred is not None:
            figures["revision_preferred"] = float(preferred.mean())
        return figures

    def begin_training(self) -> TrainingPhase:
        """Epochs over revisions and ordinary answers."""
        return TrainingPhase(self.context, len(self.buffer), self.context.config.epochs, self.seed)

    def learn(self, phase: TrainingPhase) -> Mapping[str, float]:
        """One supervised step."""
        phase.optimizer.start_update(phase.progress)
        rows = phase.draw(self.context.config.step_size)
        figures = imitate(self.context.policy, phase.optimizer, self.buffer.completions, rows)
        return {**figures, "demonstrations": float(len(self.buffer))}

    def _ordinary(self, indices: Sequence[int]) -> list[bool]:
        """Which of some prompts are answered and not revised."""
        config = self.context.config
        column = self.context.envs.columns.get(config.ordinary_column)
        if column is not None:
            return [bool(column[i]) for i in indices]
        return (torch.rand(len(indices), generator=self.context.rng) < config.ordinary_share).tolist()

    def _opinion(
        self, prompts: Sequence[str], answers: Sequence[str], rounds: Sequence[Round]
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the critic itself thinks: that the last revision is better than the response (N,), and verdicts on the response."""
        context = self.context
        constitution = context.constitution
        if constitution.problems(revise=False, judge=True, chat=context.critic.chat):
            return None, None
        kept = rounds[-1].kept
        judgment = judge(constitution, context.critic, prompts, kept, answers, principles=1, generator=context.rng)
        verdicts = rate(constitution, context.critic, prompts, answers)[0] if constitution.judges_alone else None
        return judgment.preference_N, verdicts


class CompletionBuffer:
    """Completions collected for imitation, in order, on the CPU. They come from one environment, so they have one shape."""

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows["indices"]) if self._rows else 0

    def add(self, completions: Completions) -> None:
        """Keep tokens and prompts; log-probabilities and activations are not kept."""
        prompts = completions.prompts
        new = {
            "prompt_tokens": prompts.tokens_BP,
            "prompt_mask": prompts.mask_BP,
            "indices": prompts.indices_B,
            "tokens": completions.tokens_BT,
            "mask": completions.mask_BT,
        }
        moved = {name: value.cpu() for name, value in new.items()}
        self._rows = {name: torch.cat([self._rows[name], v]) if self._rows else v for name, v in moved.items()}

    @property
    def completions(self) -> Completions:
        """All of them.

        Raises:
            ValueError: there are none.
        """
        if not self._rows:
            raise ValueError("no completions were added yet")
        rows = self._rows
        prompts = PromptBatch(rows["prompt_tokens"], rows["prompt_mask"], rows["indices"])
        return Completions(prompts, rows["tokens"], rows["mask"])

    def state_dict(self) -> dict[str, Any]:
        """The tensors, by name."""
        return dict(self._rows)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._rows = dict(state)
