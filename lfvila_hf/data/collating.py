# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Collator of samples into model inputs, with masked tokens for the fusion phase: `LFVilaCollator`.

Masking follows BERT: a token that is no special token and no padding is chosen with the given probability (15 %); of
the chosen ones 80 % become `[MASK]`, 10 % a random word piece that is no special token, 10 % stay. Every choice is a
function of the seed, the sample's number and epoch and the token's position (`loss_lfvila.random_keys`), so that batch
size, order, workers and a resumed run do not change it. Memory: the samples, and the batch made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..loss_lfvila import random_keys
from .datasets import VideoTextSample

# Streams of `random_keys`: choice of tokens, fate of a token, random word piece.
CHOICE_STREAM, FATE_STREAM, WORD_STREAM = 18, 19, 20
IGNORED = -100
"""Target of a token that was not chosen."""


class LFVilaCollator:
    """Collator of samples into the keyword arguments of a model.

    `None`, which a data set returns for a skipped sample, is left out. An empty batch is an error, because a loader
    cannot leave out a batch, and every term of the loss would be undefined.

    Args:
        processor: `LFVilaProcessor`.
        mlm_probability: Fraction of the tokens that are masked; 0 makes no `mlm_targets`.
        seed: Seed of masking.
        return_ids: Also return `sample_ids`, a list of strings, which models do not take.

    Raises:
        ValueError: The probability is not in 0 to 1, or the tokenizer lacks the `[MASK]` token that masking needs.
    """

    def __init__(self, processor: Any, mlm_probability: float = 0.0, seed: int = 0, return_ids: bool = False) -> None:
        if not 0 <= mlm_probability <= 1:
            raise ValueError(f"mlm_probability must lie in 0 to 1, got {mlm_probability}")
        self.processor = processor
        self.mlm_probability = mlm_probability
        self.seed = seed
        self.return_ids = return_ids
        if mlm_probability:
            tokenizer = processor.tokenizer
            if tokenizer.mask_token_id is None:
                raise ValueError("masking needs a tokenizer with a mask token, this one has none")
            special = set(tokenizer.all_special_ids)
            self._special = torch.tensor(sorted(special))
            self._words = torch.tensor([token for token in range(len(tokenizer)) if token not in special])

    def __call__(self, samples: Sequence[VideoTextSample | None]) -> dict[str, Any]:
        """Make a batch.

        Args:
            samples: Samples of a data set.

        Returns:
            `input_ids` and `attention_mask` `(B, M, L)`, `pixel_values_videos` `(B, T, 3, H, W)` float32, and with
            masking `mlm_targets` `(B, M, L)`, the token that was there or -100; `num_clips` if the videos were read
            from another number of clips than the processor's.

        Raises:
            ValueError: Every sample of the batch was skipped, or samples differ in shape.
        """
        kept = [sample for sample in samples if sample is not None]
        if not kept:
            raise ValueError(
                f"all {len(samples)} samples of a batch were skipped, at least one is needed: take larger batches, or "
                "go on with the data set's without_skipped()"
            )
        text = self.processor(text=[list(sample.sentences) for sample in kept])
        batch: dict[str, Any] = {
            "input_ids": text["input_ids"],
            "attention_mask": text["attention_mask"],
            "pixel_values_videos": self._pixels(kept),
        }
        lengths = {sample.num_clips for sample in kept}
        if lengths != {None} and lengths != {self.processor.video_processor.num_clips}:
            batch["num_clips"] = kept[0].num_clips
        if self.mlm_probability:
            batch["input_ids"], batch["mlm_targets"] = self.mask(
                batch["input_ids"],
                torch.tensor([sample.number for sample in kept]),
                torch.tensor([sample.epoch for sample in kept]),
            )
        if self.return_ids:
            batch["sample_ids"] = [sample.id for sample in kept]
        return batch

    def _pixels(self, samples: list[VideoTextSample]) -> torch.Tensor:
        shape = samples[0].pictures.shape
        pixels = torch.empty((len(samples), *shape))  # (B, T, 3, H, W)
        for row, sample in enumerate(samples):  # one by one: temporaries of a whole batch cost four times the time
            if sample.pictures.shape != shape:
                raise ValueError(
                    f"pictures of one batch must have one shape, got {tuple(shape)} of {samples[0].id!r} and "
                    f"{tuple(sample.pictures.shape)} of {sample.id!r}"
                )
            pixels[row] = self.processor.video_processor.normalize_pictures(sample.pictures)
        return pixels

    def mask(
        self, input_ids: torch.Tensor, numbers: torch.Tensor, epochs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask tokens.

        Args:
            input_ids: `(B, M, L)`.
            numbers: Number of each sample, `(B,)`.
            epochs: Epoch of each sample, `(B,)`.

        Returns:
            Masked `input_ids` and `mlm_targets`, both `(B, M, L)`.
        """
        count = input_ids[0].numel()

        def drawn(stream: int) -> torch.Tensor:
            return random_keys(self.seed, epochs, numbers, count, stream).view_as(input_ids)  # (B, M, L) in 0 ... 2**32

        fate = drawn(FATE_STREAM) / 2**32
        chosen = (drawn(CHOICE_STREAM) < self.mlm_probability * 2**32) & ~torch.isin(input_ids, self._special)
        masked = torch.where(chosen & (fate < 0.8), self.processor.tokenizer.mask_token_id, input_ids)
        words = self._words[drawn(WORD_STREAM) % len(self._words)]
        masked = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, masked)
        return masked, torch.where(chosen, input_ids, IGNORED)


__all__ = ["LFVilaCollator"]
