"""Writes docs/settings.md from the algorithms' own configurations: `python docs/generate_settings.py`."""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path

from pydantic.fields import FieldInfo

from bakeoff import registry
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import auto_learning_rate

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings

Made from the code by `python docs/generate_settings.py`; a test checks that it is up to date. In a suite a contestant's
settings stand under its label:

```yaml
algorithms:
  ppo: {}
  ppo_tight: {algorithm: ppo, kl_coef: 0.3, epochs: 2}
```

## The learning rate

`learning_rate: auto` follows the width of the model's hidden states: 2e-3 at width 32, falling with width^1.5. An interpolation
between what trial runs found good on tiny models and what the literature uses on larger ones, not a law.

It is fixed when an update begins: `learning_rate_schedule: linear` gives update k of K the share 1 - (k - 1)/K. Over the warm-up it
rises. Step s of an algorithm, in its update k, takes the largest of these three shares of the rate, and at most all of it:

- s / (`warmup_steps` + 1);
- k / (K/10 + 1), where K updates are planned: reward queries / `batch_size`, or generated tokens / (`batch_size` x
  `max_new_tokens`), whichever is fewer (the latter is the least that K can be), or the updates that passes over given data take;
- ten times the share of the budget that is spent.

So at most about a tenth of a run is warm-up, for every algorithm, whether its updates take one step or eight. A budget of seconds
alone sets no bound. `dqn` has no warm-up, and the `sb3_*` agents do not use `warmup_steps`.

| width | 32 | 128 | 576 | 768 | 2048 | 4096 |
|---|---|---|---|---|---|---|
"""


NAMES: dict[object, str] = {
    bool: "true, false",
    dict: "mapping",
    float: "number",
    int: "whole number",
    Path: "file",
    str: "text",
    tuple: "list",
    type(None): "null",
}
"""What a reader of YAML calls each type."""


def type_of(annotation: object) -> str:
    """The type in a reader's words."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(json.dumps(value).strip('"') for value in typing.get_args(annotation))
    if origin is typing.Annotated:
        return type_of(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_of(part) for part in typing.get_args(annotation))
    kind = origin or annotation
    return NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def row(name: str, field: FieldInfo) -> str:
    """One line of a table."""
    default = field.get_default(call_default_factory=True)
    shown = "required" if field.is_required() else json.dumps(default, default=str).strip('"')
    help_text = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{name}` | {shown} | {type_of(field.annotation)} | {help_text} |"


def table(fields: dict[str, FieldInfo]) -> str:
    """Settings as a table."""
    return "\n".join(
        ["| setting | default | values | meaning |", "|---|---|---|---|", *(row(n, f) for n, f in fields.items())]
    )


def page() -> str:
    """The whole page."""
    widths = (32, 128, 576, 768, 2048, 4096)
    parts = [HEAD + "| rate | " + " | ".join(f"{auto_learning_rate(width):.1e}" for width in widths) + " |"]
    common = AlgorithmConfig.model_fields
    parts += ["## Of every algorithm", table(common), "Where an algorithm's default differs, its own table says so."]
    for name in registry.algorithms.names():
        kind = registry.algorithms.load(name)
        own = {
            key: field
            for key, field in kind.Config.model_fields.items()
            if key not in common or field.default != common[key].default
        }
        first_line = (kind.__doc__ or "").strip().splitlines()[0]
        parts += [f"## {name}", first_line, table(own) if own else "No settings of its own."]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
