"""Fingerprints: what changes them and what does not; loading a checkpoint by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_library import make_checkpoint, make_model, make_processor
from tiny_models import tiny_config, tiny_model

from lfvila_hf import LFVilaForPreTraining, LFVilaForVideoClassification, LFVilaModel
from lfvila_hf.library.fingerprint import fingerprint, load_checkpoint


def test_saving_loading_and_the_head_on_top_do_not_matter(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary)
    expected = fingerprint(make_model(tiny_vocabulary), make_processor(tiny_vocabulary))
    assert len(expected) == 64
    model, processor = load_checkpoint(str(folder))
    assert isinstance(model, LFVilaModel) and fingerprint(model, processor) == expected
    model, processor = load_checkpoint(str(folder), with_fusion=True)
    assert isinstance(model, LFVilaForPreTraining) and fingerprint(model, processor) == expected
    model.save_pretrained(tmp_path / "pieces", max_shard_size="100KB")
    processor.save_pretrained(tmp_path / "pieces")
    assert fingerprint(*load_checkpoint(str(tmp_path / "pieces"))) == expected
    with torch.no_grad():
        model.vtm_head.weight.add_(1)
    assert fingerprint(model, processor) == expected


def test_weights_configuration_pixels_and_words_matter(tiny_vocabulary: dict[str, int]) -> None:
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    seen = {fingerprint(model, processor)}
    with torch.no_grad():
        model.model.video_model.levels[0].blocks[0].mlp.fc1.bias[0] += 1e-6
    seen.add(fingerprint(model, processor))
    processor.video_processor.num_frames = 16
    seen.add(fingerprint(model, processor))
    processor.max_sentence_length = 12
    seen.add(fingerprint(model, processor))
    model.config.clip_feature_source = "last"
    seen.add(fingerprint(model, processor))
    seen.add(fingerprint(model, make_processor({**tiny_vocabulary, "zebra": len(tiny_vocabulary)})))
    assert len(seen) == 6


def test_a_model_that_makes_no_embeddings_is_refused(tiny_vocabulary: dict[str, int]) -> None:
    model = tiny_model(LFVilaForVideoClassification, tiny_config(num_labels=3))
    with pytest.raises(ValueError, match="searching needs an LFVilaModel .* got LFVilaForVideoClassification"):
        fingerprint(model, make_processor(tiny_vocabulary))


def test_a_checkpoint_that_is_not_there_or_of_another_kind_is_named(
    tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="the checkpoint .*absent cannot be loaded"):
        load_checkpoint(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="a model of type 'bert', expected 'lfvila'"):
        load_checkpoint(str(tmp_path))
    make_model(tiny_vocabulary).model.save_pretrained(tmp_path / "towers")
    config = tiny_config(text={"num_cross_modal_layers": 0})
    config.save_pretrained(tmp_path / "towers")
    with pytest.raises(ValueError, match="no cross-modal encoder, which reranking needs"):
        load_checkpoint(str(tmp_path / "towers"), with_fusion=True)
