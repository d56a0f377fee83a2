"""What a folder or hub model has to hold before it counts as a language model: its own weights, all of them, and a tokenizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bakeoff.errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.tiktoken", "tekken.json")
"""Any of them is a vocabulary that is read without further packages."""

OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
"""How transformers' classes end whose head gives no next token."""

NAMED = 3
"""Weights that a message names."""


def check_config(config: Any, source: str) -> None:
    """Refuse what is no causal language model by its config alone, before the weights are read.

    Raises:
        ModelError: an encoder-decoder, or a model saved with another head than that for the next token.
    """
    classes = getattr(config, "architectures", None) or []
    kind = str(classes[0] if classes else type(config).__name__)
    refusal = f'model "{source}" cannot be loaded as a causal language model: '
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{refusal}it is an encoder-decoder ({kind}); use a decoder-only model")
    if kind.endswith(OTHER_HEADS):
        raise ModelError(
            f"{refusal}it is a {kind}, which scores texts; use it as a reward, and as the model the one it was trained from"
        )


def check_weights(info: Mapping[str, Any], source: str) -> None:
    """Refuse a checkpoint that lacks weights, which transformers would draw at random, other ones on each load.

    Args:
        info: transformers' ``output_loading_info``.
        source: the model's name for the message.

    Raises:
        ModelError: names the first missing weights, and the first ones that have no place in the model.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys") or ())
    if wrong:
        raise ModelError(f'model "{source}": the files hold {_some(wrong)} in another shape than its config.json says')
    if not missing:
        if unexpected:
            warnings.warn(f'model "{source}": its files also hold {_some(unexpected)}; unused', stacklevel=2)
        return
    instead = f", and {_some(unexpected)} with no place in the model" if unexpected else ""
    raise ModelError(
        f'model "{source}" lacks weights, which would be random: its files hold no {_some(missing)}{instead}; '
        "use a complete checkpoint of a causal language model, saved by save_pretrained"
    )


def tokenizer_problem(place: str) -> str | None:
    """Why a folder's tokenizer cannot be read, where its files show it; None where they do not."""
    folder = Path(place)
    if not folder.is_dir() or any(next(folder.glob(name), None) for name in TOKENIZER_FILES):
        return None
    remedy = f'AutoTokenizer.from_pretrained(BASE).save_pretrained("{place}") saves one, where BASE is the model it comes from'
    pieces = next((name for name in ("tokenizer.model", "spiece.model") if (folder / name).is_file()), None)
    if pieces is None:
        return f"the folder holds no tokenizer (no tokenizer.json); {remedy}"
    return (
        f"its tokenizer is {pieces} alone, which cannot be read without a package that bakeoff does not use "
        f"(sentencepiece); where it is installed, {remedy}"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
