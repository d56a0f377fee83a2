"""``bakeoff plot``."""

from xml.etree import ElementTree

import pytest

from bakeoff.cli import main
from bakeoff.errors import UserError
from bakeoff.reports import KINDS
from bakeoff.reports.figures import drawer


def test_a_figure_into_a_file(run, tmp_path, capsys):
    out = tmp_path / "deep" / "curves.svg"
    options = ["--task", "reviews", "--metric", "kl", "--meter", "generated_tokens", "--style", "ggplot"]
    assert main(["plot", str(run), "--kind", "learning_curves", "--out", str(out), *options]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    texts = {"".join(e.itertext()).strip() for e in ElementTree.parse(out).getroot().iter() if e.tag.endswith("text")}
    assert {"generated tokens", "KL to the reference (nats per completion)", "ppo"} <= texts


def test_the_kinds_are_listed(capsys):
    assert main(["plot", "--kind", "help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(KINDS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kind", "fronteir", "--out", "f.png"], 'did you mean "frontier"'),
        (["--kind", "frontier"], "no --out"),
        (["--kind", "frontier", "--out", "f.xyz"], "end its name with"),
        (["--kind", "cost", "--out", "f.png", "--metric", "kl"], 'figure "cost" has no option "metric"; it has meters'),
        (["--kind", "learning_curves", "--out", "f.png", "--meter", "second"], 'did you mean "seconds"'),
        (["--kind", "learning_curves", "--out", "f.png", "--metric", "bleu"], "no finished cell"),
        (["--kind", "improvement", "--out", "f.png", "--metric", "label"], '"label" holds no numbers; name a metric'),
        (["--kind", "gains", "--out", "f.png", "--metric", "prompt"], '"prompt" holds no numbers; name a metric'),
        (["--kind", "cost", "--out", "f.png", "--style", "no-such"], 'style "no-such"'),
        (["--kind", "cost", "--out", "f.png", "--task", "exakt"], 'did you mean "exact"'),
    ],
)
def test_what_is_wrong_is_told_in_one_line(run, tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_kind_has_a_function():
    assert all(callable(drawer(kind)) for kind in KINDS)


def test_a_figure_that_cannot_be_written_says_where(results, tmp_path):
    from bakeoff.reports import write_figure

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_figure(results, "cost", tmp_path / "file" / "f.svg")
