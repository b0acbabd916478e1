"""`lfvila-hf prepare` on every original layout: small rows written here always, real sample rows where they are.

Every prepared file is read back by the loaders of `task_annotations` and `annotations`.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from video_files import write_video

from lfvila_hf.cli import main
from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.task_annotations import load_activitynet_qa, load_classification, load_how2qa, load_violin
from lfvila_hf.prepare.annotation_files import Source, split_of
from lfvila_hf.prepare.paragraph_layouts import split_sentences
from lfvila_hf.prepare.prepare_task import prepare
from lfvila_hf.prepare.video_folder import VideoFolder

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "annotations"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample rows of the public files at {SAMPLES}")


@pytest.fixture(scope="module")
def one_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "one.mp4", 20, size=(32, 48), fps=10)


class Workplace:
    """A source folder, a folder of videos and an output folder."""

    def __init__(self, root: Path, video: Path) -> None:
        self.source, self.videos, self.output = (root / name for name in ("source", "videos", "output"))
        self.source.mkdir()
        self.videos.mkdir()
        self.video = video

    def write(self, name: str, content: Any) -> Path:
        path = self.source / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def film(self, *names: str) -> None:
        for name in names:
            path = self.videos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.video, path)

    def run(self, task: str, *options: str, status: int = 0) -> dict[str, Any]:
        command = ["prepare", task, "--source", self.source, "--videos", self.videos, "--output", self.output, *options]
        assert main([str(word) for word in command]) == status
        return json.loads((self.output / "report.json").read_text())

    def rows(self, split: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture
def work(tmp_path: Path, one_video: Path) -> Workplace:
    return Workplace(tmp_path, one_video)


# -- paragraphs ------------------------------------------------------------------------------------------------------


def test_activitynet_captions_follow_the_lists_and_each_split_its_own_file(work: Workplace) -> None:
    entry = {"duration": 2.0, "timestamps": [[1.0, 2.0], [0.0, 1.0]], "sentences": [" He falls.", "A man rides. "]}
    work.write("train.json", {"v_a": entry, "v_z": entry})
    work.write("val_1.json", {"v_b": {**entry, "sentences": ["One.", "Two."]}})
    work.write("val_2.json", {"v_b": {**entry, "sentences": ["Three.", "Four."]}})
    train, val = work.write("train_list.txt", "v_a\nv_lost\n"), work.write("val_1_list.txt", "v_b\n")
    work.film("v_a.mp4", "b.mkv")
    report = work.run("activitynet", "--list", f"train={train}", "--list", f"val_1={val}")
    assert work.rows("train") == [
        {
            "clip_id": "v_a",
            "text": ["He falls.", "A man rides."],
            "timestamps": [[1.0, 2.0], [0.0, 1.0]],
            "duration": 2.0,
        }
    ]
    assert work.rows("val1")[0]["text"] == ["One.", "Two."] and work.rows("val1")[0]["clip_id"] == "b.mkv"
    assert report["splits"]["train"] == {
        "rows": 2, "written": 1, "videos": 1, "missing": 0, "broken": 0, "dropped": 1
    }  # fmt: skip
    assert report["problems"][0]["video"] == "v_lost"
    rows = load_retrieval(work.output / "train.jsonl", work.videos)
    assert rows[0]["sentences"] == ["He falls.", "A man rides."]
    work.run("activitynet", "--list", f"train={train}", "--order", "time")
    assert work.rows("train")[0]["text"] == ["A man rides.", "He falls."]
    assert work.rows("train")[0]["timestamps"] == [[0.0, 1.0], [1.0, 2.0]]


def test_paragraphs_in_one_string_are_cut_into_sentences(work: Workplace) -> None:
    work.write("descs_ret_test.json", [{"video_id": "v_a", "desc": "A man rides.  He falls! Why?  "}])
    work.film("v_a.mp4")
    work.run("activitynet")
    assert work.rows("test") == [{"clip_id": "v_a", "text": ["A man rides.", "He falls!", "Why?"]}]
    assert split_sentences("1.5 metres high. Done") == ["1.5 metres high.", "Done"]


def test_didemo_joins_the_descriptions_of_a_video_whatever_its_ending(work: Workplace) -> None:
    def told(video: str, text: str, *times: list[int]) -> dict[str, Any]:
        return {"video": video, "description": text, "times": list(times), "annotation_id": 1, "num_segments": 6}

    entries = [
        told("x_1.mov", "it ends", [4, 5], [4, 4]),
        told("x_2.", "a cat", [0, 0]),
        told("x_1.mov", "a dog", [0, 1]),
        told("x_3.", "a hen", [0, 0]),
        told("x_4.mts", "a cow", [0, 0]),
    ]
    work.write("val_data.json", entries)
    work.film("x_1.mp4", "x_2.3g2", "x_3.", "x_4.MTS")
    work.run("didemo")
    assert [(row["clip_id"], row["text"]) for row in work.rows("val")] == [
        ("x_1", ["it ends", "a dog"]),
        ("x_2.3g2", ["a cat"]),
        ("x_3.", ["a hen"]),
        ("x_4.MTS", ["a cow"]),
    ]
    assert len(load_retrieval(work.output / "val.jsonl", work.videos)) == 4
    work.run("didemo", "--order", "time")
    assert work.rows("val")[0]["text"] == ["a dog", "it ends"]


def test_queryd_reads_words_and_refuses_pickles(work: Workplace) -> None:
    work.write("raw_captions_combined_filtered.json", {"video-q": [["a", "man"], ["he", "falls"]]})
    work.write("times_captions_combined_filtered.json", {"video-q": [[1, 2], [0, 1]]})
    work.write("test_list.txt", "video-q\n")
    work.film("video-q.mp4")
    work.run("queryd", "--order", "time")
    assert work.rows("test") == [{"clip_id": "video-q", "text": ["he falls", "a man"]}]
    pickled = Source(work.source / "raw_captions_combined_filtered.pkl")
    pickled.path.write_bytes(b"")
    with pytest.raises(ValueError, match="pickle, which can run code"):
        prepare("queryd", pickled, work.videos, work.output)


def test_condensed_movie_takes_the_split_of_the_film_and_no_description_twice(work: Workplace) -> None:
    work.write(
        "clips.csv", "videoid,year,title,imdbid\nc1,2012.0,A,t1\nc2,2012.0,A,t1\nc3,2013.0,B,t2\nc4,2013.0,B,t2\n"
    )
    work.write("split.csv", "imdbid,split\nt1,train\nt2,val\n")
    text = 'videoid,description,imdbid\nc1,"One, two.",t1\nc2,Same.,t1\nc3,Same.,t2\nc4,Four.,t2\n'
    work.write("descriptions.csv", text)
    work.film("2012/c1.mp4", "c4.mkv")
    report = work.run("condensed_movie")
    assert work.rows("train") == [{"clip_id": "2012/c1", "text": "One, two."}]
    assert work.rows("val") == [{"clip_id": "c4.mkv", "text": "Four."}]
    assert [problem["reason"] for problem in report["problems"]] == ["its description stands 2 times in the file"] * 2
    assert load_retrieval(work.output / "train.jsonl", work.videos)[0]["sentences"] == ["One, two."]


# -- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["original", "joined"])
def test_activitynet_qa_makes_classes_of_the_most_frequent_training_answers(work: Workplace, layout: str) -> None:
    asked = {
        "train": [("q1", "yes"), ("q2", "yes"), ("q3", "no"), ("q4", "a red ball")],
        "test": [("q5", "no"), ("q6", "?")],
    }
    for split, pairs in asked.items():
        if layout == "original":
            questions = [{"question": q, "video_name": "a", "question_id": f"{split}{q}"} for q, _ in pairs]
            work.write(f"{split}_q.json", questions)
            work.write(f"{split}_a.json", [{"answer": a, "type": 3, "question_id": f"{split}{q}"} for q, a in pairs])
        elif split == "train":
            work.write("qa_train.json", [{"video_id": "v_a", "question": q, "answer": a} for q, a in pairs])
        else:
            lists = list(zip(*pairs, strict=True))
            work.write("qa_test.json", [{"video_id": "v_a", "question": lists[0], "answer": lists[1]}])
    work.film("v_a.mp4")
    report = work.run("activitynet_qa", "--num-answers", "2")
    assert json.loads((work.output / "answers.json").read_text()) == ["yes", "a red ball"]  # ties by the alphabet
    assert [(row["question"], row["answer"]) for row in work.rows("train")] == [("q1", 0), ("q2", 0), ("q4", 1)]
    assert [row["answer"] for row in work.rows("test")] == [-1, -1]
    assert report["outside_vocabulary"] == {"test": 2} and report["num_answers"] == 2
    assert report["splits"]["train"]["dropped"] == 1
    rows = load_activitynet_qa(work.output / "test.jsonl", work.videos, num_answers=2, allow_outside=True)
    assert rows[0]["label"] == -1


HOW2QA = """\
abc,[61.0:62.0],a cat,a cow,a hen,"what, please, is it?",a dog
abc,[nan:nan],a cat,a cow,a hen,what is it?,a dog
whole,[0.5:1.5],a cat,a cow,a hen,where is it?,a dog
abc,[70:60],a cat,a cow,a hen,what is it?,a dog
"""
SRT = """1
00:00:30,000 --> 00:00:31,000
too early

2
00:01:01,500 --> 00:01:02,000
<i>the dog</i>
barks &amp; runs

3
00:02:01,500 --> 00:02:02,000
too late
"""


def test_how2qa_finds_segments_and_moves_spans_and_subtitles_to_them(work: Workplace) -> None:
    work.write("how2QA_val_release.csv", HOW2QA)
    (work.source / "subs").mkdir()
    (work.source / "subs" / "abc.srt").write_text(SRT)
    work.film("abc_60_120.mp4", "abc_120_180.mp4", "whole.mp4")
    report = work.run("how2qa", "--subtitles", str(work.source / "subs"))
    moved, whole = work.rows("val")
    assert moved["clip_id"] == "abc_60_120" and moved["span"] == [1.0, 2.0]
    assert moved["text_s"] == [{"start": 1.5, "end": 2.0, "text": "the dog barks & runs"}]
    assert moved["text_a"][moved["answer_idx"]] == "a dog" and sorted(moved["text_a"])[0] == "a cat"
    assert moved["text_q"] == "what, please, is it?"
    assert whole["span"] == [0.5, 1.5] and whole["text_s"] == []
    reasons = {problem["kind"] for problem in report["problems"]}
    assert reasons == {"missing", "dropped"}  # a question without a span fits no segment; one span falls
    assert load_how2qa(work.output / "val.jsonl", work.videos)[0]["span_end"] == 2.0


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_subtitles_of_questions_are_read_as_those_of_corpora(work: Workplace, encoding: str) -> None:
    work.write("how2QA_val_release.csv", "whole,[0:1],a cat,a cow,a hen,what?,a dog\n")
    rolling = "WEBVTT\n\n00:00.000 --> 00:01.000\nle café\n\n00:01.000 --> 00:01.010\nle café\n \n\n"
    rolling += "00:01.010 --> 00:02\nle café\nest très chaud, ça va\n\n-00:03.000 --> 00:04.000\nminus\n"
    (work.source / "subs").mkdir()
    (work.source / "subs" / "whole.en-US.vtt").write_bytes(rolling.encode(encoding))
    work.film("whole.mp4")
    report = work.run("how2qa", "--subtitles", str(work.source / "subs"), "--strict", status=1)
    assert work.rows("val")[0]["text_s"] == [
        {"start": 0.0, "end": 1.0, "text": "le café"},
        {"start": 1.01, "end": 2.0, "text": "est très chaud, ça va"},
    ]
    (problem,) = report["problems"]
    assert problem["kind"] == "subtitle"
    assert "whole.en-US.vtt:14: bad_span: -00:03.000" in problem["reason"]


def test_subtitles_that_cannot_be_read_are_reported_with_their_file(work: Workplace) -> None:
    work.write("how2QA_val_release.csv", "whole,[0:1],a cat,a cow,a hen,what?,a dog\n")
    (work.source / "subs").mkdir()
    (work.source / "subs" / "whole.srt").write_bytes(bytes(range(128, 256)) * 2)
    work.film("whole.mp4")
    report = work.run("how2qa", "--subtitles", str(work.source / "subs"))
    assert work.rows("val")[0]["text_s"] == []
    assert "whole.srt is not UTF-8" in report["problems"][0]["reason"]


def test_the_place_of_the_right_answer_is_spread_and_the_same_every_time(work: Workplace) -> None:
    lines = [f"whole,[0:1],a cat,a cow,a hen,question {number}?,a dog" for number in range(200)]
    work.write("how2QA_val_release.csv", "\n".join(lines))
    work.film("whole.mp4")
    work.run("how2qa", "--check", "exists")
    first = [row["answer_idx"] for row in work.rows("val")]
    assert min(first.count(place) for place in range(4)) > 25
    work.run("how2qa", "--check", "exists")
    assert [row["answer_idx"] for row in work.rows("val")] == first


def test_violin_makes_a_true_and_a_false_row_of_every_pair(work: Workplace) -> None:
    clip = {
        "file": "show_s01e01_clip_0",
        "split": "validate",
        "statement": [["He laughs.", "He cries."], ["It is red.", "It is blue."]],
        "sub": [["Hello.", 0.5, 1.25], ["There."], "Bye."],
        "span": [0, 2],
        "source": "show",
    }
    work.write("violin_annotation.json", {"clip_0": clip})
    work.film("show_s01e01_clip_0.mp4")
    work.run("violin")
    rows = work.rows("val")
    assert [(row["text_q"], row["answer"]) for row in rows] == [
        ("He laughs.", 1), ("He cries.", 0), ("It is red.", 1), ("It is blue.", 0)
    ]  # fmt: skip
    assert rows[0]["text_s"] == [
        {"start": 0.5, "end": 1.25, "text": "Hello."},
        {"start": None, "end": None, "text": "There."},
        {"start": None, "end": None, "text": "Bye."},
    ]
    assert len(load_violin(work.output / "val.jsonl", work.videos)) == 4


# -- classes ---------------------------------------------------------------------------------------------------------


def test_coin_and_lvu_keep_class_numbers_and_find_videos_in_subfolders(work: Workplace) -> None:
    entry = {"recipe_type": 7, "class": "MakeTea", "subset": "testing", "duration": 2.0, "annotation": []}
    work.write(
        "COIN.json",
        {"database": {"xyz": entry, "gone": {**entry, "subset": "training"}, "here": {**entry, "subset": "training"}}},
    )
    work.film("7/xyz.mp4", "here.mp4")
    report = work.run("coin")
    assert work.rows("test") == [{"video_id": "7/xyz", "recipe_type": 7, "class": "MakeTea"}]
    assert report["splits"]["train"]["missing"] == 1
    assert load_classification(work.output / "test.jsonl", work.videos, num_labels=180)[0]["label"] == 7

    (work.source / "COIN.json").unlink()
    work.write("train.csv", "scene_label scene_name youtube_id end\n3 office xyz 1\n0  house  here 1\n")
    work.run("lvu")
    assert [(row["video_id"], row["recipe_type"], row["class"]) for row in work.rows("train")] == [
        ("7/xyz", 3, "office"),
        ("here", 0, "house"),
    ]


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_missing_and_broken_videos_are_counted_named_and_left_out(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    work.write("test.json", {f"v_{name}": {"sentences": ["One."]} for name in ("good", "broken", "missing", "double")})
    work.film("v_good.mp4", "one/v_double.mp4", "two/v_double.mp4")
    (work.videos / "v_broken.mp4").write_bytes(b"no video at all")
    report = work.run("activitynet", "--strict", status=1)
    counts = report["splits"]["test"]
    assert (counts["rows"], counts["written"], counts["missing"], counts["broken"]) == (4, 1, 2, 1)
    assert [row["clip_id"] for row in work.rows("test")] == ["v_good"]
    reasons = {problem["video"]: problem["reason"] for problem in report["problems"]}
    assert reasons["v_missing"] == "there is no such file"
    assert "one/v_double.mp4, two/v_double.mp4" in reasons["v_double"]
    assert reasons["v_broken"].startswith("v_broken.mp4: ")
    printed = capsys.readouterr().out
    assert "missing: v_missing (test): there is no such file" in printed and "written" in printed
    assert work.run("activitynet", "--check", "exists")["splits"]["test"]["written"] == 2  # nothing was decoded


def test_a_split_of_which_nothing_is_left_is_an_error(work: Workplace) -> None:
    work.write("test.json", {"v_a": {"sentences": ["One."]}})
    work.film("other.mp4")
    with pytest.raises(ValueError, match="nothing is left of the 1 rows of 'test': 1 videos are missing"):
        prepare("activitynet", Source(work.source), work.videos, work.output)
    assert not work.output.exists()


def test_a_video_is_found_by_its_exact_name_and_with_one_prefix_more(tmp_path: Path) -> None:
    names = ["v_v_UmAH95xls.mp4", "1@N00_2.", "3@N00_4.mts", "5@N00_6.unknown", "v_plain.mkv", "bare.mp4", "sub/7.m2ts"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path)
    asked = {"v_UmAH95xls": names[0], "1@N00_2.": names[1], "3@N00_4.mts": names[2], "5@N00_6.unknown": names[3]}
    asked |= {"plain": names[4], "v_bare": names[5], "7.m2ts": names[6]}
    assert {name: folder.find(name).path for name in asked} == asked
    for name in ("UmAH95xls", "5@N00_6", "unknown"):
        with pytest.raises(ValueError, match="no such file"):
            folder.find(name)


@pytest.mark.parametrize(
    ("task", "name", "content", "words"),
    [
        ("activitynet", "test.json", {"v_a": {"duration": 3}}, "v_a lacks 'sentences'"),
        ("activitynet", "captions.json", {"v_a": {"sentences": ["One."]}}, "says nothing of a split"),
        ("activitynet", "test.json", {"v_a": {"sentences": ["One."], "timestamps": []}}, None),
        ("didemo", "val_data.json", [{"video": "x.mov", "times": []}], "entry 0 lacks 'description'"),
        ("activitynet_qa", "test.json", [{"video_id": "v_a", "question": "q"}], "lacks ['answer']"),
        ("activitynet_qa", "test.json", [{"video_id": "v_a", "question": "q", "answer": "a"}], "no training split"),
        ("how2qa", "how2QA_val.csv", "abc,[1:2],a,b,c,d", "how2QA_val.csv:1: 6 cells"),
        ("how2qa", "how2QA_val.csv", "abc,1-2,a,b,c,d,e", "not of the form [start:end]"),
        ("violin", "violin_annotation.json", {"c": {"split": "train", "sub": []}}, "lacks ['statement']"),
        ("coin", "COIN.json", {"database": {"a": {"subset": "training"}}}, "lacks ['recipe_type']"),
        ("lvu", "train.csv", "label name id end\nx office a 1\n", "train.csv:2: expected a class number"),
        ("lvu", "train.csv", "label name id end\n", "no row that can be used"),
        ("coin", "COIN.json", "{", "not JSON"),
    ],
)
def test_an_annotation_of_another_layout_is_named(
    work: Workplace, task: str, name: str, content: Any, words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    work.write(name, content)
    work.film("v_a.mp4")
    command = ["prepare", task, "--source", work.source, "--videos", work.videos, "--output", work.output]
    assert main([str(word) for word in command]) == (1 if words else 0)
    assert words is None or words in capsys.readouterr().err


def test_splits_are_read_from_file_names() -> None:
    names = [
        "train.json",
        "val_1.json",
        "how2QA_test_public_release.csv",
        "violin_validation.json",
        "descs_ret_train.json",
    ]
    assert [split_of(Path(name)) for name in names] == ["train", "val1", "test", "val", "train"]
    with pytest.raises(ValueError, match="says nothing of a split"):
        split_of(Path("latest_retrains.json"))


# -- real sample rows ------------------------------------------------------------------------------------------------


class AnyVideo(VideoFolder):
    """A folder that has a file of every name, which only serves to read annotations whose videos nobody has here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.segments, self.by_file = {}, {}

        class Names(dict):
            def get(self, name: str, default: Any = None) -> list[str]:  # type: ignore[override]  # names are endless
                return [f"{name}.mp4"]

        self.by_name = Names()  # type: ignore[assignment]  # stands for a dict of lists


def prepare_samples(task: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setattr("lfvila_hf.prepare.prepare_task.VideoFolder", AnyVideo)
    monkeypatch.setattr("lfvila_hf.prepare.prepare_task.check_videos", lambda *_: {})
    report = prepare(task, source, tmp_path, tmp_path / "out", **options)
    files = {
        split: [json.loads(line) for line in (tmp_path / "out" / f"{split}.jsonl").open()] for split in report.splits
    }
    return report, files


@needs_samples
def test_real_activitynet_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {"train": SAMPLES / "ce_activitynet_train_list.txt"}
    report, rows = prepare_samples(
        "activitynet", Source(SAMPLES / "activitynet_captions_row.json", lists), tmp_path, monkeypatch
    )
    assert (report.splits["train"].rows, report.splits["train"].written) == (10_009, 1)
    assert rows["train"][0]["clip_id"] == "v_QOlSCBRmfWY" and len(rows["train"][0]["text"]) == 3
    report, rows = prepare_samples(
        "activitynet", Source(SAMPLES / "gram_activitynet_descs_ret_train.first200.json"), tmp_path, monkeypatch
    )
    assert report.splits["train"].written == 200
    assert rows["train"][0]["text"][1].startswith("The girl dances around the room")
    assert sum(len(row["text"]) for row in rows["train"]) > 500


@needs_samples
def test_real_didemo_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(SAMPLES / "didemo_test_data.40videos.json", {"test": SAMPLES / "ce_didemo_test_list.txt"})
    report, rows = prepare_samples("didemo", source, tmp_path, monkeypatch)
    assert (report.splits["test"].rows, report.splits["test"].written) == (1_004, 38)
    # 40 names, but two videos stand there under two endings each: their sentences belong together
    assert sum(len(row["text"]) for row in rows["test"]) == len(json.loads(source.path.read_text()))
    assert min(len(row["text"]) for row in rows["test"]) >= 1 and max(len(row["text"]) for row in rows["test"]) > 3


@needs_samples
def test_real_activitynet_qa_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        shutil.copy(SAMPLES / f"gram_activitynet_descs_qa_{split}.first200.json", tmp_path / f"{split}.json")
    report, rows = prepare_samples("activitynet_qa", Source(tmp_path), tmp_path, monkeypatch)
    assert report.num_answers == len(json.loads((tmp_path / "out" / "answers.json").read_text())) > 50
    assert len(rows["train"]) == 200 and len(rows["test"]) > 1_000
    assert report.outside_vocabulary["test"] > 0


@needs_samples
def test_real_how2qa_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("how2QA_val_release.csv", "how2QA_test_public_release.csv"):
        shutil.copy(SAMPLES / name, tmp_path / name)
    report, rows = prepare_samples("how2qa", Source(tmp_path), tmp_path, monkeypatch)
    assert report.splits["val"].rows + report.splits["test"].rows > 5_700
    assert len(rows["val"]) + len(rows["test"]) > 0.99 * 5_700
    assert all(row["text_a"][row["answer_idx"]] for row in rows["val"])
    assert not any(isinstance(row["span"], float) and not math.isnan(row["span"]) for row in rows["val"])
