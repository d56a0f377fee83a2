"""Constitutions: the shipped ones, files of users, templates, and every mistake with its line."""

import json
from pathlib import Path

import pytest

from bakeoff.algos.constitutional.loader import SHIPPED, load_constitution
from bakeoff.algos.constitutional.templates import PlaceholderError, Text
from bakeoff.errors import ConfigError

MINE = """\
name: mine
principles:
  - name: kind
    critique: Is "{response}" kind?
    revision: |
      Make it kind.
      It was: {response}
    choice: Which is kinder?
"""
CASE = {"prompt": "hello", "response": "go away", "critique": "rude"}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_constitutions_load(name: str) -> None:
    constitution = load_constitution(name)
    assert constitution.name == name
    assert constitution.revising


def test_helpful_harmless_has_sixteen_whole_principles() -> None:
    constitution = load_constitution("helpful-harmless")
    assert len(constitution.steps("critique")) == len(constitution.revising) == len(constitution.steps("choice")) == 16
    assert len({p.name for p in constitution.principles}) == 16


def test_reviews_constitution_asks_as_trained() -> None:
    from bakeoff.envs.tasks.reviews import skills

    constitution = load_constitution("reviews")
    case = {"prompt": "movie: the end of", "response": " it drags.", "critique": "poor"}
    (turn,) = constitution.ask("revision", constitution.principles[0], case, chat=False)
    assert turn[1] == skills.revise_prompt("movie: the end of it drags.", "poor, make it great", "movie: the end of")
    (turn,) = constitution.ask("verdict", None, case, chat=False)
    assert turn[1] == skills.critique_prompt("movie: the end of it drags.")
    assert [v.strip() for v in constitution.verdicts] == list(skills.LEVELS)


def test_default_templates_for_plain_and_chat_models(tmp_path: Path) -> None:
    constitution = load_constitution(written(tmp_path / "mine.yaml", MINE))
    (kind,) = constitution.principles
    (turn,) = constitution.ask("critique", kind, CASE, chat=False)
    assert turn == ("text", 'Question: hello\n\nAnswer: go away\n\nIs "go away" kind?\n\nCritique:')
    turns = constitution.ask("revision", kind, CASE, chat=True)
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[2:] == [
        ("user", 'Is "go away" kind?'),
        ("assistant", "rude"),
        ("user", "Make it kind.\nIt was: go away\n"),
    ]


def test_model_text_is_never_read_for_placeholders() -> None:
    text = Text.parse("{response} {{and}}", ("response",))
    assert text.fill({"response": "{prompt} {response}"}) == "{prompt} {response} {and}"


def test_examples_come_first(tmp_path: Path) -> None:
    examples = """\
separator: " || "
examples:
  critique:
    - {prompt: a, response: b, request: c, answer: " d"}
templates:
  plain:
    critique: "{prompt}/{response}/{request}:"
  chat:
    critique:
      - system: "{request}"
      - user: "{prompt}"
      - assistant: "I think"
"""
    constitution = load_constitution(written(tmp_path / "mine.yaml", MINE + examples))
    (kind,) = constitution.principles
    (turn,) = constitution.ask("critique", kind, CASE, chat=False)
    assert turn[1] == 'a/b/c: d || hello/go away/Is "go away" kind?:'
    turns = constitution.ask("critique", kind, CASE, chat=True)
    assert turns[2] == ("assistant", "I think d")
    assert turns[-1] == ("assistant", "I think")


def test_the_papers_layouts(tmp_path: Path) -> None:
    edits = {
        "one": {"prompt": ["Say what is {wrong}."], "edit_request": "Mend it."},
        "two": {"prompt": "Once more.", "edit_request": "Again."},
    }
    choices = ["\nChoose the kinder one. Options:", "Choose the shorter one. Options:"]
    first = written(tmp_path / "edits.json", json.dumps(edits))
    second = written(tmp_path / "choices.json", json.dumps(choices))
    constitution = load_constitution([str(first), str(second)])
    assert [p.name for p in constitution.revising] == ["one", "two"]
    one = constitution.principles[0]
    assert one.critique is not None
    assert one.critique.fill({}) == "Say what is {wrong}."
    assert [p.choice.fill({}) for p in constitution.steps("choice") if p.choice] == [
        "Choose the kinder one.",
        "Choose the shorter one.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MINE.replace('Is "{response}"', "Is {reponse}"),
            "line 4: unknown placeholder {reponse}; known here: {prompt}",
        ),
        (MINE.replace("It was: {response}", "It was: {x}"), "line 7: unknown placeholder {x}"),
        (MINE.replace("It was: {response}", "It was: {response"), "line 7: "),
        (
            MINE.replace("{response} kind", "{response!r} kind").replace('"{response}"', "{response!r}"),
            "line 4: unknown",
        ),
        (MINE.replace("choice:", "chioce:"), 'line 8: unknown key "chioce"; did you mean "choice"?'),
        ("name: x\n", "principles: expected a list of at least one"),
        ("- 1\n", "expected a mapping with a list of principles"),
        ("name: [\n", "not valid YAML"),
        ("name: x\nname: y\n", 'line 2: the key "name" is given twice'),
        (MINE + "verdicts: [good]\n", "line 9: verdicts: expected two or more"),
        (MINE + "options: [A]\n", "line 9: options are ['A'], expected two"),
        (MINE + "templates:\n  chat:\n    critique:\n      - pope: hi\n", "line 12: a turn is one of"),
        ("principles:\n  - {name: empty}\n", "line 2: a principle needs a critique, a revision or a choice"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_constitution(written(tmp_path / "mine.yaml", text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.yaml", None, "cannot be read: No such file"),
        ("broken.json", '{"a": \n', "line 2: not JSON"),
        ("empty.json", "[]", "expected a list of choice prompts"),
        ("half.json", '{"a": {"prompt": "x"}}', '"a": expected "prompt" and "edit_request"'),
    ],
)
def test_bad_files(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if text is not None:
        written(path, text)
    with pytest.raises(ConfigError, match=message):
        load_constitution(path)


def test_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match='no constitution "reviws"; did you mean "reviews"'):
        load_constitution("reviws")


def test_a_lone_brace_says_its_line() -> None:
    with pytest.raises(PlaceholderError) as caught:
        Text.parse("fine\nnot } fine", ())
    assert caught.value.line == 1
