"""Settings that the algorithms of preference optimization share."""

from __future__ import annotations

from pydantic import Field, model_validator

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.losses.preference import PreferenceLossType
from bakeoff.algos.preference_data.labels import Labels
from bakeoff.algos.preference_data.objective import PreferenceObjective
from bakeoff.errors import ConfigError


class PreferenceConfig(AlgorithmConfig):
    """Settings of the algorithms that learn from pairs."""

    loss_type: PreferenceLossType = "sigmoid"
    """`sigmoid` (DPO), `ipo`, `hinge` (SLiC), `robust` (with label_smoothing), `exo` (with label_smoothing or soft labels),
    `sppo`."""
    beta: float | None = Field(default=None, gt=0)
    """Of the loss; kl_coef / label_temperature where none is given, which has the task's objective for its optimum where labels are
    Bradley-Terry's (see docs/preference-optimization.md)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability with which a label is taken to be wrong."""
    supervised_coef: float = Field(default=0.0, ge=0)
    """Weight of the chosen completion's negative log-likelihood a token, against a falling likelihood of both."""
    length_normalization: bool = False
    """Log-probabilities are means over a completion's tokens in place of sums; changes the objective."""
    reference_free: bool = False
    """Leave the reference out of the loss; changes the objective."""
    target_margin: float = Field(default=0.0, ge=0)
    """Taken off beta times the margin (SimPO's gamma); changes the objective."""
    labels: Labels = "bradley_terry"
    """How the proxy judges pairs that were made here: `bradley_terry` draws the better one with probability
    sigmoid(difference / label_temperature), `deterministic` takes the greater reward, `soft` keeps that probability as the
    label."""
    label_temperature: float = Field(default=1.0, gt=0)
    """Tau: by how much rewards have to differ for a label to be clear."""

    @model_validator(mode="after")
    def _losses_have_what_they_need(self) -> PreferenceConfig:
        if self.loss_type == "exo" and not self.label_smoothing and self.labels != "soft":
            raise ValueError('loss_type exo is infinite for certain labels; give "label_smoothing", or labels: soft')
        if self.loss_type == "sppo" and self.target_margin:
            raise ValueError('loss_type sppo has no margin; leave out "target_margin"')
        return self

    def objective(self, algorithm: str, kl_coef: float) -> PreferenceObjective:
        """What is minimized.

        Raises:
            ConfigError: a price of KL of 0, which leaves no finite optimum, and no ``beta``.
        """
        beta = kl_coef / self.label_temperature if self.beta is None else self.beta
        if beta <= 0:
            raise ConfigError(
                algorithm, ['kl_coef is 0, so the loss has no finite optimum; give "beta", or a kl_coef above 0']
            )
        return PreferenceObjective(
            beta=beta,
            loss_type=self.loss_type,
            label_smoothing=self.label_smoothing,
            supervised_coef=self.supervised_coef,
            length_normalization=self.length_normalization,
            reference_free=self.reference_free,
            target_margin=self.target_margin,
        )
