"""Text tower and cross-modal encoder: sentence, paragraph and cross-modal slices, masks, padding, backends.

Layers are compared with transformers' BertModel with the same weights, the rest with a few lines written out.
Properties of all models are tested in invariants/test_equivalences.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TEXT, random_ids, tiny_config, tiny_model
from transformers import BertConfig, BertModel

from lfvila_hf import LFVilaConfig, LFVilaTextConfig, LFVilaTextModel
from lfvila_hf.modeling_base_lfvila import padding_mask
from lfvila_hf.modeling_text_lfvila import (
    LFVilaCrossModalEncoder,
    LFVilaTextEmbeddings,
    LFVilaTextIntermediate,
    LFVilaTextLayer,
)

# float32 sums in another order; the largest difference measured is 2e-6
FLOAT32_NOISE = 1e-5
B, M, L, D = 2, 4, 6, TEXT["hidden_size"]


def text_model(attn_implementation: str = "eager", **fields: Any) -> LFVilaTextModel:
    """Build the tiny text tower with random weights, in evaluation mode."""
    return tiny_model(LFVilaTextModel, LFVilaTextConfig(**TEXT | fields, attn_implementation=attn_implementation))


def paragraphs() -> tuple[torch.Tensor, torch.Tensor]:
    """Make ids and mask `(B, M, L)` of sentences of different lengths; the second paragraph's last is all padding."""
    lengths = torch.tensor([[6, 3, 4, 2], [5, 6, 1, 0]])
    mask = (torch.arange(L) < lengths[..., None]).long()
    return random_ids(B, M, L) * mask, mask


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)


# -- sentence slice --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_sentence_slice_is_bert_on_each_sentence(backend: str) -> None:
    model = text_model(backend, num_sentence_layers=3)
    names = {"num_hidden_layers": 3} | {name: value for name, value in TEXT.items() if hasattr(BertConfig(), name)}
    bert = BertModel(BertConfig(**names), add_pooling_layer=False).eval()
    ours = {name.replace("sentence_layers", "encoder.layer"): value for name, value in model.state_dict().items()}
    theirs = {name: ours[name] for name in bert.state_dict()}
    assert len(theirs) == 5 + 3 * 16
    bert.load_state_dict(theirs)
    ids, mask = paragraphs()
    states = model(ids, mask).sentence_hidden_state
    for video in range(B):
        for sentence in range(M):
            real = mask[video, sentence].bool()
            if real.any():
                expected = bert(ids[video, sentence][None], mask[video, sentence][None]).last_hidden_state[0]
                assert_close(states[video, sentence, real], expected[real])


@torch.no_grad()
def test_a_sentence_is_read_without_its_neighbours_and_a_paragraph_with_all_of_them() -> None:
    model = text_model()
    ids, mask = paragraphs()
    changed = ids.clone()
    changed[0, 1, 1] = changed[0, 1, 1] % 50 + 1
    before, after = model(ids, mask), model(changed, mask)
    moved = (before.sentence_hidden_state != after.sentence_hidden_state).flatten(2).any(-1)
    assert moved.tolist() == [[False, True, False, False], [False] * 4]
    assert (before.pooler_output != after.pooler_output).any(-1).tolist() == [True, False]


# -- paragraph slice -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("pool_padded", [False, True])
def test_the_paragraph_slice_equals_its_definition(pool_padded: bool) -> None:
    model = text_model(num_paragraph_layers=2, pool_padded_sentences=pool_padded)
    ids, mask = paragraphs()
    output = model(ids, mask)
    embeddings = model.paragraph_embeddings
    for video in range(B):
        tokens, cls = [], []
        for sentence in range(M):
            for token in range(L):
                place = embeddings.position_embeddings.weight[sentence * L + token]
                state = output.sentence_hidden_state[video, sentence, token]
                tokens.append(embeddings.LayerNorm(state + place + embeddings.segment_embeddings.weight[sentence]))
            if pool_padded or mask[video, sentence].any():
                cls.append(tokens[sentence * L])
        assert len(cls) == (4 if video == 0 or pool_padded else 3)
        hidden = torch.stack([torch.stack(cls).mean(0), *tokens])[None]  # (1, 1 + M*L, D)
        real = torch.cat([torch.ones(1), mask[video].flatten()])
        for layer in model.paragraph_layers:
            hidden = layer(hidden, torch.where(real.bool(), 0.0, -1e30)[None, None, None])
        assert_close(output.last_hidden_state[video, real.bool()], hidden[0, real.bool()])
        assert output.attention_mask[video].tolist() == real.tolist()
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])
    assert output.sentence_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_padding_is_not_read(backend: str) -> None:
    model = text_model(backend)
    ids, mask = paragraphs()
    other = torch.where(mask.bool(), ids, random_ids(B, M, L, seed=9))
    assert not torch.equal(ids, other)
    before, after = model(ids, mask), model(other, mask)
    assert torch.equal(before.pooler_output, after.pooler_output)
    assert torch.equal(before.sentence_hidden_state[mask.bool()], after.sentence_hidden_state[mask.bool()])


@torch.no_grad()
def test_a_padded_sentence_more_changes_nothing_unless_the_released_behaviour_is_asked_for() -> None:
    ids, mask = paragraphs()
    longer_ids = torch.cat([ids, torch.zeros(B, 1, L, dtype=torch.long)], 1)
    longer_mask = torch.cat([mask, torch.zeros(B, 1, L, dtype=torch.long)], 1)
    for pool_padded in (False, True):
        model = text_model(pool_padded_sentences=pool_padded)
        short, long = model(ids, mask).pooler_output, model(longer_ids, longer_mask).pooler_output
        difference = (short - long).abs().max()
        assert difference > 1e-3 if pool_padded else difference < FLOAT32_NOISE


@torch.no_grad()
def test_one_sentence_may_come_without_its_axis_and_without_a_mask() -> None:
    model, ids = text_model(), random_ids(B, L)
    flat, nested = model(ids), model(ids[:, None], torch.ones(B, 1, L, dtype=torch.long))
    assert flat.sentence_hidden_state.shape == (B, 1, L, D) and flat.last_hidden_state.shape == (B, 1 + L, D)
    assert torch.equal(flat.last_hidden_state, nested.last_hidden_state)


@torch.no_grad()
def test_masks_of_other_types_and_word_vectors_give_the_same() -> None:
    model = text_model()
    ids, mask = paragraphs()
    expected = model(ids, mask).last_hidden_state
    assert torch.equal(model(ids, mask.bool()).last_hidden_state, expected)
    assert torch.equal(model(ids, mask.float()).last_hidden_state, expected)
    words = model.get_input_embeddings()(ids)
    assert torch.equal(model(attention_mask=mask, inputs_embeds=words).last_hidden_state, expected)
    flat = model(inputs_embeds=words[:, 0], attention_mask=mask[:, 0]).last_hidden_state
    assert torch.equal(flat, model(ids[:, :1], mask[:, :1]).last_hidden_state)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_ids": random_ids(2, 6, 2)}, "6 sentences, the model has 5 segment embeddings"),
        ({"input_ids": random_ids(2, 4, 12)}, "4 sentences of 12 tokens need 48 positions, the model has 40"),
        ({"input_ids": random_ids(2, 1, 50)}, "the sentences have 50 tokens, the model has 40 positions"),
        ({"input_ids": random_ids(2, 3, 4, 5)}, r"must be \(B, M, L\) or \(B, L\), none of them 0, got \(2, 3, 4, 5\)"),
        ({"input_ids": random_ids(2, 0, 4)}, r"none of them 0, got \(2, 0, 4\)"),
        ({"input_ids": random_ids(2, 3, 4), "attention_mask": torch.ones(2, 3, 5)}, r"\(2, 3, 5\) must .* \(2, 3, 4\)"),
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": random_ids(1, 2), "inputs_embeds": torch.ones(1, 2, D)}, "exactly one of input_ids and"),
        ({"inputs_embeds": torch.ones(1, 2, 3, 32)}, r"must be 64 wide .* got \(1, 2, 3, 32\)"),
    ],
)
def test_paragraphs_that_do_not_fit_are_named(arguments: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        text_model()(**arguments)


def test_hidden_states_and_attentions_follow_the_slices() -> None:
    model = text_model(num_sentence_layers=2, num_paragraph_layers=2)
    ids, mask = paragraphs()
    output = model(ids, mask, output_hidden_states=True, output_attentions=True)
    shapes = [(B * M, L, D)] * 3 + [(B, 1 + M * L, D)] * 2
    assert [tuple(state.shape) for state in output.hidden_states] == shapes
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    real = mask.bool()
    assert torch.equal(output.hidden_states[2].view(B, M, L, D)[real], output.sentence_hidden_state[real])
    shapes = [(B * M, 4, L, L)] * 2 + [(B, 4, 1 + M * L, 1 + M * L)] * 2
    assert [tuple(weights.shape) for weights in output.attentions] == shapes
    padding = output.attentions[-1][:, :, :, 1:].permute(0, 3, 1, 2)[mask.flatten(1) == 0]
    assert padding.numel() and not padding.any()


# -- masks and backends ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("pool_padded", [False, True])
def test_a_sentence_of_padding_stays_finite_in_every_precision(backend: str, pool_padded: bool) -> None:
    model = text_model(backend, pool_padded_sentences=pool_padded)
    ids, mask = paragraphs()
    assert not mask[1, 3].any(), "no sentence is all padding"
    expected = model(ids, mask).pooler_output
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            autocast = model(ids, mask).pooler_output.float()
        half = text_model(backend, pool_padded_sentences=pool_padded).to(dtype)(ids, mask).pooler_output.float()
        for found in (autocast, half):
            assert found.isfinite().all()
            # How evenly a sentence of padding attends to its padding depends on the precision; it is read if pooled.
            rows = 1 if pool_padded else 2
            torch.testing.assert_close(found[:rows], expected[:rows], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_mask_of_padding_can_be_added_to_large_scores_without_overflow(dtype: torch.dtype, autocast: bool) -> None:
    config, states = LFVilaTextConfig(**TEXT), torch.zeros(1, 3, D, dtype=torch.float32 if autocast else dtype)
    with torch.autocast("cpu", dtype, enabled=autocast and dtype != torch.float32):
        mask = padding_mask(config, states, torch.tensor([[1, 0, 0]]))
    assert mask.dtype == dtype and mask.shape == (1, 1, 1, 3) and mask[..., 0] == 0
    scores = torch.full((3,), -1000.0, dtype=dtype) + mask[0, 0, 0]
    assert scores.isfinite().all()
    assert scores.softmax(-1).tolist() == [1, 0, 0]


@torch.no_grad()
@pytest.mark.slow  # transformers compiles flex attention, also on the CPU
# transformers calls torch with a flag that torch has deprecated
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
def test_flex_attention_gives_the_same_on_the_text_side() -> None:
    ids, mask = paragraphs()
    assert_close(text_model("flex_attention")(ids, mask).pooler_output, text_model()(ids, mask).pooler_output)


def test_backends_that_cannot_attend_to_padding_refuse_the_released_behaviour() -> None:
    with pytest.raises(ValueError, match='"flex_attention" cannot attend to padding as pool_padded_sentences=True'):
        text_model("flex_attention", pool_padded_sentences=True)(*paragraphs())


# -- cross-modal encoder ---------------------------------------------------------------------------------------------


def cross_modal_inputs(places: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make text states `(B, 1 + M*L, D)`, their mask and video tokens `(B, T, P, D)`."""
    _, mask = paragraphs()
    real = torch.cat([torch.ones(B, 1, dtype=torch.long), mask.flatten(1)], 1)
    return torch.randn(B, 1 + M * L, D), real, torch.randn(B, 8, places, D)


def encoder(config: LFVilaConfig | None = None, **fields: Any) -> LFVilaCrossModalEncoder:
    config = tiny_config(text={"num_cross_modal_layers": 2}, **fields) if config is None else config
    return tiny_model(LFVilaCrossModalEncoder, config)


@torch.no_grad()
def test_the_merged_encoder_equals_its_definition() -> None:
    model = encoder(attn_implementation="eager")
    text, real, video = cross_modal_inputs()
    output = model(text, real, video)
    embeddings = model.video_embeddings
    for pair in range(B):
        tokens = []
        for frame in range(8):
            for place in range(2):
                position = (
                    embeddings.temporal_position_embeddings[frame] + embeddings.spatial_position_embeddings[place]
                )
                tokens.append(embeddings.norm(video[pair, frame, place] + position))
        hidden = torch.cat([text[pair], torch.stack(tokens)])[None]  # (1, 1 + M*L + T*P, D)
        seen = torch.cat([real[pair], torch.ones(16, dtype=torch.long)]).bool()
        for layer in model.layers:
            hidden = layer(hidden, torch.where(seen, 0.0, -1e30)[None, None, None])
        assert_close(output.last_hidden_state[pair, seen], hidden[0, seen])
        assert_close(output.pooler_output[pair], torch.tanh(model.pooler.dense(hidden[0, 0])))
    assert output.last_hidden_state.shape == (B, 1 + M * L + 16, D)


@torch.no_grad()
def test_co_attention_equals_its_definition() -> None:
    model = encoder(attn_implementation="eager", cross_modal_fusion="co_attention")
    text, real, video = cross_modal_inputs()
    output = model(text, real, video)
    mask = torch.where(real.bool(), 0.0, -1e30)[:, None, None]
    stream = model.video_embeddings(video)

    def attend(block: Any, queries: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor | None) -> torch.Tensor:
        def heads(linear: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
            return linear(states).view(B, -1, 4, D // 4).transpose(1, 2)

        own = block.self
        scores = heads(own.query, queries) @ heads(own.key, keys).transpose(2, 3) / (D // 4) ** 0.5
        scores = scores if key_mask is None else scores + key_mask
        mixed = (scores.softmax(-1) @ heads(own.value, keys)).transpose(1, 2).reshape(queries.shape)
        return block.output.LayerNorm(block.output.dense(mixed) + queries)

    for layer in model.layers:
        new_text = attend(layer.text_layer.attention, text, text, mask)
        new_text = attend(layer.text_to_video, new_text, stream, None)
        new_video = attend(layer.video_layer.attention, stream, stream, None)
        new_video = attend(layer.video_to_text, new_video, text, mask)
        text = layer.text_layer.output(layer.text_layer.intermediate(new_text), new_text)
        stream = layer.video_layer.output(layer.video_layer.intermediate(new_video), new_video)
    assert_close(output.last_hidden_state, torch.cat([text, stream], 1))
    assert_close(output.pooler_output, torch.tanh(model.pooler.dense(text[:, 0])))


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["merged", "co_attention"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_each_modality_sees_the_other_and_padded_text_is_not_read(fusion: str, backend: str) -> None:
    model = encoder(cross_modal_fusion=fusion, attn_implementation=backend)
    text, real, video = cross_modal_inputs()
    expected = model(text, real, video).last_hidden_state
    other = torch.where(real.bool()[..., None], text, torch.randn_like(text))
    seen = torch.cat([real, torch.ones(B, 16, dtype=torch.long)], 1).bool()
    assert not seen.all()
    assert_close(model(other, real, video).last_hidden_state[seen], expected[seen])
    frame = video.clone()
    frame[0, 5] = torch.randn_like(frame[0, 5])
    moved = (model(text, real, frame).last_hidden_state - expected).abs().amax(-1)
    assert moved[0, : 1 + M * L][real[0].bool()].min() > 1e-5 and not moved[1].any()
    word = text.clone()
    word[0, 1] = torch.randn_like(word[0, 1])
    assert (model(word, real, video).last_hidden_state - expected).abs().amax(-1)[0, 1 + M * L :].min() > 1e-5


@pytest.mark.parametrize("fusion", ["merged", "co_attention"])
def test_states_of_the_encoder_are_captured(fusion: str) -> None:
    model = encoder(cross_modal_fusion=fusion, attn_implementation="eager")
    output = model(*cross_modal_inputs(), output_hidden_states=True, output_attentions=True)
    words, tokens = 1 + M * L, 16
    if fusion == "merged":
        assert [tuple(state.shape) for state in output.hidden_states] == [(B, words + tokens, D)] * 3
        assert [tuple(weights.shape) for weights in output.attentions] == [(B, 4, words + tokens, words + tokens)] * 2
    else:
        assert [tuple(state.shape) for state in output.hidden_states] == [(B, words, D)] * 3
        pairs = [(words, words), (words, tokens), (tokens, tokens), (tokens, words)] * 2
        assert [tuple(weights.shape) for weights in output.attentions] == [(B, 4, *pair) for pair in pairs]


def test_what_the_encoder_cannot_read_is_named() -> None:
    text, real, video = cross_modal_inputs()
    for tokens, words in ((video[:, :6], "6 frames of 2 tokens"), (video[:, :, :1], "8 frames of 1 tokens")):
        with pytest.raises(ValueError, match=f"the video has {words}, .* positions for 8 frames of 2 tokens"):
            encoder()(text, real, tokens)
    with pytest.raises(ValueError, match="needs text_config.num_cross_modal_layers > 0, got 0"):
        encoder(tiny_config(text={"num_cross_modal_layers": 0}))
    config = tiny_config(cross_modal_fusion="co_attention", attn_implementation={"text_config": "flex_attention"})
    with pytest.raises(ValueError, match='"co_attention" needs .* "eager" or "sdpa" .* got \'flex_attention\''):
        encoder(config)(text, real, video)


def test_attention_is_never_causal_where_no_mask_is_given() -> None:
    layer = LFVilaTextLayer(LFVilaTextConfig(**TEXT, attn_implementation="sdpa")).eval()
    states = torch.randn(1, 5, D)
    changed = states.clone()
    changed[0, 4] += 1
    assert (layer(states) != layer(changed)).any(-1).all(), "an earlier token does not see a later one"


def test_positions_are_counted_where_weights_are_brought_for_each_call() -> None:
    config = LFVilaTextConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    embeddings = LFVilaTextEmbeddings(config).eval().requires_grad_(False)
    ids, places = torch.zeros(1, 6, dtype=torch.long), embeddings.position_embeddings
    expected, weight = embeddings(ids), places.weight.data
    places.weight.data = torch.empty(0)  # as sharded weights are outside of a call
    places.register_forward_pre_hook(lambda module, inputs: setattr(module.weight, "data", weight))
    assert torch.equal(embeddings(ids), expected)


# -- columns of padding ----------------------------------------------------------------------------------------------


def padded_paragraphs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make ids and mask of `paragraphs()`, with sentences padded to `length` tokens."""
    ids, mask = paragraphs()
    return torch.nn.functional.pad(ids, (0, length - L)), torch.nn.functional.pad(mask, (0, length - L))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List the numbers of tokens that the feed-forward networks got."""
    seen: list[int] = []
    compute = LFVilaTextIntermediate.forward

    def spy(module: LFVilaTextIntermediate, states: torch.Tensor) -> torch.Tensor:
        seen.append(states[..., 0].numel())
        return compute(module, states)

    monkeypatch.setattr(LFVilaTextIntermediate, "forward", spy)
    return seen


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_columns_that_no_sentence_uses_cost_nothing_and_change_nothing(backend: str, rows: list[int]) -> None:
    model = text_model(backend)
    ids, mask = padded_paragraphs(9)
    outputs, gradients = [], []
    for drop in (True, False):
        model.zero_grad()
        output = model(ids, mask, output_hidden_states=not drop)  # states of layers are wanted at full length
        (output.last_hidden_state.square().sum() + output.sentence_hidden_state.square().sum()).backward()
        outputs.append((output.last_hidden_state, output.sentence_hidden_state))
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    # Rows of 6 of 9 tokens in sentences; paragraphs of 1 + (6 + 6 + 4 + 2) of 1 + 4 * 9.
    assert rows == [B * M * 6, B * 19, B * M * 9, B * 37]
    assert len(gradients[0]) > 40
    for found, expected in zip(outputs[0], outputs[1], strict=True):
        assert found.shape == expected.shape
        assert_close(found, expected)
    noise = FLOAT32_NOISE * max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, atol=noise, rtol=FLOAT32_NOISE)


def test_positions_count_padding_also_where_it_is_dropped() -> None:
    model = text_model()
    ids, mask = paragraphs()
    longer = padded_paragraphs(9)
    assert not torch.allclose(model(ids, mask).pooler_output, model(*longer).pooler_output, atol=1e-3)


def test_padding_comes_back_as_zeros() -> None:
    model = text_model()
    ids, mask = padded_paragraphs(9)
    output = model(ids, mask)
    assert output.sentence_hidden_state.shape == (B, M, 9, D)
    assert not output.sentence_hidden_state[mask == 0].any()
    assert output.sentence_hidden_state[mask == 1].abs().sum(-1).min() > 0
    assert not output.last_hidden_state[output.attention_mask == 0].any()


def test_hidden_states_have_the_full_length() -> None:
    model = text_model()
    output = model(*padded_paragraphs(9), output_hidden_states=True, output_attentions=True)
    sentences, paragraph = model.config.num_sentence_layers, model.config.num_paragraph_layers
    lengths = [states.shape[:2] for states in output.hidden_states[1:]]
    assert lengths == [(B * M, 9)] * sentences + [(B, 37)] * paragraph
    assert output.attentions[0].shape[-2:] == (9, 9)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_released_models_read_their_padding(rows: list[int]) -> None:
    model = text_model(pool_padded_sentences=True)
    model(*padded_paragraphs(9))
    assert rows == [B * M * 9, B * 37]
