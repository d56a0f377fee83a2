from collections.abc import Callable
from pathlib import Path

import pytest

from bakeoff.envs.tasks.reviews.fitting import corpus
from bakeoff.envs.tasks.reviews.fitting.corpus import (
    CorpusError,
    RatedSentence,
    RevisionIndex,
    read_sentences,
    split_sentences,
)


def test_sentences_are_read_cleaned_and_grouped(make_sdist: Callable[..., Path]) -> None:
    found = read_sentences(make_sdist(), sha256=None)
    assert [s.text for s in found] == [
        "the film is a wonder of cafe light - and song.",
        "the film is a bore... and far too long!",
        'the film is there, and that is "all".',
        "the film is fine for a wet night.",
        "a plot with & without holes.",
        "the camera is a joy to hold.",
        "the camera is broken, avoid it.",
        "it came in a box.",
    ]  # "Too short" has two words
    assert [s.source for s in found] == ["movie"] * 5 + ["gadget"] * 3
    assert [s.group for s in found[-3:]] == ["gadget/1", "gadget/1", "gadget/2"]
    assert [s.level for s in found[:4]] == ["great", "awful", "mixed", "good"]


def test_a_repeated_sentence_is_kept_once(make_sdist: Callable[..., Path]) -> None:
    sdist = make_sdist(amazon="1_1\t1.0\tthe same words here\n2_1\t-1.0\tThe same  words here\n")
    assert [s.rating for s in read_sentences(sdist, sha256=None) if s.source == "gadget"] == [1.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"movie": None}, "has no hutto_ICWSM_2014.tar.gz with movieReviewSnippets_GroundTruth.txt"),
        ({"amazon": "1_1\tgood\tnot a number here\n"}, "amazonReviewSnippets_GroundTruth.txt line 1 is not id, rating"),
        ({"movie": "1\t2.0\n"}, "movieReviewSnippets_GroundTruth.txt line 1 is not id, rating, text"),
        ({"movie": "", "amazon": ""}, "holds no usable sentence"),
    ],
)
def test_a_bad_archive_is_one_clear_line(make_sdist: Callable[..., Path], changes: dict[str, str], says: str) -> None:
    with pytest.raises(CorpusError, match=says) as caught:
        read_sentences(make_sdist(**changes), sha256=None)
    assert "\n" not in str(caught.value)


def test_another_archive_or_none_is_refused(make_sdist: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"expected 5d7c06e0.*; download vaderSentiment==3\.3\.2 again"):
        read_sentences(make_sdist())
    with pytest.raises(CorpusError, match=r"no file .*absent"):
        read_sentences(tmp_path / "absent.tar.gz")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(CorpusError, match="not a readable tar archive"):
        read_sentences(tmp_path / "text.tar.gz", sha256=None)


def test_no_review_is_on_both_sides_of_the_split() -> None:
    sentences = [RatedSentence("gadget", f"gadget/{i // 3}", 0.0, f"sentence {i}") for i in range(3000)]
    train, held_out = split_sentences(sentences, held_out=0.1)
    assert not {s.group for s in train} & {s.group for s in held_out}
    assert len(train) + len(held_out) == 3000
    assert 210 <= len(held_out) <= 390  # 100 +- 30 reviews of three: three standard deviations
    assert split_sentences(sentences[::-1], held_out=0.1)[1][::-1] == held_out


def test_each_request_has_its_own_fitting_revision(make_sdist: Callable[..., Path]) -> None:
    pool = read_sentences(make_sdist(), sha256=None)
    index = RevisionIndex(pool)
    review = pool[1]  # the film is a bore
    fitting = {level: [pool[i].text for i in index.candidates(review, level)] for level in corpus.LEVELS}
    assert fitting == {
        "awful": [],  # the review itself is no revision
        "poor": [],  # the one poor sentence begins with another word
        "mixed": ['the film is there, and that is "all".'],
        "good": ["the film is fine for a wet night."],
        "great": ["the film is a wonder of cafe light - and song."],  # not the camera: another source
    }


def test_the_longest_shared_opening_comes_first() -> None:
    texts = ["the end is near", "the film ends", "the film is good", "the dog film is here"]
    pool = [RatedSentence("movie", str(i), 2.6, text) for i, text in enumerate(texts)]
    review = RatedSentence("movie", "x", -2.6, "the film is bad")
    assert [pool[i].text for i in RevisionIndex(pool).candidates(review, "great")][:2] == [texts[2], texts[1]]
    with pytest.raises(ValueError, match="choose one of awful, poor"):
        RevisionIndex(pool).candidates(review, "superb")
