"""From any causal language model or encoder to a sequence classifier with one score, before it is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bakeoff.envs.language_model.loading import DTYPES, first_line, load_pretrained, locate, quietly
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.language_model.split_trunk import find_blocks
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier, length_sorted_batches
from bakeoff.errors import ModelError
from bakeoff.seeding import OwnRandomness


def scalar_classifier(
    source: str | Path | LanguageModel,
    *,
    layers: int | None = None,
    max_length: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
) -> SequenceClassifier:
    """A sequence classifier with a new head that gives 0 to every text; the weights are its own.

    Args:
        source: a folder, hub id, GGUF file or ``package:NAME``, or a loaded language model.
        layers: keep only that many of the lowest blocks (all by default).
        max_length: tokens that are read of a text.
        device: where it runs (a loaded model stays where it is).
        dtype: what it computes in.
        seed: draws what else of the head is new.

    Raises:
        ModelError: nothing there, a family that has no sequence classifier, fewer blocks, or no padding token.
    """
    name = source.name if isinstance(source, LanguageModel) else str(source)
    with OwnRandomness(seed):
        if isinstance(source, LanguageModel):
            module, tokenizer = _of_causal(source.module, name), copy.deepcopy(source.tokenizer)
        else:
            module, tokenizer = _loaded(str(source), device, dtype)
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is not None:
        module.config.get_text_config().pad_token_id = int(tokenizer.pad_token_id)
    if layers is not None:
        _keep_lowest(module, layers, name)
    with torch.no_grad():
        for parameter in head_of(module, name).parameters():
            parameter.zero_()
    return SequenceClassifier(module, tokenizer, name=name, max_length=max_length)


def head_of(module: Any, name: str) -> nn.Linear:
    """The linear layer that gives the score.

    Raises:
        ModelError: none is found.
    """
    labels = int(module.config.num_labels)
    trunk = {id(part) for part in module.base_model.modules()}
    heads = [
        part
        for part in module.modules()
        if isinstance(part, nn.Linear) and part.out_features == labels and id(part) not in trunk
    ]
    if not heads:
        raise ModelError(f'"{name}" ({type(module).__name__}) has no linear head to train')
    return heads[-1]


@torch.inference_mode()
def head_features(model: SequenceClassifier, encoded: Sequence[Sequence[int]]) -> Tensor:
    """What the head reads of each sequence, shape (N, D), float32 on the CPU.

    Raises:
        ModelError: a feature that is not finite.
    """
    rows: list[Tensor | None] = [None] * len(encoded)
    with _without_head(model):
        for batch in length_sorted_batches([len(ids) for ids in encoded], model.batch_tokens):
            features = model.forward([encoded[row] for row in batch]).float().cpu()
            for row, features_D in zip(batch, features, strict=True):
                rows[row] = features_D
    features_ND = torch.stack([features for features in rows if features is not None])
    if not bool(features_ND.isfinite().all()):
        row = int((~features_ND.isfinite()).any(1).nonzero()[0])
        raise ModelError(
            f'"{model.name}" gives features that are not finite (first for text {row + 1}); '
            "use dtype float32, or another model"
        )
    return features_ND


@contextmanager
def _without_head(model: SequenceClassifier) -> Iterator[None]:
    """The model hands out what its head reads: transformers picks the token to score after the head, whatever that is."""
    head = head_of(model.module, model.name)
    owner_name, _, leaf = next(n for n, part in model.module.named_modules() if part is head).rpartition(".")
    owner = model.module.get_submodule(owner_name)
    setattr(owner, leaf, nn.Identity())
    try:
        yield
    finally:
        setattr(owner, leaf, head)


def _loaded(source: str, device: str, dtype: str) -> tuple[Any, Any]:
    if dtype not in DTYPES:
        raise ModelError(f'dtype "{dtype}" is not known; use one of {", ".join(DTYPES)}')
    place, arguments = locate(source)
    if arguments:  # a GGUF file knows only causal models
        module, tokenizer = load_pretrained(source, device=device, dtype=dtype)
        return _of_causal(module, source), tokenizer
    try:
        with quietly(errors_only=True):  # the head is missing, and meant to be
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            module = AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=1, dtype=DTYPES[dtype], ignore_mismatched_sizes=True, trust_remote_code=False
            ).to(device)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, safetensors' own, ...
        raise ModelError(f'model "{source}" cannot be made a sequence classifier: {first_line(error)}') from error
    return module, tokenizer


def _of_causal(causal: Any, name: str) -> Any:
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    config.architectures = None
    try:
        family: Any = AutoModelForSequenceClassification
        module = family.from_config(config, trust_remote_code=False)
        module.base_model.load_state_dict(causal.base_model.state_dict())
    except Exception as error:  # a family without a sequence classifier, or with another trunk in it
        raise ModelError(f'model "{name}" cannot be made a sequence classifier: {first_line(error)}') from error
    return module.to(device=causal.device, dtype=causal.dtype)


def _keep_lowest(module: Any, layers: int, name: str) -> None:
    attribute, blocks = find_blocks(module.base_model, name)
    if isinstance(layers, bool) or not 1 <= layers <= len(blocks):
        raise ModelError(f'layers is {layers!r}, and "{name}" has {len(blocks)} blocks; give a number from 1 to that')
    setattr(module.base_model, attribute, nn.ModuleList(blocks[:layers]))
    config = module.config.get_text_config()
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]
