# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The video-text matching head of LF-VILA as a second opinion on the first few hits.

The towers score a story and a segment apart from each other. The cross-modal encoder reads both together: too slow for
a whole library, but not for a handful of hits. Their segments are decoded again, because the index keeps features and
not the tokens that the encoder reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.search.index import Provenance
from lfvila_hf.search.ranking import Hit
from lfvila_hf.search.segments import SegmentReader, Task, VideoFile, opened
from lfvila_hf.video_processing_lfvila import normalize_pixels
from lfvila_hf.video_reading_lfvila import probe_video


def match_probabilities(
    encoder: StoryEncoder,
    sentences: list[str],
    hits: Sequence[Hit],
    provenance: Provenance,
    stamps: Mapping[str, tuple[int, int]],
) -> list[float]:
    """Compute how likely each hit's segment and the story belong together, by the VTM head.

    Args:
        encoder: An `LFVilaEncoder` of an `LFVilaForPreTraining`.
        sentences: The story; merged as the processor does if there are more than it takes.
        hits: Hits of the library.
        provenance: Of the library.
        stamps: Size and time of change of every file.

    Raises:
        ValueError: The encoder has no VTM head.
        LFVilaVideoError: A video has gone or changed.
    """
    from lfvila_hf.search.encoder_families import LFVilaEncoder

    if not isinstance(encoder, LFVilaEncoder) or getattr(encoder.whole, "vtm_head", None) is None:
        raise ValueError(
            "reranking needs a pre-training checkpoint with a cross-modal encoder (LFVilaForPreTraining), got "
            f"{encoder.name} without one"
        )
    reader = SegmentReader(encoder, provenance.rule)
    text = encoder.processor(text=[sentences]).to(encoder.model.device)
    probabilities = []
    training = encoder.whole.training
    encoder.whole.eval()
    try:
        for hit in hits:
            video = VideoFile(hit.path, provenance.root, *stamps[hit.path])
            with opened(video) as source:
                info = probe_video(source)
            whole = reader.rule.count(float(info.duration or 0))
            read = reader.read(Task(video, info, ((hit.start, hit.end),), whole, hit.segment))
            pixels = normalize_pixels(read.frames, encoder.settings).to(encoder.model.device)  # (1, T, 3, H, W)
            with torch.inference_mode():
                output = encoder.whole(
                    input_ids=text["input_ids"],
                    attention_mask=text["attention_mask"],
                    pixel_values_videos=pixels,
                    phase="fusion",
                    return_loss=False,
                )
            probabilities.append(float(output.vtm_logits.float().softmax(-1)[0, 1]))
    finally:
        encoder.whole.train(training)
    return probabilities
