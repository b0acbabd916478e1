# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""LF-VILA (Sun et al., NeurIPS 2022, arXiv 2210.06031): joint model, pre-training and task heads.

`LFVilaModel` joins the two towers and embeds long videos and paragraphs in one space. `LFVilaForPreTraining` adds the
cross-modal encoder with its two heads. The other modules:

- modeling_video_lfvila.py: video tower with hierarchical temporal window attention;
- modeling_text_lfvila.py: text tower and cross-modal encoder;
- modeling_base_lfvila.py: outputs, attention function and base class.

docs/parity.md lists the differences from the released code, each with the switch that restores released behaviour.

Letters: B videos, T frames, K clips, M sentences, L tokens, H W pixels, h w patch grid, P tokens per frame, C channels
of a level, D shared width, N answers. Mask value 1 means "real", 0 means "padding".
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.utils.generic import can_return_tuple

from .alignment_lfvila import aligned_similarity
from .configuration_lfvila import LFVilaConfig, LFVilaTextConfig
from .loss_lfvila import LFVilaLoss, MTCDraw, draw_mtc, mismatched_pairs, span_loss
from .modeling_base_lfvila import (
    LFVilaCrossModalOutput,
    LFVilaHeadOutput,
    LFVilaOutput,
    LFVilaPreTrainedModel,
    LFVilaTextModelOutput,
    LFVilaVideoModelOutput,
)
from .modeling_text_lfvila import LFVilaCrossModalEncoder, LFVilaTextModel
from .modeling_video_lfvila import LFVilaVideoModel


class LFVilaMLMHead(nn.Module):
    """BERT's head for masked tokens. As released, its decoder is not tied to the word embeddings."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(..., D)` to `(..., vocabulary)`."""
        return self.decoder(self.LayerNorm(self.act(self.dense(hidden_states))))


def add_loss(output: LFVilaOutput, config: LFVilaConfig) -> LFVilaOutput:
    """Return the output with its unweighted loss terms and the loss filled in.

    The output is built anew: a field that is set later goes to the end, but callers that ask for a tuple expect the
    loss first.
    """
    criterion = LFVilaLoss(config)
    terms = criterion.terms(output)
    return LFVilaOutput(loss=criterion.total(terms), **{**output, **terms})


class LFVilaModel(LFVilaPreTrainedModel):
    """Both towers and their projections, for embeddings, retrieval and alignment in time.

    Args:
        config: The configuration.
        add_text_tower: Whether to build the text tower. Defaults to True; False leaves a video encoder
            (classification).
        add_projections: Whether to build the projections. Defaults to True; False leaves features without embeddings
            and loss (question answering).
    """

    def __init__(self, config: LFVilaConfig, add_text_tower: bool = True, add_projections: bool = True) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.video_model = LFVilaVideoModel(config.video_config)
        self.text_model: Any = LFVilaTextModel(config.text_config) if add_text_tower else None
        self.video_projection: Any = nn.Linear(width, width) if add_projections else None
        self.text_projection: Any = nn.Linear(width, width) if add_projections and add_text_tower else None
        aligned = add_projections and add_text_tower and config.temporal_alignment
        self.sentence_projection: Any = nn.Linear(width, width) if aligned else None
        self.clip_projection: Any = nn.Linear(width, width) if aligned else None
        self.post_init()
        self.freeze_unread()

    def freeze_unread(self) -> None:
        """Freeze the video tower's clip level where nothing reads it: DDP expects a gradient for all that can learn."""
        if self.clip_projection is None or self.config.clip_feature_source != "clip_level":
            self.video_model.clip_merging.requires_grad_(False)
            self.video_model.clip_norm.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings; the stem of the video tower if there is no text tower."""
        return self.text_model.get_input_embeddings() if self.text_model is not None else self.video_model.patch_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace what `get_input_embeddings` returns."""
        if self.text_model is None:
            self.video_model.set_input_embeddings(value)
        else:
            self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> LFVilaTextModelOutput:
        """Encode paragraphs.

        Args:
            input_ids: `(B, M, L)`; `(B, L)` is one sentence per paragraph.
            attention_mask: Same shape, 1 for real tokens. Defaults to all ones.
            **kwargs: `inputs_embeds`, `output_hidden_states`, `output_attentions`, `return_dict`, and options of the
                backend.

        Returns:
            The text tower's output with `text_embeds` and (with `temporal_alignment`) `sentence_embeds` filled in;
            `pooler_output` is the projected paragraph feature before normalisation.

        Raises:
            ValueError: The model was built without text projection, or shapes do not fit (see the text tower).
        """
        if self.text_projection is None:
            raise ValueError(
                "this model was built without a text projection, so there are no text features; build it with "
                "add_text_tower=True and add_projections=True"
            )
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        output.pooler_output = self.text_projection(output.pooler_output)
        output.text_embeds = F.normalize(output.pooler_output, dim=-1)
        if self.sentence_projection is not None:
            sentences = self.sentence_projection(output.sentence_hidden_state[:, :, 0])  # (B, M, D)
            output.sentence_embeds = F.normalize(sentences, dim=-1)
        return output

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, num_clips: int | None = None, **kwargs: Any
    ) -> LFVilaVideoModelOutput:
        """Encode videos.

        Args:
            pixel_values_videos: `(B, T, 3, H, W)`.
            num_clips: K, the number of clips of equal length. Defaults to `config.num_clips`.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Returns:
            The video tower's output with `video_embeds` and (with `temporal_alignment`) `clip_embeds` filled in;
            `pooler_output` is the projected video feature before normalisation.

        Raises:
            ValueError: The model was built without video projection, or it has clip features and T is not divisible
                by K.
        """
        if self.video_projection is None:
            raise ValueError(
                "this model was built without a video projection, so there are no video features; build it with "
                "add_projections=True"
            )
        output = self.video_model(pixel_values_videos, return_dict=True, **kwargs)
        output.pooler_output = self.video_projection(output.pooler_output)
        output.video_embeds = F.normalize(output.pooler_output, dim=-1)
        if self.clip_projection is not None:
            source = "clip_hidden_state" if self.config.clip_feature_source == "clip_level" else "last_hidden_state"
            clips = self.video_model.clip_features(output[source], num_clips)  # (B, K, D)
            output.clip_embeds = F.normalize(self.clip_projection(clips), dim=-1)
        return output

    def get_clip_features(self, pixel_values_videos: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Compute clip features.

        Args:
            pixel_values_videos: `(B, T, 3, H, W)`.
            **kwargs: See `get_video_features`.

        Returns:
            Projected, L2-normalised clip features, `(B, K, D)`.

        Raises:
            ValueError: The model was built without `temporal_alignment`, or T is not divisible by K.
        """
        if self.clip_projection is None:
            raise ValueError(
                "this model has no clip projection (temporal_alignment=False); clip features need a model with "
                "temporal_alignment=True"
            )
        kwargs["return_dict"] = True
        return self.get_video_features(pixel_values_videos, **kwargs).clip_embeds

    def similarity(
        self, text_side: Any, video_side: Any, score: Literal["global", "aligned", "both"] = "global"
    ) -> torch.Tensor:
        """Score every text against every video.

        Args:
            text_side: Anything with `text_embeds` `(N_text, D)`, `sentence_embeds` `(N_text, M, D)` and
                `sentence_mask` `(N_text, M)`: outputs of this model, of `get_text_features`, of `encode_paragraphs`.
            video_side: Anything with `video_embeds` `(N_video, D)` and `clip_embeds` `(N_video, K, D)`.
            score: `"global"`, paragraph . video; `"aligned"`, the mean over sentences of sentence . clip under the best
                non-decreasing map of sentences to clips; `"both"`, their sum. Defaults to `"global"`.

        Returns:
            `(N_text, N_video)`, cosines (not divided by the temperature).

        Raises:
            ValueError: The score is unknown, or it needs sentence and clip embeddings and one of them is `None`.
        """
        if score not in ("global", "aligned", "both"):
            raise ValueError(f'score must be "global", "aligned" or "both", got {score!r}')
        if score == "global":
            return text_side.text_embeds @ video_side.video_embeds.T
        sentences, clips = text_side.sentence_embeds, video_side.clip_embeds
        if sentences is None or clips is None:
            raise ValueError(f"score={score!r} needs sentence and clip embeddings (temporal_alignment=True)")
        aligned = aligned_similarity(sentences, text_side.sentence_mask, clips)
        return aligned if score == "aligned" else aligned + text_side.text_embeds @ video_side.video_embeds.T

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        return_loss: bool = True,
        mtc_draw: MTCDraw | None = None,
        num_clips: int | None = None,
        **kwargs: Any,
    ) -> LFVilaOutput:
        """Embed paragraphs and videos.

        Args:
            input_ids: `(B, M, L)`.
            attention_mask: `(B, M, L)`, 1 for real tokens. Defaults to all ones.
            pixel_values_videos: `(B', T, 3, H, W)`; if B' differs from B, there are logits and no loss.
            return_loss: Whether to compute the loss of the contrastive phase. Defaults to True.
            mtc_draw: Positions for MTC. Defaults to `draw_mtc`.
            num_clips: K of this batch, for videos made of fewer or more clips. Defaults to `config.num_clips`.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: A modality is missing, or shapes do not fit (see the towers).
        """
        if input_ids is None or pixel_values_videos is None:
            raise ValueError(
                "input_ids and pixel_values_videos are both expected; for one side alone use get_text_features or "
                "get_video_features"
            )
        text = self.get_text_features(input_ids, attention_mask, return_dict=True, **kwargs)
        video = self.get_video_features(pixel_values_videos, num_clips, return_dict=True, **kwargs)
        logits = self.similarity(text, video) / self.config.temperature  # (B, B')
        output = LFVilaOutput(
            logits_per_text=logits,
            logits_per_video=logits.T,
            text_embeds=text.text_embeds,
            video_embeds=video.video_embeds,
            sentence_embeds=text.sentence_embeds,
            clip_embeds=video.clip_embeds,
            sentence_mask=text.sentence_mask,
            text_model_output=text,
            video_model_output=video,
        )
        if return_loss and text.text_embeds.shape == video.video_embeds.shape:
            if video.clip_embeds is not None:
                output.mtc_draw = self.draw_mtc(video.clip_embeds) if mtc_draw is None else MTCDraw(*mtc_draw)
            output = add_loss(output, self.config)
        return output

    def draw_mtc(self, clip_embeds: torch.Tensor) -> MTCDraw:
        """Draw MTC's positions for a batch `(B, K, D)`: from torch's generator in training, fixed in evaluation."""
        device = clip_embeds.device
        seed = torch.randint(2**31, (), device=device) if self.training else 0
        batch, clips = clip_embeds.shape[:2]
        counts = self.config.num_anchors, self.config.num_candidates
        return draw_mtc(batch, clips, *counts, seed=seed, device=device)


class LFVilaFusionModel(LFVilaPreTrainedModel):
    """Base class of models that read text and video together: towers in `model`, then `cross_modal_encoder`."""

    def __init__(self, config: LFVilaConfig, add_projections: bool) -> None:
        super().__init__(config)
        self.model = LFVilaModel(config, add_projections=add_projections)
        fuses = config.text_config.num_cross_modal_layers > 0
        self.cross_modal_encoder: Any = LFVilaCrossModalEncoder(config) if fuses else None

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.model.set_input_embeddings(value)

    def fuse(self, text: LFVilaTextModelOutput, video: LFVilaVideoModelOutput, **kwargs: Any) -> LFVilaCrossModalOutput:
        """Run the cross-modal encoder on the towers' outputs, pair by pair.

        Raises:
            ValueError: There is no cross-modal encoder, or the numbers of texts and videos differ.
        """
        if self.cross_modal_encoder is None:
            raise ValueError(
                "this model has no cross-modal encoder (text_config.num_cross_modal_layers = 0); use a configuration "
                "with num_cross_modal_layers > 0"
            )
        texts, videos = text.last_hidden_state.shape[0], video.tokens.shape[0]
        if texts != videos:
            raise ValueError(
                f"texts and videos are read in pairs, got {texts} texts and {videos} videos; pass one video per text"
            )
        return self.cross_modal_encoder(
            text.last_hidden_state, text.attention_mask, video.tokens, return_dict=True, **kwargs
        )

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, pixel_values_videos: Any, **kwargs: Any
    ) -> tuple[LFVilaTextModelOutput, LFVilaVideoModelOutput]:
        """Run both towers, without their projections.

        Raises:
            ValueError: A modality is missing, or shapes do not fit (see the towers).
        """
        text = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        return text, self.model.video_model(pixel_values_videos, return_dict=True, **kwargs)


class LFVilaForPreTraining(LFVilaFusionModel):
    """Model of both phases of pre-training, with the heads for masked tokens and for video-text matching.

    Args:
        config: The configuration; with `num_cross_modal_layers = 0` only the contrastive phase exists.
    """

    head_modules = ("mlm_head", "vtm_head")

    def __init__(self, config: LFVilaConfig) -> None:
        super().__init__(config, add_projections=True)
        fuses = self.cross_modal_encoder is not None
        self.mlm_head: Any = LFVilaMLMHead(config.text_config) if fuses else None
        self.vtm_head: Any = nn.Linear(config.hidden_size, 2) if fuses else None
        self._frozen_towers = False
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the MLM decoder."""
        return None if self.mlm_head is None else self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the MLM decoder."""
        self.mlm_head.decoder = new_embeddings

    @property
    def awaits_freezing(self) -> bool:
        """Whether `set_training_phase` is due: the configuration names the fusion phase, but nothing is frozen."""
        return self.config.training_phase == "fusion" and not self._frozen_towers

    def set_training_phase(self, phase: Literal["contrastive", "fusion"]) -> None:
        """Select the phase to train: freeze the other parts, and keep frozen towers in evaluation mode.

        Args:
            phase: `"contrastive"` trains the towers and projections, `"fusion"` the cross-modal encoder and the heads.

        Raises:
            ValueError: The phase is unknown, or it is fusion and there is no cross-modal encoder.
        """
        self._check_phase(phase)
        self.config.training_phase = phase
        fusion = phase == "fusion"
        self.model.requires_grad_(not fusion)
        self.model.freeze_unread()
        for part in (self.cross_modal_encoder, self.mlm_head, self.vtm_head):
            if part is not None:
                part.requires_grad_(fusion)
        self._frozen_towers = fusion
        self.train(self.training)

    def train(self, mode: bool = True) -> LFVilaForPreTraining:
        """Set training or evaluation mode; towers that the fusion phase froze stay in evaluation mode."""
        super().train(mode)
        if mode and getattr(self, "_frozen_towers", False):
            self.model.eval()
        return self

    def _check_phase(self, phase: str) -> None:
        if phase not in ("contrastive", "fusion"):
            raise ValueError(f'phase must be "contrastive" or "fusion", got {phase!r}')
        if phase == "fusion" and self.cross_modal_encoder is None:
            raise ValueError(
                'the fusion phase needs text_config.num_cross_modal_layers > 0, got 0; use phase="contrastive" or a '
                "configuration with cross-modal layers"
            )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        phase: Literal["contrastive", "fusion"] | None = None,
        mlm_targets: torch.Tensor | None = None,
        vtm_targets: torch.Tensor | None = None,
        return_loss: bool = True,
        mtc_draw: MTCDraw | None = None,
        num_clips: int | None = None,
        **kwargs: Any,
    ) -> LFVilaOutput:
        """Compute the outputs and the loss of one phase.

        Args:
            input_ids: `(B, M, L)`; in the fusion phase with tokens masked already where `mlm_targets` is not -100.
            attention_mask: `(B, M, L)`, 1 for real tokens. Defaults to all ones.
            pixel_values_videos: `(B, T, 3, H, W)`.
            phase: `"contrastive"` or `"fusion"`. Defaults to `config.training_phase`.
            mlm_targets: `(B, M, L)`, the right token at masked positions, -100 elsewhere. Defaults to `None`, no MLM
                loss.
            vtm_targets: `(B,)`, 1 if pair i belongs together, 0 if not; pairs are then taken as given. By default, and
                with `return_loss`, each text of the first half of the batch gets its neighbour's video.
            return_loss: Whether to compute the loss; if not, no pair is changed. Defaults to True.
            mtc_draw: See `LFVilaModel`.
            num_clips: See `LFVilaModel`.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: The phase is unknown, a modality is missing, or shapes do not fit.
        """
        phase = self.config.training_phase if phase is None else phase
        self._check_phase(phase)
        if phase == "contrastive":
            kwargs["return_dict"] = True
            return self.model(
                input_ids, attention_mask, pixel_values_videos, return_loss, mtc_draw, num_clips, **kwargs
            )
        text, video = self.encode(input_ids, attention_mask, pixel_values_videos, **kwargs)
        if mlm_targets is not None and mlm_targets.shape != input_ids.shape:
            raise ValueError(
                f"mlm_targets {tuple(mlm_targets.shape)} must have the shape of input_ids {tuple(input_ids.shape)}"
            )
        if vtm_targets is not None and vtm_targets.shape != input_ids.shape[:1]:
            raise ValueError(
                f"vtm_targets must be ({input_ids.shape[0]},), one per pair, got {tuple(vtm_targets.shape)}"
            )
        paired = video
        if vtm_targets is None and return_loss:
            video_index, vtm_targets = mismatched_pairs(video.tokens.shape[0], video.tokens.device)
            paired = LFVilaVideoModelOutput(tokens=video.tokens[video_index])
        fused = self.fuse(text, paired, **kwargs)
        if mlm_targets is not None and vtm_targets is not None:
            mismatched = (vtm_targets == 0).view(-1, *(1 for _ in mlm_targets.shape[1:]))  # (B, 1, 1)
            mlm_targets = mlm_targets.masked_fill(mismatched, -100)
        output = LFVilaOutput(
            mlm_logits=self.mlm_head(fused.last_hidden_state),
            vtm_logits=self.vtm_head(fused.pooler_output),
            mlm_targets=mlm_targets,
            vtm_targets=vtm_targets,
            sentence_mask=text.sentence_mask,
            text_model_output=text,
            video_model_output=video,
            cross_modal_output=fused,
        )
        return add_loss(output, self.config) if return_loss else output


class LFVilaForQuestionAnswering(LFVilaFusionModel):
    """Classifier of answers: dropout and Linear(D, num_labels) on the pooled token (ActivityNet-QA, VIOLIN)."""

    head_modules = ("classifier",)

    def __init__(self, config: LFVilaConfig) -> None:
        super().__init__(config, add_projections=False)
        self.dropout = nn.Dropout(config.text_config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.loss_type = "ForSequenceClassification"  # transformers would guess a loss over spans of text
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LFVilaHeadOutput:
        """Answer questions about videos.

        Args:
            input_ids: `(B, M, L)`: the question, then subtitles if there are any, as sentences.
            attention_mask: `(B, M, L)`, 1 for real tokens. Defaults to all ones.
            pixel_values_videos: `(B, T, 3, H, W)`.
            labels: Class of the right answer, `(B,)`. Defaults to `None`, no loss.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: A modality is missing, shapes do not fit, or the numbers of questions and videos differ.
        """
        text, video = self.encode(input_ids, attention_mask, pixel_values_videos, **kwargs)
        fused = self.fuse(text, video, **kwargs)
        logits = self.classifier(self.dropout(fused.pooler_output))  # (B, num_labels)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return LFVilaHeadOutput(
            loss=loss, logits=logits, hidden_states=fused.hidden_states, attentions=fused.attentions
        )


class LFVilaForMultipleChoice(LFVilaFusionModel):
    """Model with one score per answer, and one per frame for whether it shows the answer (How2QA)."""

    head_modules = ("classifier", "span_classifier")

    def __init__(self, config: LFVilaConfig) -> None:
        super().__init__(config, add_projections=False)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.span_classifier = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        span_targets: torch.Tensor | None = None,
        span_weights: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LFVilaHeadOutput:
        """Choose among answers.

        Args:
            input_ids: `(B, N, M, L)`: for every answer the question, the answer, then subtitles, as sentences.
            attention_mask: `(B, N, M, L)`, 1 for real tokens. Defaults to all ones.
            pixel_values_videos: `(B, T, 3, H, W)`.
            labels: Number of the right answer, `(B,)`. Defaults to `None`, no loss.
            span_targets: `(B, T)`, 1 for frames inside the span that the question is about. Defaults to `None`, no
                span loss.
            span_weights: `(B, T)`. Defaults to `span_weights_from_targets`, which gives both sides the same weight.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: `input_ids` is not four-dimensional, the numbers of questions and videos differ, or `labels` or
                `config.problem_type` ask for anything but one right choice.
        """
        if self.config.problem_type not in (None, "single_label_classification"):
            raise ValueError(
                f'problem_type="{self.config.problem_type}" is not supported: one choice is right. Use '
                '"single_label_classification" or LFVilaForQuestionAnswering'
            )
        if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
            raise ValueError(
                f"labels must be (B,) numbers of the right choices, got {labels.dtype} {tuple(labels.shape)}"
            )
        if input_ids is None or input_ids.ndim != 4:
            got = None if input_ids is None else tuple(input_ids.shape)
            raise ValueError(f"input_ids of a multiple choice must be (B, N, M, L), got {got}")
        choices = input_ids.shape[1]
        mask = None if attention_mask is None else attention_mask.flatten(0, 1)
        text, video = self.encode(input_ids.flatten(0, 1), mask, pixel_values_videos, **kwargs)
        questions, videos = input_ids.shape[0], video.tokens.shape[0]
        if questions != videos:
            raise ValueError(f"one video per question is expected, got {questions} questions and {videos} videos")
        # The towers encode the video once; the cross-modal encoder reads it once per answer.
        repeated = LFVilaVideoModelOutput(tokens=video.tokens.repeat_interleave(choices, 0))  # (B*N, T, P, D)
        fused = self.fuse(text, repeated, **kwargs)
        logits = self.classifier(fused.pooler_output).view(-1, choices)  # (B, N)
        frames, places = video.tokens.shape[1:3]
        seen = fused.last_hidden_state[:, -frames * places :].unflatten(1, (frames, places)).mean(2)  # (B*N, T, D)
        span_logits = self.span_classifier(seen).unflatten(0, (-1, choices)).amax(1)  # (B, T, 2)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        span_term = None
        if span_targets is not None:
            span_term = span_loss(span_logits, span_targets, span_weights)
            if loss is not None:
                loss = loss + self.config.span_loss_weight * span_term
        elif loss is not None:
            loss = loss + 0.0 * span_logits.sum()  # DDP expects a gradient for the span classifier in every step
        return LFVilaHeadOutput(
            loss=loss,
            logits=logits,
            span_logits=span_logits,
            span_loss=span_term,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )


class LFVilaForVideoClassification(LFVilaPreTrainedModel):
    """Classifier of videos: Linear(D, num_labels) on the projected, normalised video feature (COIN, LVU)."""

    main_input_name = "pixel_values_videos"
    input_modalities = ["video"]
    head_modules = ("classifier",)

    def __init__(self, config: LFVilaConfig) -> None:
        super().__init__(config)
        self.model = LFVilaModel(config, add_text_tower=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the stem of the video tower."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the stem."""
        self.model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self, pixel_values_videos: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> LFVilaHeadOutput:
        """Classify videos.

        Args:
            pixel_values_videos: `(B, T, 3, H, W)`.
            labels: Class numbers, `(B,)`, or the targets that `config.problem_type` asks for. Defaults to `None`, no
                loss.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: Frames are missing or do not have the expected shape (see the video tower).
        """
        video = self.model.get_video_features(pixel_values_videos, return_dict=True, **kwargs)
        logits = self.classifier(video.video_embeds)  # (B, num_labels)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return LFVilaHeadOutput(
            loss=loss, logits=logits, hidden_states=video.hidden_states, attentions=video.attentions
        )


__all__ = [
    "LFVilaForMultipleChoice",
    "LFVilaForPreTraining",
    "LFVilaForQuestionAnswering",
    "LFVilaForVideoClassification",
    "LFVilaModel",
    "LFVilaPreTrainedModel",
    "LFVilaTextModel",
    "LFVilaVideoModel",
]
