"""SubRip and WebVTT as they are found in the wild, read into timed words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfvila_hf.corpus.subtitles import Cue, read_cues, timed_words

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "annotations"

SRT = """1
00:00:01,600 --> 00:00:03,900
One &amp; <i>two</i>
three.

2
00:00:04,000 --> 00:00:05,000
[Music]

3
00:00:05,000 --> 00:00:07,000
Four five.
"""
VTT = """WEBVTT - a talk
Kind: captions

NOTE this is
no subtitle

STYLE
::cue { color: red }

intro
00:01.600 --> 00:03.900 align:start position:0%
One &amp; <v Ann>two
three.

00:00:05.000 --> 00:00:07.000
Four five.
"""
ROLLING = """WEBVTT

00:00:01.000 --> 00:00:03.000
~
we<00:00:01.500><c> talk</c><00:00:02.000><c> about</c>

00:00:03.000 --> 00:00:03.010
we talk about
~

00:00:03.010 --> 00:00:05.000
we talk about
bread<00:00:04.000><c> today</c>

00:00:05.000 --> 00:00:05.010
bread today
~

00:00:05.010 --> 00:00:06.000
bread today
bread
""".replace("~", " ")


def written(tmp_path: Path, text: str | bytes, name: str = "x.srt") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", [SRT, VTT, SRT.replace("\n", "\r\n"), "\ufeff" + VTT])
def test_both_formats_give_the_same_words(text: str, tmp_path: Path) -> None:
    cues, problems = read_cues(written(tmp_path, text))
    assert not problems
    words = timed_words(cues)
    assert [word.text for word in words] == ["One", "&", "two", "three.", "Four", "five."]
    assert (words[0].start, words[3].end) == (1600, 3900)
    assert (words[4].start, words[5].end) == (5000, 7000)
    assert words[3].start - words[2].start == pytest.approx(2300 * 4 / 17, abs=1)


def test_rolling_captions_say_each_word_once_at_its_own_time(tmp_path: Path) -> None:
    words = timed_words(read_cues(written(tmp_path, ROLLING, "x.vtt"))[0])
    assert [word.text for word in words] == ["we", "talk", "about", "bread", "today", "bread"]
    assert [word.start for word in words] == [1000, 1500, 2000, 3010, 4000, 5010]


def test_a_word_said_twice_is_kept_and_a_repeated_cue_is_not() -> None:
    assert [word.text for word in timed_words([Cue(0, 1000, "no"), Cue(1000, 2000, "no way")])] == ["no", "no", "way"]
    assert len(timed_words([Cue(0, 1000, "so it is"), Cue(1000, 2000, "so it is")])) == 3
    assert len(timed_words([Cue(0, 1000, "so it is"), Cue(9000, 9500, "so it is")])) == 6
    rolled = [Cue(0, 1000, "against\nadversaries"), Cue(1000, 2000, "adversaries\ntwo things")]
    assert [word.text for word in timed_words(rolled)] == ["against", "adversaries", "two", "things"]


def test_what_is_wrong_with_a_cue_is_said_with_its_line(tmp_path: Path) -> None:
    text = "1\n00:00:05,000 --> 00:00:02,000\nBack.\n\n2\nsoon --> later\nWhen.\n\n"
    text += "3\n00:00:01,000 --> 00:00:02,000\nFine.\n"
    cues, problems = read_cues(written(tmp_path, text))
    assert [cue.text for cue in cues] == ["Fine."]
    assert [(problem.kind, problem.line) for problem in problems] == [("reversed_span", 1), ("bad_span", 5)]


@pytest.mark.parametrize(
    ("content", "text"),
    [("Café".encode("cp1252"), "Café"), ("Café".encode(), "Café"), ("Café".encode("utf-16"), "Café")],
)
def test_encodings_are_recognised(content: bytes, text: str, tmp_path: Path) -> None:
    head = "1\n00:00:01,000 --> 00:00:02,000\n"
    encoding = "utf-16" if content.startswith(b"\xff\xfe") else "ascii"
    whole = (head + text).encode("utf-16") if encoding == "utf-16" else head.encode() + content
    assert timed_words(read_cues(written(tmp_path, whole))[0])[0].text == text


def test_cues_without_blank_lines_between_them_are_told_apart(tmp_path: Path) -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nOne.\n2\n00:00:02,000 --> 00:00:03,000\nTwo."
    assert [cue.text for cue in read_cues(written(tmp_path, text))[0]] == ["One.", "Two."]


def test_what_are_no_subtitles_is_an_error(tmp_path: Path) -> None:
    for content in (b"", b"Dear diary,\n", bytes(range(256))):
        with pytest.raises(ValueError, match="has no line START --> END"):
            read_cues(written(tmp_path, content))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 5000), st.text(max_size=30)), max_size=8))
def test_words_are_in_order_and_take_time_whatever_the_cues(cues: list[tuple[int, int, str]]) -> None:
    words = timed_words(sorted(Cue(start, start + length, text) for start, length, text in cues))
    assert all(word.end > word.start and word.text for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the subtitles in ../shared/data")
def test_real_captions_of_one_talk_agree_in_both_formats() -> None:
    found = {}
    for name in ("videogrep_manifesto.srt", "videogrep_manifesto.vtt"):
        found[name] = [word.text for word in timed_words(read_cues(SHARED / name)[0])]
    assert found["videogrep_manifesto.srt"] == found["videogrep_manifesto.vtt"]
    assert len(found["videogrep_manifesto.srt"]) > 200
