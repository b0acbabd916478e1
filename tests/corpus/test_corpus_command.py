"""`lfvila-hf corpus` as a user types it: what is printed, what is refused, which options reach the build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpus_inputs import even_spans, rows_of, transcripts_of, video_row, write_lines

from lfvila_hf.cli import main


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Words that build a corpus of twenty videos in this process."""
    videos = [video_row(f"v{number}", even_spans(9)) for number in range(20)]
    metadata = write_lines(tmp_path / "metadata.jsonl", videos)
    transcripts = write_lines(tmp_path / "transcripts.jsonl", transcripts_of(videos))
    given = ["corpus", "build", "--metadata", str(metadata), "--transcripts", str(transcripts)]
    return [*given, "--output-dir", str(tmp_path / "out"), "--workers", "1"]


def test_a_build_prints_what_came_out(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0] == "clips          180 in the metadata, 180 eligible"
    assert lines[1].startswith("train ")
    assert lines[-1].startswith(f"written to     {tmp_path / 'out'} in ")
    assert len(rows_of(tmp_path / "out")) == 20


def test_options_reach_the_build(words: list[str], tmp_path: Path) -> None:
    options = (
        "--max-gap 0.5 --max-overlap 0.2 --overlaps drop --min-clips 2 --max-clips 4 --max-seconds 60 --min-words 2"
    )
    options += " --max-words 99 --keep-sound-tags --near-duplicates drop --similarity 0.9 --validation 0.1 --test 0.2"
    options += " --split-seed 5 --rows-per-file 7"
    assert main([*words, *options.split()]) == 0
    parameters = json.loads((tmp_path / "out" / "manifest.json").read_text())["parameters"]
    assert parameters == {
        "join": {
            "max_gap": 0.5,
            "max_overlap": 0.2,
            "overlaps": "drop",
            "min_clips": 2,
            "max_clips": 4,
            "max_seconds": 60.0,
        },
        "text": {"min_words": 2, "max_words": 99, "min_letters": 0.4, "keep_sound_tags": True},
        "validation": 0.1,
        "test": 0.2,
        "split_seed": 5,
        "near_duplicates": "drop",
        "similarity": 0.9,
        "duration_tolerance": 0.5,
        "rows_per_file": 7,
    }


def test_problems_go_to_the_error_stream_and_strict_makes_them_an_error(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "transcripts.jsonl").open("a") as file:
        file.write('{"clip_id": "v0.1')
    assert main(words) == 0
    assert 'bad_json                 1, such as {"clip_id": "v0.1' in capsys.readouterr().err
    assert main([*words, "--overwrite", "--strict"]) == 1
    assert "the first is bad_json at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"), [("--min-clips 0", "min_clips must"), ("--workers 0", "workers must"), ("--test 2", "below 1")]
)
def test_values_out_of_range_are_one_line(
    words: list[str], option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *option.split()]) == 1
    assert said in capsys.readouterr().err


def test_a_sub_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["corpus"])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
