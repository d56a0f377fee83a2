"""Traps of turning given pairs into tokens: merges across the border, the end token, what is cut, chat templates."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.dpo import pair_loss
from bakeoff.algos.preference_data.encoding import encode_pairs
from bakeoff.algos.preference_data.objective import PreferenceObjective
from bakeoff.algos.preference_data.pairs import TokenizedPairs
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Meter
from bakeoff.envs.preferences.load import PreferencePair, load_pairs
from bakeoff.errors import ConfigError

LETTERS = ["<pad>", "<eos>", *"abcdxyz "]
VOCABULARY = {token: i for i, token in enumerate([*LETTERS, "ab", "cd"])}
TEMPLATE = "{% for m in messages %}x{{ m['content'] }}y{% endfor %}{% if add_generation_prompt %}z{% endif %}"


def make_model(*, chat: bool = False, context: int = 32) -> LanguageModel:
    tokenizer = Tokenizer(BPE(VOCABULARY, [("a", "b"), ("c", "d")]))
    kind: Any = PreTrainedTokenizerFast
    fast = kind(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=context, eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config), fast, name="letters", chat=chat)


def ids(text: str) -> list[int]:
    """Token ids of a text written with a blank between tokens; `.` is the end."""
    return [VOCABULARY["<eos>" if token == "." else token] for token in text.split()]


def encoded(model: LanguageModel, pair: PreferencePair, limit: int = 8) -> tuple[list[int], list[int], list[int]]:
    """Prompt, chosen and rejected tokens of one pair, without padding."""
    chosen, rejected, _ = encode_pairs(model, [pair], limit)
    prompt = chosen.prompts.tokens_BP[0][chosen.prompts.mask_BP[0]].tolist()
    assert torch.equal(chosen.prompts.tokens_BP, rejected.prompts.tokens_BP)
    return prompt, *(side.tokens_BT[0][side.mask_BT[0]].tolist() for side in (chosen, rejected))


def test_prompt_and_completion_are_encoded_apart() -> None:
    model = make_model()
    # "xa" + "bc" is spelled x ab c as one text; but who continues [x, a] can only say b, c.
    assert ids("x ab c") == model.encode(["xabc"])[0]
    prompt, chosen, rejected = encoded(model, PreferencePair("xa", "bc", "cd"))
    assert prompt == model.encode(["xa"])[0] == ids("x a")
    assert (chosen, rejected) == (ids("b c ."), ids("cd ."))


def test_merges_inside_the_completion_stay() -> None:
    assert encoded(make_model(), PreferencePair("x", "abd", "a"))[1:] == (ids("ab d ."), ids("a ."))


def test_the_end_comes_once_whether_or_not_the_text_has_it() -> None:
    prompt, chosen, rejected = encoded(make_model(), PreferencePair("x", "ab<eos>", "cd"))
    assert (prompt, chosen, rejected) == (ids("x"), ids("ab ."), ids("cd ."))


def test_a_long_prompt_loses_its_start() -> None:
    model = make_model(context=10)
    chosen, rejected, notes = encode_pairs(
        model, [PreferencePair("xyzxyzxyz", "a c a", "d"), PreferencePair("z", "d", "x")], 6
    )
    assert chosen.prompts.tokens_BP[0].tolist() == ids("z x y z")
    spelled = model.encode(["a c a"])[0]
    assert chosen.tokens_BT[0][chosen.mask_BT[0]].tolist() == [*spelled, *ids(".")]
    assert rejected.tokens_BT[0][rejected.mask_BT[0]].tolist() == ids("d .")
    assert notes == {"cut_share": 0.0, "cut_prompt_share": 0.5}


def test_a_completion_at_the_limit_is_left_open() -> None:
    model = make_model()
    # Three tokens with the end fit; four lose the end; five lose a token as well.
    for text, expected in (("xy", "x y ."), ("xyz", "x y z"), ("xyzx", "x y z")):
        assert encoded(model, PreferencePair("x", text, "z"), 3)[1] == ids(expected)
    notes = encode_pairs(model, [PreferencePair("x", "xyzx", "z")], 3)[2]
    assert notes["cut_share"] == 0.5


def test_chat_templates() -> None:
    model = make_model(chat=True)
    row = {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "cd"}],
    }
    prompt, chosen, rejected = encoded(model, load_pairs([row])[0])
    assert (prompt, chosen, rejected) == (ids("x a y z"), ids("b ."), ids("cd ."))
    # A text is one user's turn, as for the task's own prompts; and nothing merges into the template.
    assert encoded(model, PreferencePair("a", "b", "cd")) == (prompt, chosen, rejected)
    two_turns = {
        **row,
        "prompt": [*row["prompt"], {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}],
    }
    assert encoded(model, load_pairs([two_turns])[0])[0] == ids("x a y x c y x d y z")
    with pytest.raises(
        ConfigError, match="preference pair 0: its prompt is a conversation; play a task with chat: true"
    ):
        encoded(make_model(), load_pairs([row])[0])


def test_padding_in_a_batch_changes_no_loss() -> None:
    """A short pair beside a long one is padded on the left (prompt) and on the right (completions): its loss is its own."""
    model = make_model()
    texts = [
        PreferencePair("x", "a", "b"),
        PreferencePair("xyzxyz", "abcdabcd", "z"),
        PreferencePair("yz", "d", "cacaca"),
    ]
    policy = Policy(model, Meter(), AlgorithmConfig())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    objective = PreferenceObjective(beta=0.5, length_normalization=True, supervised_coef=0.1)

    def loss(pairs: list[PreferencePair]) -> torch.Tensor:
        chosen, rejected, _ = encode_pairs(model, pairs, 10)
        made = TokenizedPairs.with_reference(policy, chosen, rejected)
        logps_B2 = policy.model.token_logprobs(made.joined).sum(1).reshape(2, len(made)).T
        return pair_loss(objective, logps_B2, made.reference_logps_B2, made.lengths_B2, made.preference_B)[0]

    torch.testing.assert_close(loss(texts), torch.stack([loss([pair]) for pair in texts]).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("pair", "limit", "message"),
    [
        (PreferencePair("x", "a", "b"), 32, "completions of 32 tokens fill the context of 32"),
        (
            PreferencePair("x", "a<pad>", "b"),
            8,
            "preference pair 0, chosen: holds token 0, which the model never generates",
        ),
    ],
)
def test_pairs_that_cannot_be_used_are_named(pair: PreferencePair, limit: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        encode_pairs(make_model(), [pair], limit)
    assert message in str(caught.value)
