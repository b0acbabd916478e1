"""Pipelines: what `transformers.pipeline` returns for our models against the models called by hand.

The built-in "video-classification" is tested here too, because what it needs of us is in several files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, TEXT, VIDEO, tiny_config, tiny_model
from transformers import pipeline
from video_files import write_video

from lfvila_hf import (
    LFVilaForMultipleChoice,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaProcessor,
    LFVilaVideoProcessor,
    encode_paragraphs,
    encode_videos,
)
from lfvila_hf.pipeline_lfvila import shown_span

STORIES = [["A man rides.", "He falls."], ["The ball is red."]]


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    return LFVilaProcessor(videos, tiny_tokenizer, max_sentence_length=8)


@pytest.fixture
def vocabulary(tiny_tokenizer: Any) -> dict[str, int]:
    return {"vocab_size": len(tiny_tokenizer)}


@pytest.fixture
def videos(tmp_path: Path) -> list[str]:
    """Three files of different lengths."""
    return [str(write_video(tmp_path / f"{count}.mp4", count)) for count in (24, 40, 60)]


def saved(folder: Path, model: Any, processor: LFVilaProcessor) -> str:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_retrieval_ranks_as_the_model_does(
    processor: LFVilaProcessor, vocabulary: dict[str, int], videos: list[str], tmp_path: Path
) -> None:
    model = tiny_model(LFVilaModel, tiny_config(text=vocabulary))
    pipe = pipeline("video-text-retrieval", model=saved(tmp_path / "model", model, processor))
    found = pipe(STORIES, videos)
    text, seen = encode_paragraphs(model, processor, STORIES), encode_videos(model, processor, videos, batch_size=1)
    for score in ("both", "global", "aligned"):
        expected = model.similarity(text, seen, score)
        ranking = found if score == "both" else pipe(STORIES, videos, score=score)
        for row, ranked in enumerate(ranking):
            assert [one["video"] for one in ranked] == expected[row].argsort(descending=True).tolist()
            scores = torch.tensor([one["score"] for one in ranked])
            torch.testing.assert_close(scores, expected[row].sort(descending=True).values, atol=1e-5, rtol=0)
    for row, ranked in enumerate(found):
        for one in ranked:
            inputs = processor(text=[STORIES[row]], videos=[videos[one["video"]]], return_metadata=True)
            with torch.no_grad():
                pair = model(inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values_videos"])
            moments = processor.post_process_alignment(pair, inputs["video_metadata"])[0]
            assert [(s["start"], s["end"]) for s in one["sentences"]] == [(m.start, m.end) for m in moments]
            assert [s["sentence"] for s in one["sentences"]] == STORIES[row]
            clips = [s["clip"] for s in one["sentences"]]
            assert clips == sorted(clips) and all(0 <= clip < VIDEO["num_clips"] for clip in clips)


def test_retrieval_keeps_the_best_and_takes_single_inputs(
    processor: LFVilaProcessor, vocabulary: dict[str, int], videos: list[str]
) -> None:
    pipe = pipeline(
        "video-text-retrieval", model=tiny_model(LFVilaModel, tiny_config(text=vocabulary)), processor=processor
    )
    assert [len(row) for row in pipe("The ball is red.", videos, top_k=2)] == [2]
    array = torch.randint(255, (12, 3, 30, 50), dtype=torch.uint8)
    (found,) = pipe("The ball is red.", [array])
    assert set(found[0]["sentences"][0]) == {"sentence", "clip", "score"}, "an array without a rate has no seconds"
    assert {"start", "end"} <= set(pipe("The ball is red.", [array], fps=6)[0][0]["sentences"][0])
    for wrong in ({"texts": [], "videos": videos}, {"texts": "a", "videos": []}):
        with pytest.raises(ValueError, match="texts and videos are expected"):
            pipe(**wrong)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        pipe("a", videos, top_k=0)


def test_retrieval_without_alignment_has_scores_only(
    processor: LFVilaProcessor, vocabulary: dict[str, int], videos: list[str]
) -> None:
    model = tiny_model(LFVilaModel, tiny_config(text=vocabulary, temporal_alignment=False))
    pipe = pipeline("video-text-retrieval", model=model, processor=processor)
    assert all(one["sentences"] == [] for row in pipe(STORIES, videos[:2]) for one in row)
    with pytest.raises(ValueError, match="temporal_alignment"):
        pipe(STORIES, videos[:2], score="aligned")


def test_questions_get_the_answers_of_the_model(
    processor: LFVilaProcessor, vocabulary: dict[str, int], videos: list[str], tmp_path: Path
) -> None:
    names = {number: f"answer {number}" for number in range(7)}
    model = tiny_model(LFVilaForQuestionAnswering, tiny_config(text=vocabulary, num_labels=7, id2label=names))
    pipe = pipeline("video-question-answering", model=saved(tmp_path / "model", model, processor))
    question, subtitles = "What is the man doing?", ["He rides.", "He falls.", "The ball", "is red."]
    found = pipe(videos[0], question, subtitles=subtitles, top_k=3)
    inputs = processor(text=[[question, *subtitles]], videos=[videos[0]], max_sentences=TEXT["max_sentences"])
    with torch.no_grad():
        values, labels = model(**inputs).logits[0].softmax(-1).topk(3)
    assert [one["label"] for one in found] == labels.tolist()
    assert [one["answer"] for one in found] == [names[label] for label in labels.tolist()]
    assert [one["score"] for one in found] == pytest.approx(values.tolist(), abs=1e-6)
    assert len(pipe(videos[0], question)) == 5
    with pytest.raises(ValueError, match="has its own answers"):
        pipe(videos[0], question, answers=["yes", "no"])


def test_multiple_choice_ranks_the_answers_given_and_says_when(
    processor: LFVilaProcessor, vocabulary: dict[str, int], videos: list[str]
) -> None:
    model = tiny_model(LFVilaForMultipleChoice, tiny_config(text=vocabulary))
    with torch.no_grad():
        model.span_classifier.bias[1] += 50.0  # every frame shows the answer
    pipe = pipeline("video-question-answering", model=model, processor=processor)
    answers = ["a red ball", "a blue box", "the man"]
    found = pipe(videos[1], "What falls?", answers=answers)
    assert sorted(one["answer"] for one in found) == sorted(answers)
    assert sum(one["score"] for one in found) == pytest.approx(1.0)
    inputs = processor(text=[[["What falls?", answer] for answer in answers]], videos=[videos[1]], return_metadata=True)
    with torch.no_grad():
        logits = model(inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values_videos"]).logits[0]
    assert found[0]["answer"] == answers[logits.argmax()]
    assert (found[0]["start"], found[0]["end"]) == (0.0, inputs["video_metadata"][0].duration)
    with pytest.raises(ValueError, match="expects the answers to choose from"):
        pipe(videos[1], "What falls?")
    with pytest.raises(ValueError, match="answers must be a list of sentences, got the string 'yes'"):
        pipe(videos[1], "What falls?", answers="yes")
    with pytest.raises(ValueError, match="subtitles must be a list of sentences, got the string 'Hello.'"):
        pipe(videos[1], "What falls?", subtitles="Hello.", answers=answers)
    with pytest.raises(ValueError, match="question must be one sentence"):
        pipe(videos[1], ["What falls?"], answers=answers)


@pytest.mark.parametrize(
    ("probabilities", "span"),
    [
        ([0.1, 0.6, 0.9, 0.7, 0.2, 0.8], (1, 4)),
        ([0.9, 0.1], (0, 1)),
        ([0.1, 0.9], (1, 2)),
        ([0.5, 0.4], None),
        ([0.6, 0.7], (0, 2)),
    ],
)
def test_the_shown_span_is_the_likely_run_around_the_likeliest_frame(
    probabilities: list[float], span: tuple[int, int] | None
) -> None:
    assert shown_span(torch.tensor(probabilities)) == span


def test_video_classification_of_transformers_works_with_our_models(
    processor: LFVilaProcessor, vocabulary: dict[str, int], videos: list[str], tmp_path: Path
) -> None:
    model = tiny_model(LFVilaForVideoClassification, tiny_config(text=vocabulary, num_labels=4))
    found = pipeline("video-classification", model=saved(tmp_path / "model", model, processor))(videos[1], top_k=4)
    with torch.no_grad():
        expected = model(**processor(videos=[videos[1]])).logits[0].softmax(-1)
    assert [one["score"] for one in found] == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-6)
    assert sorted(one["label"] for one in found) == [f"LABEL_{number}" for number in range(4)]
    assert sum(one["score"] for one in found) == pytest.approx(1.0)


def test_a_saved_pipeline_brings_its_code(
    processor: LFVilaProcessor, vocabulary: dict[str, int], tmp_path: Path
) -> None:
    pipe = pipeline(
        "video-text-retrieval", model=tiny_model(LFVilaModel, tiny_config(text=vocabulary)), processor=processor
    )
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "pipeline_lfvila.py").is_file()
    implementation = pipe.model.config.custom_pipelines["video-text-retrieval"]["impl"]
    assert implementation == "pipeline_lfvila.LFVilaVideoTextRetrievalPipeline"
    assert type(EXAMPLES["joined"].model_class.from_pretrained(tmp_path)) is LFVilaModel
