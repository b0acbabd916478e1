"""Rehearsal of MVEB(text, video): every task runs our checkpoint on stand-in data of the task's own layout.

Each task loads a local folder by its own code: rows with the columns, label names and kinds of values that the task
reads, and generated videos. What is rehearsed is everything but the download, so that a row of the leaderboard needs
weights alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import VIDEO, tiny_config, tiny_model
from transformers import BertTokenizer
from video_files import write_video

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor

pytest.importorskip("mteb", reason="mteb (the extra of that name) is not installed")

import mteb
from datasets import ClassLabel, Dataset, Features, List, Value, Video
from mteb.cache import ResultCache
from mteb.results import TaskResult

from lfvila_hf.hub.mteb_model import LFVilaMTEB

pytestmark = [pytest.mark.slow, pytest.mark.extras]

BENCHMARK = "MVEB(text, video)"
NUM_ROWS = 40  # of four classes, so that each of five folds has three or more
LABELS = ClassLabel(names=["riding", "falling", "rolling", "standing"])
# Columns beside the videos, by task.
LAYOUTS: dict[str, dict[str, Any]] = {
    "AVMemeExamT2VRetrieval": {"summary": Value("string")},
    "ActivityNetCaptionsT2VRetrieval": {"caption": Value("string")},
    "AudioCapsAVT2VRetrieval": {"caption": Value("string")},
    "DiDeMoV2TRetrieval": {"caption": Value("string")},
    "MSVDV2TRetrieval": {"caption": Value("string")},
    "Panda70MT2VRetrieval": {"caption": Value("string")},
    "VALOR32KT2VRetrieval": {"description": Value("string")},
    "VATEXT2VRetrieval": {"caption": Value("string")},
    "OmniVideoBenchVideoCentricQA": {
        "question": Value("string"),
        "candidates": List(Value("string")),
        "answer": Value("string"),
    },
    "AVMemeVideoClassification": {"category": LABELS},
    "BreakfastClassification": {"label": LABELS},
    "Kinetics700V": {"label": LABELS},
    "VGGSoundV": {"label": LABELS},
    "RAVDESSVideoClustering": {"emotion": LABELS},
    "HumanAnimalCartoonVPairClassification": {"video2": Video(), "label": Value("int64")},
    "Kinetics400ZeroShot": {"label": LABELS},
    "MELDVideoZeroShot": {"emotion": LABELS},
    "UCF101VideoZeroShotClassification": {"label": LABELS},
    "WorldSenseVideoZeroShot": {"domain": LABELS},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, int]) -> LFVilaMTEB:
    """A small model with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    tokenizer = BertTokenizer(vocab=dict(tiny_vocabulary))
    LFVilaProcessor(videos, tokenizer, max_sentence_length=8).save_pretrained(folder)
    tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tokenizer)})).save_pretrained(folder)
    return LFVilaMTEB(str(folder))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Generated videos, stored as the Hub stores them: bytes in the rows."""
    folder = tmp_path_factory.mktemp("videos")
    files = [write_video(folder / f"{number}.mp4", 12, first_number=50 * number) for number in range(NUM_ROWS)]
    return [{"bytes": file.read_bytes(), "path": file.name} for file in files]


def stand_in(folder: Path, name: str, videos: list[dict[str, Any]]) -> Path:
    """Write a data set of a task's layout that `load_dataset` reads from a folder."""
    first = "video1" if name.startswith("HumanAnimalCartoon") else "video"
    columns: dict[str, list[Any]] = {first: videos}
    for column, kind in LAYOUTS[name].items():
        if isinstance(kind, Video):
            columns[column] = videos[::-1]
        elif isinstance(kind, ClassLabel):
            columns[column] = [number % 4 for number in range(NUM_ROWS)]
        elif isinstance(kind, List):
            columns[column] = [["A man rides.", "A ball falls.", "It is blue."]] * NUM_ROWS
        elif column == "answer":
            columns[column] = ["A ball falls."] * NUM_ROWS
        elif kind == Value("int64"):
            columns[column] = [number % 2 for number in range(NUM_ROWS)]
        else:
            columns[column] = [f"The man rides box {number}. He falls." for number in range(NUM_ROWS)]
    features = Features({first: Video(), **LAYOUTS[name]})
    folder.mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(folder / "test-00000-of-00001.parquet")
    return folder


def test_every_task_of_the_benchmark_has_a_layout_here() -> None:
    assert {task.metadata.name for task in mteb.get_benchmark(BENCHMARK).tasks} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.filterwarnings("ignore")  # what the benchmark's own tasks are warned of
def test_a_task_gives_a_valid_result_file(
    name: str, model: LFVilaMTEB, videos: list[dict[str, Any]], tmp_path: Path
) -> None:
    (task,) = [task for task in mteb.get_benchmark(BENCHMARK).tasks if task.metadata.name == name]
    task = type(task)()
    dataset = {**task.metadata.dataset, "path": str(stand_in(tmp_path / "data", name, videos))}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    cache = ResultCache(tmp_path / "results")
    mteb.evaluate(model, task, cache=cache, co2_tracker=False, show_progress_bar=False)
    (file,) = (tmp_path / "results").rglob(f"{name}.json")
    result = TaskResult.from_disk(file)
    assert result.task_name == name and set(result.scores) == {"test"}
    scores = [row["main_score"] for row in result.scores["test"]]
    assert scores and all(0 <= score <= 1 for score in scores)
