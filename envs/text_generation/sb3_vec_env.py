"""A Gymnasium vector environment as Stable-Baselines3's own kind, whose interface is another.

Stable-Baselines3 expects a list of infos, ``terminal_observation`` in them, one array of dones, and finished episodes to be
reset at once. It wraps single Gymnasium environments itself (``make_vec_env``), one after the other; with this a
vector environment that is computed in one batch stays one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from bakeoff.errors import UserError

Infos = list[dict[str, Any]]


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment as the ``env`` of Stable-Baselines3's agents."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], *, bootstrap: bool = False) -> None:
        """Adapt an environment.

        Args:
            envs: in autoreset mode SAME_STEP, or DISABLED: finished sub-environments are then reset here.
            bootstrap: report to the agent which episodes were cut by a limit, so that it adds its value of the last state to
                the last reward. Right where a limit is a convenience; a completion's length limit is part of the task, and
                its reward is whole.

        Raises:
            UserError: autoreset mode NEXT_STEP, in which a step may be none.
        """
        self.envs, self.bootstrap = envs, bootstrap
        self._mode = envs.metadata.get("autoreset_mode")
        if self._mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise UserError(
                f"the autoreset mode is {self._mode}; Stable-Baselines3 needs autoreset_mode=AutoresetMode.SAME_STEP"
            )
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self._actions: npt.NDArray[Any] | None = None

    def reset(self) -> Any:
        """Begin new episodes, with what :meth:`seed` and :meth:`set_options` were given."""
        seed, options = self._seeds[0], self._options[0]
        if any(other != options for other in self._options):
            raise UserError("set_options was given different options; a vector environment takes one dict for all")
        observations, infos = self.envs.reset(seed=seed, options=options or None)
        self.reset_infos = [self._info(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.bool_], Infos]:
        """Play them."""
        observations, rewards, terminations, truncations, infos = self.envs.step(self._actions)
        dones = terminations | truncations
        per_row = [self._info(infos, row) for row in range(self.num_envs)]
        if dones.any():
            last = observations
            if self._mode is AutoresetMode.DISABLED:
                observations, begun = self.envs.reset(options={"reset_mask": dones})
            for row in np.flatnonzero(dones).tolist():
                cut = bool(truncations[row] and not terminations[row])
                if self._mode is AutoresetMode.DISABLED:
                    self.reset_infos[row] = self._info(begun, row)
                    final = (
                        {name: values[row] for name, values in last.items()} if isinstance(last, dict) else last[row]
                    )
                else:
                    # What the vector environment says of such a row is about the episode that has begun.
                    final, final_info = per_row[row].pop("final_obs"), per_row[row].pop("final_info", {})
                    self.reset_infos[row] = per_row[row]
                    per_row[row] = {**per_row[row], **final_info}
                per_row[row]["terminal_observation"] = final
                per_row[row]["TimeLimit.truncated"] = cut and self.bootstrap
        return observations, np.asarray(rewards, np.float32), dones, per_row

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, as often as there are sub-environments asked for."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment; it has no single ones."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise UserError("the sub-environments have no attributes of their own; leave out indices")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the vector environment once; its result as often as sub-environments were asked for."""
        result = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Never: sub-environments are no environments of their own."""
        return [False] * len(list(self._get_indices(indices)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next reset; sub-environment i takes ``seed + i``."""
        return super().seed(seed)

    @staticmethod
    def _info(infos: dict[str, Any], row: int) -> dict[str, Any]:
        """One sub-environment's part of a vector environment's infos."""
        part: dict[str, Any] = {}
        for name, values in infos.items():
            if name.startswith("_") or (f"_{name}" in infos and not infos[f"_{name}"][row]):
                continue
            part[name] = SB3VecEnv._info(values, row) if isinstance(values, dict) else values[row]
        return part
