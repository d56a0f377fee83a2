"""Estimators of a KL divergence from log-probabilities of sampled tokens. Pure functions.

Letters: B completions, T tokens. Source of k1, k2, k3: J. Schulman, "Approximating KL Divergence" (2020).
"""

from __future__ import annotations

from torch import Tensor


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log(p/q) of samples from p: unbiased for KL(p || q), of high variance, may be negative."""
    return logprobs - reference_logprobs


def k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(log(p/q))^2 / 2: biased, of low variance; its gradient is that of KL(p || q) in expectation."""
    return (logprobs - reference_logprobs) ** 2 / 2


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): unbiased, never negative. As a *loss* its gradient is not that of KL(p || q)."""
    log_ratio = reference_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


def k3_ratio(logprobs: Tensor, old_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """p/old times k3, of samples from ``old``: unbiased for KL(p || q), and as a loss, too, since the ratio has its gradient.

    Where p is ``old`` that gradient is (k3 + 1 - q/p) d log p = log(p/q) d log p: k2's. DeepSeek-V3.2 (2025); TRL's
    ``use_bias_correction_kl``.

    Args:
        logprobs: under p, which is being trained.
        old_logprobs: under the policy that sampled; no gradient.
        reference_logprobs: under q; no gradient.
    """
    return (logprobs - old_logprobs).exp() * k3(logprobs, reference_logprobs)


def adapt_coefficient(coefficient: float, kl: float, target: float, samples: int, horizon: int) -> float:
    """The KL coefficient after one step of proportional control (Ziegler et al. 2019, section 2.2).

    Args:
        coefficient: the present beta.
        kl: the measured sequence KL in nats.
        target: the wanted one.
        samples: completions since the last step.
        horizon: completions over which an error at its limit multiplies beta by 1.22 or .82: (1 +- .2 n / horizon)^(horizon / n)
            is near e^(+-.2) for steps of n completions.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * samples / horizon)
