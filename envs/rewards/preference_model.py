"""The reward ``preference_model``: how much a model that was trained on human preferences likes an answer.

One that ``bakeoff train-reward`` made, or any Hugging Face reward model with a single score; or several of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bakeoff.envs.language_model.loading import quietly
from bakeoff.envs.preferences.pair import PreferencePair, Prompt
from bakeoff.envs.rewards.answer_pooling import AnswerIds, Pooling, answer_start, check_pooling, mean_scores
from bakeoff.envs.rewards.answer_text import TextFormat, chosen_format, prompt_texts_of, texts_of
from bakeoff.envs.rewards.call import Reward
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier
from bakeoff.errors import ConfigError, ModelError

SETTINGS_FILE = "bakeoff_reward_model.json"
"""Beside a model that we trained: how it wants its text."""

Ensemble = Literal["mean", "min", "mean_minus_deviation"]
"""The rule that combines the scores of several models. The cautious ones help where the models disagree (Coste et al. 2024)."""


class PreferenceModel:
    """A reward model with a scalar head; also a reward."""

    name = "preference_model"

    def __init__(self, model: SequenceClassifier, text_format: str = "auto", pooling: str = "last") -> None:
        """Wrap a sequence classifier.

        Args:
            model: the classifier.
            text_format: ``chat``, ``plain``, or ``auto``: chat where the tokenizer has a template.
            pooling: ``last``: the score is read at the last token, as transformers does; ``answer_mean``: it is the mean over
                the answer's tokens.

        Raises:
            ModelError: more than one label, or no chat template where one is needed.
        """
        labels = int(model.module.config.num_labels)
        if labels != 1:
            raise ModelError(
                f'"{model.name}" has {labels} labels, a preference model one score; use the reward "classifier" with a label'
            )
        self.model = model
        self.text_format: TextFormat = chosen_format(text_format, model.tokenizer, model.name)
        self.pooling: Pooling = check_pooling(model, pooling)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        text_format: str | None = None,
        max_length: int | None = None,
    ) -> PreferenceModel:
        """Load a folder or hub id; what is not given is as the model was trained, where we trained it.

        Raises:
            ModelError: see :meth:`SequenceClassifier.load` and above.
        """
        trained = _saved_settings(Path(source))
        limit = max_length if max_length is not None else trained.get("max_length")
        model = SequenceClassifier.load(source, device=device, dtype=dtype, max_length=limit)
        return cls(model, text_format or trained.get("format") or "auto", trained.get("pooling") or "last")

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt with its answer."""
        texts = texts_of(prompts, answers, self.text_format, self.model.tokenizer, self.model.name)
        return self.model.encode(texts, special=self.text_format != "chat")

    def answer_ids(self, prompts: Sequence[Prompt], answers: Sequence[str], *, cut: bool = True) -> list[AnswerIds]:
        """Token ids of each prompt with its answer, and where the answer begins; the last ``max_length`` where ``cut``."""
        special = self.text_format != "chat"
        tokenizer, name = self.model.tokenizer, self.model.name
        texts = texts_of(prompts, answers, self.text_format, tokenizer, name)
        alone = {
            prompt: text
            for prompt, text in zip(prompts, prompt_texts_of(prompts, self.text_format, tokenizer), strict=True)
            if text
        }
        starts = dict(zip(alone, self.model.encode(list(alone.values()), special=special, cut=False), strict=True))
        found = []
        for prompt, ids in zip(prompts, self.model.encode(texts, special=special, cut=False), strict=True):
            dropped = max(0, len(ids) - self.model.max_length) if cut else 0
            start = max(0, answer_start(ids, starts.get(prompt, [])) - dropped)
            found.append(AnswerIds(ids[dropped:], start))
        return found

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The score of each answer, shape (N,)."""
        if self.pooling == "answer_mean":
            means: npt.NDArray[np.float64] = mean_scores(self.model, self.answer_ids(prompts, answers)).double().numpy()
            return means
        scores: npt.NDArray[np.float64] = self.model.logits(self.encode(prompts, answers))[:, 0].double().numpy()
        return scores

    def differences(self, pairs: Sequence[PreferencePair]) -> npt.NDArray[np.float64]:
        """Score of the chosen minus score of the rejected answer, shape (N,)."""
        return pair_differences(self.scores, pairs)

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """Scores of the completions, as a reward."""
        return [float(score) for score in self.scores(prompts, completions)]

    def save(self, folder: str | Path) -> None:
        """Save weights, tokenizer and settings; plain transformers loads the folder as a sequence classifier."""
        folder = Path(folder)
        with quietly():
            self.model.module.save_pretrained(folder)
        self.model.tokenizer.save_pretrained(folder)
        settings = {"format": self.text_format, "pooling": self.pooling, "max_length": self.model.max_length}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


class PreferenceEnsemble:
    """Several reward models that speak with one voice; also a reward."""

    name = "preference_model"

    def __init__(self, members: Sequence[PreferenceModel], rule: Ensemble = "mean", deviations: float = 1.0) -> None:
        """Args:
        members: the models; their scores should have a common scale, such as that of members trained alike.
        rule: ``mean``, ``min``, or ``mean_minus_deviation``.
        deviations: how many of the members' standard deviations the last takes off.
        """
        if rule not in ("mean", "min", "mean_minus_deviation"):
            raise ConfigError(
                'reward "preference_model"', [f"ensemble is {rule!r}, expected mean, min or mean_minus_deviation"]
            )
        if not members:
            raise ConfigError('reward "preference_model"', ["model names no model"])
        self.members, self.rule, self.deviations = tuple(members), rule, float(deviations)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The score of each answer, shape (N,)."""
        return combined(np.stack([m.scores(prompts, answers) for m in self.members]), self.rule, self.deviations)

    def differences(self, pairs: Sequence[PreferencePair]) -> npt.NDArray[np.float64]:
        """Score of the chosen minus score of the rejected answer, shape (N,)."""
        return pair_differences(self.scores, pairs)

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """Scores of the completions, as a reward."""
        return [float(score) for score in self.scores(prompts, completions)]


def combined(scores_MN: npt.NDArray[np.float64], rule: Ensemble, deviations: float = 1.0) -> npt.NDArray[np.float64]:
    """One score from M members' for each of N answers, shape (N,)."""
    if rule == "min":
        least: npt.NDArray[np.float64] = scores_MN.min(0)
        return least
    mean: npt.NDArray[np.float64] = scores_MN.mean(0)
    return mean if rule == "mean" else mean - deviations * scores_MN.std(0)


def pair_differences(
    scores: Callable[[Sequence[Prompt], Sequence[str]], npt.NDArray[np.float64]], pairs: Sequence[PreferencePair]
) -> npt.NDArray[np.float64]:
    """Score of the chosen minus score of the rejected answer, shape (N,); all answers are scored in one call."""
    prompts = [pair.prompt for pair in pairs]
    both = scores(prompts * 2, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    return both[: len(pairs)] - both[len(pairs) :]


def preference_model(
    model: str | Path | Sequence[str | Path],
    ensemble: Ensemble = "mean",
    deviations: float = 1.0,
    format: str | None = None,
    max_length: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Reward:
    """A reward model's score, or what several agree on; a folder of ``member-*`` folders counts as several."""
    sources = [model] if isinstance(model, str | Path) else list(model)
    if len(sources) == 1:
        sources = sorted(path for path in Path(sources[0]).glob("member-*") if path.is_dir()) or sources
    members = [
        PreferenceModel.load(source, device=device, dtype=dtype, text_format=format, max_length=max_length)
        for source in sources
    ]
    return members[0] if len(members) == 1 else PreferenceEnsemble(members, ensemble, deviations)


def _saved_settings(folder: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / SETTINGS_FILE} cannot be read ({error}); train the model again") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{folder / SETTINGS_FILE} is no JSON object; train the model again")
    return settings
