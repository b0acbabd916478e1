# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Pipelines: which video tells this story and when, and answers to questions about long videos.

`import lfvila_hf` registers both, as "video-text-retrieval" and "video-question-answering". Videos and paragraphs are
encoded one at a time, so memory holds the pixels of one video and D numbers per video, sentence and clip. The built-in
"video-classification" of transformers works with our models and needs nothing from here.

Letters: B videos, T frames, M sentences, L tokens, K clips, D width, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F
from transformers.pipelines.base import Pipeline

from .alignment_lfvila import monotone_alignment
from .processing_lfvila import merge_sentences


class LFVilaPipeline(Pipeline):
    """Base of both pipelines, which need a processor beside the model."""

    model: Any
    processor: Any
    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False


class LFVilaVideoTextRetrievalPipeline(LFVilaPipeline):
    """Pipeline that ranks videos by paragraphs and locates each sentence in a clip.

    ```python
    pipe = pipeline("video-text-retrieval", model="org/lfvila-...")
    pipe(["A man rides. He falls."], ["a.mp4", "b.mp4"])[0][0]
    # {"video": 1, "score": 0.93, "sentences": [{"sentence": "...", "clip": 0, "start": 0.0, "end": 4.2, "score": 0.5}]}
    ```
    """

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return kwargs, {}, {}

    def __call__(  # type: ignore[override]  # two kinds of input
        self,
        texts: str | Sequence[str | Sequence[str]],
        videos: Any,
        score: str | None = None,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> list[list[dict[str, Any]]]:
        """Rank videos.

        Args:
            texts: paragraphs: strings (one sentence each) or lists of sentences; a bare string is one paragraph.
            videos: a list of sources as the processor takes them; a bare path is one video.
            score: `"global"`, `"aligned"` or `"both"`; defaults to both if the model has sentence and clip features.
            top_k: videos kept for every text; defaults to all.
            **kwargs: for the processor (`num_frames`, `fps`, ...).

        Returns:
            For every text the videos, best first: `video` (its number in `videos`), `score`, and `sentences`: for every
            sentence its best clip under the order of the story, with `clip`, `score` (a cosine) and, if the video's
            seconds are known, `start` and `end`. Without sentence and clip features `sentences` is empty.

        Raises:
            ValueError: no texts or no videos, `top_k` below 1, or a score that the model cannot give.
            LFVilaVideoError: a video cannot be used.
        """
        paragraphs = (
            [[texts]] if isinstance(texts, str) else [[one] if isinstance(one, str) else list(one) for one in texts]
        )
        sources = list(videos) if isinstance(videos, list | tuple) else [videos]
        if not paragraphs or not sources:
            raise ValueError(f"texts and videos are expected, got {len(paragraphs)} texts and {len(sources)} videos")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        seen = [super(LFVilaVideoTextRetrievalPipeline, self).__call__({"video": one}, **kwargs) for one in sources]
        read = [super(LFVilaVideoTextRetrievalPipeline, self).__call__({"text": one}, **kwargs) for one in paragraphs]
        longest = max(one["sentence_mask"].shape[1] for one in read)
        aligns = seen[0]["clip_embeds"] is not None and read[0]["sentence_embeds"] is not None
        text_side = SimpleNamespace(
            text_embeds=torch.cat([one["text_embeds"] for one in read]),  # (B, D)
            sentence_mask=torch.cat(
                [F.pad(one["sentence_mask"], (0, longest - one["sentence_mask"].shape[1])) for one in read]
            ),
            sentence_embeds=None,
        )
        video_side = SimpleNamespace(video_embeds=torch.cat([one["video_embeds"] for one in seen]), clip_embeds=None)
        if aligns:
            padded = [
                F.pad(one["sentence_embeds"], (0, 0, 0, longest - one["sentence_embeds"].shape[1])) for one in read
            ]
            text_side.sentence_embeds = torch.cat(padded)  # (B, M, D)
            video_side.clip_embeds = torch.cat([one["clip_embeds"] for one in seen])  # (B, K, D)
        scores = self.model.similarity(text_side, video_side, score or ("both" if aligns else "global"))
        kept = min(top_k or len(sources), len(sources))
        best, order = scores.sort(dim=1, descending=True, stable=True)
        ranking = []
        for row, text in enumerate(read):
            found = []
            for value, number in zip(best[row, :kept].tolist(), order[row, :kept].tolist(), strict=True):
                sentences = self._moments(text, seen[number]) if aligns else []
                found.append({"video": number, "score": value, "sentences": sentences})
            ranking.append(found)
        return ranking

    def preprocess(self, inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # another input
        """Turn one paragraph, or one video, into tensors."""
        if "video" in inputs:
            made = self.processor(videos=[inputs["video"]], return_metadata=True, **kwargs)
            return {"pixel_values_videos": made["pixel_values_videos"], "metadata": made["video_metadata"][0]}
        made = self.processor(text=[inputs["text"]])
        return {**made, "sentences": merge_sentences(inputs["text"], self.processor.max_sentences)}

    def _forward(self, inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # another input
        if "metadata" in inputs:
            video = self.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
            found = {"video_embeds": video.video_embeds.float(), "metadata": inputs["metadata"]}
            return {**found, "clip_embeds": None if video.clip_embeds is None else video.clip_embeds.float()}
        text = self.model.get_text_features(inputs["input_ids"], inputs["attention_mask"], return_dict=True)
        found = {"text_embeds": text.text_embeds.float(), "sentence_mask": text.sentence_mask}
        sentences = None if text.sentence_embeds is None else text.sentence_embeds.float()
        return {**found, "sentence_embeds": sentences, "sentences": inputs["sentences"]}

    def postprocess(self, outputs: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]  # another input
        """Features of one paragraph or video, as they are."""
        return outputs

    def _moments(self, text: dict[str, Any], video: dict[str, Any]) -> list[dict[str, Any]]:
        """Find the best clip of every sentence, with its seconds if they are known."""
        similarity = torch.einsum("bmd,bkd->bmk", text["sentence_embeds"], video["clip_embeds"])  # (1, M, K)
        clips = monotone_alignment(similarity, text["sentence_mask"])[1][0].tolist()
        found = [
            {"sentence": sentence, "clip": clip, "score": similarity[0, number, clip].item()}
            for number, (sentence, clip) in enumerate(zip(text["sentences"], clips, strict=False))
        ]
        if video["metadata"].times is not None:
            moments = self.processor.post_process_alignment(text | video, [video["metadata"]])[0]
            for entry, moment in zip(found, moments, strict=True):
                entry |= {"start": moment.start, "end": moment.end}
        return found


class LFVilaVideoQuestionAnsweringPipeline(LFVilaPipeline):
    """Answers questions about long videos: one of the answers a model was trained on, or one of those given.

    ```python
    pipe = pipeline("video-question-answering", model="org/lfvila-activitynet-qa")
    pipe("a.mp4", "what is the man doing?")        # [{"answer": "riding", "label": 17, "score": 0.8}, ...]
    ```

    An `LFVilaForMultipleChoice` (pass the model itself) needs `answers`. `start` and `end` are then the span in the
    video that shows the best one.
    """

    def _sanitize_parameters(
        self, top_k: int = 5, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        return kwargs, {}, {"top_k": top_k}

    def __call__(  # type: ignore[override]  # several kinds of input
        self,
        video: Any,
        question: str,
        subtitles: Sequence[str] = (),
        answers: Sequence[str] | None = None,
        top_k: int = 5,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Answer one question.

        Args:
            video: a source as the processor takes it.
            question: one sentence.
            subtitles: further sentences, in the order of the video.
            answers: candidates, for a multiple-choice model; not for others.
            top_k: answers returned.
            **kwargs: for the processor.

        Returns:
            The best answers, best first: `answer`, `label` (its number) and `score` (a probability); of multiple choice
            also `start` and `end` in seconds, if the video's are known and a frame shows the answer.

        Raises:
            ValueError: answers for a model that has its own, or none for one that has not; a string instead of a list,
                or a list instead of a string.
            LFVilaVideoError: the video cannot be used.
        """
        chooses = hasattr(self.model, "span_classifier")
        if chooses != (answers is not None):
            wanted = "expects the answers to choose from" if chooses else "has its own answers, none can be given"
            raise ValueError(f"{type(self.model).__name__} {wanted}, got answers = {answers!r}")
        if not isinstance(question, str):
            raise ValueError(f"question must be one sentence, got {question!r:.80}")
        for name, value in (("subtitles", subtitles), ("answers", answers)):
            if isinstance(value, str):  # its letters would be taken for sentences
                raise ValueError(f"{name} must be a list of sentences, got the string {value!r:.80}")
        inputs = {"video": video, "question": question, "subtitles": list(subtitles), "answers": answers}
        return super().__call__(inputs, top_k=top_k, **kwargs)

    def preprocess(self, inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # another input
        """Turn one question about one video into tensors."""
        question, subtitles, answers = inputs["question"], inputs["subtitles"], inputs["answers"]
        choices = None if answers is None else [[question, answer, *subtitles] for answer in answers]
        text = [choices] if choices is not None else [[question, *subtitles]]
        sentences = max(self.processor.max_sentences, len(subtitles) + (1 if choices is None else 2))
        room = self.model.config.text_config.max_sentences
        made = self.processor(
            text=text, videos=[inputs["video"]], max_sentences=min(sentences, room), return_metadata=True, **kwargs
        )
        names = ("input_ids", "attention_mask", "pixel_values_videos")
        return {**{name: made[name] for name in names}, "metadata": made["video_metadata"][0], "answers": answers}

    def _forward(self, inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # another input
        rest = {name: inputs.pop(name) for name in ("metadata", "answers")}
        outputs = self.model(**inputs, return_dict=True)
        return {"logits": outputs.logits, "span_logits": outputs.span_logits, **rest}

    def postprocess(self, outputs: dict[str, Any], top_k: int = 5) -> list[dict[str, Any]]:  # type: ignore[override]  # another input
        """Logits of one question to answers."""
        scores = outputs["logits"][0].float().softmax(-1)  # (N,)
        values, labels = scores.topk(min(top_k, len(scores)))
        given, names = outputs["answers"], self.model.config.id2label
        found: list[dict[str, Any]] = [
            {"answer": names[label] if given is None else given[label], "label": label, "score": value}
            for value, label in zip(values.tolist(), labels.tolist(), strict=True)
        ]
        metadata = outputs["metadata"]
        if outputs["span_logits"] is not None and metadata.times is not None:
            span = shown_span(outputs["span_logits"][0].float().softmax(-1)[:, 1])
            if span is not None:
                times = [*metadata.timestamps, max(metadata.duration or 0.0, metadata.timestamps[-1])]
                found[0] |= {"start": times[span[0]], "end": times[span[1]]}
        return found


def shown_span(probabilities: torch.Tensor) -> tuple[int, int] | None:
    """Find the run of frames around the likeliest one that each show the answer more likely than not.

    Args:
        probabilities: `(T,)`.

    Returns:
        First frame and the one after the last; `None` if no frame is likelier than not.
    """
    likely = (probabilities > 0.5).tolist()
    best = int(probabilities.argmax())
    if not likely[best]:
        return None
    start, end = best, best + 1
    while start > 0 and likely[start - 1]:
        start -= 1
    while end < len(likely) and likely[end]:
        end += 1
    return start, end
