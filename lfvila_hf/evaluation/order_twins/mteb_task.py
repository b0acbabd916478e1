# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""OrderTwins as a task of MTEB, for any of its video-text encoders (extra `mteb`).

    import mteb
    from lfvila_hf.evaluation.order_twins.mteb_task import OrderTwins
    mteb.evaluate(model, tasks=[OrderTwins("order_twins")])

An encoder of MTEB gives one vector per paragraph and film, so this is the score "global" of `lfvila-hf order-twins`. A
late-interaction model is scored by its own similarity. The kinds of twins are the subsets of the task, and the main
score is the accuracy by pair.

The type is "Compositionality", which MTEB has for images whose captions differ in the order of words. Its base class
reads images alone and counts a tie as right or wrong by position, so a subset is evaluated here. MTEB has no type of
task for moments: an encoder gives one vector per input, and no seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, Video, concatenate_datasets
from mteb._create_dataloaders import create_dataloader
from mteb.abstasks._statistics_calculation import calculate_text_statistics
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol

from lfvila_hf.evaluation.order_twins.films import KINDS, TwinFilms, load_order_twins, make_order_twins
from lfvila_hf.evaluation.order_twins.scoring import twin_accuracies
from lfvila_hf.shapetales.generate import BENCHMARK_VERSION

SPLIT = "test"
STANDARD = ("ShapeTales", BENCHMARK_VERSION, 100, 0)
"""Source, its version, number of films and seed of the films whose results are called "OrderTwins"."""


class OrderTwins(AbsTask):
    """Choice between two films, or two paragraphs, with the same events in different orders.

    Args:
        films: Films from `make_order_twins` or `load_order_twins`, or the folder of films, which is made with the
            defaults (100 films of ShapeTales, seed 0) if it does not exist.
        **kwargs: Arguments of `AbsTask`.
    """

    data_loaded: bool = False
    metadata = TaskMetadata(
        name="OrderTwins",
        description="Films whose clips are joined in different orders, and paragraphs with a sentence per clip: "
        "whether the right paragraph is told from the one in the other order. Subsets are the kinds of twins: all "
        "clips reversed, permuted, or two neighbours swapped. A score that ignores order gives 0.5.",
        dataset={"path": "lfvila_hf/OrderTwins", "revision": "1"},
        type="Compositionality",
        category="t2v",
        modalities=["video", "text"],
        eval_splits=[SPLIT],
        eval_langs={kind: ["eng-Latn"] for kind in KINDS},
        main_score="pair_accuracy",
        prompt="Identify the paragraph that tells the events of the video in their order.",
        date=("2026-11-01", "2026-11-30"),
        domains=["Constructed", "Animation"],
        task_subtypes=["Caption Pairing"],
        license="mit",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
        is_public=True,
    )

    def __init__(self, films: TwinFilms | str | os.PathLike[str], **kwargs: Any) -> None:
        if not isinstance(films, TwinFilms):
            made = (Path(films) / "manifest.json").is_file()
            films = load_order_twins(films) if made else make_order_twins(films, progress=False)
        self.films = films
        standard = tuple(films.settings.get(key) for key in ("source", "source_version", "num_films", "seed"))
        # Results are stored by the task's name: those of other films have another one.
        content = hashlib.sha256(json.dumps(films.settings, sort_keys=True).encode()).hexdigest()
        name = self.metadata.name + ("" if standard == STANDARD else f"-{content[:12]}")
        dataset = {**self.metadata.dataset, "revision": content}
        self.metadata = self.metadata.model_copy(update={"name": name, "dataset": dataset})
        super().__init__(**kwargs)

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Make the data set of every kind: two paragraphs and two undecoded videos per pair."""
        if self.data_loaded:
            return
        self.dataset = {}
        for kind in KINDS:
            pairs = [[self.films.films[index] for index in pair] for pair in self.films.pairs(kind)]
            columns: dict[str, list[str]] = {}
            for place in range(2):
                columns[f"text_{place}"] = [pair[place].paragraph for pair in pairs]
                columns[f"video_{place}"] = [str(self.films.path(pair[place])) for pair in pairs]
            rows = Dataset.from_dict(columns)
            for place in range(2):
                rows = rows.cast_column(f"video_{place}", Video())
            self.dataset[kind] = DatasetDict({SPLIT: rows})
        self.data_loaded = True

    def unload_data(self) -> None:
        """Unload the data set; name and revision of the films stay."""
        metadata = self.metadata
        super().unload_data()
        self.metadata = metadata

    def _evaluate_subset(
        self,
        model: Any,
        data_split: Dataset,
        *,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Any,
        prediction_folder: Path | None = None,
        num_proc: int | None = None,
        timer: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if not isinstance(model, EncoderProtocol):
            raise TypeError(f"{type(model).__name__} is no encoder of MTEB: it has no encode and similarity")
        place: dict[str, Any] = {"hf_split": hf_split, "hf_subset": hf_subset}
        vectors = []
        for modality in ("text", "video"):
            columns = [data_split.select_columns([f"{modality}_{side}"]) for side in range(2)]
            rows = concatenate_datasets([one.rename_column(one.column_names[0], modality) for one in columns])
            loader = create_dataloader(rows, task_metadata=self.metadata, num_proc=num_proc, **encode_kwargs)
            with timer(f"Encoding {modality}s", split=hf_split, subset=hf_subset):
                vectors.append(model.encode(loader, task_metadata=self.metadata, **place, **encode_kwargs))
        count = len(data_split)
        similarity = torch.as_tensor(model.similarity(*vectors)).cpu()  # (2 P, 2 P): all originals, then all twins
        scores = similarity.view(2, count, 2, count).diagonal(dim1=1, dim2=3).permute(2, 0, 1)  # (P, 2, 2)
        if prediction_folder:
            self._save_task_predictions(scores.tolist(), model, prediction_folder, **place)
        found: dict[str, Any] = {"num_pairs": count}
        for name, accuracy in twin_accuracies(scores).items():
            found |= {
                f"{name}_accuracy": accuracy.value,
                f"{name}_accuracy_low": accuracy.low,
                f"{name}_accuracy_high": accuracy.high,
            }
        return found

    def _calculate_descriptive_statistics_from_split(
        self, split: str, *, hf_subset: str | None = None, compute_overall: bool = False, num_proc: int | None = None
    ) -> Any:
        kinds = KINDS if hf_subset is None else (hf_subset,)
        films = [self.films.films[index] for kind in kinds for pair in self.films.pairs(kind) for index in pair]
        texts = [film.paragraph for film in films]
        return {"num_samples": len(films) // 2, "text_statistics": calculate_text_statistics(texts)}
