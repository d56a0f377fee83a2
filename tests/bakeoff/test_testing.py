"""The contract suite finds what it is there to find: each check against an algorithm that breaks it, and says why."""

import copy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.losses.rounding import relative_scores
from bakeoff.cli import main
from bakeoff.envs.tasks.base import Task, make_task
from bakeoff.errors import NotFoundError, UserError
from bakeoff.testing import CHECKS, check_algorithm


@pytest.fixture(scope="module")
def exact() -> Task:
    return make_task("exact")


class Good(Algorithm):
    """Policy gradient with the batch mean as its baseline."""

    data_source = DataSource.ONLINE

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.optimizer = Optimizer(self.policy.parameters(), self.config, self.policy.model.width)

    def collect(self) -> Any:
        self.envs.reset()
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        return completions, self.envs.play(completions).rewards_B

    def learn(self, completions: Any, rewards: Tensor) -> float:
        logprobs = self.policy.model.token_logprobs(completions).sum(1)
        self.optimizer.zero_grad()
        (-(relative_scores(rewards)[0] * logprobs).mean()).backward()
        return self.optimizer.step()["grad_norm"]

    def update(self) -> Mapping[str, float]:
        self.optimizer.start_update(self.envs.progress)
        completions, rewards = self.collect()
        return {"reward": float(rewards.mean()), "grad_norm": self.learn(completions, rewards)}


class Undocumented(Good):
    """x"""

    class Config(AlgorithmConfig):
        """x"""

        depth: int = 3


class Moved(Good):
    """Starts elsewhere."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.mul_(1.2)


class FalselyModest(Good):
    """Says that it starts elsewhere, and does not."""

    starts_as_reference = False


class Restless(Good):
    """Takes rounding for a signal: the mean of 64 rewards of .1 in float32 is not .1."""

    def learn(self, completions: Any, rewards: Tensor) -> float:
        logprobs = self.policy.model.token_logprobs(completions).sum(1)
        self.optimizer.zero_grad()
        rewards = rewards.float()
        (-((rewards - rewards.mean()) * logprobs).mean()).backward()
        return self.optimizer.step()["grad_norm"]


class OtherPass(Good):
    """Logs the effective sample size of ratios that are not 1 while nothing has moved."""

    def update(self) -> Mapping[str, float]:
        return {**super().update(), "effective_sample_size": 0.95}


class Wanderer(Restless):
    """Says that it moves without a reward."""

    stays_without_signal = False


class Global(Good):
    """Draws from the global generator."""

    def update(self) -> Mapping[str, float]:
        return {**super().update(), "draw": float(torch.rand(()))}


class Deaf(Good):
    """Ignores its seed."""

    def collect(self) -> Any:
        self.envs.reset(options={"prompt_indices": [0] * self.envs.num_envs})
        rng = torch.Generator().manual_seed(1)
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, rng)
        return completions, self.envs.play(completions).rewards_B


class Vandal(Good):
    """Trains the reference."""

    def update(self) -> Mapping[str, float]:
        with torch.no_grad():
            next(self.policy.reference.module.parameters()).add_(1e-3)
        return super().update()


class Idler(Good):
    """Trains and changes nothing."""

    def learn(self, completions: Any, rewards: Tensor) -> float:
        self.policy.model.token_logprobs(completions).sum().backward()
        return 0.0


class Remembers(Good):
    """Keeps plain data: a list, a tensor, a dict that comes into being in an update."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.history: list[float] = []
        self.baseline = torch.zeros(())
        self.members = [parameter for parameter in self.policy.parameters()]  # weights, not data

    def update(self) -> Mapping[str, float]:
        metrics = super().update()
        self.history.append(metrics["reward"])
        self.baseline = 0.9 * self.baseline + 0.1 * metrics["reward"]
        self.__dict__.setdefault("late", {"rounds": 0})["rounds"] += 1
        told = {
            "rounds": float(len(self.history)),
            "baseline": float(self.baseline),
            "late": float(self.late["rounds"]),
        }
        return {**metrics, **told}


class Forgetful(Good):
    """Keeps a thing that no checkpoint sees."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.memory = SimpleNamespace(rounds=0)

    def update(self) -> Mapping[str, float]:
        self.memory.rounds += 1
        return {**super().update(), "rounds": float(self.memory.rounds)}


class SilentlyForgetful(Good):
    """The same, and no metric shows it: a weight that is never read does."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.memory = SimpleNamespace(rounds=0)

    def update(self) -> Mapping[str, float]:
        self.memory.rounds += 1
        model = self.policy.model
        with torch.no_grad():
            model.module.get_input_embeddings().weight[model.pad_id].add_(1e-3 * self.memory.rounds)
        return super().update()


class Collector(Good):
    """Collects what no checkpoint can hold."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.batches: list[Any] = []

    def update(self) -> Mapping[str, float]:
        self.batches.append(self.collect()[0])
        return super().update()


class FaintNoise(Good):
    """Noise from a generator of its own, on a weight that is never read: no metric shows it on any processor."""

    def update(self) -> Mapping[str, float]:
        metrics = super().update()
        model = self.policy.model
        with torch.no_grad():
            model.module.get_input_embeddings().weight[model.pad_id].add_(1e-3 * torch.rand((), generator=SEEDLESS))
        return metrics


SEEDLESS = torch.Generator()


class Generates(Good):
    """Samples by transformers' own loop."""

    def update(self) -> Mapping[str, float]:
        prompt = torch.ones(64, 4, dtype=torch.long)
        with torch.no_grad():
            self.policy.model.module.generate(
                prompt, max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None
            )
        return super().update()


class Pauses(Good):
    """Samples while the meter is paused."""

    def update(self) -> Mapping[str, float]:
        with self.envs.meter.pause():
            self.collect()
        return super().update()


class LateSmuggler(Good):
    """Is honest at first."""

    rounds = 0

    def update(self) -> Mapping[str, float]:
        self.rounds += 1
        if self.rounds > 5:
            self.envs.episode_config.reward(
                prompts=["a b"], completions=["y"], completion_ids=[[1, 2, 3, 4, 5]], prompt_index=[0]
            )
        return super().update()


class Constructor(Good):
    """Calls the reward before its first update."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.envs.episode_config.reward(
            prompts=["a b"], completions=["y"], completion_ids=[[1, 2, 3, 4, 5]], prompt_index=[0]
        )


class Follower(Good):
    """Lets the reference follow."""

    def update(self) -> Mapping[str, float]:
        metrics = super().update()
        self.policy.reference = self.policy.model
        return metrics


class Understates(Good):
    """Reports half of its KL."""

    def contestant(self) -> Any:
        policy = copy.copy(self.policy)
        policy.statistics = lambda completions: {  # type: ignore[method-assign]
            **self.policy.statistics(completions),
            "kl": self.policy.statistics(completions)["kl"] / 2,
        }
        return policy


class Endless(Good):
    """Trains for ever on what it was given."""

    data_source = DataSource.DEMONSTRATIONS

    def update(self) -> Mapping[str, float]:
        tokens = torch.randint(5, (256, 64), generator=self.rng)
        for _ in range(8):
            self.policy.model.trunk(tokens, attention_mask=torch.ones_like(tokens))
        return {"loss": 0.0}


class SaysNothing(Good):
    """Returns nothing."""

    def update(self) -> Mapping[str, float]:
        super().update()
        return None  # type: ignore[return-value]


class Sourceless(Good):
    """Does not say where its data come from."""

    data_source = None  # type: ignore[assignment]


class Unkeepable(Good):
    """Its state holds what no checkpoint can."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "extra": object()}


class Honest(Good):
    """Says that its state cannot be kept."""

    resumes_exactly = False


class Smuggler(Good):
    """Samples a second batch that is not counted."""

    def update(self) -> Mapping[str, float]:
        self.envs.reset()
        self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        return super().update()


class Peeker(Good):
    """Calls the reward without the meter."""

    def collect(self) -> Any:
        completions, rewards = super().collect()
        n = len(completions)
        ids = [t[m].tolist() for t, m in zip(completions.tokens_BT, completions.mask_BT, strict=True)]
        self.envs.episode_config.reward(
            prompts=["a b"] * n, completions=["y"] * n, completion_ids=ids, prompt_index=[0] * n
        )
        return completions, rewards


class Twin(Good):
    """Trains a copy without the meter's hook."""

    def update(self) -> Mapping[str, float]:
        module = copy.deepcopy(self.policy.model.module)
        trunk = module.base_model
        trunk._forward_pre_hooks.clear()
        trunk(torch.ones(8, 8, dtype=torch.long)).last_hidden_state.sum().backward()
        return super().update()


class NotANumber(Good):
    """Reports NaN."""

    def update(self) -> Mapping[str, float]:
        return {**super().update(), "loss": float("nan")}


class Refund(Good):
    """Turns the meter back."""

    def update(self) -> Mapping[str, float]:
        metrics = super().update()
        self.envs.meter.reward_queries = -1
        return metrics


class Pickler(Good):
    """Saves a pickle."""

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        torch.save({}, Path(folder) / "optimizer.pt")


class Stranger(Good):
    """Saves another model than it trained."""

    def save(self, folder: str | Path) -> None:
        self.policy.reference.save(folder)


class Lazy(Good):
    """Plays and does not learn."""

    def learn(self, completions: Any, rewards: Tensor) -> float:
        return 0.0


class Crashes(Good):
    """Raises."""

    def update(self) -> Mapping[str, float]:
        raise ZeroDivisionError("one\nline")


class Absent(Good):
    """Needs what is not there."""

    @classmethod
    def unavailable(cls) -> str | None:
        return "needs nonsense; pip install nonsense"


def test_a_good_one_passes_all(exact: Task) -> None:
    checked = check_algorithm(Good, task=exact)
    assert checked.passed, str(checked)
    assert [check.outcome for check in checked.checks] == ["passed"] * len(CHECKS)
    assert str(checked).startswith("Good: keeps the contract\n  ok      settings  every setting is documented")


@pytest.mark.parametrize(
    ("kind", "check", "reason"),
    [
        (Undocumented, "settings", "depth: not documented"),
        (Moved, "starts", "nats from the reference; start there, or set starts_as_reference = False"),
        (FalselyModest, "starts", "starts_as_reference is False, but it starts"),
        (Restless, "stays", "nats from the reference; get log-probabilities from policy.logprobs"),
        (OtherPass, "stays", "its effective sample size is 0.95 while the policy is the one that sampled"),
        (Global, "repeats", "the same seed gave draw 0."),
        (Deaf, "repeats", "another seed gave the same trace"),
        (Vandal, "reference", "the reference's model.embed_tokens.weight changed; train self.policy"),
        (Idler, "reference", "trained weights did not move in two updates"),
        (Forgetful, "resumes", "gave rounds 1.0 instead of 2.0 in update 2; keep what decides it in state_dict()"),
        (Unkeepable, "resumes", "state.algorithm.extra is a object, which a checkpoint cannot hold"),
        (SilentlyForgetful, "resumes", "gave other weights in the end"),
        (Collector, "resumes", "Collector.batches collects Completions, which a checkpoint cannot hold"),
        (FaintNoise, "repeats", "the same seed gave other weights in the end"),
        (Smuggler, "meter", "tokens that it never played"),
        (Generates, "meter", "tokens that it never played"),
        (Pauses, "meter", "tokens that it never played"),
        (Peeker, "meter", "it called the reward for 256 completions that no meter counted"),
        (Constructor, "meter", "it called the reward for 1 completions that no meter counted"),
        (LateSmuggler, "learns", "completions that no meter counted"),
        (Follower, "learns", "self.policy.reference changed during training"),
        (Understates, "learns", "nats to the reference, but the exact value is"),
        pytest.param(
            Endless,
            "learns",
            "it trained 2,000,000 tokens and neither queried the reward nor set finished",
            marks=pytest.mark.slow,
        ),
        (SaysNothing, "meter", "update 1 returned NoneType; return a mapping of names to numbers"),
        (Sourceless, "settings", "it has no data_source; declare where its training data come from"),
        (Twin, "meter", "tokens were trained on, but the meter shows"),
        (NotANumber, "meter", "update 1: metric loss is nan; metrics are finite numbers"),
        (Refund, "meter", "update 1: reward_queries fell"),
        (Pickler, "saves", "it saves optimizer.pt, which only pickle reads"),
        (Stranger, "saves", "the saved model differs from its policy (logits by up to"),
        (Lazy, "learns", "with 6000 reward queries it went 0% of the way from the reference to the optimum"),
        (Crashes, "repeats", "ZeroDivisionError: one line (test_testing.py:"),
    ],
)
def test_each_check_says_what_is_broken(kind: type[Algorithm], check: str, reason: str, exact: Task) -> None:
    settings = {"batch_size": 512} if kind is Lazy else None
    checked = check_algorithm(kind, only=[check], task=exact, settings=settings)
    assert not checked.passed
    assert reason in checked.checks[0].reason, checked.checks[0].reason
    assert "\n" not in checked.checks[0].reason
    assert f"FAILED  {check}" in str(checked)


def test_plain_data_of_a_plugin_is_kept(exact: Task) -> None:
    (check,) = check_algorithm(Remembers, only=["resumes"], task=exact).checks
    assert check.outcome == "passed", check.reason


def test_the_tasks_reference_is_put_back(exact: Task) -> None:
    before = [p.clone() for p in exact.language_model.module.parameters()]
    check_algorithm(Vandal, only=["reference"], task=exact)
    for parameter, old in zip(exact.language_model.module.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_what_is_not_promised_is_skipped(exact: Task) -> None:
    (check,) = check_algorithm(Honest, only=["resumes"], task=exact).checks
    assert (check.outcome, check.reason.split(":")[0]) == ("skipped", "resumes_exactly is False")
    checked = check_algorithm(Absent, task=exact)
    assert checked.passed
    assert {check.reason for check in checked.checks} == {"needs nonsense; pip install nonsense"}


def test_wrong_arguments(exact: Task) -> None:
    with pytest.raises(NotFoundError, match='no check "lerns"; did you mean "learns"'):
        check_algorithm(Good, only=["lerns"], task=exact)
    with pytest.raises(UserError, match=r"not a subclass of bakeoff\.Algorithm"):
        check_algorithm(dict, task=exact)  # type: ignore[arg-type]


def test_the_command(player_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "quiet_player", "--plugin", str(player_file)]
    assert main([*arguments, "--only", "settings,starts,meter"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("quiet_player: keeps the contract\n  ok      settings")
    player_file.write_text(player_file.read_text().replace('"""Added to each metric."""', ""))
    assert main([*arguments, "--only", "settings"]) == 1
    assert "FAILED  settings  bonus: not documented" in capsys.readouterr().out
    assert main(["check", "ppoo"]) == 2
    assert 'no algorithm "ppoo"; did you mean "ppo"?' in capsys.readouterr().err


def test_a_class_without_a_file_tells_its_error() -> None:
    """As one that was written in a notebook."""
    nowhere = type("Nowhere", (Crashes,), {"__module__": "a_notebook"})
    report = check_algorithm(nowhere, only=["repeats"])
    (found,) = report.checks
    assert found.outcome == "failed"
    assert "ZeroDivisionError: one line (test_testing.py:" in str(found.reason)


def test_what_says_wrongly_that_it_is_missing_fails(exact: Task) -> None:
    class Confused(Good):
        @classmethod
        def unavailable(cls) -> str | None:
            raise ZeroDivisionError("oops")

    checked = check_algorithm(Confused, task=exact)
    assert not checked.passed
    assert "its unavailable() raised ZeroDivisionError: oops" in checked.checks[0].reason


def test_large_batches_are_counted_once(exact: Task) -> None:
    """Prompts that many rows share are read once, and the mask of what follows covers them, too."""
    checked = check_algorithm(Good, task=exact, settings={"batch_size": 1024}, only=["meter"])
    assert checked.passed, str(checked)
