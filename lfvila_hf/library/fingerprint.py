# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Which model made an index: a fingerprint of weights, configuration and processor, and the way to load them.

Vectors of two checkpoints cannot be compared, and a comparison would not fail: it would return nonsense. So an index
remembers a SHA-256 over everything that its numbers depend on: every weight of the two towers and their projections,
the configuration, the settings of the video processor, the vocabulary. Where the weights lie (one file, several, on
the Hub, inside a pre-training checkpoint) does not matter.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from lfvila_hf.library.embedding import towers_of

# Of a configuration: what changes from save to save, or from head to head, and no feature depends on.
IRRELEVANT = {
    "_name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "training_phase",
    "id2label",
    "label2id",
    "problem_type",
    "auto_map",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "use_cache",
    "is_encoder_decoder",
}


def fingerprint(model: Any, processor: Any) -> str:
    """The fingerprint of a model with its processor, 64 hexadecimal digits.

    Weights count as they are: the same checkpoint in half precision has another fingerprint, so convert after loading
    and fingerprinting where that is wanted.

    Raises:
        ValueError: The model holds no `LFVilaModel` with projections.
    """
    towers = towers_of(model)
    digest = hashlib.sha256()
    for name, tensor in sorted(towers.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(_settings(towers.config.to_dict()).encode())
    digest.update(_settings(processor.video_processor.to_dict()).encode())
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    sizes = [processor.max_sentences, processor.max_sentence_length]
    digest.update(json.dumps([vocabulary, sizes]).encode())
    return digest.hexdigest()


def _settings(values: dict[str, Any]) -> str:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): clean(item) for key, item in value.items() if key not in IRRELEVANT}
        return [clean(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(clean(values), sort_keys=True, default=str)


def load_checkpoint(checkpoint: str, with_fusion: bool = False) -> tuple[Any, Any]:
    """A model and its processor from a folder or the Hub.

    Args:
        checkpoint: Folder or repository name.
        with_fusion: Load the cross-modal encoder and the VTM head too, as `LFVilaForPreTraining`.

    Raises:
        ValueError: It is not there, or no LF-VILA checkpoint; or it has no cross-modal encoder where that is wanted.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

    import lfvila_hf  # noqa: F401 -- registers LF-VILA with the Auto classes

    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type != "lfvila":
            raise ValueError(f"it is a model of type {config.model_type!r}, expected 'lfvila'")
        if with_fusion and not config.text_config.num_cross_modal_layers:
            raise ValueError("it has no cross-modal encoder, which reranking needs")
        loader = AutoModelForPreTraining if with_fusion else AutoModel
        return loader.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"the checkpoint {checkpoint} cannot be loaded: {first}") from error
