"""The shipped judge deserves its name on texts written here, is fast, and says no word of the corpus's sentences."""

import json
import time

import numpy as np
import pytest

from bakeoff import registry
from bakeoff.envs.tasks.base import make_task
from bakeoff.envs.tasks.reviews.fitting import degenerate
from bakeoff.envs.tasks.reviews.judge import FOLDER, reviews_judge
from bakeoff.envs.tasks.reviews.ngrams import words_of
from bakeoff.envs.tasks.reviews.openings import EVALUATION_OPENINGS
from bakeoff.envs.tasks.reviews.proxy import combine, reviews_proxy
from bakeoff.errors import ConfigError

GOOD = (
    "this is a wonderful film with a great cast and a story that stays with you.",
    "the camera takes beautiful pictures and it is easy to use.",
    "i love this phone and would recommend it to anyone.",
    "a funny, moving and perfectly acted comedy about two brothers.",
)
BAD = (
    "this is a dull film with a weak cast and a story that makes no sense.",
    "the camera takes blurry pictures and it broke after a week.",
    "i hate this phone and would return it if i could.",
    "a tedious, unfunny mess about two brothers.",
)


def gold(texts: list[str] | tuple[str, ...]) -> np.ndarray:
    return np.array(reviews_judge()([""] * len(texts), list(texts)))


def test_it_rates_as_people_do() -> None:
    good, bad = gold(GOOD), gold(BAD)
    assert good.min() > bad.max()
    assert good.mean() > 0.8
    assert bad.mean() < -0.8


def test_written_sentences_are_hardly_penalized() -> None:
    verdict = reviews_judge().verdict([words_of(text) for text in (*GOOD, *BAD)])
    assert (verdict.excess_NF.sum(1) > 0).sum() <= 1  # one in twenty-six is, of those of the corpus
    assert verdict.excess_NF.sum() < 0.5


@pytest.mark.parametrize("kind", ["one word of praise over and over", "words of praise in a row", "the sentence twice"])
def test_it_falls_on_what_nobody_writes(kind: str) -> None:
    praised = degenerate.praise(frozenset(reviews_judge().vocabulary.ngrams))
    texts = degenerate.degenerate_texts(GOOD, praised, np.random.default_rng(0))[kind]
    assert (gold(texts) < gold(GOOD) - 1).all()


def test_the_tag_of_the_source_is_not_read() -> None:
    judge = reviews_judge()
    with_tag, without = judge(["movie: the film", "the film"], [" is a joy to watch.", " is a joy to watch."])
    assert with_tag == without


def test_empty_and_odd_text_has_a_finite_score() -> None:
    assert np.isfinite(gold(["", " ", "日本語", "!!!", "<critique> poor"])).all()


def test_256_completions_take_no_time() -> None:
    judge = reviews_judge()
    texts = [f"{opening} {GOOD[i % 4]}" for i, opening in enumerate(EVALUATION_OPENINGS * 4)]
    judge([""] * len(texts), texts)  # warm
    best = min(_cpu_seconds(lambda: judge([""] * len(texts), texts)) for _ in range(3))
    assert best < 0.15  # 0.02 on a quiet core; the rest is for a busy one


def _cpu_seconds(call: object) -> float:
    start = time.process_time()
    call()  # type: ignore[operator]
    return time.process_time() - start


def test_what_the_fit_found() -> None:
    found = json.loads((FOLDER / "fit.json").read_text())
    judge, proxies = found["judge_of_four_fifths"], found["proxies"]
    accuracy = [proxies[size]["shipped_pair_accuracy"] for size in ("500", "2k", "8k")]
    assert accuracy == sorted(accuracy)
    assert judge["pair_accuracy"] > max(*accuracy, judge["vader"]["pair_accuracy"])
    assert judge["penalized"] < 0.05


def test_no_feature_is_a_sentence() -> None:
    ngrams = reviews_judge().vocabulary.ngrams
    assert max(len(ngram.split()) for ngram in ngrams) == 2


@pytest.mark.parametrize("size", ["500", "2k", "8k"])
def test_proxies_prefer_praise(size: str) -> None:
    proxy = reviews_proxy(size)  # type: ignore[arg-type]
    texts = [*GOOD, *BAD]
    scores = proxy(prompts=[""] * 8, completions=texts, completion_ids=[[1]] * 8)
    assert np.mean(scores[:4]) > np.mean(scores[4:]) + 1


def test_ensembles_by_hand() -> None:
    scores = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert combine(scores, "mean").tolist() == [2, 2]
    assert combine(scores, "minimum").tolist() == [1, 2]
    assert combine(scores, "mean_minus_deviation").tolist() == [1, 2]
    assert combine(scores[:, :1], "none").tolist() == [1, 2]


def test_a_penalty_on_length() -> None:
    plain, short = reviews_proxy("500"), reviews_proxy("500", length_penalty=0.5)
    arguments = {"prompts": ["a"], "completions": [" film"], "completion_ids": [[1, 2, 3]]}
    assert plain(**arguments)[0] - short(**arguments)[0] == pytest.approx(1.5)


def test_bad_settings_are_one_line_each() -> None:
    with pytest.raises(ConfigError, match="comparisons is '4k', expected one of 500, 2k, 8k") as caught:
        reviews_proxy("4k", ensemble="max", length_penalty=-1)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("name", [name for name in registry.tasks.names() if name.startswith("reviews")])
def test_every_review_task_has_the_judge(name: str) -> None:
    task = make_task(name)
    assert task.gold is reviews_judge()
    assert task.name == name


def test_a_task_can_name_another_gold_or_none() -> None:
    assert make_task("reviews-proxy-500", gold=None).gold is None
    task = make_task("reviews", gold={"name": "length", "unit": "words"})
    assert task.gold is not None
    assert list(task.gold(prompts=["a"], completions=["b c"], completion_ids=[[1]])) == [2.0]
