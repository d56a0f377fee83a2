"""Loading: what cannot be had is said in a line, before anything is loaded."""

import pytest
import torch

from bakeoff.algos.best_of_n import best_of_each
from bakeoff.envs.language_model.loading import load_pretrained
from bakeoff.errors import ModelError


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cudaa", 'device "cudaa" is not known; use cpu, cuda, cuda:1 or mps'),
        ("cuda", 'device "cuda": no GPU can be seen here'),
        ("cuda:3", "2 GPU"),
    ],
)
def test_a_device_that_is_not_here_is_said_before_anything_is_loaded(
    device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 2 if device.endswith("3") else 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    with pytest.raises(ModelError) as refused:
        load_pretrained("no/model", device=device, dtype="float32")
    assert told in str(refused.value)


def test_choosing_stays_on_the_device_of_the_scores() -> None:
    assert best_of_each(torch.empty(6, device="meta"), 3).device.type == "meta"
