"""Given text as tokens: demonstrations to imitate, and preference pairs.

A demonstration is ``{"prompt": .., "completion": ..}``, or ``{"text": ..}``: a whole text, imitated from its second token
on. A ``.jsonl`` file holds one such object per line (other keys are ignored), any other file one text per line.

Prompt and completion are encoded as the policy will see and generate them: the prompt as it is at the start of an answer, the
completion as its tokens follow the prompt's (alone where the two would merge across the border). One end-of-sequence token closes
each completion. Where prompt and completion of a pair together are too long for the model, the prompt loses its start, not the
completion its end: a model that is never shown where to stop does not stop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.preferences.load import PreferencePair, Prompt
from bakeoff.errors import ConfigError

Row = Mapping[str, Any]
WANTED = 'expected "prompt" and "completion", or "text", each a text that is not empty'


def read_demonstrations(source: Path | Sequence[Row]) -> list[tuple[str, Row]]:
    """The rows, each with its place for messages.

    Raises:
        ConfigError: a file that is missing, empty, not UTF-8 or not JSON lines, or a row without its texts.
    """
    if isinstance(source, Path):
        rows, whole = _read_file(source), f"demonstrations in {source}"
    else:
        rows, whole = [(f"demonstration {i}", row) for i, row in enumerate(source)], "demonstrations"
    if not rows:
        raise ConfigError(whole, ["there are none; give at least one"])
    for place, row in rows:
        keys = ("text",) if isinstance(row, Mapping) and "text" in row else ("prompt", "completion")
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) and row[key].strip() for key in keys):
            raise ConfigError(place, [WANTED])
    return rows


def encode_demonstrations(
    language_model: LanguageModel, rows: Sequence[tuple[str, Row]], max_new_tokens: int
) -> tuple[Completions, int]:
    """The rows as completions of their prompts, each closed by the end-of-sequence token, and how many had to be cut.

    A completion longer than ``max_new_tokens`` loses its tail and has no end, like one that the environment truncates.

    Raises:
        ConfigError: text that the tokenizer cannot encode, or a text of one token only.
        PromptError: a prompt that leaves no room in the model's context.
    """
    encoded = [_encode(language_model, place, row) for place, row in rows]
    prompts = [prompt for prompt, _ in encoded]
    language_model.check_prompt_length(prompts, [_prompt(row) for _, row in rows], max_new_tokens)
    tokens_BT = torch.full((len(rows), max_new_tokens), language_model.pad_id)
    mask_BT = torch.zeros(len(rows), max_new_tokens, dtype=torch.bool)
    cut = 0
    for i, (_, completion) in enumerate(encoded):
        ended = [*completion, language_model.eos_ids[0]]
        cut += len(ended) > max_new_tokens
        kept = torch.tensor(ended[:max_new_tokens])
        tokens_BT[i, : len(kept)], mask_BT[i, : len(kept)] = kept, True
    return Completions(language_model.pad(prompts), tokens_BT, mask_BT), cut


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
        ConfigError: text that the tokenizer cannot encode or the model never generates, or a limit without room for a prompt.
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


def _read_file(path: Path) -> list[tuple[str, Row]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"demonstrations in {path}", [f"cannot be read: {error.strerror}; check the path"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"demonstrations in {path}", [f"not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    places = [
        (f"demonstrations in {path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if path.suffix != ".jsonl":
        return [(place, {"text": line}) for place, line in places]
    return [(place, _parse(place, line)) for place, line in places]


def _parse(place: str, line: str) -> Row:
    try:
        row: Row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(place, [f"not JSON ({error.msg}); write one object per line"]) from None
    return row


def _prompt(row: Row) -> str:
    return str(row["text"] if "text" in row else row["prompt"])


def _encode(language_model: LanguageModel, place: str, row: Row) -> tuple[list[int], list[int]]:
    """Token ids of prompt and completion, the end-of-sequence token not yet on."""
    try:
        if "text" in row:
            ids = _open_ended(language_model, row["text"], special=True)
            prompt, completion = ids[:1], ids[1:]
        else:
            prompt = language_model.encode([row["prompt"]])[0]
            completion = continuation_ids(language_model, prompt, row["prompt"], row["completion"])
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ConfigError(place, [f"the tokenizer refuses it: {error}"]) from None
    if not completion:
        raise ConfigError(place, ["nothing to imitate: the text is a single token"])
    check_sayable(language_model, place, completion)
    return prompt, completion


def check_sayable(language_model: LanguageModel, place: str, completion: Sequence[int]) -> None:
    """Refuse tokens that the model never samples.

    Raises:
        ConfigError: names the place and the token.
    """
    forbidden = [i for i in completion if i >= language_model.vocab_size or not bool(language_model.allowed_V[i])]
    if forbidden:
        raise ConfigError(place, [f"holds token {forbidden[0]}, which the model never generates (padding, or unknown)"])


def continuation_ids(
    language_model: LanguageModel, prompt_ids: Sequence[int], prompt: str | None, completion: str
) -> list[int]:
    """The completion's tokens as they follow the prompt's, the end-of-sequence token not yet on.

    It is encoded alone where the two would merge across the border: a model that continues ``prompt_ids`` cannot generate
    the merged token.

    Args:
        language_model: encodes it.
        prompt_ids: the prompt's own tokens.
        prompt: its text; None where it is more than a text (a conversation).
        completion: the text that follows.
    """
    if prompt is not None and not language_model.chat:
        try:
            joint = _open_ended(language_model, prompt + completion, special=True)
        except Exception:  # a word across the border may be unknown where its two parts are not
            joint = []
        if joint[: len(prompt_ids)] == list(prompt_ids) and len(joint) > len(prompt_ids):
            return joint[len(prompt_ids) :]
    return _open_ended(language_model, completion, special=False)


def _open_ended(language_model: LanguageModel, text: str, *, special: bool) -> list[int]:
    ids = [int(i) for i in language_model.tokenizer(text, add_special_tokens=special)["input_ids"]]
    while ids and ids[-1] in language_model.eos_ids:
        ids.pop()
    return ids


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
