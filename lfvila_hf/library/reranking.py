# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The video-text matching head as a second opinion on the first few hits.

The towers score a story and a segment apart from each other. The cross-modal encoder reads both together and is too
slow for a whole library; for a handful of hits it is not. Their segments are decoded again, because the index keeps
features and not the tokens that the encoder reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lfvila_hf.library.ranking import Hit
from lfvila_hf.library.segments import SegmentReader, SegmentTask
from lfvila_hf.video_processing_lfvila import normalize_pixels
from lfvila_hf.video_reading_lfvila import probe_video


def match_probabilities(
    model: Any, processor: Any, sentences: list[str], hits: Sequence[Hit], files: Sequence[str]
) -> list[float]:
    """How likely each hit's segment and the story belong together, by the VTM head.

    Args:
        model: An `LFVilaForPreTraining` with a cross-modal encoder.
        processor: Its processor; stories of more sentences than it takes are merged as it does.
        sentences: The story.
        hits: What to look at.
        files: The video file of each hit.

    Raises:
        ValueError: The model has no VTM head.
        LFVilaVideoError: A video has gone or cannot be used any more.
    """
    if getattr(model, "vtm_head", None) is None:
        raise ValueError(
            "reranking needs a pre-training checkpoint with a cross-modal encoder (LFVilaForPreTraining), got "
            f"{type(model).__name__} without one"
        )
    reader = SegmentReader(processor.video_processor)
    text = processor(text=[sentences])
    device = next(model.parameters()).device
    probabilities = []
    training = model.training
    model.eval()
    try:
        for hit, file in zip(hits, files, strict=True):
            task = SegmentTask(file, probe_video(file), hit.segment, ((hit.start, hit.end),), last=True)
            pixels = normalize_pixels(reader.read(task).pictures, reader.settings)  # (1, T, 3, H, W)
            with torch.inference_mode():
                output = model(
                    input_ids=text["input_ids"].to(device),
                    attention_mask=text["attention_mask"].to(device),
                    pixel_values_videos=pixels.to(device),
                    phase="fusion",
                    return_loss=False,
                )
            probabilities.append(float(output.vtm_logits.float().softmax(-1)[0, 1]))
    finally:
        model.train(training)
    return probabilities
