"""OrderTwins: films and their twins, accuracies, sources of clips, scores of encoders, the command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tiny_models import VIDEO, tiny_config, tiny_model
from video_files import write_video

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor, cli
from lfvila_hf.evaluation import order_twins
from lfvila_hf.evaluation.order_twins import (
    KINDS,
    SCORES,
    ClipFolder,
    DatasetClips,
    TwinFilms,
    encode_films,
    evaluate_order_twins,
    format_table,
    load_order_twins,
    make_order_twins,
    twin_accuracies,
    wilson_interval,
)
from lfvila_hf.evaluation.order_twins.films import encode_clip, twin_orders
from lfvila_hf.evaluation.order_twins.scoring import pair_scores
from lfvila_hf.search.encoders import as_encoder
from lfvila_hf.video_reading_lfvila import read_frames

NUM_FILMS = 5
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "yellow": (220, 220, 30),
    "violet": (200, 30, 200),
    "turquoise": (30, 200, 200),
}


class ColourEncoder:
    """Mean colour of a clip, mean colour of the words of a sentence: right about clips, blind to order in them."""

    name = "colours"
    frames_per_clip = 3
    frame_size = 32

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        rows = []
        for sentence in sentences:
            words = [COLOURS[word] for word in sentence.lower().replace(".", "").split() if word in COLOURS]
            rows.append([*(np.mean(words, axis=0) / 255 - 0.5 if words else np.zeros(3)), 0.1])
        return np.array(rows)

    def encode_clips(self, clips: Sequence[Any]) -> np.ndarray:
        means = np.stack([clip.frames.float().mean((0, 2, 3)).numpy() / 255 - 0.5 for clip in clips])
        return np.concatenate([means, np.full((len(means), 1), 0.1)], axis=1)


def write_colour(path: Path, rgb: tuple[int, int, int], count: int) -> None:
    """Write a clip of one colour, 8 frames a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(count):
            picture = np.broadcast_to(np.array(rgb, dtype=np.uint8), (64, 96, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> TwinFilms:
    """Films of ShapeTales."""
    return make_order_twins(tmp_path_factory.mktemp("twins") / "films", num_films=NUM_FILMS, progress=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of coloured clips with one sentence each; read, not changed."""
    folder = tmp_path_factory.mktemp("clips") / "clips"
    folder.mkdir()
    rows = []
    for number, (colour, rgb) in enumerate(COLOURS.items()):
        write_colour(folder / f"{colour}.mp4", rgb, 8 + number)
        rows.append({"clip_id": f"{colour}.mp4", "text": f"The clip is {colour}"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def captions(folder: Path, *lines: Any) -> Path:
    """Write an annotation file."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "captions.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return folder


# -- films -----------------------------------------------------------------------------------------------------------


def test_a_twin_shows_the_same_frames_in_another_order_of_clips(films: TwinFilms) -> None:
    assert len(films.films) == NUM_FILMS * 4
    for kind in KINDS:
        pairs = films.pairs(kind)
        assert len(pairs) == NUM_FILMS
        original, twin = (films.films[index] for index in pairs[0])
        assert original.kind == "original" and twin.kind == kind and twin.base == original.base
        frames = [read_frames(films.path(film)) for film in (original, twin)]
        assert [len(one) for one in frames] == [original.first_frames[-1]] * 2 and frames[0].metadata.fps == 8
        assert not torch.equal(frames[0].frames, frames[1].frames)
        for place, clip in enumerate(twin.order):
            own = frames[0].frames[original.first_frames[clip] : original.first_frames[clip + 1]]
            assert torch.equal(own, frames[1].frames[twin.first_frames[place] : twin.first_frames[place + 1]])
            assert twin.sentences[place] == original.sentences[clip]


def test_films_made_twice_have_the_same_annotations_and_frames(films: TwinFilms, tmp_path: Path) -> None:
    again = make_order_twins(tmp_path / "again", num_films=NUM_FILMS, progress=False)
    assert (again.root / "films.jsonl").read_bytes() == (films.root / "films.jsonl").read_bytes()
    assert again.fingerprint == films.fingerprint
    for number, film in enumerate(films.films):
        assert films.path(film).read_bytes() == again.path(film).read_bytes(), film
        if number < 4:
            assert torch.equal(read_frames(films.path(film)).frames, read_frames(again.path(film)).frames), film
    other = make_order_twins(tmp_path / "other", num_films=1, seed=1, progress=False)
    assert other.fingerprint != films.fingerprint


def test_fewer_films_are_the_beginning_of_more(films: TwinFilms, tmp_path: Path) -> None:
    fewer = make_order_twins(tmp_path / "fewer", num_films=2, progress=False)
    assert fewer.films == films.films[:8]


@pytest.mark.parametrize("num_clips", [3, 4, 5, 8])
def test_the_kinds_of_twins_are_what_they_are_called(num_clips: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        orders = twin_orders(num_clips, generator)
        places = list(range(num_clips))
        assert list(orders) == ["original", *KINDS] and len(set(orders.values())) == 4
        assert all(sorted(order) == places for order in orders.values())
        assert orders["original"] == tuple(places) and orders["reversed"] == tuple(places[::-1])
        assert all(clip != place for place, clip in enumerate(orders["permuted"]))
        moved = [place for place, clip in enumerate(orders["swapped"]) if clip != place]
        assert len(moved) == 2 and moved[1] - moved[0] == 1
    with pytest.raises(ValueError, match="2 clips has no three different twins"):
        twin_orders(2, generator)


def test_the_stories_are_those_that_no_training_story_shares(films: TwinFilms) -> None:
    from lfvila_hf.shapetales.story_plan import StoryParameters, plan_stories

    plans = plan_stories(StoryParameters(train_stories=50))
    test, train = ({sentence for story in plans[split] for sentence in story.sentences} for split in ("test", "train"))
    told = {sentence for film in films.films for sentence in film.sentences}
    assert told <= test and len(told - train) > len(told) // 2


def test_a_folder_is_opened_again_and_other_films_are_refused(films: TwinFilms, tmp_path: Path) -> None:
    times = [films.path(film).stat().st_mtime_ns for film in films.films]
    again = make_order_twins(films.root, num_films=NUM_FILMS, progress=False)
    assert again.films == films.films and [again.path(film).stat().st_mtime_ns for film in again.films] == times
    with pytest.raises(ValueError, match="seed is 0 there and 3 here"):
        make_order_twins(films.root, num_films=NUM_FILMS, seed=3)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="is no folder of OrderTwins"):
        make_order_twins(tmp_path, num_films=1)
    copy = shutil.copytree(films.root, tmp_path / "copy")
    (copy / "videos" / f"{films.films[3].name}.mp4").unlink()
    with pytest.raises(ValueError, match="lacks 1 of 20 videos"):
        load_order_twins(copy)
    (copy / "films.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="is not the file that was made"):
        load_order_twins(copy)


def test_a_run_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(frames: np.ndarray, fps: int) -> list[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(order_twins.sources, "encode_clip", fail)
    with pytest.raises(OSError, match="No space"):
        make_order_twins(tmp_path / "films", num_films=1, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_films": 0}, "num_films is 0"), ({"num_films": 151}, "150 test stories"), ({"seed": -1}, "seed is -1")],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_order_twins(tmp_path / "films", **arguments)


def test_a_clip_is_one_closed_group_of_pictures() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), dtype=np.uint8)
    assert len(encode_clip(frames, 8)) == 6 and encode_clip(frames, 8) == encode_clip(frames, 8)


# -- accuracies ------------------------------------------------------------------------------------------------------


def test_accuracies_of_pairs_worked_out_by_hand() -> None:
    scores = torch.tensor(
        [
            [[0.9, 0.1], [0.2, 0.8]],  # all right
            [[0.9, 0.8], [0.5, 0.4]],  # one film is preferred by both paragraphs: pair ties, text to video 1/2
            [[0.1, 0.2], [0.2, 0.1]],  # all wrong
            [[0.5, 0.5], [0.5, 0.5]],  # all tie
        ]
    )
    found = twin_accuracies(scores)
    assert found["text_to_video"].value == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert found["video_to_text"].value == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert found["pair"].value == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    swapped = twin_accuracies(torch.tensor([[[0.9, 0.8], [0.85, 0.86]]]))
    assert [swapped[name].value for name in ("pair", "text_to_video", "video_to_text")] == [1, 1, 1]
    assert twin_accuracies(torch.tensor([[[0.9, 0.7], [0.95, 0.8]]]))["pair"].value == 1  # 1.7 against 1.65
    assert twin_accuracies(torch.tensor([[[0.9, 0.7], [0.95, 0.8]]]))["video_to_text"].value == 0.5


def test_differences_of_rounding_are_ties() -> None:
    scores = torch.tensor([[[0.5, 0.5 + 2e-7], [0.5, 0.5]]])
    assert all(accuracy.value == 0.5 for accuracy in twin_accuracies(scores).values())


@pytest.mark.parametrize("scores", [torch.zeros(0, 2, 2), torch.zeros(3, 2), torch.full((1, 2, 2), math.nan)])
def test_scores_without_meaning_are_refused(scores: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        twin_accuracies(scores)


@pytest.mark.parametrize(("share", "count"), [(0.5, 100), (0.9, 50), (0.0, 20), (1.0, 20), (0.37, 7)])
def test_the_interval_ends_where_the_share_lies_z_standard_errors_away(share: float, count: int) -> None:
    for end in wilson_interval(share, count):
        outside = end in (0.0, 1.0) and end == share
        assert outside or abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), rel=1e-6)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 observations"):
        wilson_interval(0.5, 0)


# -- encoders --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colour_films(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> TwinFilms:
    """Films of coloured clips, in turns of four and five."""
    source = ClipFolder(clips, clips_per_film=(4, 5), frame_size=(32, 48))
    return make_order_twins(tmp_path_factory.mktemp("colours") / "films", source, num_films=12, progress=False)


def test_a_score_that_is_blind_to_order_gives_one_half(colour_films: TwinFilms) -> None:
    encoder = as_encoder(ColourEncoder())
    result = evaluate_order_twins(encoder, colour_films, known_cuts=True, progress=False)
    accuracy = result["accuracy"]
    for kind in (*KINDS, "all"):
        for name in ("pair", "text_to_video", "video_to_text"):
            assert accuracy["pooled"][kind][name].value == accuracy["maxsim"][kind][name].value == 0.5  # ties
            assert accuracy["global"][kind][name].value == 0.5
        assert accuracy["aligned"][kind]["pair"].value == accuracy["aligned"][kind]["text_to_video"].value == 1.0
    assert result["pairs"] == 12 and list(accuracy) == list(SCORES)
    note = "global: 3 frames of films of up to 5 clips; which clips they show depends on the order"
    assert result["notes"] == [note]


def test_films_cut_into_equal_parts_leave_the_order_readable(colour_films: TwinFilms) -> None:
    result = evaluate_order_twins(as_encoder(ColourEncoder()), colour_films, num_clips=8, progress=False)
    for score in ("global", "pooled", "maxsim"):
        assert result["accuracy"][score]["all"]["pair"].value == 0.5
    assert result["accuracy"]["aligned"]["all"]["pair"].value > 0.9
    table = format_table(result)
    assert "colours: accuracy of the right twin, 12 pairs a kind, chance 0.50" in table and "8 equal parts" in table
    assert [line.split()[0] for line in table.splitlines() if " pair " in line and "score" not in line][-5:] == [
        *SCORES
    ]


def test_the_aligned_score_is_the_best_of_all_non_decreasing_maps(colour_films: TwinFilms) -> None:
    from itertools import combinations_with_replacement

    vectors = encode_films(as_encoder(ColourEncoder()), colour_films, num_clips=4, progress=False)
    pairs = colour_films.pairs("permuted")[:2]
    for pair, matrix in zip(pairs, pair_scores(vectors, pairs, "aligned"), strict=True):
        for row, text in enumerate(pair):
            for column, film in enumerate(pair):
                cosines = vectors[text].sentences.double() @ vectors[film].clips.double().T  # type: ignore[union-attr]
                maps = combinations_with_replacement(range(4), len(cosines))
                best = max(float(cosines[range(len(cosines)), list(one)].mean()) for one in maps)
                assert float(matrix[row, column]) == pytest.approx(best, abs=1e-9)


def lfvila(tokenizer: Any, **config: Any) -> Any:
    """A small LF-VILA encoder with random weights."""
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    processor = LFVilaProcessor(videos, tokenizer, max_sentence_length=8)
    model = tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tokenizer)}, **config))
    return as_encoder(model, processor)


def test_lf_vila_is_scored_by_its_own_clips(films: TwinFilms, tiny_tokenizer: Any) -> None:
    encoder = lfvila(tiny_tokenizer)
    result = evaluate_order_twins(encoder, films, progress=False)
    assert list(result["accuracy"]) == list(SCORES) and result["clips"] == "the model's own"
    vectors = encode_films(encoder, films, progress=False)[1]
    assert vectors.clips is not None and vectors.clips.shape == (VIDEO["num_clips"], 64)
    assert vectors.sentences is not None and len(vectors.sentences) == len(films.films[1].sentences)
    with pytest.raises(ValueError, match="cuts films into clips by itself"):
        encode_films(encoder, films, known_cuts=True)


def test_lf_vila_without_temporal_alignment_has_the_global_score_alone(films: TwinFilms, tiny_tokenizer: Any) -> None:
    result = evaluate_order_twins(lfvila(tiny_tokenizer, temporal_alignment=False), films, progress=False)
    assert list(result["accuracy"]) == ["global"]


# -- sources ---------------------------------------------------------------------------------------------------------


def test_a_film_of_own_footage_never_has_a_sentence_twice(clips: Path) -> None:
    source = ClipFolder(clips, clips_per_film=(4, 5))
    stories = source.stories(30, seed=0)
    assert [len(story.sentences) for story in stories] == [4, 5] * 15
    assert all(len(set(story.sentences)) == len(story.sentences) for story in stories)
    assert all(sentence.endswith(".") for story in stories for sentence in story.sentences)
    assert source.stories(30, seed=0) == stories != source.stories(30, seed=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "captions.jsonl:2: this is not JSON"),
        ({"clip_id": "red.mp4"}, "captions.jsonl:2: expected"),
        ({"clip_id": "red.mp4", "text": " "}, "captions.jsonl:2: expected"),
        ({"clip_id": "red.mp4", "text": ["One.", "Two."]}, "captions.jsonl:2: expected"),
        ({"clip_id": "../red.mp4", "text": "Red."}, "captions.jsonl:2: the name ../red.mp4 leads out"),
        ({"clip_id": "none.mp4", "text": "Red."}, "captions.jsonl:2: there is no file"),
        ({"clip_id": "green.mp4", "text": "Red."}, "captions.jsonl:2: green.mp4 has a second line"),
    ],
)
def test_a_wrong_line_is_named(line: Any, message: str, clips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clips, tmp_path / "clips")
    captions(folder, {"clip_id": "green.mp4", "text": "Green."}, line)
    with pytest.raises(ValueError, match=message) as error:
        ClipFolder(folder)
    assert "\n" not in str(error.value)


def test_bad_clips_are_refused_in_one_line(clips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clips, tmp_path / "clips")
    (folder / "red.mp4").write_bytes(b"no video")
    write_video(folder / "green.mp4", 3, fps=10)
    with pytest.raises(ValueError, match=r"2 of 6 clips cannot be used: red.mp4 \(.*; green.mp4 \(it lasts") as error:
        make_order_twins(tmp_path / "films", ClipFolder(folder), num_films=20, progress=False)
    assert "\n" not in str(error.value) and not (tmp_path / "films").exists()


def test_too_few_sentences_for_a_film_are_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 different sentences, but a film needs 7"):
        make_order_twins(tmp_path / "films", ClipFolder(clips, clips_per_film=7), num_films=1)
    with pytest.raises(ValueError, match="there is no .*captions.jsonl"):
        ClipFolder(tmp_path)
    with pytest.raises(ValueError, match="clips_per_film is 2"):
        ClipFolder(clips, clips_per_film=2)


def test_pictures_of_any_shape_fit_into_the_frame(clips: Path, tmp_path: Path) -> None:
    source = ClipFolder(clips, frame_size=(64, 64))
    frames = source._frames(0)
    assert frames.shape[1:] == (64, 64, 3)
    assert frames[0, 32, 32].tolist() == pytest.approx(COLOURS["red"], abs=12)
    assert frames[:, [0, -1]].max() < 3 and frames[:, 32, [0, -1]].max() > 100  # bars above and below, none beside


def test_a_set_of_the_datasets_library_gives_films(clips: Path, tmp_path: Path) -> None:
    from datasets import Dataset, Video

    names = list(COLOURS)
    columns = {
        "clip": [str(clips / f"{name}.mp4") for name in names],
        "told": [[f"The clip is {name}.", "Another."] for name in names],
    }
    dataset = Dataset.from_dict(columns).cast_column("clip", Video())
    source = DatasetClips(dataset, "clip", "told", frame_size=(32, 48), clips_per_film=4)
    found = make_order_twins(tmp_path / "films", source, num_films=3, progress=False)
    result = evaluate_order_twins(as_encoder(ColourEncoder()), found, known_cuts=True, progress=False)
    assert result["accuracy"]["aligned"]["all"]["pair"].value == 1.0
    with pytest.raises(ValueError, match="no column 'caption'"):
        DatasetClips(dataset, "clip")
    with pytest.raises(ValueError, match="row 1 of the data set has the caption"):
        DatasetClips(Dataset.from_dict({"video": ["a", "b"], "caption": ["One.", ""]}))


# -- the command -----------------------------------------------------------------------------------------------------


def colour_encoder() -> ColourEncoder:
    """What `--model` names."""
    return ColourEncoder()


def test_the_command_prints_one_table(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    own = ["--model", f"{Path(__file__).stem}:colour_encoder", "--footage", str(clips), "--known-cuts"]
    folder = ["--films", str(tmp_path / "films"), "--num-films", "4"]
    assert cli.main(["order-twins", *own, *folder]) == 0
    table = capsys.readouterr().out
    assert "4 pairs a kind" in table and "aligned   pair           1.00 [0.51, 1.00]" in table
    assert cli.main(["order-twins", *own, *folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"]["aligned"]["swapped"]["pair"][0] == 1.0 and found["films"]["source"] == "clips"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--footage", "nowhere"], "there is no such folder"),
        (["--footage", "a", "--dataset", "b"], "films come from one of them"),
        (["--num-films", "0"], "--num-films must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--split", "test"], "--split is for --dataset: leave it out"),
        (["--clips-per-film", "4"], "--clips-per-film is for --footage and --dataset: leave it out"),
        (["--dataset", "a", "--clips-per-film", "5", "2"], "--clips-per-film must be 3 or more, got 2"),
        (["--known-cuts", "--num-clips", "4"], "films are cut by one of them"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["order-twins", "--model", "x", *arguments]) == 1
    assert message in capsys.readouterr().err
