"""Layers on packed tokens: the same numbers and gradients for real tokens as with padding, and where packing is done.

The layers themselves are held against transformers' BERT in test_modeling_text_lfvila.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import TEXT, enable_checkpointing, random_ids, random_videos, tiny_model
from torch._subclasses.fake_tensor import FakeTensorMode

from lfvila_hf import LFVilaForPreTraining, LFVilaTextConfig, LFVilaTextModel, text_layers_lfvila
from lfvila_hf.text_layers_lfvila import LFVilaTextIntermediate, TokenPacking

# float32 sums in another order; the largest difference measured is 2e-6 for values up to 4
FLOAT32_NOISE = 1e-5
B, M, L = 2, 4, 6
LENGTHS = [[6, 3, 4, 2], [5, 1, 1, 0]]


def paragraphs() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `(B, M, L)`, 22 of 48 tokens real."""
    mask = (torch.arange(L) < torch.tensor(LENGTHS)[..., None]).long()
    return random_ids(B, M, L) * mask, mask


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each feed-forward network was given."""
    seen: list[int] = []
    compute = LFVilaTextIntermediate.forward

    def spy(module: LFVilaTextIntermediate, states: torch.Tensor) -> torch.Tensor:
        seen.append(states[..., 0].numel())
        return compute(module, states)

    monkeypatch.setattr(LFVilaTextIntermediate, "forward", spy)
    return seen


def without_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_layers_lfvila, "MOST_REAL", -1.0)


def test_tokens_go_into_one_row_and_back() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1]])
    states = torch.arange(1, 19.0).view(3, 3, 2)
    packing = TokenPacking(mask)
    packed = packing.pack(states)
    assert packed[0, :, 0].tolist() == [1, 3, 13, 17]
    assert torch.equal(packing.unpack(packed), states * mask[..., None])


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_real_tokens_are_the_same_packed_and_padded(
    backend: str, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(LFVilaTextModel, LFVilaTextConfig(**TEXT, attn_implementation=backend))
    ids, mask = paragraphs()
    results = []
    for number in range(2):
        if number:
            without_packing(monkeypatch)
        model.zero_grad()
        output = model(ids, mask)
        real = output.attention_mask.bool()
        (output.last_hidden_state[real].square().sum() + output.sentence_hidden_state[mask.bool()].sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append((output.last_hidden_state[real], output.sentence_hidden_state[mask.bool()], *gradients))
    layers = model.config.num_sentence_layers, model.config.num_paragraph_layers
    packed, padded = [22] * layers[0] + [24] * layers[1], [48] * layers[0] + [50] * layers[1]
    assert rows == packed + padded, "real tokens, with the paragraph tokens; then all"
    for found, expected in zip(*results, strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(found, expected, atol=FLOAT32_NOISE * scale, rtol=FLOAT32_NOISE)


def test_frozen_towers_and_the_cross_modal_encoder_are_packed_too(
    rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(LFVilaForPreTraining)
    ids, mask = paragraphs()
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": random_videos(B)}
    inputs |= {"mlm_targets": torch.where(mask.bool(), ids, -100), "vtm_targets": torch.tensor([1, 0])}
    found = model(**inputs, phase="fusion")
    assert rows and max(rows) < 50 + B * found.mlm_logits.shape[1], "a layer saw padding"
    packed = list(rows)
    without_packing(monkeypatch)
    expected = model(**inputs, phase="fusion")
    assert sum(packed) < 0.8 * sum(rows[len(packed) :])
    for name in ("mlm_loss", "vtm_loss"):
        torch.testing.assert_close(found[name], expected[name], atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)


def test_hidden_states_of_packed_layers_are_padded_with_zeros() -> None:
    model = tiny_model(LFVilaTextModel, LFVilaTextConfig(**TEXT))
    ids, mask = paragraphs()
    output = model(ids, mask, output_hidden_states=True)
    sentences = output.hidden_states[1 : 1 + model.config.num_sentence_layers]
    assert {tuple(states.shape) for states in sentences} == {(B * M, L, TEXT["hidden_size"])}
    for states in sentences:
        assert states[mask.flatten(0, 1).bool()].abs().sum(-1).min() > 0
        assert not states[~mask.flatten(0, 1).bool()].any()
    assert torch.equal(sentences[-1].unflatten(0, (B, M)), output.sentence_hidden_state)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_packed_tokens_lose_to_dropout_what_padded_ones_lose(
    backend: str, checkpointed: bool, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    model = tiny_model(LFVilaTextModel, LFVilaTextConfig(**TEXT | rates, attn_implementation=backend)).train()
    if checkpointed:
        enable_checkpointing(model)
    ids, mask = paragraphs()
    results, whole = [], model.eval()(ids, mask).pooler_output
    for packed in (True, False):
        if not packed:
            without_packing(monkeypatch)
        model.train().zero_grad()
        rows.clear()
        torch.manual_seed(0)
        output = model(ids, mask)
        assert max(rows) == (24 if packed else 50)
        real = output.attention_mask.bool()
        (output.last_hidden_state[real].square().sum() + output.sentence_hidden_state[mask.bool()].sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append((output.last_hidden_state[real], torch.rand(3), *gradients))
    assert not torch.allclose(output.pooler_output, whole, atol=1e-2), "nothing was dropped"
    assert len(gradients) > 40
    for found, expected in zip(*results, strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(found, expected, atol=FLOAT32_NOISE * scale, rtol=FLOAT32_NOISE)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_dropout_of_adapters_drops_the_same_whatever_else_is_in_the_batch(rate: float, rows: list[int]) -> None:
    config = LFVilaTextConfig(**TEXT | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    adapter = LoraConfig(target_modules=["dense"], lora_dropout=rate, init_lora_weights=False)
    model = get_peft_model(tiny_model(LFVilaTextModel, config), adapter).train()
    ids, mask = paragraphs()
    shorter = mask.clone()
    shorter[1, :, 1:] = 0
    first = []
    for one in (mask, shorter):
        rows.clear()
        torch.manual_seed(0)
        first.append(model(ids, one).pooler_output[0])
        assert (max(rows) < B * M * L) == (rate == 0.0)
    torch.testing.assert_close(*first, atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)


@pytest.mark.parametrize("why", ["released", "full"])
def test_padding_is_kept_where_it_is_seen_or_absent(why: str, rows: list[int]) -> None:
    config = LFVilaTextConfig(**TEXT | {"pool_padded_sentences": why == "released"})
    model = tiny_model(LFVilaTextModel, config)
    ids, mask = paragraphs()
    model(ids, torch.ones_like(mask) if why == "full" else mask)
    assert rows == [48] * config.num_sentence_layers + [50] * config.num_paragraph_layers


def test_masks_without_values_are_not_asked_for_them(rows: list[int]) -> None:
    model = tiny_model(LFVilaTextModel, LFVilaTextConfig(**TEXT))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        ids, mask = (mode.from_tensor(one) for one in paragraphs())
        assert model(ids, mask).pooler_output.shape == (B, TEXT["hidden_size"])
    assert max(rows) == 50
