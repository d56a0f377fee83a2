"""Given pairs as tokens, with the things people get wrong done once.

Prompt and completion are encoded as the policy will see and say them: the prompt as it is at the start of an answer, the completion
as its tokens follow the prompt's (alone where the two would merge across the border). One end-of-sequence token closes each
completion. Where prompt and completion together are too long for the model, the prompt loses its start, not the completion its end:
a model that is never shown where to stop does not stop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bakeoff.algos.preference_data.demonstrations import check_sayable, continuation_ids
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.preferences.load import PreferencePair, Prompt
from bakeoff.errors import ConfigError


def encode_pairs(
    language_model: LanguageModel, pairs: Sequence[PreferencePair], max_completion_tokens: int
) -> tuple[Completions, Completions, dict[str, float]]:
    """The chosen and the rejected completions of the same prompts, and what had to be cut.

    A completion of more than ``max_completion_tokens``, its end included, loses its tail and is left open, like one that the
    environment truncates: what is learned is then the probability that an answer begins so. A prompt loses its start where the
    context has no room for it and for such a completion.

    Args:
        language_model: encodes them.
        pairs: what to encode.
        max_completion_tokens: where completions are cut.

    Returns:
        The chosen completions, the rejected ones, and figures for the log: `cut_share` of completions, `cut_prompt_share`.

    Raises:
        ConfigError: text that the tokenizer cannot encode or the model never says, or a limit that leaves no room for a prompt.
    """
    room = language_model.max_context - max_completion_tokens
    if room < 1:
        raise ConfigError(
            "preference pairs",
            [
                f"completions of {max_completion_tokens} tokens fill the context of {language_model.max_context}; lower the limit"
            ],
        )
    prompts: list[list[int]] = []
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    for number, pair in enumerate(pairs):
        prompts.append(_prompt_ids(language_model, number, pair.prompt))
        for side, name in zip(sides, ("chosen", "rejected"), strict=True):
            text = pair.prompt if isinstance(pair.prompt, str) else None
            place = f"preference pair {number}, {name}"
            try:
                ids = continuation_ids(language_model, prompts[-1], text, getattr(pair, name))
            except Exception as error:  # the tokenizers library raises bare exceptions
                raise ConfigError(place, [f"the tokenizer refuses it: {error}"]) from None
            check_sayable(language_model, place, ids)
            side.append([*ids, language_model.eos_ids[0]])
    lengths = [len(ids) for side in sides for ids in side]
    batch = language_model.pad([prompt[-room:] for prompt in prompts])
    limit = min(max_completion_tokens, max(lengths))
    notes = {
        "cut_share": sum(n > max_completion_tokens for n in lengths) / len(lengths),
        "cut_prompt_share": sum(len(prompt) > room for prompt in prompts) / len(prompts),
    }
    completions = []
    for side in sides:
        tokens_BT = torch.full((len(side), limit), language_model.pad_id)
        mask_BT = torch.zeros(len(side), limit, dtype=torch.bool)
        for row, ids in enumerate(side):
            kept = torch.tensor(ids[:limit])
            tokens_BT[row, : len(kept)], mask_BT[row, : len(kept)] = kept, True
        completions.append(Completions(batch, tokens_BT, mask_BT))
    return completions[0], completions[1], notes


def _prompt_ids(language_model: LanguageModel, number: int, prompt: Prompt) -> list[int]:
    """As at the start of an answer: a conversation through the chat template, open for the assistant's turn."""
    if isinstance(prompt, str):
        return language_model.encode([prompt])[0]
    if not language_model.chat:
        raise ConfigError(
            f"preference pair {number}", ["its prompt is a conversation; play a task with chat: true, or give a text"]
        )
    turns = [message.as_dict() for message in prompt]
    text = language_model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return [int(i) for i in language_model.tokenizer(text, add_special_tokens=False)["input_ids"]]
