"""Makes the tiny reference model of the exact task.

    python -m bakeoff.envs.tasks.exact.pretrain --out DIR

The language has seven words and an end-of-sequence token. A seeded generator draws an order-2 Markov chain over them,
and a two-layer Llama is fitted to samples of it, so the reference is neither uniform nor of a form that the reward
shares. There is no padding token: eight logits, eight tokens that can be sampled; the pad id is the end-of-sequence id.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ("a", "b", "c", "d", "e", "f", "g")
"""The visible words; their ids are their places."""
EOS = "<eos>"
"""The end-of-sequence token, id 7."""


@dataclass(frozen=True)
class Settings:
    """The settings that determine the result, besides the versions of the libraries."""

    steps: int = 300
    """Optimizer steps."""
    seed: int = 0
    """Seed of the chain, of the initial weights and of the samples."""
    batch_size: int = 256
    """Sequences per step."""
    length: int = 7
    """Tokens in a training sequence, the two that start it included."""
    learning_rate: float = 1e-2
    """Adam's, falling linearly to zero."""
    chain_scale: float = 1.0
    """Standard deviation of the chain's logits; 0 would be uniform."""
    width: int = 32
    """Hidden size."""
    mlp_width: int = 64
    """Inner size of the gated MLP."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    max_context: int = 64
    """Positions the model accepts."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, joined by single spaces when decoded; a word outside the seven is an error when encoded."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, EOS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(settings: Settings) -> LlamaForCausalLM:
    """A freshly initialized Llama; the global random state is left as it was."""
    eos_id = len(WORDS)
    config = LlamaConfig(
        vocab_size=eos_id + 1,
        hidden_size=settings.width,
        intermediate_size=settings.mlp_width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.max_context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return LlamaForCausalLM(config)


def make_chain(settings: Settings, generator: torch.Generator) -> Tensor:
    """Transition probabilities of a random order-2 chain, shape (words, words, words + 1); the last is the end."""
    words = len(WORDS)
    logits = settings.chain_scale * torch.randn(words, words, words + 1, generator=generator)
    return logits.softmax(-1)


def sample_chain(chain: Tensor, batch_size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (batch_size, length) from uniformly random pairs of words, and a mask that is True up to the end token.

    What follows the end token is arbitrary.
    """
    words = chain.shape[0]
    columns = list(torch.randint(words, (2, batch_size), generator=generator))
    for _ in range(length - 2):
        # After an end token the chain has no row: any will do, since the mask hides it.
        before, last = columns[-2].clamp(max=words - 1), columns[-1].clamp(max=words - 1)
        columns.append(torch.multinomial(chain[before, last], 1, generator=generator).squeeze(1))
    tokens = torch.stack(columns, 1)
    ends_before = (tokens == words).long().cumsum(1) - (tokens == words).long()
    return tokens, ends_before == 0


def fit(model: LlamaForCausalLM, chain: Tensor, settings: Settings, generator: torch.Generator) -> float:
    """Train ``model`` in place on samples of ``chain``; returns the last step's nats per token."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.steps)
    model.train()
    loss = torch.zeros(())
    for _ in range(settings.steps):
        tokens, mask = sample_chain(chain, settings.batch_size, settings.length, generator)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[:, 1:]  # the second start word is given
        chosen = mask[:, 2:]
        loss = torch.nn.functional.cross_entropy(logits[chosen], tokens[:, 2:][chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()  # type: ignore[no-untyped-call]
    return loss.item()


def pretrain(out: Path, settings: Settings) -> dict[str, object]:
    """The whole run: chain, model, tokenizer, files. Returns what training.json says."""
    generator = torch.Generator().manual_seed(settings.seed)
    model, chain = make_model(settings), make_chain(settings, generator)
    nats = fit(model, chain, settings, generator)
    eos_id = len(WORDS)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=eos_id, pad_token_id=eos_id, do_sample=True
    )
    model.save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    facts: dict[str, object] = {
        "settings": asdict(settings),
        "parameters": model.num_parameters(),
        "nats_per_token": round(nats, 4),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bakeoff.envs.tasks.exact.pretrain", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    torch.set_num_threads(1)  # the order of additions, and so the result, would depend on it
    print(json.dumps(pretrain(out, Settings(**options)), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
