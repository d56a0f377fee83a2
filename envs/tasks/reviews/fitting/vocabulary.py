"""The tokenizer of the review model: byte-level BPE whose markers, verdicts and tags are whole tokens."""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bakeoff.envs.tasks.reviews import skills


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on lower-cased text; ``<s>`` is put in front of every text, the markers are single tokens."""
    bpe = Tokenizer(models.BPE())
    # Lower case: the Amazon half has no capitals, and its entries go further without them.
    bpe.normalizer = normalizers.Lowercase()
    # A space in front of every text and after every marker: a word is the same token wherever it stands.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(skills.SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # Repeated so that every verdict, request and tag comes out as whole words.
    wanted = [" " + " ".join((*skills.LEVELS, "make it")), *(f"{tag}:" for tag in skills.TAGS)]
    bpe.train_from_iterator([*(" " + text for text in texts), *(wanted * 3000)], trainer=trainer)
    bos = bpe.token_to_id(skills.BOS)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{skills.BOS} $A", pair=f"{skills.BOS} $A $B", special_tokens=[(skills.BOS, bos)]
    )
    # Not "special": decoding must show the two markers even when it skips special tokens.
    bpe.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in (skills.CRITIQUE, skills.REVISE)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=skills.BOS,
        eos_token=skills.EOS,
        pad_token=skills.PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
