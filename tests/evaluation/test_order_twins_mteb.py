"""OrderTwins as a task of MTEB, run by `mteb.evaluate`: blind, seeing and real models, result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mteb", reason="mteb (the extra of that name) is not installed")

import mteb
from mteb.cache import ResultCache
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.results import TaskResult
from tiny_models import VIDEO, tiny_config, tiny_model

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.evaluation.order_twins import KINDS, TwinFilms, evaluate_order_twins, make_order_twins
from lfvila_hf.evaluation.order_twins.mteb_task import OrderTwins
from lfvila_hf.hub.mteb_model import LFVilaMTEB
from lfvila_hf.search.encoders import load_encoder

pytestmark = [pytest.mark.slow, pytest.mark.extras]


class Reader(AbsEncoder):
    """Reads sentences off the annotations. A seeing one knows their order, a blind one only which there are."""

    def __init__(self, films: TwinFilms, sees_order: bool) -> None:
        self.films, self.sees_order, self.calls = films, sees_order, 0
        self.by_video = {str(films.path(film)): film.paragraph for film in films.films}
        fields = {
            "name": f"local/{'seeing' if sees_order else 'blind'}",
            "revision": "1",
            "modalities": ["video", "text"],
            "similarity_fn_name": ScoringFunction.COSINE,
        }
        self.mteb_model_meta = ModelMeta.create_empty(fields)

    def encode(self, inputs: Any, **kwargs: Any) -> torch.Tensor:
        from datasets import Video

        rows = inputs.dataset
        self.calls += 1
        if "video" in rows.column_names:
            paths = [row["path"] for row in rows.cast_column("video", Video(decode=False))["video"]]
            paragraphs = [self.by_video[path] for path in paths]
        else:
            paragraphs = list(rows["text"])
        return torch.stack([self._vector(paragraph) for paragraph in paragraphs])

    def _vector(self, paragraph: str) -> torch.Tensor:
        sentences = paragraph.replace(".", ".|").split("|")[:-1]
        vectors = [
            np.random.default_rng(list(sentence.strip().encode())).standard_normal(64)
            * (place + 1 if self.sees_order else 1)
            for place, sentence in enumerate(sentences)
        ]
        return torch.tensor(np.sum(vectors, axis=0))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> TwinFilms:
    return make_order_twins(tmp_path_factory.mktemp("twins") / "films", num_films=6, progress=False)


def evaluate(model: Any, films: Any, cache: Path | None = None) -> dict[str, dict[str, float]]:
    """The scores by kind, of the result object."""
    task = OrderTwins(films)
    found = mteb.evaluate(
        model, tasks=[task], cache=ResultCache(cache) if cache else None, co2_tracker=False, show_progress_bar=False
    )
    (result,) = found.task_results
    return {row["hf_subset"]: row for row in result.scores["test"]}


def test_a_blind_model_has_one_half_and_a_seeing_one_is_right(films: TwinFilms) -> None:
    blind, seeing = (evaluate(Reader(films, sees), films) for sees in (False, True))
    assert set(blind) == set(KINDS)
    for kind in KINDS:
        assert blind[kind]["main_score"] == blind[kind]["pair_accuracy"] == 0.5  # ties
        assert blind[kind]["pair_accuracy_low"] < 0.5 < blind[kind]["pair_accuracy_high"]
        for name in ("main_score", "text_to_video_accuracy", "video_to_text_accuracy"):
            assert seeing[kind][name] == 1.0
        assert seeing[kind]["num_pairs"] == 6


def test_result_files_are_valid_and_know_their_films(films: TwinFilms, tmp_path: Path) -> None:
    model = Reader(films, True)
    evaluate(model, films, tmp_path / "results")
    other = make_order_twins(tmp_path / "other", num_films=3, seed=1, progress=False)
    evaluate(Reader(other, True), other, tmp_path / "results")
    files = sorted((tmp_path / "results").rglob("OrderTwins*.json"))
    results = {(one := TaskResult.from_disk(file)).dataset_revision: one for file in files}
    assert len(results) == len({file.name for file in files}) == 2
    assert all(result.get_score() == 1.0 for result in results.values())
    calls = model.calls
    assert evaluate(model, films, tmp_path / "results")["swapped"]["main_score"] == 1.0
    assert model.calls == calls == 6, "what is stored was computed again"


def test_a_task_keeps_its_films_after_it_was_evaluated(films: TwinFilms) -> None:
    task = OrderTwins(films.root)
    name = task.metadata.name
    assert name.startswith("OrderTwins-") and OrderTwins.metadata.name == "OrderTwins"
    assert task.metadata.prompt == OrderTwins.metadata.prompt != ""
    for sees, score in ((True, 1.0), (False, 0.5)):
        found = mteb.evaluate(Reader(films, sees), tasks=[task], cache=None, co2_tracker=False)
        assert found.task_results[0].get_score() == score and task.metadata.name == name


def test_our_checkpoint_has_the_accuracy_of_its_global_score(
    films: TwinFilms, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    # As many sentences as a story may have: the search would read a longer one in several paragraphs.
    processor = LFVilaProcessor(videos, tiny_tokenizer, max_sentences=8, max_sentence_length=8)
    processor.save_pretrained(tmp_path)
    text = {"vocab_size": len(tiny_tokenizer), "max_sentences": 8, "max_position_embeddings": 64}
    config = tiny_config(text=text)
    tiny_model(LFVilaModel, config).save_pretrained(tmp_path)
    found = evaluate(LFVilaMTEB(str(tmp_path)), films)
    expected = evaluate_order_twins(load_encoder(str(tmp_path)), films, progress=False)["accuracy"]["global"]
    for kind in KINDS:
        assert found[kind]["pair_accuracy"] == pytest.approx(expected[kind]["pair"].value)
