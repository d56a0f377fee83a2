"""Two linear fits on sparse features: ridge regression on ratings, logistic regression on comparisons (Bradley and Terry)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse.linalg  # noqa: F401 - not loaded by scipy.sparse itself
from scipy import optimize, sparse, special

Array = npt.NDArray[np.float64]


def ridge(features_NV: sparse.csr_matrix, targets_N: Array, penalty: float) -> tuple[Array, float]:
    """Weights (V,) and intercept that minimize sum (x w + c - y)^2 + penalty |w|^2; the intercept is not penalized."""
    center_V = np.asarray(features_NV.mean(axis=0)).ravel()
    middle, count = float(targets_N.mean()), features_NV.shape[0]
    # Centering by a rank-one correction keeps the matrix sparse.
    normal = sparse.linalg.LinearOperator(
        (len(center_V), len(center_V)),
        matvec=lambda w_V: features_NV.T @ (features_NV @ w_V) - count * center_V * (center_V @ w_V) + penalty * w_V,
        dtype=np.float64,
    )
    weights_V: Array = sparse.linalg.cg(normal, features_NV.T @ (targets_N - middle), rtol=1e-5, maxiter=2000)[0]
    return weights_V, middle - float(center_V @ weights_V)


def comparison_weights(differences_NV: sparse.csr_matrix, penalty: float, counts_N: Array | None = None) -> Array:
    """Weights (V,) that minimize sum -log sigmoid(w d) + penalty/2 |w|^2, d preferred minus other (Bradley and Terry).

    ``counts_N`` weighs comparisons: how often each was drawn in a bootstrap resample, for instance.
    """
    weight_N = np.ones(differences_NV.shape[0]) if counts_N is None else counts_N
    # What no comparison shows keeps the weight 0.
    shown_K = np.unique(differences_NV.indices)
    differences_NK = differences_NV[:, shown_K]
    transposed_KN = differences_NK.T.tocsr()

    def loss_and_gradient(w_K: Array) -> tuple[float, Array]:
        margin_N = differences_NK @ w_K
        loss = float(weight_N @ np.logaddexp(0.0, -margin_N)) + 0.5 * penalty * float(w_K @ w_K)
        return loss, transposed_KN @ (-weight_N * special.expit(-margin_N)) + penalty * w_K

    options = {"maxiter": 500, "ftol": 1e-8, "gtol": 1e-4}
    found = optimize.minimize(loss_and_gradient, np.zeros(len(shown_K)), jac=True, method="L-BFGS-B", options=options)
    weights_V = np.zeros(differences_NV.shape[1])
    weights_V[shown_K] = found.x
    return weights_V


def pair_accuracy(scores_N: Array, truth_N: Array, gap: float = 1.0) -> float:
    """Share of pairs whose truth differs by more than ``gap`` that the scores order alike; a tie counts half."""
    wanted_NN = truth_N[:, None] - truth_N[None, :] > gap
    difference_M = (scores_N[:, None] - scores_N[None, :])[wanted_NN]
    return float(np.mean((difference_M > 0) + 0.5 * (difference_M == 0)))


def pair_accuracy_interval(
    scores_N: Array, truth_N: Array, rng: np.random.Generator, gap: float = 1.0, resamples: int = 200
) -> tuple[float, float]:
    """95 % percentile interval of :func:`pair_accuracy`: whole sentences are resampled, since pairs share them."""
    wanted_NN = truth_N[:, None] - truth_N[None, :] > gap
    difference_NN = scores_N[:, None] - scores_N[None, :]
    right_NN = (wanted_NN * ((difference_NN > 0) + 0.5 * (difference_NN == 0))).astype(np.float32)
    pairs_NN = wanted_NN.astype(np.float32)
    draws = []
    for _ in range(resamples):
        times_N = np.bincount(rng.integers(0, len(truth_N), len(truth_N)), minlength=len(truth_N)).astype(np.float32)
        draws.append(float(times_N @ right_NN @ times_N) / float(times_N @ pairs_NN @ times_N))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
