"""Videos to rows: the numbers are those of `encode_videos`, whatever runs ahead and whatever else is in the list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_library import RULE, D, K, make_model, make_processor, make_videos

from lfvila_hf import LFVilaVideoError, encode_videos
from lfvila_hf.library.embedding import SegmentEncoder, VideoFile
from lfvila_hf.library.segments import SegmentRule
from lfvila_hf.library.table import FileStamp, vectors_of


def files(paths: list[Path]) -> list[VideoFile]:
    return [VideoFile(path.name, str(path), FileStamp.of(path)) for path in paths]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_videos(tmp_path_factory.mktemp("embedding"))


def test_a_video_of_one_segment_has_the_features_of_encode_videos(
    videos: list[Path], tiny_vocabulary: dict[str, int]
) -> None:
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    encoder = SegmentEncoder(model, processor, SegmentRule(60))
    expected = encode_videos(model.model, processor, [str(path) for path in videos], batch_size=1)
    for number, (video, table) in enumerate(encoder.encode_files(files(videos))):
        assert isinstance(table, pa.Table) and video.path == f"clip_{number}.mp4"
        assert np.allclose(vectors_of(table, "segment_embedding"), expected.video_embeds[number].numpy(), atol=1e-6)
        clips = vectors_of(table, "clip_embeddings").reshape(K, D)
        assert expected.clip_embeds is not None
        assert np.allclose(clips, expected.clip_embeds[number].numpy(), atol=1e-6)
        metadata = expected.metadata[number]
        assert table["clip_times"][0].as_py() == [
            *metadata.timestamps[:: len(metadata.timestamps) // K],
            metadata.duration,
        ]
        assert table["end"].to_pylist() == [metadata.duration] == table["duration"].to_pylist()


def test_rows_depend_on_the_file_alone(videos: list[Path], tiny_vocabulary: dict[str, int]) -> None:
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    together = {
        video.path: table
        for video, table in SegmentEncoder(model, processor, RULE, batch_size=2, num_workers=3).encode_files(
            files(videos)
        )
    }
    assert [len(together[f"clip_{n}.mp4"]) for n in range(4)] == [1, 4, 1, 3]
    for video in files(videos[::-1]):
        ((_, alone),) = SegmentEncoder(model, processor, RULE, batch_size=2).encode_files([video])
        assert isinstance(alone, pa.Table) and alone.equals(together[video.path])


def test_a_broken_video_is_an_answer_and_the_others_go_on(
    videos: list[Path], tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(videos[1].read_bytes()[:700])
    listed = files([videos[0], tmp_path / "broken.mp4", videos[2]])
    listed.append(VideoFile("gone.mp4", str(tmp_path / "gone.mp4"), FileStamp(1, 1)))
    encoder = SegmentEncoder(make_model(tiny_vocabulary), make_processor(tiny_vocabulary), RULE)
    answers = {video.path: answer for video, answer in encoder.encode_files(listed)}
    assert [type(answer) for answer in answers.values()] == [pa.Table, LFVilaVideoError, pa.Table, LFVilaVideoError]
    assert "no such file" in str(answers["gone.mp4"])
    assert set(encoder.watch.seconds) == {"decode", "model", "thumbnails"}


def test_a_model_without_temporal_alignment_has_segments_only(
    videos: list[Path], tiny_vocabulary: dict[str, int]
) -> None:
    model = make_model(tiny_vocabulary, temporal_alignment=False)
    ((_, table),) = SegmentEncoder(model, make_processor(tiny_vocabulary), RULE).encode_files(files(videos[:1]))
    assert isinstance(table, pa.Table) and "clip_embeddings" not in table.column_names
    assert not model.training and torch.is_grad_enabled()
