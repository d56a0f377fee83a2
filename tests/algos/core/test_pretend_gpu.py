"""Every algorithm on a GPU that is only pretended: no tensor may be left on the wrong device."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.pretend_gpu import WrongDeviceError, pretend_gpu
from torch import Tensor, nn

from bakeoff import registry
from bakeoff.algos.core.build import build
from bakeoff.benchmarks.evaluation.audit import Audit, scored_so_far, watched
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.benchmarks.storage.checkpoint import load_state, save_state
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.reviews.task import MODEL
from bakeoff.envs.tasks.smollm import smollm_sentiment

NAMES = [name for name in registry.algorithms.names() if not name.startswith(("trl_", "sb3_"))]
"""Those of other libraries choose their devices themselves."""
QUICK = ("best_of_n", "ppo", "q_learning")
PARTS: dict[str, dict[str, Any]] = {
    "top_layers": {"trainable": "top_layers", "top_layers": 1},
    "lora": {"trainable": "lora"},
}
PARTLY = ("ppo", "grpo", "online_dpo", "q_learning", "dpo")
"""Algorithms that are also tried where only a part of the weights moves."""
SMALL = {
    "batch_size": 8, "group_size": 4, "n": 4, "epochs": 1, "minibatches": 2, "train_batch_size": 8, "replay_group": 4,
    "gradient_steps": 1, "chains": 4, "pairs": 4,
}  # fmt: skip
"""All of these that are settings of the algorithm."""
DEMONSTRATIONS = [
    {"prompt": "The movie", "completion": f" was {word}."} for word in ("good", "great", "fun", "fine")
] * 4


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretend_gpu():
        yield


# ---------------------------------------------------------------- the pretence itself


def numbers(device: str = "cpu") -> Tensor:
    return torch.arange(6.0, device=device).reshape(2, 3)


def cpu_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda gpu, cpu: gpu + cpu,
    "changed in place": lambda gpu, cpu: cpu.add_(gpu),
    "number changed in place": lambda gpu, cpu: cpu.sum().add_(gpu.sum()),
    "concatenated": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "numbers stacked": lambda gpu, cpu: torch.stack([gpu.sum(), cpu.sum()]),
    "chosen by a condition": lambda gpu, cpu: torch.where(gpu > 1, gpu, cpu),
    "masked": lambda gpu, cpu: gpu.masked_fill(cpu > 1, 0.0),
    "gathered": lambda gpu, cpu: gpu.gather(1, cpu.long().clamp_max(2)),
    "indexed by the GPU's": lambda gpu, cpu: cpu[gpu[:, 1].long() % 2],
    "rows set": lambda gpu, cpu: gpu.index_put_((torch.tensor([0, 1]),), cpu),
    "layer": lambda gpu, cpu: nn.Linear(3, 1)(gpu),
    "backward pass": lambda gpu, cpu: backward_with(gpu, lambda grad: grad * cpu),
    "array": lambda gpu, cpu: gpu.numpy(),
    "array by NumPy": lambda gpu, cpu: np.asarray(gpu),
    "drawn": lambda gpu, cpu: torch.rand(2, device="cuda", generator=cpu_generator()),
    "drawn by chances": lambda gpu, cpu: torch.multinomial(gpu, 1, generator=cpu_generator()),
    "drawn in place": lambda gpu, cpu: gpu.normal_(generator=cpu_generator()),
}
ALLOWED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "with a number": lambda gpu, cpu: gpu + cpu.sum(),
    "indexed by the CPU's": lambda gpu, cpu: gpu[cpu[:, 1].long() % 2],
    "masked by the CPU's": lambda gpu, cpu: gpu[cpu > 1],
    "number set": lambda gpu, cpu: gpu.index_put_((cpu > 1,), torch.tensor(7.0)),
    "columns set": lambda gpu, cpu: gpu.copy_(cpu),
    "moved": lambda gpu, cpu: gpu * cpu.to(gpu.device) + cpu.to(gpu) + torch.tensor([1.0, 2.0, 3.0], device=gpu.device),
    "like another": lambda gpu, cpu: torch.zeros_like(gpu) + gpu.new_zeros(3) + torch.zeros(3, device=gpu.device),
    "drawn, then moved": lambda gpu, cpu: gpu + torch.rand(2, 3, generator=cpu_generator()).to(gpu.device),
    "attention": lambda gpu, cpu: nn.functional.scaled_dot_product_attention(gpu[None], gpu[None], gpu[None]),
    "array": lambda gpu, cpu: torch.from_numpy(gpu.cpu().numpy()).to(gpu.device),
}


def backward_with(tensor: Tensor, hook: Callable[[Tensor], Tensor]) -> None:
    tensor.requires_grad_().register_hook(hook)
    tensor.exp().sum().backward()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("attempt", REFUSED)
def test_what_a_gpu_refuses_is_refused(attempt: str) -> None:
    with pytest.raises(WrongDeviceError):
        REFUSED[attempt](numbers("cuda"), numbers())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("attempt", ALLOWED)
def test_what_a_gpu_allows_gives_what_the_cpu_gives(attempt: str) -> None:
    found, expected = ALLOWED[attempt](numbers("cuda"), numbers()), ALLOWED[attempt](numbers(), numbers().to("cpu"))
    assert found.device == torch.device("cuda", 0)
    assert found.is_cuda
    assert not found.is_cpu
    assert found.cpu().device.type == "cpu"
    np.testing.assert_array_equal(found.cpu().numpy(), expected.cpu().numpy())


@pytest.mark.usefixtures("gpu")
def test_a_network_learns_there_as_it_does_on_the_cpu() -> None:
    def trained(device: str) -> Tensor:
        torch.manual_seed(0)
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        network = nn.Sequential(first, nn.Tanh(), second).to(device)
        assert second.weight is first.weight
        network = copy.deepcopy(network)
        assert network[0].weight is network[2].weight
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            network(numbers().to(device)).square().sum().backward()
            optimizer.step()
        assert network[0].weight.grad.device.type == device
        return network[0].weight.detach().cpu()

    assert torch.equal(trained("cuda"), trained("cpu"))


@pytest.mark.usefixtures("gpu")
def test_an_optimizer_whose_state_stayed_behind_is_refused() -> None:
    weight = nn.Parameter(numbers("cuda"))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    optimizer.state[weight]["exp_avg"] = numbers()
    with pytest.raises(WrongDeviceError):
        optimizer.step()


def test_all_is_as_it_was_afterwards() -> None:
    def state() -> list[Any]:
        owners = (torch, torch.cuda, Tensor, nn.Module)
        return [{name: value for name, value in vars(owner).items() if callable(value)} for owner in owners]

    before = state()
    with pretend_gpu():
        assert torch.cuda.is_available()
        assert state() != before
    assert state() == before


# ---------------------------------------------------------------- the algorithms


def cases() -> Iterator[Any]:
    for name in NAMES:
        yield pytest.param(name, {}, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in PARTLY:
        for part, settings in PARTS.items():
            yield pytest.param(name, settings, id=f"{name}-{part}", marks=[pytest.mark.slow])


def small_settings(name: str, task: Task) -> dict[str, Any]:
    """Settings that make it run, and run shortly."""
    kind = registry.algorithms.load(name)
    example = {"data": DEMONSTRATIONS} if name == "sft" else kind.example_settings(task)
    return {**example, **{key: value for key, value in SMALL.items() if key in kind.Config.model_fields}}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("name", "settings"), [*cases()])
def test_an_algorithm_lives_on_the_gpu(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Evaluated, updated twice, evaluated again, and resumed by a second one."""
    task = watched(smollm_sentiment(model=str(MODEL), device="cuda", max_new_tokens=4))
    settings = {**small_settings(name, task), **settings}
    evaluator = Evaluator(task, completions=4, samples=2, answer_seed=1, reference_seed=2)
    scored = scored_so_far(task)
    first, second = (build(name, settings, task, Budget(reward_queries=64), seed=0) for _ in range(2))
    assert all(weight.is_cuda for weight in first.policy.model.module.parameters())
    audit = Audit(task, first, scored)

    evaluator.evaluate(first.contestant())
    for _ in range(2):
        if not first.finished:
            with audit.watching():
                first.update()
    evaluator.evaluate(first.contestant())
    first.save(tmp_path / "model")
    save_state(first.state_dict(), tmp_path)
    second.load_state_dict(load_state(tmp_path))
    if not second.finished:
        second.update()
    evaluator.evaluate(second.contestant())
