"""Distributions and files that are plugins, good ones and bad ones."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bakeoff import registry

Install = Callable[..., Path]

PLAYER = '''
from bakeoff import Algorithm, AlgorithmConfig
from bakeoff.algos.core.algorithm import DataSource


class PlayerConfig(AlgorithmConfig):
    """Its settings."""

    bonus: float = 1.0
    """Added to each metric."""


class QuietPlayer(Algorithm):
    """Plays batches and learns nothing."""

    Config = PlayerConfig
    data_source = DataSource.ONLINE

    def update(self):
        self.envs.reset()
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        return {"reward": float(self.envs.play(completions).rewards_B.mean()) + self.config.bonus}
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution on the path as pip would: modules, metadata, entry points."""

    def install(name: str, entry_points: str, metadata: str | None = None, **modules: str) -> Path:
        folder = tmp_path / "site" / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(folder)
        registry.forget()
        return folder

    yield install
    registry.forget()


@pytest.fixture
def player_file(tmp_path: Path) -> Path:
    """A plugin file with one algorithm, `quiet_player`."""
    path = tmp_path / "player.py"
    path.write_text(PLAYER)
    return path
