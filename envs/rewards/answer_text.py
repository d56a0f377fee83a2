"""The one text that a reward model reads, made of a prompt and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bakeoff.envs.preferences.formats import is_transcript, transcript, transcript_messages
from bakeoff.envs.preferences.pair import Message, Prompt
from bakeoff.errors import ConfigError, ModelError

TextFormat = Literal["chat", "plain"]
"""`chat`: turns in the tokenizer's chat template; `plain`: the answer behind the prompt, as one text."""

FORMATS: tuple[TextFormat, ...] = ("chat", "plain")


def chosen_format(wanted: str, tokenizer: Any, name: str) -> TextFormat:
    """The format to use: what is wanted, or where that is `auto`, `chat` for a tokenizer with a template.

    Raises:
        ConfigError: no such format.
        ModelError: `chat`, and the tokenizer has no chat template.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    match wanted:
        case "auto":
            return "chat" if has_template else "plain"
        case "chat":
            if not has_template:
                raise ModelError(f'reward model "{name}" has no chat template; use format: plain')
            return "chat"
        case "plain":
            return "plain"
    raise ConfigError("reward model", [f"format is {wanted!r}, expected auto, chat or plain"])


def texts_of(
    prompts: Sequence[Prompt], answers: Sequence[str], text_format: TextFormat, tokenizer: Any, name: str
) -> list[str]:
    """One text for each prompt and answer.

    A text prompt is a user's turn in a chat, or several turns where it is an HH-style transcript.

    Raises:
        ModelError: the chat template refuses a conversation.
    """
    if text_format == "plain":
        return [_plain(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return [_chat(prompt, answer, tokenizer, name) for prompt, answer in zip(prompts, answers, strict=True)]


def _plain(prompt: Prompt, answer: str) -> str:
    if isinstance(prompt, str):
        return prompt + answer
    return f"{transcript(prompt)} {answer.lstrip()}"


def _chat(prompt: Prompt, answer: str, tokenizer: Any, name: str) -> str:
    turns = [message.as_dict() for message in [*_turns(prompt), Message("assistant", answer.strip())]]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # Jinja's own errors, and any that a template raises
        roles = ", ".join(turn["role"] for turn in turns)
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f'the chat template of "{name}" refuses turns of {roles}: {reason}; use format: plain'
        ) from error
    return text


def _turns(prompt: Prompt) -> Sequence[Message]:
    if not isinstance(prompt, str):
        return prompt
    return transcript_messages(prompt) if is_transcript(prompt) else (Message("user", prompt),)


def prompt_texts_of(prompts: Sequence[Prompt], text_format: TextFormat, tokenizer: Any) -> list[str]:
    """The part of each text that stands before the answer."""
    if text_format == "plain":
        return [plain_text(prompt) for prompt in prompts]
    texts = []
    for prompt in prompts:
        turns = [message.as_dict() for message in _turns(prompt)]
        texts.append(str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)))
    return texts


def plain_text(prompt: Prompt) -> str:
    """A prompt as one text, a conversation as an HH-style transcript."""
    return prompt if isinstance(prompt, str) else transcript(prompt)
