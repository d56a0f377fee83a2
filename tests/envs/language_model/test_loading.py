"""Loading: what cannot be had is said in a line, before anything is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bakeoff.envs.tasks.exact
from bakeoff.algos.best_of_n import best_of_each
from bakeoff.algos.reward_models.backbone import scalar_classifier
from bakeoff.envs.language_model.loading import load_pretrained
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier
from bakeoff.envs.tasks.harmless.measures import Relevance
from bakeoff.errors import ModelError


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cudaa", 'device "cudaa" is not known; use cpu, cuda, cuda:1 or mps'),
        ("cuda", 'device "cuda": no GPU can be seen here'),
        ("cuda:3", "2 GPU"),
    ],
)
def test_a_missing_device_is_reported_before_loading(device: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 2 if device.endswith("3") else 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    with pytest.raises(ModelError) as refused:
        load_pretrained("no/model", device=device, dtype="float32")
    assert told in str(refused.value)


def test_choosing_stays_on_the_device_of_the_scores() -> None:
    assert best_of_each(torch.empty(6, device="meta"), 3).device.type == "meta"


@pytest.mark.parametrize("load", [LanguageModel.load, SequenceClassifier.load, Relevance, scalar_classifier])
def test_code_in_a_model_folder_is_never_run(
    load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask on the terminal whether to run it; here the answer is no, without asking."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(Path(bakeoff.envs.tasks.exact.__file__).parent / "model", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    families = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"} | dict.fromkeys(families, "own.Model")}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig as Config, LlamaModel as Model\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match=r"Python code of its own, which is never run; use a model whose"):
        load(str(folder))
    assert not ran.exists()
