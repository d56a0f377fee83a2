"""The checks of the contract suite, each a function that raises :class:`ContractViolation` with the reason."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import WITHOUT_REWARD, Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.benchmarks.evaluation.audit import Audit, in_words, scored_so_far, watched
from bakeoff.benchmarks.storage import checkpoint
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import METERS, Budget
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.testing.subject import LONG, STILL, ContractViolation, NotSupported, Row, Subject, play

GAIN = 0.3
"""Share of the way from the reference to the optimum: far below what any built-in reaches on ``LONG``, far above chance (0)."""

GAIN_FROM_LABELS = 0.05
"""The same where only labels of pairs are seen: one noisy bit per two queries. The built-ins gain .13 to .29 (five runs)."""

BATCHES, MOST_UPDATES = 3, 60
"""Batches in the budget of the check on budgets, and updates after which it gives up."""

CONSTANT = 0.1
"""A reward that float32 cannot hold exactly: the mean of some of them is not their value."""

ENDLESS = 2_000_000
"""Trained tokens without a new reward query, after which none is expected; every built-in that stops querying ends below it."""


# ---------------------------------------------------------------- the checks


def settings(subject: Subject) -> None:
    """Every setting is documented, and the configuration survives JSON."""
    if not issubclass(subject.kind.Config, AlgorithmConfig):
        raise ContractViolation(f"Config is {subject.kind.Config!r}; make it a subclass of bakeoff.AlgorithmConfig")
    if not isinstance(getattr(subject.kind, "data_source", None), DataSource):
        raise ContractViolation(
            "it has no data_source; declare where its training data come from, such as DataSource.ONLINE"
        )
    fields = subject.kind.Config.model_fields
    undocumented = [name for name, field in fields.items() if not (field.description or "").strip()]
    if undocumented:
        raise ContractViolation(
            f"{', '.join(undocumented)}: not documented; write a docstring under each field of the Config"
        )
    required = [name for name, field in fields.items() if field.is_required()]
    if required:
        raise ContractViolation(f"{', '.join(required)}: no default; a suite may name an algorithm without settings")
    config = subject.kind.Config()
    again = subject.kind.Config.model_validate_json(config.model_dump_json())
    if again != config:
        raise ContractViolation(f"the default Config does not survive JSON: {again} instead of {config}")
    if not (subject.kind.__doc__ or "").strip():
        raise ContractViolation(
            f"class {subject.kind.__name__} has no docstring; its first line is the algorithm's description"
        )


def starts(subject: Subject) -> None:
    """It starts as the reference, or declares that it does not."""
    kl = subject.score(subject.make(), "exact_kl")
    if subject.kind.starts_as_reference and not abs(kl) < 1e-4:
        raise ContractViolation(
            f"it starts {kl:.4g} nats from the reference; start there, or set starts_as_reference = False"
        )
    if not subject.kind.starts_as_reference and not 0.01 < kl < math.inf:
        raise ContractViolation(
            f"starts_as_reference is False, but it starts {kl:.4g} nats from the reference; leave that line out"
        )


def stays(subject: Subject) -> None:
    """Without a signal in the reward it stays where it is, or declares that it moves."""
    if subject.kind.data_source in WITHOUT_REWARD:
        raise NotSupported("it learns from no reward")
    if not subject.kind.stays_without_signal:
        raise NotSupported("stays_without_signal is False: it moves without a reward, by design")

    def constant(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        return [CONSTANT] * len(completions)

    algorithm = subject.make(task=dataclasses.replace(subject.task, reward=constant), budget=STILL)
    start = subject.score(algorithm, "exact_kl")
    for row in play(algorithm, 10):
        size = row.get("effective_sample_size", 1.0)
        if abs(size - 1) > 1e-3:
            raise ContractViolation(
                f"its effective sample size is {size:.4g} while the policy is the one that sampled; take both log-probabilities "
                "of a ratio from one kind of pass, such as policy.logprobs(completions)"
            )
    moved = abs(subject.score(algorithm, "exact_kl") - start)
    if not moved <= 1e-6:
        raise ContractViolation(
            f"with the same reward for every completion it went {moved:.3g} nats from the reference; get log-probabilities from "
            "policy.logprobs and policy.reference_logprobs, and centered rewards from relative_scores, or set "
            "stays_without_signal = False"
        )


def repeats(subject: Subject) -> None:
    """All randomness comes from the seed."""
    played = [subject.make(seed) for seed in (0, 0, 1)]
    first, again, other = (play(algorithm, 2) for algorithm in played)
    difference = _difference(first, again) or _other_weights(played[0], played[1])
    if difference is not None:
        raise ContractViolation(f"the same seed gave {difference}; draw all randomness from self.rng")
    if subject.kind.data_source is not DataSource.NONE and first == other:
        raise ContractViolation(
            "another seed gave the same trace; draw from self.rng, and play the prompts of self.envs.reset()"
        )


def reference(subject: Subject) -> None:
    """The reference's weights stay unchanged, and every trained weight moves."""
    module = subject.task.language_model.module
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    algorithm = subject.make()
    trained = [p.detach().clone() for p in algorithm.trained_parameters()]
    try:
        play(algorithm, 2)
        changed = [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]
    finally:  # a task that the caller shares must not stay changed
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(before[name])
    if changed:
        raise ContractViolation(f"the reference's {changed[0]} changed; train self.policy, never task.language_model")
    if algorithm.envs.meter.trained_tokens:
        if not trained:
            raise ContractViolation(
                "tokens were trained, but trained_parameters() returns no weight; return those that move"
            )
        still = sum(torch.equal(p, old) for p, old in zip(algorithm.trained_parameters(), trained, strict=True))
        if still:
            raise ContractViolation(
                f"{still} of {len(trained)} trained weights did not move in two updates; use them, or freeze them"
            )


def resumes(subject: Subject) -> None:
    """A checkpoint holds everything that decides later numbers."""
    if not subject.kind.resumes_exactly:
        raise NotSupported("resumes_exactly is False: a killed cell restarts from its beginning")
    unstopped = subject.make()
    whole = play(unstopped, 3)
    first = subject.make()
    rows = play(first, 1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_state({"algorithm": first.state_dict(), "meter": first.envs.meter.snapshot()}, Path(folder))
        state = checkpoint.load_state(Path(folder))
    second = subject.make(seed=99)
    second.load_state_dict(state["algorithm"])
    second.envs.meter.restore(state["meter"])
    difference = _difference(whole, rows + play(second, 2)) or _other_weights(unstopped, second)
    if difference is None and not _same(unstopped.state_dict(), second.state_dict()):
        difference = "another state_dict()"
    if difference is not None:
        raise ContractViolation(
            f"a run resumed from its checkpoint gave {difference}; "
            "keep what decides it in state_dict() (plain attributes are kept automatically), or set resumes_exactly = False"
        )


def meter(subject: Subject) -> None:
    """The meter counts everything spent, and only rises."""
    task = watched(subject.task)
    scored = scored_so_far(task)
    algorithm = subject.make(task=task)
    audit = Audit(task, algorithm, scored)
    totals = algorithm.envs.meter
    before = totals.snapshot()
    with _watching(algorithm) as seen:
        for number in range(1, 5):
            if algorithm.finished:
                break
            with audit.watching():
                metrics = algorithm.update()
            if not isinstance(metrics, Mapping):
                raise ContractViolation(
                    f"update {number} returned {type(metrics).__name__}; return a mapping of names to numbers"
                )
            bad = [name for name, value in metrics.items() if not _finite(value)]
            if bad:
                raise ContractViolation(
                    f"update {number}: metric {bad[0]} is {metrics[bad[0]]!r}; metrics are finite numbers"
                )
            after = totals.snapshot()
            fell = [name for name in METERS if after[name] < before[name]]
            if fell or totals.paused:
                raise ContractViolation(
                    f"update {number}: {fell[0] + ' fell' if fell else 'the meter is paused'}; leave the meter alone"
                )
            before = after
    audit.close()
    _refuse_what_is_outside(audit)
    for what, found, counted_tokens in (
        ("tokens were sampled", seen["generated_tokens"], totals.generated_tokens),
        ("tokens were trained on", seen["trained_tokens"], totals.trained_tokens),
    ):
        if found > counted_tokens:
            raise ContractViolation(
                f"{found} {what}, but the meter shows {counted_tokens}; get completions by playing in self.envs, "
                "and train self.policy itself"
            )


def saves(subject: Subject) -> None:
    """The saved files are safe to load and hold the policy."""
    from transformers import AutoModelForCausalLM

    algorithm = subject.make()
    play(algorithm, 1)
    quiet = contextlib.redirect_stderr(io.StringIO())  # progress bars
    with quiet, tempfile.TemporaryDirectory() as folder:
        algorithm.save(folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        pickles = [file.name for file in files if file.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".zip"}]
        if pickles:
            raise ContractViolation(f"it saves {pickles[0]}, which only pickle reads; save safetensors and JSON")
        if not any(file.suffix == ".safetensors" for file in files):
            raise ContractViolation("it saves no .safetensors file; the base class's save() does")
        if not subject.kind.saves_language_model:
            return
        plain = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        theirs, ours = plain(tokens).logits, algorithm.policy.model.module(tokens).logits
    if not torch.allclose(theirs, ours, rtol=1.3e-6, atol=1e-5):
        apart = float((theirs - ours).abs().max())
        raise ContractViolation(f"the saved model differs from its policy (logits by up to {apart:.3g})")


def budget(subject: Subject) -> None:
    """The last update that the budget pays for moves weights, and reward queries are never exceeded."""
    size = subject.make().config.batch_size
    limits = Budget(reward_queries=size + size // 2)
    algorithm = subject.make(budget=limits)
    for _ in _updates(algorithm):
        algorithm.update()
    spent = algorithm.envs.meter.reward_queries
    if spent > size + size // 2:
        raise ContractViolation(
            f"with a budget of {limits.reward_queries} reward queries it made {spent}; play one batch in each update, begun by "
            "self.envs.begin_batch(), or let queries_needed return the number of reward queries of an update"
        )
    algorithm = subject.make(budget=Budget(reward_queries=BATCHES * size))
    meter, moved, updates = algorithm.envs.meter, True, 0
    for updates in _updates(algorithm):  # noqa: B007 - the last one's number is named below
        before, trained = [p.detach().clone() for p in algorithm.trained_parameters()], meter.trained_tokens
        algorithm.update()
        if meter.trained_tokens > trained:
            moved = not _same(list(algorithm.trained_parameters()), before)
    if not moved:
        raise ContractViolation(
            f"update {updates}, the last that the budget pays for, trained and moved no weight; take self.envs.progress before "
            "collecting: self.optimizer.start_update(self.envs.progress) first thing in update()"
        )


def learns(subject: Subject) -> None:
    """Its progress towards the optimum on the exact task.

    An algorithm that does not start as the reference has to gain as much from its own start.
    """
    task = watched(subject.task)
    scored = scored_so_far(task)
    algorithm = subject.make(budget=LONG, task=task)
    audit = Audit(task, algorithm, scored)
    reference, kept = algorithm.policy.reference, _weights(algorithm.policy.reference)
    start = subject.score(algorithm, "normalized_score")
    trained = 0  # tokens since the last reward query
    while not (algorithm.finished or algorithm.out_of_budget):
        before = algorithm.envs.meter.snapshot()
        with audit.watching():
            algorithm.update()
        after = algorithm.envs.meter.snapshot()
        if after == before and not algorithm.finished:
            raise ContractViolation(
                "an update spent nothing, and it is not finished; play in self.envs, or set finished"
            )
        queried = after["reward_queries"] > before["reward_queries"]
        trained = 0 if queried else trained + int(after["trained_tokens"] - before["trained_tokens"])
        if trained > ENDLESS:
            raise ContractViolation(
                f"it trained {ENDLESS:,} tokens and neither queried the reward nor set finished; set finished"
            )
    audit.close()
    _refuse_what_is_outside(audit)
    if algorithm.policy.reference is not reference or not _same(_weights(reference), kept):
        raise ContractViolation("self.policy.reference changed during training; leave it unchanged")
    _check_kl(subject, algorithm)
    gain = subject.score(algorithm, "normalized_score") - start
    if subject.kind.data_source is DataSource.NONE:
        if abs(gain) > 1e-6:
            raise ContractViolation(
                f"it declares that it does not train (DataSource.NONE), but its score changed by {gain:.3g}"
            )
    elif subject.kind.data_source is DataSource.FEEDBACK:  # what it learns is not this reward
        spent = algorithm.envs.meter
        if not algorithm.finished or spent.reward_queries or not spent.trained_tokens:
            raise ContractViolation(
                f"it declares that it learns from its own judgment (DataSource.FEEDBACK), but spent {spent.reward_queries} reward "
                f"queries and {spent.trained_tokens} trained tokens; query no reward, train, and set finished at the end"
            )
        return
    wanted = GAIN_FROM_LABELS if subject.kind.data_source is DataSource.PREFERENCES else GAIN
    if subject.kind.data_source is not DataSource.NONE and not gain > wanted:
        raise ContractViolation(
            f"with {LONG.reward_queries} reward queries it went {gain:.0%} of the way from the reference to the optimum; "
            f"expected more than {wanted:.0%}"
        )


BY_NAME: Mapping[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (settings, starts, stays, repeats, reference, resumes, meter, saves, budget, learns)
}


# ---------------------------------------------------------------- helpers


def _updates(algorithm: Algorithm) -> Iterator[int]:
    """Numbers of the updates until it is over, from 1, and no more than :data:`MOST_UPDATES`."""
    for number in range(1, MOST_UPDATES + 1):
        if algorithm.finished or algorithm.out_of_budget:
            return
        yield number


@contextmanager
def _watching(algorithm: Algorithm) -> Iterator[dict[str, int]]:
    """Count what language models sample, and what passes with gradients through any copy of the policy's, on our own."""
    seen = {"generated_tokens": 0, "trained_tokens": 0}
    trunk = type(algorithm.policy.model.trunk)
    sample, forward = LanguageModel.sample, trunk.forward

    def counted_sample(self: LanguageModel, *args: Any, **kwargs: Any) -> Any:
        completions = sample(self, *args, **kwargs)
        seen["generated_tokens"] += int(completions.mask_BT.sum())
        return completions

    def counted_forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            mask = kwargs.get("attention_mask")
            tokens: Tensor | None = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
            if tokens is not None and isinstance(mask, Tensor) and mask.dim() == 2:
                seen["trained_tokens"] += int(mask[:, -tokens.shape[1] :].sum())  # it covers what is in the cache, too
            elif tokens is not None:
                seen["trained_tokens"] += tokens.shape[:2].numel()
        return forward(self, *args, **kwargs)

    LanguageModel.sample = counted_sample  # type: ignore[method-assign]
    trunk.forward = counted_forward
    try:
        yield seen
    finally:
        LanguageModel.sample = sample  # type: ignore[method-assign]
        trunk.forward = forward


def _refuse_what_is_outside(audit: Audit) -> None:
    found = audit.found()
    if found:
        raise ContractViolation(
            f"it {in_words(found)}; get completions by playing in self.envs, and leave the meter alone"
        )


def _check_kl(subject: Subject, algorithm: Algorithm) -> None:
    """The KL that the contestant reports of its own answers may be an upper bound, but not below the exact one."""
    exact = subject.score(algorithm, "exact_kl")
    contestant = algorithm.contestant()
    envs = TextGenerationVectorEnv.from_task(subject.task, 512, split="evaluation", seed=0)
    envs.reset(options={"prompt_indices": [row % len(subject.task.prompts.evaluation) for row in range(512)]})
    with torch.no_grad(), algorithm.envs.meter.pause():
        answers = contestant.generate(envs, torch.Generator().manual_seed(0))
        reported_B = contestant.statistics(answers)["kl"].double()
    noise = 5 * float(reported_B.std()) / len(reported_B) ** 0.5
    if math.isfinite(exact) and float(reported_B.mean()) < exact - noise - 0.01:
        raise ContractViolation(
            f"reports KL {float(reported_B.mean()):.3g} nats to the reference, but the exact value is {exact:.3g}; "
            "contestant().statistics() has to give an estimate or an upper bound"
        )


def _weights(model: LanguageModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def _other_weights(one: Algorithm, other: Algorithm) -> str | None:
    """Words for trained weights that are not equal bit for bit."""
    same = _same(list(one.trained_parameters()), list(other.trained_parameters()))
    return None if same else "other weights in the end"


def _same(one: Any, other: Any) -> bool:
    """Whether nested data are equal, tensors and arrays bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other or (one != one and other != other))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _difference(expected: list[Row], found: list[Row]) -> str | None:
    """The first difference between two traces, in words."""
    if len(expected) != len(found):
        return f"{len(found)} updates instead of {len(expected)}"
    for number, (old, new) in enumerate(zip(expected, found, strict=True), 1):
        for name in dict.fromkeys([*old, *new]):
            if json.dumps(old.get(name)) != json.dumps(new.get(name)):
                return f"{name} {new.get(name)!r} instead of {old.get(name)!r} in update {number}"
    return None
