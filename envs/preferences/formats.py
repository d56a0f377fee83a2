"""From a row of a preference data set to a pair: TRL's formats and HH-style transcripts.

TRL's: https://huggingface.co/docs/trl/dataset_formats (standard and conversational, explicit and implicit prompt).
HH: https://github.com/anthropics/hh-rlhf, whole transcripts whose turns begin with ``\\n\\nHuman:`` and ``\\n\\nAssistant:``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.envs.preferences.files import Broken
from bakeoff.envs.preferences.pair import Message, PreferencePair, Prompt

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""The start of a turn in a transcript."""

SIDE_KEY = "preferred"
"""The key that says which of ``response_0`` and ``response_1`` was preferred."""

_TURN = re.compile(r"\n\n(Human|Assistant):")


class BadRowError(Exception):
    """A row that is no usable pair; ``kind`` is what such rows are counted under."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def pair_of(row: Any) -> PreferencePair:
    """The pair that a row holds.

    Raises:
        BadRowError: it holds none; says which kind of problem it is.
    """
    if isinstance(row, Broken):
        raise BadRowError(row.kind, row.detail)
    if not isinstance(row, Mapping):
        raise BadRowError("not an object", f"expected keys and values, found {type(row).__name__}")
    chosen, rejected = _sides(row)
    prompt, margin = row.get("prompt"), _margin(row.get("margin"))
    if isinstance(chosen, str) and isinstance(rejected, str):
        return PreferencePair(*_from_texts(prompt, chosen, rejected), margin)
    if _is_list(chosen) and _is_list(rejected):
        return PreferencePair(*_from_messages(prompt, _messages(chosen), _messages(rejected)), margin)
    found = f"chosen is {type(chosen).__name__} and rejected {type(rejected).__name__}"
    raise BadRowError("wrong type", f"{found}; expected two texts or two lists of messages")


def is_transcript(text: str) -> bool:
    """Whether a text is an HH-style transcript."""
    return text.startswith((HUMAN, HUMAN.lstrip())) and ASSISTANT in text


def transcript_messages(text: str) -> tuple[Message, ...]:
    """The turns of an HH-style transcript; the open ``Assistant:`` at its end is none."""
    parts = _TURN.split(text if text.startswith("\n\n") else "\n\n" + text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [Message(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True)]
    return tuple(turns[:-1] if turns and turns[-1].role == "assistant" and not turns[-1].content else turns)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as an HH-style transcript that is open for the assistant's next turn."""
    marks = {"user": HUMAN, "assistant": ASSISTANT}
    said = [f"{marks[m.role]} {m.content}" if m.role in marks else m.content for m in messages]
    return "".join([*said, ASSISTANT])


def length_of(prompt: Prompt) -> int:
    """Its characters, white space at the ends not counted."""
    return len(prompt.strip()) if isinstance(prompt, str) else sum(len(m.content.strip()) for m in prompt)


def _sides(row: Mapping[str, Any]) -> tuple[Any, Any]:
    if "chosen" in row and "rejected" in row:
        return row["chosen"], row["rejected"]
    answers = [row.get("response_0"), row.get("response_1")]
    if None not in answers and SIDE_KEY in row:
        side = row[SIDE_KEY]
        if side not in (0, 1):
            raise BadRowError("wrong type", f"{SIDE_KEY} is {side!r}, expected 0 or 1")
        return answers[int(side)], answers[1 - int(side)]
    keys = ", ".join(sorted(map(str, row))[:8]) or "none"
    raise BadRowError(
        "missing keys", f"has {keys}; expected chosen and rejected, and prompt where they do not begin with it"
    )


def _from_texts(prompt: Any, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    if prompt is None:
        start = _shared_start(chosen, rejected)
        return start, chosen[len(start) :], rejected[len(start) :]
    if isinstance(prompt, str):
        if is_transcript(prompt) and chosen.startswith(prompt) and rejected.startswith(prompt):
            return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
        return prompt, chosen, rejected
    return _messages(prompt), chosen, rejected


def _shared_start(chosen: str, rejected: str) -> str:
    """The prompt that both texts begin with: up to the last turn they share, or to the last whole word."""
    if chosen == rejected:
        raise BadRowError("identical sides", "chosen and rejected are the same text")
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    shared = chosen[: min(len(chosen), len(rejected)) if length is None else length]
    if is_transcript(chosen) and is_transcript(rejected):
        turn = shared.rfind(ASSISTANT)
        if turn < 0:
            raise BadRowError("no shared prompt", "the two transcripts differ before the assistant's first turn")
        return shared[: turn + len(ASSISTANT)]
    while shared and not shared[-1].isspace():  # a word that both begin alike belongs to the answers
        shared = shared[:-1]
    shared = shared.rstrip()
    if not shared:
        raise BadRowError(
            "no shared prompt", "chosen and rejected begin with different words; give the prompt as a key"
        )
    return shared


def _from_messages(
    prompt: Any, chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], str, str]:
    given: tuple[Message, ...] = ()
    if _is_list(prompt):
        given = _messages(prompt)
    elif isinstance(prompt, str) and chosen and chosen[0].role == "assistant":
        given = (Message("user", prompt),)
    if chosen == rejected:
        raise BadRowError("identical sides", "chosen and rejected are the same messages")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    answers = (chosen[shared:], rejected[shared:])
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        if len(answer) != 1 or answer[0].role != "assistant":
            roles = ", ".join(m.role for m in answer) or "nothing"
            raise BadRowError(
                "no single answer", f"after the shared messages {side} has {roles}; expected one assistant turn"
            )
    common = chosen[:shared]
    conversation = common if common[: len(given)] == given else given + common
    if not conversation:
        raise BadRowError("no shared prompt", "chosen and rejected share no message; give the prompt as a key")
    return conversation, answers[0][0].content, answers[1][0].content


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _messages(value: Any) -> tuple[Message, ...]:
    if not _is_list(value):
        raise BadRowError("wrong type", f"expected a text or a list of messages, found {type(value).__name__}")
    messages = []
    for message in value:
        fine = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
        if not fine:
            raise BadRowError("wrong type", "a message needs a text under role and one under content")
        messages.append(Message(message["role"], message["content"]))
    return tuple(messages)


def _margin(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRowError("wrong type", f"margin is {value!r}, expected a finite number")
    return float(value)
