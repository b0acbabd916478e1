"""Samples of the tasks: sentences, spans, temporal views, and what becomes of videos and spans that do not fit.

Also pins `task_collating`: the tensors that each model gets. Annotation files are `test_task_annotations.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpus import make_processor, write_json_lines
from torch.utils.data import DataLoader
from video_files import read_barcodes, write_video

from lfvila_hf.data.annotations import AnnotationError
from lfvila_hf.data.datasets import StreamedDataset, VideoTextDataset
from lfvila_hf.data.frame_store import FrameStore
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.data.task_annotations import (
    OUTSIDE_VOCABULARY,
    load_activitynet_qa,
    load_classification,
    load_how2qa,
    load_violin,
)
from lfvila_hf.data.task_collating import (
    MultipleChoiceCollator,
    QuestionAnsweringCollator,
    VideoClassificationCollator,
)
from lfvila_hf.data.task_datasets import (
    ClassificationReader,
    MultipleChoiceReader,
    QuestionAnsweringReader,
    ViewedRetrievalReader,
    span_targets,
)
from lfvila_hf.loss_lfvila import span_weights_from_targets
from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, uniform_indices

FRAMES, RATE = 40, 10
SUBTITLES = [{"start": n, "end": n + 1, "text": text} for n, text in enumerate(["red", "blue", "green", "the circle"])]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"v_{number}.mp4", FRAMES, size=(64, 96), first_number=100 * number, fps=RATE)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    """T = 4 frames that keep every pixel where it is, up to 4 sentences."""
    plain = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip_probability": 0.0, "do_center_crop": False}
    return make_processor(tiny_tokenizer, size={"height": 64, "width": 96}, **plain)


def choice(
    name: str = "v_0", span: Any = (1.0, 3.0), answers: tuple[str, ...] = ("a", "b", "c", "d")
) -> dict[str, Any]:
    return {
        "clip_id": name,
        "span": list(span) if isinstance(span, tuple) else span,
        "text_q": "what is it",
        "text_a": list(answers),
        "text_s": SUBTITLES,
        "answer_idx": 2,
    }


def dataset(rows: Any, reader: Any, **skips: Any) -> VideoTextDataset:
    return VideoTextDataset(rows, reader, SkipLog(**skips))


def test_question_comes_first_and_subtitles_are_joined_into_what_is_left(
    tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    row = {"clip_id": "v_1", "text_q": "It is red.", "text_s": SUBTITLES, "answer": 0}
    rows = load_violin(write_json_lines(tmp_path / "rows.jsonl", [row]), videos)
    sample = dataset(rows, QuestionAnsweringReader(processor, training=False))[0]
    assert sample.sentences == ("It is red.", "red blue", "green", "the circle")
    batch = QuestionAnsweringCollator(processor)([sample])
    assert batch["input_ids"].shape == (1, 4, 12)
    assert batch["labels"].tolist() == [0]
    words = processor.tokenizer.decode(batch["input_ids"][0, 1], skip_special_tokens=True)
    assert words == "red blue"


def test_a_model_with_room_for_the_question_alone_refuses_subtitles(
    tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    processor.max_sentences = 1
    row = {"clip_id": "v_1", "text_q": "It is red.", "text_s": SUBTITLES, "answer": 0}
    rows = load_violin(write_json_lines(tmp_path / "rows.jsonl", [row]), videos)
    with pytest.raises(ValueError, match="leaves no room"):
        dataset(rows, QuestionAnsweringReader(processor, training=False))[0]


def test_every_answer_gets_the_question_before_it_and_the_subtitles_after_it(
    tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    rows = load_how2qa(write_json_lines(tmp_path / "rows.jsonl", [choice(), choice("v_1", float("nan"))]), videos)
    samples = [dataset(rows, MultipleChoiceReader(processor, training=False))[number] for number in range(2)]
    batch = MultipleChoiceCollator(processor, return_ids=True)(samples)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 4, 4, 12)
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 64, 96)
    for number, answer in enumerate("abcd"):
        decoded = [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"][0, number]]
        assert decoded == ["what is it", answer, "red blue green", "the circle"]
    # four seconds, four frames: seconds 1 to 3 are frames 1 and 2; an unknown span is everything
    assert batch["span_targets"].tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["sample_ids"] == ["v_0", "v_1"]


@pytest.mark.parametrize(
    ("span", "frames", "inside"),
    [
        ((0.0, 10.0), 8, range(0, 8)),
        ((5.0, 10.0), 8, range(4, 8)),
        ((0.1, 0.2), 8, range(0, 1)),  # never empty
        ((9.9, 10.0), 8, range(7, 8)),  # also not at the end
        ((2.5, 6.1), 8, range(2, 5)),
        ((9.0, 10.9), 8, range(7, 8)),  # what lies after the end is cut
    ],
)
def test_span_targets_are_the_released_ones(span: tuple[float, float], frames: int, inside: range) -> None:
    targets = span_targets(*span, 10.0, frames)
    assert targets.nonzero().flatten().tolist() == list(inside)
    # the weights that the model makes of them: every side of the span counts T / (2 * its frames)
    weights = span_weights_from_targets(targets[None])[0]
    assert weights[targets == 1].tolist() == pytest.approx([frames * 0.5 / len(inside)] * len(inside))


@pytest.mark.parametrize("span", [(4.0, 5.0), (1.0, 5.5)])
def test_a_span_outside_of_its_video_is_an_error_of_its_line_or_a_counted_skip(
    span: tuple[float, float], tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    rows = load_how2qa(write_json_lines(tmp_path / "rows.jsonl", [choice(), choice("v_1", span)]), videos)
    reader = MultipleChoiceReader(processor, training=True)
    with pytest.raises(AnnotationError, match=r"rows\.jsonl:2: the span .* outside its video of 4\.00 seconds"):
        dataset(rows, reader)[1]
    skipping = dataset(rows, reader, on_error="skip", max_skip_fraction=0.5)
    assert [skipping[0] is None, skipping[1] is None] == [False, True]
    assert len(skipping.skip_report()) == 1
    batch = MultipleChoiceCollator(processor)([skipping[0], skipping[1]])
    assert len(batch["labels"]) == 1


def test_a_broken_video_is_named_with_its_line(tmp_path: Path, videos: Path, processor: LFVilaProcessor) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [{"video_id": "broken", "recipe_type": 0}])
    rows = load_classification(path, videos, num_labels=2)
    with pytest.raises(LFVilaVideoError, match=r"broken\.mp4.*rows\.jsonl:1"):
        dataset(rows, ClassificationReader(processor, training=False))[0]


def test_a_batch_of_nothing_but_skipped_samples_is_an_error(processor: LFVilaProcessor) -> None:
    with pytest.raises(ValueError, match="all 2 samples"):
        VideoClassificationCollator(processor)([None, None])


def test_streamed_and_mapped_samples_are_the_same_with_workers(
    tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    files = [
        write_json_lines(tmp_path / f"{n}.jsonl", [{"video_id": f"v_{n}", "recipe_type": n}] * 2) for n in range(2)
    ]
    options = {"num_labels": 3}
    mapped = dataset(load_classification(files, videos, **options), ClassificationReader(processor, training=True))
    stream = StreamedDataset(
        load_classification(files, videos, streaming=True, **options), ClassificationReader(processor, training=True)
    )
    collate = VideoClassificationCollator(processor, return_ids=True)
    expected = collate([mapped[number] for number in range(4)])
    batches = list(DataLoader(stream, batch_size=2, num_workers=2, collate_fn=collate))
    assert sorted(name for batch in batches for name in batch["sample_ids"]) == expected["sample_ids"]
    for batch in batches:
        first = expected["sample_ids"].index(batch["sample_ids"][0])
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"][first : first + 2])
        assert batch["labels"].tolist() == expected["labels"][first : first + 2].tolist()


def test_an_answer_outside_of_the_vocabulary_is_no_class(
    tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    row = {"video_name": "v_0", "question": "what is it", "answer": OUTSIDE_VOCABULARY}
    path = write_json_lines(tmp_path / "rows.jsonl", [row, row | {"answer": 1}])
    rows = load_activitynet_qa(path, videos, num_answers=2, allow_outside=True)
    samples = dataset(rows, QuestionAnsweringReader(processor, training=False))
    assert QuestionAnsweringCollator(processor)([samples[0], samples[1]])["labels"].tolist() == [-100, 1]


@pytest.mark.parametrize("cached", [False, True])
def test_views_share_out_the_frames_of_the_whole_video(
    cached: bool, tmp_path: Path, videos: Path, processor: LFVilaProcessor
) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [{"video_id": "v_1", "recipe_type": 0}])
    rows = load_classification(path, videos, num_labels=1)
    cache = FrameStore(tmp_path / "cache") if cached else None
    seen = []
    for view in range(3):
        reader = ClassificationReader(processor, training=False, views=(view, 3), frame_cache=cache)
        sample = dataset(rows, reader)[0]
        frames = [number - 100 for number in read_barcodes(sample.pictures.round().to(torch.uint8))]
        assert frames == uniform_indices(FRAMES, 12)[view::3]
        assert sample.times == pytest.approx([frame / RATE for frame in frames])
        seen += frames
    assert sorted(seen) == uniform_indices(FRAMES, 12)
    plain = dataset(rows, ClassificationReader(processor, training=False))[0]
    assert [n - 100 for n in read_barcodes(plain.pictures.round().to(torch.uint8))] == uniform_indices(FRAMES, 4)


def test_views_are_for_evaluation_only(tmp_path: Path, videos: Path, processor: LFVilaProcessor) -> None:
    row = {"id": "v_0", "video": str(videos / "v_0.mp4"), "sentences": ["It is red."], "place": "rows:1"}
    reader = ViewedRetrievalReader(processor, training=True, views=(0, 2))
    with pytest.raises(ValueError, match="evaluation of whole videos"):
        reader(row, 0)
    with pytest.raises(ValueError, match="view=2 must lie in 0 to 1"):
        ViewedRetrievalReader(processor, training=False, views=(2, 2))
    sample = ViewedRetrievalReader(processor, training=False, views=(1, 2))(row, 0)
    assert sample.sentences == ("It is red.",) and len(sample.pictures) == 4
