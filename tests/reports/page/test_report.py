"""The written report: whole, safe, repeatable, and made without torch."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pandas as pd
import pytest

from bakeoff.errors import RunFolderError, UserError
from bakeoff.reports import Results, write_figure, write_report
from bakeoff.reports.page import report as report_module

FORBIDDEN_TAGS = {"img", "iframe", "object", "embed", "link", "base", "form", "video", "audio", "textarea"}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(report):
    return (report / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    parser = Page()
    parser.feed(html)
    return parser


def test_all_files_are_there_and_not_empty(report):
    names = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    assert {"index.html", "report.md", "leaderboard.csv", "leaderboard.tex"} <= names
    kinds = ("learning_curves", "frontier", "win_rate", "win_rate_matrix", "gains", "improvement", "drift", "cost")
    figures = {f"figures/{kind}-{task}.svg" for kind in kinds for task in ("exact", "reviews")}
    assert names >= figures | {"figures/overoptimization-reviews.svg"}
    assert "figures/overoptimization-exact.svg" not in names  # it has no gold reward
    pictures = {name.removesuffix(".svg") + ".png" for name in names if name.endswith(".svg")}
    assert pictures == {name for name in names if name.endswith(".png")}
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    for name in figures:
        root = ElementTree.parse(report / name).getroot()
        assert sum(element.tag.endswith("path") for element in root.iter()) > 5


def test_csv_is_the_leaderboard(report, results):
    table = pd.read_csv(report / "leaderboard.csv")
    pd.testing.assert_frame_equal(table, results.leaderboard(), check_dtype=False)


def test_model_text_stays_text(html, page, synthetic):
    assert not FORBIDDEN_TAGS & set(page.tags)
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    text = "".join(page.text)
    assert "<script>window.pwned = 1</script>" in text  # shown as it was written
    assert "<script>window" not in html
    assert "{{ 7 * 7 }}" in text
    assert "⟨U+202E⟩gnitirw" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", html)
    assert max(len(word) for word in re.findall("x+", html)) == 4000 - 480  # a long line is folded, and cut
    assert "4520 more characters" in text
    assert "The last 1000 are only in samples.jsonl." in text


def test_nothing_comes_from_outside(html, page):
    links = [value for name, value in page.attributes if name in ("href", "src", "action", "xlink:href", "srcset")]
    assert links
    assert all(link.startswith("#") or re.fullmatch(r"\.\./cells/[\w%./-]+\.jsonl", link) for link in links)
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", html)
    assert "@import" not in html
    policy = (
        dict(page.attributes)["http-equiv"],
        next(v for n, v in page.attributes if n == "content" and "default-src" in v),
    )
    assert policy[0] == "Content-Security-Policy"
    assert policy[1].startswith("default-src 'none'")
    assert "http" not in policy[1]


def test_the_policy_allows_the_one_script(html):
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_ids_are_unique_and_references_resolve(page):
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {v[1:] for n, v in page.attributes if n in ("href", "xlink:href") and v.startswith("#")}
    wanted |= {v for _, value in page.attributes for v in re.findall(r"url\(#([\w-]+)\)", value or "")}
    assert wanted <= set(ids)


def test_what_did_not_finish_is_named(html, report):
    for text in (html, (report / "report.md").read_text(encoding="utf-8")):
        plain = text.replace("\\", "")
        assert "1 cell failed, in no average: exact / dpo / seed 1" in plain
        assert "1 cell never started, in no average: reviews / dpo / seed 2" in plain
    assert html.count("&lt;b&gt;bold&lt;/b&gt;") == 1
    assert "<b>bold" not in html


def test_the_reference_against_itself_is_explained(html, report):
    for text in (html, (report / "report.md").read_text(encoding="utf-8")):
        assert (
            "own is 0.5 where prompts are answered more than once; elsewhere it differs by sampling noise"
            in text.replace("\n", " ")
        )


def test_one_cell_and_one_seed(tmp_path, synthetic, few_figures):
    synthetic.write_cell(tmp_path, "t", "a", 0, final={"proxy": 1.0, "objective": 1.0, "kl": 1.0})
    synthetic.write_manifest(tmp_path, suite={}, planned=[("t", "a", 0)], tasks={})
    assert "The planned cell has finished." in write_report(tmp_path).read_text(encoding="utf-8")
    synthetic.write_cell(tmp_path, "t", "b", 0, final={"proxy": 0.5, "objective": 0.5, "kl": 1.0}, status="failed")
    synthetic.write_cell(tmp_path, "t", "c", 0, final={"proxy": 0.2, "objective": 0.2, "kl": 1.0})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "1 of 3 planned cells is in no average:" in html
    assert "[–, –]" not in html
    assert "1.00" not in html.partition("compared with each other contestant")[2].partition("</details>")[0]


def test_provenance_is_complete(page):
    text = "".join(page.text)
    for fact in ("bakeoff run quick --out out", "0123abc", "2.13", "2026-01-02T03:04:05+00:00", '"best_of_n"'):
        assert fact in text


def test_markdown_fences_hold(report):
    lines = (report / "report.md").read_text(encoding="utf-8").split("\n")
    fence, outside = None, []
    for line in lines:
        if fence is None and re.match("`{3,}text$", line):
            fence = line.removesuffix("text")
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            outside.append(line)
    assert fence is None
    assert not any("pwned" in line or "example.invalid" in line for line in outside)


def test_the_same_run_gives_the_same_bytes(run, few_figures, tmp_path):
    folders = []
    for place in ("here", "there"):
        shutil.copytree(run, tmp_path / place / run.name, ignore=shutil.ignore_patterns("report"))
        folders.append(write_report([tmp_path / place / run.name]).parent)
    first, again = folders
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 7 + 2 * 2 * len(few_figures)
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes(), file


def test_every_row_leads_to_the_files_behind_it(report, page, results):
    links = [value for name, value in page.attributes if name == "href"]
    files = [unquote(link) for link in links if link.startswith("../")]
    assert len(files) == 2 * len(results.cells)
    there = [file for file in files if (report / file).is_file()]
    assert len(there) == 2 * 23  # one cell never started
    ids = {value for name, value in page.attributes if name == "id"}
    rows = [link for link in links if link.startswith("#cells-")]
    assert len(rows) == len(results.leaderboard())
    assert {link[1:] for link in rows} <= ids
    assert "0.9700" in "".join(page.text)  # the score of exact / ppo / seed 2, which the mean 0.96 is made of


def test_a_report_imports_no_model_code(run, tmp_path):
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "gymnasium", "stable_baselines3"):
            raise ImportError(name + " must not be imported")
sys.meta_path.insert(0, Refuse())
from bakeoff.reports import Results, write_figure
results = Results.load({str(run)!r})
assert len(results.leaderboard()) == 8
write_figure(results, "frontier", {str(tmp_path / "f.png")!r}, task="exact")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_of_every_task_in_one_file(run, tmp_path):
    path = write_figure([run], "learning_curves", tmp_path / "curves.svg", meter="generated_tokens")
    texts = {"".join(e.itertext()).strip() for e in ElementTree.parse(path).getroot().iter() if e.tag.endswith("text")}
    assert {"ppo", "dpo", "best_of_n", "reference", "generated tokens"} <= texts
    # A panel names its task on a line of its own, above what it shows.
    assert {"exact", "reviews"} <= texts
    assert any(text.startswith("objective") for text in texts)
    with pytest.raises(UserError, match="end its name with"):
        write_figure(run, "cost", tmp_path / "curves.xyz")


def test_a_figure_without_data_says_so(tmp_path, synthetic):
    synthetic.write_cell(tmp_path, "exact", "a", 0, final={"proxy": 1.0})
    synthetic.write_manifest(tmp_path, suite={}, planned=[("exact", "a", 0)], tasks={})
    with pytest.raises(UserError, match="no finished cell has what it shows; it needs a task with `gold:`"):
        Results.load(tmp_path).plot("overoptimization")


def test_a_report_that_cannot_be_written_says_where(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(run, tmp_path / "file")


def test_names_are_not_trusted_either(tmp_path, synthetic, few_figures):
    task, label = "t<i>$\\frac$&", '_a<b>"&$x_{1}\u202e'
    for seed in (0, 1):
        final = {"proxy": 0.5 + seed, "kl": 1.0, "objective": 0.4, "win_rate": 0.6, "gold": 0.1}
        synthetic.write_cell(tmp_path, task, label, seed, final=final, settings={"<u>": "<u>"})
    suite = {"name": "<s>", "algorithms": {label: {"<u>": "<u>"}}}
    synthetic.write_manifest(tmp_path, suite=suite, planned=[(task, label, 0), (task, label, 1)], tasks={})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"<(i|b|u|s)>", html)
    assert "\u202e" not in html
    assert "_a&lt;b&gt;" in html


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow  # both reports need every figure, since a spawned process knows no patched list
def test_several_processes_draw_the_same_report(run, tmp_path, monkeypatch):
    alone = contents(write_report([run], tmp_path / "report").parent)
    monkeypatch.setattr(report_module, "CELLS_FOR_PROCESSES", 1)
    assert contents(write_report([run], tmp_path / "report", processes=2).parent) == alone


def test_a_drawing_process_that_is_killed_costs_no_figure(run, tmp_path, monkeypatch, few_figures):
    class Broken(ProcessPoolExecutor):
        def map(self, *args, **kwargs):
            raise BrokenProcessPool("killed")

    alone = contents(write_report([run], tmp_path / "report").parent)
    monkeypatch.setattr(report_module, "CELLS_FOR_PROCESSES", 1)
    monkeypatch.setattr(report_module, "ProcessPoolExecutor", Broken)
    assert contents(write_report([run], tmp_path / "report", processes=2).parent) == alone


def test_only_its_own_stale_figures_go(tmp_path, run, few_figures):
    out = tmp_path / "paper"
    (out / "figures").mkdir(parents=True)
    for name in ("my_photo.png", "cost-breakdown.svg", "stale.svg"):
        (out / "figures" / name).write_text("x")
    (out / "figures" / ".drawn").write_text("stale.svg\n../../kept.svg\n")
    (tmp_path / "kept.svg").write_text("x")
    write_report(run, out)
    left = {path.name for path in (out / "figures").iterdir()}
    assert {"my_photo.png", "cost-breakdown.svg"} <= left
    assert "stale.svg" not in left
    assert (tmp_path / "kept.svg").exists()
    drawn = (out / "figures" / ".drawn").read_text().split()
    assert left == {*drawn, ".drawn", "my_photo.png", "cost-breakdown.svg"}
