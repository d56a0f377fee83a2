"""Asking a language model in words: writing an answer to turns, and weighing some options against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.constitutional.templates import Turn
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError

ROWS = 16
"""Questions that are weighed in one forward pass; longer batches are cut, rows of similar length together."""
_MARKER = re.compile(r"<[^\s<>]+>")


class PromptedModel:
    """A language model that is asked in turns. The environment's meter counts what it writes, and a token per judgment."""

    def __init__(self, model: LanguageModel, envs: TextGenerationVectorEnv) -> None:
        """Args:
        model: the model that is prompted.
        envs: whose meter counts.
        """
        self.model, self.envs = model, envs
        tokenizer = model.tokenizer
        added = [str(one) for one in getattr(tokenizer, "added_tokens_encoder", {})]
        special = {*map(str, tokenizer.all_special_tokens), *(one for one in added if _MARKER.fullmatch(one))}
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if special else None

    @property
    def chat(self) -> bool:
        """It takes turns; a plain model takes one text."""
        return self.model.chat

    def clean(self, text: str) -> str:
        """Text without the special tokens that a model may have spelled out: put into a question they would be obeyed.

        Each becomes a space, so that no new one can arise where one was.
        """
        return text if self._special is None else self._special.sub(" ", text)

    def write(
        self, questions: Sequence[Sequence[Turn]], max_new_tokens: int, generator: torch.Generator
    ) -> tuple[Completions, list[str]]:
        """One answer to each question, sampled in one batch: its tokens (prompts are the questions) and its text.

        Raises:
            PromptError: a question that leaves no room for the answer in the model's context.
        """
        encoded = [self.encode(turns) for turns in questions]
        texts = [turns[-1][1] for turns in questions]
        self.model.check_prompt_length(encoded, texts, max_new_tokens)
        completions = self.model.sample(self.model.pad(encoded), max_new_tokens, generator)
        self.envs.count_generated(completions)
        return completions, self.model.decode(completions.tokens_BT, completions.mask_BT)

    @torch.no_grad()
    def weigh(self, questions: Sequence[Sequence[Turn]], options: Sequence[str]) -> tuple[Tensor, Tensor]:
        """How probable each option is as the continuation of each question.

        An option's probability is that of the first token in which the options differ. Each question counts as one generated
        token, as if the answer had been sampled.

        Returns:
            Probabilities that sum to one over the options, (N, options), and the mass that the options have together of all
            that the model might have said, (N,); float32 on the CPU.

        Raises:
            ConfigError: two options that begin with the same token.
            PromptError: a question that does not fit the model's context.
        """
        rows = [self._parting(turns, options) for turns in questions]
        self.model.check_prompt_length([ids for ids, _ in rows], [turns[-1][1] for turns in questions], 1)
        self.envs.count_judgments(len(rows))
        probabilities_NK = torch.zeros(len(rows), len(options))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        for start in range(0, len(order), ROWS):
            chunk = order[start : start + ROWS]
            batch = self.model.pad([rows[i][0] for i in chunk])
            device = self.model.device
            hidden_BD = self.model.hidden(batch.tokens_BP.to(device), batch.mask_BP.to(device))[:, -1]
            chances_BV = self.model.head(hidden_BD).softmax(-1)
            wanted_BK = torch.tensor([rows[i][1] for i in chunk], device=device)
            probabilities_NK[chunk] = chances_BV.gather(1, wanted_BK).float().cpu()
        mass_N = probabilities_NK.sum(1)
        return probabilities_NK / mass_N.clamp_min(1e-30)[:, None], mass_N

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of turns, open for the answer; a last turn of the assistant is what its answer begins with."""
        if not self.chat:
            return self.model.encode([turns[-1][1]])[0]
        begun = turns[-1][1] if turns[-1][0] == "assistant" else ""
        said = turns[:-1] if turns[-1][0] == "assistant" else turns
        conversation = [{"role": role, "content": text} for role, text in said]
        tokenizer: Any = self.model.tokenizer
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) + begun
        return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _parting(self, turns: Sequence[Turn], options: Sequence[str]) -> tuple[list[int], list[int]]:
        """The tokens that a question has in common with all options behind it, and the token with which each continues."""
        *before, (role, text) = turns
        answered = [self.encode([*before, (role, text + option)]) for option in options]
        if role == "user" and self.chat:  # the options are answers, not part of the question
            answered = [self.encode([*turns, ("assistant", option)]) for option in options]
        shared = 0
        while all(len(ids) > shared + 1 and ids[shared] == answered[0][shared] for ids in answered):
            shared += 1
        parting = [ids[shared] for ids in answered]
        if len(set(parting)) < len(options):
            raise ConfigError(
                "constitution",
                [f'the options {list(options)} begin with the same token for "{self.model.name}"; rename one'],
            )
        return answered[0][:shared], parting


def cleaned(prompted: PromptedModel, values: Mapping[str, str]) -> dict[str, str]:
    """Values for a template without special tokens."""
    return {name: prompted.clean(text) for name, text in values.items()}
