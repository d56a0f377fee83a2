"""What TRL's trainers have in common here: how one is made around a policy, and how it takes a step.

A trainer's ``train()`` runs from its first batch to its last and cannot stop at a budget, be evaluated on the way, or resume
from a checkpoint without pickle. So its loop over batches is not used. One step is TRL's own ``training_step``, once for each
part of a batch, then gradient clipping and the trainer's own optimizer, as in that loop; the learning rate follows the
budget, as it does for every contestant. That makes the state small and known, and a killed run resumes bit for bit.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import starting_rate
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.schedule import LearningRate
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError
from bakeoff.seeding import OwnRandomness


class TRLAlgorithm(Algorithm):
    """A contestant whose updates are steps of one of TRL's trainers."""

    trainer_name: ClassVar[str]
    """TRL's class."""
    config_name: ClassVar[str]
    """TRL's class of its arguments."""
    runs_as_several: ClassVar[bool] = False

    def __init__(
        self, config: AlgorithmConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        low = {str(p.dtype).removeprefix("torch.") for p in policy.parameters() if p.dtype != torch.float32}
        if low:
            raise ConfigError(
                type(self).__name__,
                [
                    f"TRL's optimizer would step on {', '.join(sorted(low))} weights directly, and small updates would be lost; "
                    "give the task dtype: float32"
                ],
            )
        self.own_randomness = OwnRandomness(int(torch.randint(2**31, (), generator=rng)))
        self.micro_batches = self._micro_batches()
        self.learning_rate = LearningRate(config, starting_rate(config, policy.model.width), envs.planned_updates)
        with self._undisturbed(), tempfile.TemporaryDirectory() as folder:  # nothing is written to it
            self.trainer = self._make_trainer(folder)
            self.trainer.create_optimizer()
        self.optimizer: torch.optim.Optimizer = self.trainer.optimizer
        self.steps = 0

    @classmethod
    def unavailable(cls) -> str | None:
        """TRL has to be installed."""
        if all(importlib.util.find_spec(name) is not None for name in ("trl", "datasets")):
            return None
        return 'needs TRL, which is not installed; pip install "bakeoff[trl]"'

    @abstractmethod
    def _make_trainer(self, folder: str) -> Any:
        """The trainer around the policy's module."""

    def _rows(self) -> int:
        """Rows of one step, as TRL counts them."""
        return self.config.batch_size

    def _micro_batches(self) -> int:
        rows, size = self._rows(), self.config.micro_batch_size
        if size is None or size >= rows:
            return 1
        if rows % size:
            raise ConfigError(
                type(self).__name__, [f"{rows} rows per step are not a multiple of micro_batch_size {size}"]
            )
        return rows // size

    def _arguments(self, folder: str, **own: Any) -> Any:
        """The trainer's arguments: TRL's defaults but for what every contestant is given, and what writes or reports."""
        return getattr(trl(), self.config_name)(
            output_dir=folder,
            per_device_train_batch_size=self._rows() // self.micro_batches,
            gradient_accumulation_steps=self.micro_batches,
            max_grad_norm=self.config.max_grad_norm,
            learning_rate=self.learning_rate.initial_rate,
            max_steps=1,
            gradient_checkpointing=False,  # the policy has its own
            bf16=False,  # compute in the model's own type
            trust_remote_code=False,
            use_cpu=self.policy.model.device.type == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **own,
        )

    def _parts(self) -> tuple[Any, Any]:
        """The module that learns, and a tokenizer that TRL may change."""
        return self.policy.model.module, copy.deepcopy(self.policy.model.tokenizer)

    def _reference(self) -> Any:
        """The reference's own weights in a module that TRL may patch."""
        return self.policy.reference.clone_sharing(lambda name: False).module

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """TRL draws from the global generators, and its warnings would disturb a suite's output."""
        with self.own_randomness, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    def step(self, inputs: Any) -> dict[str, float]:
        """One optimizer step on a batch, part by part; returns ``loss``, ``grad_norm`` and ``learning_rate``.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are as they were.
        """
        model = self.trainer.model
        loss, parts = 0.0, list(self._split(inputs))
        self.trainer.current_gradient_accumulation_steps = len(parts)
        for part in parts:
            loss += float(self.trainer.training_step(model, part, None).detach())
        model.eval()
        norm = float(self.trainer.accelerator.clip_grad_norm_(model.parameters(), self.config.max_grad_norm))
        if not norm < float("inf"):
            raise FloatingPointError(f"the gradient's norm is {norm} (loss {loss}); lower learning_rate")
        rate = self.learning_rate.next()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        self.trainer.state.global_step = self.steps
        return {"loss": loss, "grad_norm": norm, "learning_rate": rate}

    def _split(self, inputs: Any) -> Iterator[Any]:
        """The inputs of each part of a step."""
        for _ in range(self.micro_batches):
            yield inputs

    def take_metrics(self) -> dict[str, float]:
        """What the trainer has logged since the last call, by TRL's own names."""
        noted = self.trainer._metrics["train"]
        found = {name: sum(values) / len(values) for name, values in noted.items() if values}
        noted.clear()
        return found


def chosen(noted: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Some of a trainer's figures, by the names that algorithms here use."""
    return {ours: noted[theirs] for theirs, ours in names.items() if theirs in noted}


def trl() -> Any:
    """TRL, imported when it is first needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("trl")


def quiet(trainer: type) -> type:
    """The trainer without the message home that its constructor sends."""
    return type(trainer.__name__, (trainer,), {"_send_telemetry": lambda self: None})


def dataset(rows: list[dict[str, Any]]) -> Any:
    """A dataset in memory."""
    return importlib.import_module("datasets").Dataset.from_list(rows)


def unpadded(tokens: Tensor, mask: Tensor) -> list[list[int]]:
    """The real tokens of each row."""
    return [row[real].tolist() for row, real in zip(tokens.cpu(), mask.cpu().bool(), strict=True)]
