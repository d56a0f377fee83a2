"""What an algorithm spends outside the meter: found where it can be, and noted in its cell.

From before an algorithm is built to its end, evaluations excepted, the completions that the task's reward scored, called from
anywhere, are compared with what the meter has counted. During updates so are the tokens that the policy or the reference
generated, in any loop; and no total may go down. An algorithm that only plays in its environment is never flagged.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.envs.language_model.cache_names import passes_cache
from bakeoff.envs.meter import METERS
from bakeoff.envs.rewards.call import AnyReward, reward_name
from bakeoff.envs.tasks.base import Task


class WatchedReward:
    """A reward that counts the completions it scores; otherwise the reward itself."""

    def __init__(self, reward: AnyReward) -> None:
        self._reward, self.scored = reward, 0
        self.name = reward_name(reward)
        with suppress(TypeError, ValueError):  # a builtin has none
            self.__signature__ = inspect.signature(reward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Count, and call the reward."""
        completions = kwargs.get("completions", args[1] if len(args) > 1 else ())
        self.scored += len(completions)
        return self._reward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_reward" not in vars(self):
            raise AttributeError(name)
        return getattr(self._reward, name)


def watched(task: Task) -> Task:
    """The task with its reward watched."""
    return replace(task, reward=WatchedReward(task.reward))


def scored_so_far(task: Task) -> int:
    """Completions that the task's reward has scored since it was built; 0 where it is not watched."""
    return task.reward.scored if isinstance(task.reward, WatchedReward) else 0


class Audit:
    """Looks on while one algorithm plays."""

    def __init__(self, task: Task, algorithm: Algorithm, scored_before: int) -> None:
        """Args:
        task: what is played; a reward that is not watched is not counted.
        algorithm: the one that is watched.
        scored_before: what :func:`scored_so_far` said before the algorithm was built.
        """
        self._task, self._last_scored = task, scored_before
        self._meter = algorithm.envs.meter
        self._last_queries = 0.0
        self._unmetered_queries, self._lowered = 0, False
        self._active = False
        models = {"policy": algorithm.policy.model, "reference": algorithm.policy.reference}
        self._generated = dict.fromkeys(models, 0)
        self._pending: dict[str, list[torch.Tensor]] = {name: [] for name in models}
        self._hooks = [self._look_at(name, model.trunk, model.pad_id, model.eos_ids) for name, model in models.items()]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the meter, the reward and the models inside."""
        before = self._meter.snapshot()
        self._active = True
        try:
            yield
        finally:
            self._active = False
            after = self._meter.snapshot()
            self._compare_queries()
            self._lowered |= any(after[name] < before[name] for name in METERS)
            for name, counts in self._pending.items():
                self._generated[name] += int(torch.stack(counts).sum()) if counts else 0
                counts.clear()

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Count no queries inside: an evaluation's are not charged."""
        self._compare_queries()
        yield
        self._last_scored = scored_so_far(self._task)

    def _compare_queries(self) -> None:
        """Queries since the last time, by the reward's count and by the meter's."""
        scored, queries = scored_so_far(self._task), float(self._meter.reward_queries)
        self._unmetered_queries += max(0, scored - self._last_scored - round(queries - self._last_queries))
        self._last_scored, self._last_queries = scored, queries

    def found(self) -> dict[str, int]:
        """What was spent outside the meter so far, by the meter's names; empty where nothing was found.

        Generated tokens are a lower bound: the first token of each completion comes from reading its prompt and is not
        seen, and what the policy generated unmetered is hidden behind what only the reference generated metered.
        """
        unplayed = max(self._generated.values()) - self._meter.generated_tokens
        found = {"reward_queries": self._unmetered_queries, "generated_tokens": unplayed, "lowered": int(self._lowered)}
        return {name: number for name, number in found.items() if number > 0}

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"queries": self._unmetered_queries, "lowered": self._lowered, "generated": dict(self._generated)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._unmetered_queries, self._lowered = state["queries"], state["lowered"]
        self._last_scored, self._last_queries = scored_so_far(self._task), float(self._meter.reward_queries)
        self._generated = dict(state["generated"])

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def _look_at(self, name: str, trunk: nn.Module, pad_id: int, eos_ids: tuple[int, ...]) -> Any:
        """Count the tokens of forward passes that continue a cached text by one token: what generating consists of.

        Rows that read padding or an end of sequence have ended and are not counted.
        """
        pending = self._pending[name]
        ended = torch.tensor(sorted({pad_id, *eos_ids}))

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._active or not passes_cache(args, kwargs):
                return
            tokens = args[0] if args else kwargs.get("input_ids")
            if isinstance(tokens, torch.Tensor) and tokens.dim() == 2 and tokens.shape[1] == 1:
                pending.append((~torch.isin(tokens, ended.to(tokens.device))).sum().cpu())

        return trunk.register_forward_pre_hook(before, with_kwargs=True)


def in_words(found: Mapping[str, int]) -> str:
    """What was found, as a note."""
    parts = []
    if "reward_queries" in found:
        parts.append(f"called the reward for {found['reward_queries']} completions that no meter counted")
    if "generated_tokens" in found:
        parts.append(f"generated at least {found['generated_tokens']} tokens that it never played")
    if "lowered" in found:
        parts.append("set its meter back")
    return "; ".join(parts)
