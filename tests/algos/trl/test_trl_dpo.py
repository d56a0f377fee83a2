"""The same pairs through TRL's DPOTrainer: equal losses and equal gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.dpo import pair_loss
from bakeoff.algos.preference_data.encoding import encode_pairs
from bakeoff.algos.preference_data.objective import PreferenceObjective
from bakeoff.algos.preference_data.pairs import TokenizedPairs
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Meter
from bakeoff.envs.preferences.load import load_pairs

pytest.importorskip("trl", reason="TRL is not installed; pip install trl==1.16.0")
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [
    {"prompt": "w2 w3", "chosen": " w4 w5 w6", "rejected": " w7 w8"},
    {"prompt": "w9", "chosen": " w10 w3 w2", "rejected": " w5 w6 w7 w8 w9"},
    {"prompt": "w11 w4 w6 w2", "chosen": " w8 w8 w8", "rejected": " w3"},
]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Policy, TokenizedPairs]:
    """TRL's trainer, and our policy and pairs, of the same weights."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    words = {"<eos>": 0, "<pad>": 1, **{f"w{i}": i for i in range(2, 12)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    fast = kind(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="w2")
    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, eos_token_id=0, pad_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = LlamaForCausalLM(config)
    model = LanguageModel(reference, fast, name="words")
    model.allowed_V[1] = True  # TRL lets padding be said; so do we here, or the normalizers would differ
    model._forbidden = model._forbidden[:0]
    policy = Policy(model, Meter(), AlgorithmConfig())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    chosen, rejected, _ = encode_pairs(model, load_pairs(ROWS), 16)
    theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(policy.model.module.state_dict())
    options = DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=len(ROWS), max_length=None,
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False, max_steps=1,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=theirs, ref_model=reference, args=options, train_dataset=Dataset.from_list(ROWS), processing_class=fast
    )
    return trainer, policy, TokenizedPairs.with_reference(policy, chosen, rejected)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"loss_types": ["sigmoid"]}, {}),
        ({"loss_types": ["hinge"]}, {"loss_type": "hinge"}),
        ({"loss_types": ["robust"], "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
        ({"loss_types": ["exo_pair"], "label_smoothing": 0.1}, {"loss_type": "exo", "label_smoothing": 0.1}),
        ({"loss_types": ["sppo_hard"]}, {"loss_type": "sppo"}),
        # TRL divides IPO's log-ratios by the completion's length, the paper does not.
        ({"loss_types": ["ipo"]}, {"loss_type": "ipo", "length_normalization": True}),
        ({"loss_types": ["sigmoid_norm"]}, {"length_normalization": True}),
        # The chosen completions are all as long as each other here: means over tokens and over pairs are the same.
        ({"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}, {"supervised_coef": 0.3}),
    ],
)
def test_equal_losses_and_gradients(
    theirs: dict[str, Any], ours: dict[str, Any], sides: tuple[Any, Policy, TokenizedPairs], tmp_path: Path
) -> None:
    trainer, policy, pairs = sides
    trainer.loss_types, trainer.beta = theirs["loss_types"], 0.3
    trainer.loss_weights = theirs.get("loss_weights", [1.0])
    trainer.label_smoothing = theirs.get("label_smoothing", 0.0)
    trainer.model.zero_grad()
    policy.model.module.zero_grad()
    expected = trainer._compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())), False)
    logps_B2 = policy.model.token_logprobs(pairs.joined).sum(1).reshape(2, len(pairs)).T
    loss, _ = pair_loss(
        PreferenceObjective(beta=0.3, **ours), logps_B2, pairs.reference_logps_B2, pairs.lengths_B2, pairs.preference_B
    )
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    expected.backward()
    loss.backward()
    for mine, other in zip(policy.model.module.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)
