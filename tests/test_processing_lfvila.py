"""The processor: text of every nesting to `(B, M, L)`, merging and padding, saving, and seconds from alignments.

Pixels are pinned in `test_video_processing_lfvila.py`; here videos only have to arrive. The tokenizer is built in
memory.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor, BertTokenizer
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from video_files import write_video

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.processing_lfvila import LFVilaProcessor, SentenceMoment, merge_sentences
from lfvila_hf.video_processing_lfvila import LFVilaVideoMetadata, LFVilaVideoProcessor
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "rides", "he", "falls", "then", "sleeps", "."]
CLS, SEP = 2, 3


@pytest.fixture
def processor() -> LFVilaProcessor:
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    video_processor = LFVilaVideoProcessor(size={"height": 24, "width": 40}, num_frames=8)
    return LFVilaProcessor(video_processor, tokenizer, max_sentences=3, max_sentence_length=6)


def test_sentences_are_framed_padded_and_cut(processor: LFVilaProcessor) -> None:
    batch = processor(text=[["a man rides", "he falls then sleeps a man"], ["he"]])
    assert batch["input_ids"].tolist() == [
        [[CLS, 5, 6, 7, SEP, 0], [CLS, 8, 9, 10, 11, SEP]],
        [[CLS, 8, SEP, 0, 0, 0], [0] * 6],
    ]
    assert batch["attention_mask"].tolist() == [
        [[1, 1, 1, 1, 1, 0], [1] * 6],
        [[1, 1, 1, 0, 0, 0], [0] * 6],
    ]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("a man rides", (1, 1, 6)),
        (["a man", "he falls", "he"], (3, 1, 6)),
        ([["a man", "he falls"], ["he"]], (2, 2, 6)),
        ((("a man",),), (1, 1, 6)),
        ([[["a"], ["he", "man"]], [["a"], ["he"]], [["a"], ["a", "a", "a"]]], (3, 2, 3, 6)),
    ],
)
def test_nesting_decides_the_shape(processor: LFVilaProcessor, text: Any, shape: tuple[int, ...]) -> None:
    batch = processor(text=text)
    assert tuple(batch["input_ids"].shape) == tuple(batch["attention_mask"].shape) == shape


def test_answers_stay_with_their_question(processor: LFVilaProcessor) -> None:
    ids = processor(text=[[["a"], ["he", "man"]], [["falls"], ["then"]]])["input_ids"]
    assert ids[:, :, :, 1].tolist() == [[[5, 0], [8, 6]], [[9, 0], [10, 0]]]


def test_a_long_paragraph_is_merged_by_the_released_rule(processor: LFVilaProcessor) -> None:
    assert merge_sentences(["aaaa", "b", "cc", "d", "eeeeee"], 3) == ["aaaa", "b cc d", "eeeeee"]
    assert merge_sentences(["a", "b", "c"], 2) == ["a b", "c"]
    assert merge_sentences(["a", "b"], 8) == ["a", "b"]
    batch = processor(text=[["a man rides", "he", "he", "falls", "a man sleeps"]])
    assert batch["input_ids"][0, :, 1:5].tolist() == [[5, 6, 7, SEP], [8, 8, 9, SEP], [5, 6, 11, SEP]]


def test_merging_keeps_every_word_in_order() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        sentences = ["x" * int(size) for size in generator.integers(1, 30, int(generator.integers(1, 12)))]
        for limit in (1, 2, 4):
            merged = merge_sentences(sentences, limit)
            assert " ".join(merged) == " ".join(sentences)
            assert len(merged) == min(limit, len(sentences))


def test_paragraphs_can_be_filled_up_to_a_fixed_number_of_sentences(processor: LFVilaProcessor) -> None:
    assert tuple(processor(text="he", pad_to_max_sentences=True)["input_ids"].shape) == (1, 3, 6)
    assert tuple(processor(text=[["he"] * 5], max_sentences=4)["input_ids"].shape) == (1, 4, 6)
    assert tuple(processor(text="he", max_sentence_length=9)["input_ids"].shape) == (1, 1, 9)
    assert tuple(processor(text="he", text_kwargs={"max_length": 8})["input_ids"].shape) == (1, 1, 8)


def test_texts_and_videos_arrive_together_in_any_number(processor: LFVilaProcessor, tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", 12)
    array = np.zeros((5, 20, 30, 3), np.uint8)
    batch = processor(text=[["a man", "he falls"]], videos=[path, array], return_tensors="pt", return_metadata=True)
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values_videos", "video_metadata"}
    assert tuple(batch["pixel_values_videos"].shape) == (2, 8, 3, 24, 40)
    assert [entry.source for entry in batch["video_metadata"]] == [str(path), "ndarray (5, 20, 30, 3)"]
    assert set(processor(videos=path)) == {"pixel_values_videos"}
    assert isinstance(processor(videos=path, text="he", return_tensors="np")["input_ids"], np.ndarray)
    assert tuple(processor(videos=path, num_frames=2)["pixel_values_videos"].shape) == (1, 2, 3, 24, 40)
    assert tuple(processor(videos=path, videos_kwargs={"num_frames": 3})["pixel_values_videos"].shape[:2]) == (1, 3)


def test_one_generator_drives_every_random_choice(processor: LFVilaProcessor, tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", 12)

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        first = processor(videos=path, training=True, generator=generator)["pixel_values_videos"]
        second = processor(videos=path, training=True, generator=generator)["pixel_values_videos"]
        return torch.cat([first, second])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    once = processor(videos=[path, path], training=True, seed=1)["pixel_values_videos"]
    assert torch.equal(once, draw(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "text is an empty list"),
        ([["a"], []], "text 1 is an empty list"),
        ("  ", "text is empty"),
        (["a", ""], "text 1 is empty"),
        ([["a", "\n"]], "sentence 1 of text 0 is empty"),
        ([["a", 3]], "sentence 1 of .*text 0|must be a list"),
        ([3], "text 0 must be a list"),
        (["a", ["he"]], "text 0 must be a list"),
        ([[["a"], ["he"]], [["a"]]], "equally many answers, got \\[1, 2\\]"),
        ([[["a"], [""]]], "sentence 0 of answer 1 of text 0 is empty"),
        (None, "needs text, videos or both"),
    ],
)
def test_text_that_cannot_be_used_is_named(processor: LFVilaProcessor, text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(text=text)


def test_other_bad_input_is_named(processor: LFVilaProcessor, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="does not know the arguments \\['colour'\\]"):
        processor(text="he", colour=3)
    with pytest.raises(ValueError, match="always padded and cut"):
        processor(text="he", text_kwargs={"padding": False})
    with pytest.raises(LFVilaVideoError, match="no such file"):
        processor(text="he", videos=tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="max_sentences must be at least 1, got 0"):
        LFVilaProcessor(processor.video_processor, processor.tokenizer, max_sentences=0)
    with pytest.raises(ValueError, match="max_sentences must be at least 1, got 0"):
        processor(text="a man", max_sentences=0)
    with pytest.raises(ValueError, match="at least 3, got 0"):
        processor(text="a man", max_sentence_length=0)
    for length in (10**7, 10**12):
        with pytest.raises(ValueError, match=f"max_sentence_length must be at most 4096, got {length}"):
            processor(text="a man", max_sentence_length=length)
        with pytest.raises(ValueError, match=f"at most 4096, got {length}"):
            processor(text="a man", max_sentences=length, pad_to_max_sentences=True)
    with pytest.raises(ValueError, match="max_sentence_length .* got 2"):
        processor(text="he", max_sentence_length=2)


def test_saving_and_loading_give_the_same_processor(processor: LFVilaProcessor, tmp_path: Path) -> None:
    AutoVideoProcessor.register(LFVilaConfig, LFVilaVideoProcessor, exist_ok=True)  # as importing the package does
    processor.save_pretrained(tmp_path)
    again = LFVilaProcessor.from_pretrained(tmp_path)
    assert (again.max_sentences, again.max_sentence_length, again.pad_to_max_sentences) == (3, 6, False)
    saved = again.to_dict()
    saved.pop("auto_map", None)  # names the code that was saved beside it, where the package has been imported
    assert saved == {name: value for name, value in processor.to_dict().items() if name != "auto_map"}
    video = np.random.default_rng(0).integers(0, 255, (9, 20, 30, 3), dtype=np.uint8)
    one, two = (each(text=[["a man", "he falls"]], videos=video) for each in (processor, again))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


# Alignment.


# -- calls as generic code makes them --------------------------------------------------------------------------------


def test_generic_keywords_that_ask_for_what_happens_anyway_are_accepted(processor: LFVilaProcessor) -> None:
    plain = processor(text=["a man"])
    generic = processor(text=["a man"], padding=True, truncation=True, images=None, audio=None, max_length=6)
    assert torch.equal(plain["input_ids"], generic["input_ids"])
    idle = {"padding": "longest", "return_attention_mask": True, "return_token_type_ids": False, "verbose": False}
    idle |= {"add_special_tokens": True, "pad_to_multiple_of": None, "padding_side": "right", "return_length": False}
    assert torch.equal(plain["input_ids"], processor(text=["a man"], **idle)["input_ids"])
    assert torch.equal(plain["input_ids"], processor(text=["a man"], text_kwargs=idle)["input_ids"])
    for keywords in (
        {"padding": False},
        {"return_token_type_ids": True},
        {"padding_side": "left"},
        {"truncation": "only_second"},
        {"images": [1]},
    ):
        with pytest.raises(TypeError, match="does not know the arguments"):
            processor(text=["a man"], **keywords)


def test_columns_of_data_sets_and_arrays_are_batches(processor: LFVilaProcessor, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(tmp_path / f"{name}.mp4") for name in "ab"]
    for path in paths:
        write_video(path, 8)
    rows = datasets.Dataset.from_dict({"text": [["a man", "he"], ["then"]], "title": ["a", "he falls"], "video": paths})
    expected = processor(text=[["a man", "he"], ["then"]], videos=paths)
    found = processor(text=rows["text"], videos=rows["video"])
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    titles = processor(text=["a", "he falls"])["input_ids"]
    assert torch.equal(processor(text=rows["title"])["input_ids"], titles)
    assert torch.equal(processor(text=np.array(["a", "he falls"]))["input_ids"], titles)
    pandas = pytest.importorskip("pandas")
    for column in (
        pandas.Series(paths),
        pandas.Series(paths, dtype="string"),
        np.array(paths),
        np.array(paths, object),
    ):
        assert torch.equal(processor(videos=column)["pixel_values_videos"], expected["pixel_values_videos"])
    with pytest.raises(ValueError, match=r"an array of videos has 4 axes .* got the shape \(3,\)"):
        processor(videos=np.zeros(3))


def test_sentences_are_cut_and_padded_on_the_right_whatever_the_tokenizer_was_set_to(
    processor: LFVilaProcessor,
) -> None:
    text = ["a man", "a man of the red box rides in a circle and then to the ball"]
    expected = processor(text=text)
    assert expected["attention_mask"].sum(-1)[1] == expected["input_ids"].shape[-1], "the second one is cut"
    tokenizer = processor.tokenizer
    for name, value in {"padding_side": "left", "truncation_side": "left", "model_max_length": 3}.items():
        before = getattr(tokenizer, name)
        setattr(tokenizer, name, value)
        found = processor(text=text)
        setattr(tokenizer, name, before)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    tokenizer.backend_tokenizer.enable_truncation(max_length=3)
    tokenizer.backend_tokenizer.enable_padding(length=30, direction="left")
    found = processor(text=text)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_sizes_are_given_to_the_processor_and_the_configuration_says_where_they_live(
    processor: LFVilaProcessor, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path)
    LFVilaConfig.tiny().save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, num_frames=4, max_sentences=2)
    assert (loaded.video_processor.num_frames, loaded.max_sentences) == (4, 2)
    with pytest.raises(ValueError, match=r"num_frames follows from .* `video_config.num_frames`"):
        AutoConfig.from_pretrained(tmp_path, num_frames=4)


def _metadata(times: list[float] | None, duration: float | None) -> LFVilaVideoMetadata:
    return LFVilaVideoMetadata(total_num_frames=100, duration=duration, source="a.mp4", times=times)


def test_sentences_get_the_seconds_of_their_clips(processor: LFVilaProcessor) -> None:
    clips = torch.eye(4)[None].repeat(2, 1, 1)
    sentences = torch.stack([torch.eye(4)[[0, 1, 3]], torch.eye(4)[[2, 2, 0]]])
    outputs = SimpleNamespace(
        sentence_embeds=sentences, clip_embeds=clips, sentence_mask=torch.tensor([[1, 1, 1], [1, 1, 0]])
    )
    metadata = [_metadata([0.0, 1, 2, 3, 4, 5, 6, 7], 8.0), _metadata([0.0, 0.5, 1, 1.5, 10, 11, 12, 13], 20.0)]
    first, second = processor.post_process_alignment(outputs, metadata)
    assert first == [(0, 0.0, 2.0, 1.0), (1, 2.0, 4.0, 1.0), (2, 6.0, 8.0, 1.0)]
    assert second == [(0, 10.0, 12.0, 1.0), (1, 10.0, 12.0, 1.0)]
    assert isinstance(first[0], SentenceMoment)
    as_mapping = {"sentence_embeds": sentences, "clip_embeds": clips}
    assert [len(row) for row in processor.post_process_alignment(as_mapping, metadata)] == [3, 3]


def test_later_sentences_never_go_back_in_time(processor: LFVilaProcessor) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        outputs = {"sentence_embeds": torch.randn(3, 4, 8, generator=generator)}
        outputs["clip_embeds"] = torch.randn(3, 4, 8, generator=generator)
        for row in processor.post_process_alignment(outputs, [_metadata([float(t) for t in range(8)], 8.0)] * 3):
            assert [moment.start for moment in row] == sorted(moment.start for moment in row)
            assert all(moment.end - moment.start == 2 for moment in row)


def test_alignment_of_what_cannot_be_aligned_is_refused(processor: LFVilaProcessor) -> None:
    outputs = {"sentence_embeds": torch.ones(1, 2, 4), "clip_embeds": torch.ones(1, 3, 4)}
    with pytest.raises(ValueError, match="8 frames of a.mp4 cannot be split into 3 clips"):
        processor.post_process_alignment(outputs, [_metadata([float(t) for t in range(8)], 8.0)])
    with pytest.raises(ValueError, match="1 texts, 1 videos and 0 entries"):
        processor.post_process_alignment(outputs, [])
    with pytest.raises(ValueError, match="is not known"):
        processor.post_process_alignment(outputs, [_metadata(None, None)])
    with pytest.raises(ValueError, match="no clip_embeds"):
        processor.post_process_alignment({"sentence_embeds": torch.ones(1, 2, 4)}, [_metadata([0.0], 1.0)])
