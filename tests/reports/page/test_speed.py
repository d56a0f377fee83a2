"""Reports stay quick: the parts that grow with a run are not allowed to grow faster than it does."""

import time

import numpy as np
import pytest
from matplotlib.figure import Figure

from bakeoff.reports import Results, write_report
from bakeoff.reports.figures.labels import _overlap, label_points
from bakeoff.reports.figures.svg import svg


def test_overlaps_by_hand():
    others = np.array([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 4.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    assert _overlap((1.0, 0.0, 3.0, 1.5), others) == 1 * 1.5 + 2 * 0.5


def test_many_labels_among_many_lines_take_no_time():
    figure = Figure()
    axes = figure.subplots()
    x = np.linspace(0, 1, 200)
    for line in range(25):
        axes.plot(x, np.sin(line + 5 * x))
    label_points(axes, [(f"contestant {line}", 1.0, float(np.sin(line + 5)), "#000000") for line in range(25)])
    before = time.process_time()
    for place in figure.__dict__.pop("_after_layout"):
        place()
    assert time.process_time() - before < 5  # a loop over pairs in Python took a minute
    assert len(axes.texts) == 25


def test_coordinates_are_short_and_text_is_as_it_was():
    figure = Figure()
    axes = figure.subplots()
    axes.plot(np.linspace(0, 1, 50), np.linspace(0, 1, 50) ** 2)
    axes.set_title("a mean of 0.123456789")
    text = svg(figure)
    assert "0.123456789" in text
    assert len(text) < 40_000


@pytest.mark.slow
def test_forty_cells_take_seconds(tmp_path, synthetic):
    labels, final = ("reference", "best_of_n", "ppo", "dpo"), {"proxy": 0.5, "gold": 0.2, "kl": 2.0, "objective": 0.4}
    planned = [(task, label, seed) for task in ("a", "b") for label in labels for seed in range(5)]
    for task, label, seed in planned:
        values = {name: value * (1 + 0.1 * seed) for name, value in final.items()} | {"win_rate": 0.6, "length": 9.0}
        source = "online" if label in ("ppo", "dpo") else "none"
        synthetic.write_cell(tmp_path, task, label, seed, final=values, texts=["text"] * 8, data_source=source)
    synthetic.write_manifest(tmp_path, suite={}, planned=planned, tasks={})
    before = time.process_time()
    page = write_report(Results.load(tmp_path))
    assert time.process_time() - before < 40  # about 11 on a busy one
    assert page.stat().st_size < 1_000_000
