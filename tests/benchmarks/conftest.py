"""A plugin made of algorithms that misbehave in known ways, registered as any other."""

import importlib
from pathlib import Path

import pytest

from bakeoff import registry
from bakeoff.benchmarks.cells.task_cache import TaskCache

PLUGIN = '''
import os, sys
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig

class Player(Algorithm):
    """Plays batches and learns nothing."""
    data_source = DataSource.ONLINE
    def update(self):
        self.envs.reset()
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        return {"reward": float(self.envs.play(completions).rewards_B.mean())}

class Fails(Player):
    """Raises in its second update."""
    updates = 0
    def update(self):
        self.updates += 1
        if self.updates == 2:
            raise ZeroDivisionError("the second\\nupdate")
        return super().update()

class Dies(Player):
    """Takes its process with it."""
    def update(self):
        os._exit(7)

class Exits(Player):
    """Calls sys.exit, as a badly behaved library may."""
    def update(self):
        sys.exit("bye")

class Hungry(Player):
    """Asks for more memory than there is."""
    def update(self):
        import torch
        return {"x": float(torch.empty(10**15)[0])}

class Killed(Player):
    """Is killed, as the system does to who takes too much memory."""
    def update(self):
        import signal
        os.kill(os.getpid(), signal.SIGKILL)

class Idle(Player):
    """Spends nothing, for ever."""
    def update(self):
        return {"x": float("nan")}

def broken_task():
    from bakeoff.errors import PromptError
    raise PromptError("prompt file x.txt is empty; write one prompt per line")
'''

NAMES = ("Player", "Fails", "Dies", "Exits", "Hungry", "Killed", "Idle")


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would install of the plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "misbehaving.py").write_text(PLUGIN)
    info = folder / "misbehaving-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1.0\n")
    algorithms = "\n".join(f"{name.lower()} = misbehaving:{name}" for name in NAMES)
    (info / "entry_points.txt").write_text(
        f"[bakeoff.algorithms]\n{algorithms}\n[bakeoff.tasks]\nbroken = misbehaving:broken_task\n"
    )
    return folder


@pytest.fixture
def plugin(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The plugin as if it were installed, in this process and those it starts."""
    monkeypatch.syspath_prepend(plugin_folder)
    _forget()
    yield plugin_folder
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    registry.forget()


@pytest.fixture(scope="session")
def cache() -> TaskCache:
    """Keeps the exact task between tests."""
    return TaskCache()
