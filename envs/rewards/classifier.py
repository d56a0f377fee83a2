"""The reward ``classifier``: one label of any Hugging Face sequence classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from bakeoff.envs.rewards.call import Reward
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier
from bakeoff.errors import ConfigError, ModelError
from bakeoff.names import did_you_mean

Output = Literal["logit", "probability"]
"""The label's output that is the reward."""


class Classifier:
    """One label's logit, or its probability."""

    name = "classifier"

    def __init__(self, model: SequenceClassifier, label: str | int, output: Output, with_prompt: bool) -> None:
        """Args:
        model: the classifier.
        label: by name, or by number.
        output: its logit, or its probability: a softmax over the labels, a sigmoid where there is one label, or where the
            model says that several may hold.
        with_prompt: read prompt and completion as one text.
        """
        if output not in ("logit", "probability"):
            raise ConfigError('reward "classifier"', [f"output is {output!r}, expected logit or probability"])
        self.model, self.output, self.with_prompt = model, output, with_prompt
        self.index = _index(model, label)

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """One number for each completion."""
        texts = [p + c for p, c in zip(prompts, completions, strict=True)] if self.with_prompt else list(completions)
        logits_NK = self.model.logits(self.model.encode([text if text.strip() else " " for text in texts]))
        if self.output == "probability":
            several = self.model.module.config.problem_type == "multi_label_classification" or logits_NK.shape[1] == 1
            logits_NK = torch.sigmoid(logits_NK) if several else torch.softmax(logits_NK, 1)
        return [float(value) for value in logits_NK[:, self.index]]


def classifier(
    model: str | Path,
    label: str | int,
    output: Output = "logit",
    with_prompt: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    max_length: int | None = None,
) -> Reward:
    """A label's logit or probability by a sequence classifier from a folder or the hub."""
    loaded = SequenceClassifier.load(model, device=device, dtype=dtype, max_length=max_length)
    return Classifier(loaded, label, output, with_prompt)


def _index(model: SequenceClassifier, label: str | int) -> int:
    names = {int(index): str(name) for index, name in model.module.config.id2label.items()}
    for index, name in names.items():
        if (isinstance(label, int) and index == label) or (isinstance(label, str) and name.lower() == label.lower()):
            return index
    known = ", ".join(names.values())
    hint = did_you_mean(label.lower(), [name.lower() for name in names.values()]) if isinstance(label, str) else ""
    raise ModelError(f'classifier "{model.name}" has no label {label!r}{hint}; it has {known}')
