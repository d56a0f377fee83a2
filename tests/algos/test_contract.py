"""What every registered algorithm must keep to. A new one is tested here without an edit."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bakeoff import registry
from bakeoff.algos.base import Algorithm, DataSource
from bakeoff.algos.build import build
from bakeoff.envs.meter import METERS, Budget
from bakeoff.envs.tasks import Task

NAMES = registry.algorithms.names()
BUDGET = Budget(reward_queries=512)


def make(name: str, task: Task, seed: int = 0) -> Algorithm:
    return build(name, registry.algorithms.load(name).example_settings(task), task, BUDGET, seed)


def play(algorithm: Algorithm, updates: int) -> list[dict[str, float]]:
    """Metrics and meter of each update, without the seconds."""
    rows = []
    for _ in range(updates):
        if algorithm.finished:
            break
        metrics = algorithm.update()
        totals = {k: v for k, v in algorithm.envs.meter.snapshot().items() if k != "seconds"}
        rows.append({**metrics, **totals})
    return rows


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_starts_as_the_reference_or_says_that_it_does_not(name: str, exact: Task) -> None:
    algorithm = make(name, exact)
    start = algorithm.contestant().sequence_logprobs(exact.enumeration)
    kl = exact.enumeration.objective(start)["exact_kl"]
    assert kl == pytest.approx(0, abs=1e-4) if algorithm.starts_as_reference else 0.01 < kl < float("inf")


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_trace_and_another_seed_another(name: str, exact: Task) -> None:
    first, again, other = play(make(name, exact), 2), play(make(name, exact), 2), play(make(name, exact, 1), 2)
    assert first == again
    assert first != other or make(name, exact).data_source is DataSource.NONE


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_stays_and_every_trained_weight_moves(name: str, exact: Task) -> None:
    algorithm = make(name, exact)
    reference = weights(exact.language_model.module)
    before = [p.detach().clone() for p in algorithm.trained_parameters()]
    play(algorithm, 2)
    for tensor, expected in zip(weights(exact.language_model.module), reference, strict=True):
        assert torch.equal(tensor, expected)
    if algorithm.envs.meter.trained_tokens:
        assert before
        assert all(
            not torch.equal(tensor, old) for tensor, old in zip(algorithm.trained_parameters(), before, strict=True)
        )


@pytest.mark.parametrize("name", NAMES)
def test_resumes_bit_for_bit(name: str, exact: Task) -> None:
    whole = play(make(name, exact), 3)
    first = make(name, exact)
    rows = play(first, 1)
    state, totals = first.state_dict(), first.envs.meter.snapshot()
    state = {key: _clone(value) for key, value in state.items()}
    play(first, 1)  # going on must not change what was saved
    second = make(name, exact, seed=99)
    second.load_state_dict(state)
    second.envs.meter.restore(totals)
    assert rows + play(second, 2) == whole


@pytest.mark.parametrize("name", NAMES)
def test_the_meter_only_rises_and_metrics_are_finite_numbers(name: str, exact: Task) -> None:
    algorithm = make(name, exact)
    before = algorithm.envs.meter.snapshot()
    for row in play(algorithm, 2):
        assert all(
            isinstance(value, float | int) and torch.tensor(float(value)).isfinite() for value in row.values()
        ), row
        after = algorithm.envs.meter.snapshot()
        assert all(after[meter] >= before[meter] for meter in METERS)
        before = after


@pytest.mark.parametrize("name", NAMES)
def test_saves_what_plain_transformers_loads_and_no_pickle(name: str, exact: Task, tmp_path: Path) -> None:
    algorithm = make(name, exact)
    play(algorithm, 1)
    algorithm.save(tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".safetensors" for file in files)
    assert not [file for file in files if file.suffix in {".pkl", ".pt", ".pth", ".bin", ".zip"}]
    if not algorithm.saves_language_model:
        return
    tokens = torch.tensor([[1, 2, 3]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(tokens).logits, algorithm.policy.model.module(tokens).logits)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented_and_survives_json(name: str) -> None:
    kind = registry.algorithms.load(name)
    assert all(field.description for field in kind.Config.model_fields.values())
    config = kind.Config()
    assert kind.Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_on_the_exact_task(name: str, exact: Task) -> None:
    """A trained policy gains; the bar is far below what any of them reaches and far above what chance gives (0).

    What does not start as the reference has to gain as much on where it starts. What learns from its own judgement knows
    nothing of the reward: it must not ask for it, and has to come to an end.
    """
    settings = registry.algorithms.load(name).example_settings(exact)
    algorithm = build(name, settings, exact, Budget(reward_queries=6_000), 0)

    def score() -> float:
        return exact.enumeration.objective(algorithm.contestant().sequence_logprobs(exact.enumeration))[
            "normalized_score"
        ]

    start = score()
    while not (algorithm.finished or algorithm.envs.budget.exhausted(algorithm.envs.meter)):
        algorithm.update()
    if algorithm.data_source is DataSource.FEEDBACK:
        assert algorithm.finished
        assert algorithm.envs.meter.reward_queries == 0
        assert algorithm.envs.meter.trained_tokens > 0
        return
    gain = score() - start
    assert gain == pytest.approx(0, abs=1e-6) if algorithm.data_source is DataSource.NONE else gain > 0.3


def _clone(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _clone(v) for k, v in value.items()}
    return value
