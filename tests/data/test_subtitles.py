"""Subtitle files as they are found in the wild: every word once, in its time; what cannot be read is reported."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfvila_hf.data.subtitles import (
    Cue,
    SubtitleError,
    SubtitleFolder,
    parse_clock,
    read_cues,
    spoken_cues,
    strip_markup,
    timed_words,
)

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

NOTE nor is this
00:05.000 --> 00:07.000
Four five.
"""
ASS = r"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.60,0:00:03.90,Default,,0,0,0,,{\an8\fad(200,200)\blur3\fs48\fnArial Rounded MT}One & two\Nthree.
Comment: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,not shown
Dialogue: 0,0:00:04.00,0:00:05.00,Default,,0,0,0,,{\p1}m 0 0 l 100 0 100 100{\p0}
Dialogue: 0,0:00:05.00,0:00:07.00,Default,,0,0,0,,Four{a comment} five.
"""
# YouTube: the line above is repeated, each new word has its time.
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
# The same kind as ffmpeg writes it: an empty line after the time line, line ends of two kinds.
ROLLING_SRT = """1
00:00:00,080 --> 00:00:02,389
\r
welcome back

2
00:00:02,389 --> 00:00:02,399
welcome back\r
~

3
00:00:02,399 --> 00:00:04,789
welcome back\r
no no no cats

4
00:00:04,789 --> 00:00:04,799
no no no cats\r
~
""".replace("~", " ")


def written(tmp_path: Path, text: str | bytes, name: str = "x.srt") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def cues_of(tmp_path: Path, text: str | bytes) -> list[Cue]:
    cues, problems = read_cues(written(tmp_path, text))
    assert problems == []
    return cues


def srt(*texts: str) -> str:
    """Cues of one second each, one after the other."""
    return "\n".join(f"{n + 1}\n00:00:0{n},000 --> 00:00:0{n + 1},000\n{text}\n" for n, text in enumerate(texts))


@pytest.mark.parametrize("text", [SRT, VTT, ASS, SRT.replace("\n", "\r\n"), "\ufeff" + VTT])
def test_every_format_gives_the_same_words(text: str, tmp_path: Path) -> None:
    words = timed_words(cues_of(tmp_path, text))
    assert [word.text for word in words] == ["One", "&", "two", "three.", "Four", "five."]
    assert (words[0].start, words[3].end) == (1600, 3900)
    assert (words[4].start, words[5].end) == (5000, 7000)
    assert words[3].start - words[2].start == pytest.approx(2300 * 4 / 17, abs=1)


def test_rolling_captions_say_each_word_once_at_its_own_time(tmp_path: Path) -> None:
    cues = cues_of(tmp_path, ROLLING)
    words = timed_words(cues)
    assert [word.text for word in words] == ["we", "talk", "about", "bread", "today", "bread"]
    assert [word.start for word in words] == [1000, 1500, 2000, 3010, 4000, 5010]
    assert spoken_cues(cues) == [(1000, 3000, "we talk about"), (3010, 5000, "bread today"), (5010, 6000, "bread")]


def test_rolling_captions_with_an_empty_line_after_the_times_keep_their_times(tmp_path: Path) -> None:
    cues = cues_of(tmp_path, ROLLING_SRT)
    words = timed_words(cues)
    assert [word.text for word in words] == "welcome back no no no cats".split()
    assert (words[0].start, words[1].end, words[2].start, words[5].end) == (80, 2389, 2399, 4789)
    assert [cue.text for cue in spoken_cues(cues)] == ["welcome back", "no no no cats"]


def test_a_word_said_twice_is_kept_and_a_repeated_cue_is_not() -> None:
    assert [word.text for word in timed_words([Cue(0, 1000, "no"), Cue(1000, 2000, "no way")])] == ["no", "no", "way"]
    assert len(timed_words([Cue(0, 1000, "so it is"), Cue(1000, 2000, "so it is")])) == 3
    assert len(timed_words([Cue(0, 1000, "so it is"), Cue(9000, 9500, "so it is")])) == 6
    rolled = [Cue(0, 1000, "against\nadversaries"), Cue(1000, 2000, "adversaries\ntwo things")]
    assert [word.text for word in timed_words(rolled)] == ["against", "adversaries", "two", "things"]


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        # an empty line inside a cue, no empty line between cues, a cue without text
        (srt("One,\n\nand more.", "Two."), ["One,\n\nand more.", "Two."]),
        (srt("One.", "Two.", "Three.").replace("\n\n", "\n"), ["One.", "Two.", "Three."]),
        (srt("", "Two."), ["", "Two."]),
        # numbers that are spoken are no numbers of cues
        (srt("born in\n1984", "Two"), ["born in\n1984", "Two"]),
        (srt("in", "born in\n1984"), ["in", "born in\n1984"]),
        (srt("3", "2", "1"), ["3", "2", "1"]),
        ("00:00:01,000 --> 00:00:02,000\nOne.\n\n00:00:03,000 --> 00:00:04,000\n42\n", ["One.", "42"]),
        # WebVTT: identifiers are no text, neither are blocks
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nOne.\n\nsecond cue\n00:03.000 --> 00:04.000\nTwo.", ["One.", "Two."]),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nNOTE is a word.\n\nNOTE\nhidden\n\n00:03.000 --> 00:04.000\nTwo.",
         ["NOTE is a word.", "Two."]),
        # an arrow in the text
        (srt(r"one\h\htwo\Nthree", "Two."), ["one  two\nthree", "Two."]),
        (srt("from a --> b and on", "Two."), ["from a --> b and on", "Two."]),
    ],
)  # fmt: skip
def test_cues_are_told_apart(text: str, cues: list[str], tmp_path: Path) -> None:
    assert [cue.text.strip() for cue in cues_of(tmp_path, text)] == cues


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("00:00:01,600 --> 00:00:03,900", (1600, 3900)),
        ("00:00:00,1 --> 00:00:04", (100, 4000)),
        ("0:01.5-->0:03 X1:100", (1500, 3000)),
        ("00: 00: 01, 600 -->  00: 00: 03, 900", (1600, 3900)),
        ("100:00:00.000 --> 100:00:01.000", (360_000_000, 360_001_000)),
    ],
)
def test_times_are_read_however_they_are_written(line: str, times: tuple[int, int], tmp_path: Path) -> None:
    (cue,) = cues_of(tmp_path, f"1\n{line}\nText.\n")
    assert (cue.start, cue.end) == times


def test_what_is_wrong_with_a_cue_is_said_with_its_line(tmp_path: Path) -> None:
    text = "1\n00:00:05,000 --> 00:00:02,000\nBack.\n\n2\nsoon --> later\nWhen.\n\n"
    text += "3\n-00:00:01,000 --> 00:00:02,000\nMinus.\n\n4\n00:00:01,000 --> 00:00:02,000\nFine.\n"
    cues, problems = read_cues(written(tmp_path, text))
    assert [cue.text for cue in cues] == ["Fine."]
    assert [(one.kind, one.line) for one in problems] == [("reversed_span", 1), ("bad_span", 5), ("bad_span", 9)]


@pytest.mark.parametrize("text", ["", "1:2:3:4", "00:61:00", "00:00:75", "١٢:٠٠", "12"])
def test_what_is_no_clock_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_clock(text)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        (r"{\an8}top", "top"),
        (r"{\pos(100,200)\fad(500,500)\blur3\fs48\fnArial Rounded MT Bold}long", "long"),
        (r"{\p1}m 0 0 l 100 0 100 100 0 100{\p0}after", "after"),
        (r"before{\an7\p4}m 0 0 l 1 1", "before"),
        ("<i>word</i>, and <b>more</b>.", "word, and more."),
        ('<font face="Arial" color="#ffffff" size="24">red</font>!', "red!"),
        ("<c.yellow.bg_blue>one</c><br/>two", "one two"),
        ("a &lt;video&gt; tag, 3 < 4 > 2, {braces}", "a <video> tag, 3 < 4 > 2, {braces}"),
    ],
)
def test_markup_is_removed_and_punctuation_stays_with_its_word(text: str, stripped: str) -> None:
    assert strip_markup(text) == stripped


FRENCH = "Le café est très chaud, à côté de la forêt.\nOù est-il allé ?"
RUSSIAN = "Вот второе предложение, и оно немного длиннее.\nСпасибо большое."


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "utf-8"),
        (FRENCH, "utf-8-sig"),
        (FRENCH, "utf-16"),
        (FRENCH, "utf-16-be"),
        (FRENCH, "utf-32"),
        (FRENCH, "cp1252"),
        ("It’s fine.", "cp1252"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
        ("Şimdi eve gidiyorum, çünkü akşam oldu. Teşekkür ederim.", "cp1254"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "cp866"),
        ("Żółta łódź płynie powoli przez rzekę. Gdzie jesteś?", "cp1250"),
        ("Żółta łódź płynie powoli przez rzekę. Gdzie jesteś?", "iso8859-2"),
        ("Η δεύτερη πρόταση είναι λίγο μεγαλύτερη. Ευχαριστώ πολύ.", "cp1253"),
        ("二番目の文は少し長いです。ありがとうございます。", "cp932"),
        ("二番目の文は少し長いです。", "iso2022-jp"),
        ("第二句话稍微长一点。这是中文字幕，今天我们来谈谈猫。", "gb18030"),
    ],
)
def test_encodings_are_detected(text: str, encoding: str, tmp_path: Path) -> None:
    cues = cues_of(tmp_path, srt(*text.split("\n")).encode(encoding))
    assert "\n".join(cue.text for cue in cues) == text


def test_an_encoding_that_is_a_guess_is_never_silent(tmp_path: Path) -> None:
    for content, said in (
        (srt("perché è").encode("cp1252"), "read as cp1252; cp1250"),
        (srt("Да, хорошо.").encode("cp1251"), "would be possible too"),
        (srt(RUSSIAN).encode()[:-3], "UTF-8 with 1 damaged"),
    ):
        _, problems = read_cues(written(tmp_path, content))
        assert [problem.kind for problem in problems] == ["guessed_encoding"]
        assert said in problems[0].detail


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no line START --> END"),
        (b"Dear diary,\n", "has no line START --> END"),
        (b"\x00\x01\x02" * 50, "x.srt"),
        (bytes(range(128, 256)) * 3, "x.srt is not UTF-8 and its encoding cannot be told"),
    ],
)
def test_what_are_no_subtitles_is_an_error_that_names_the_file(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(SubtitleError, match="x.srt") as caught:
        read_cues(written(tmp_path, content))
    assert said in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 5000), st.text(max_size=30)), max_size=8))
def test_words_are_in_order_and_take_time_whatever_the_cues(cues: list[tuple[int, int, str]]) -> None:
    words = timed_words(sorted(Cue(start, start + length, text) for start, length, text in cues))
    assert all(word.end > word.start and word.text for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_the_subtitles_of_a_video_are_found_by_name_and_language(tmp_path: Path) -> None:
    names = ["talk.srt", "talk.vtt", "talk.en.srt", "talk.en-US.vtt", "talk two.SRT", "talk.mp4", "talk.part.2.srt"]
    names += ["dub.en-nP7-2PuUl7o.srt", "dub.de.ass", "And then... it broke.en-US.vtt", "clip.en.vtt", "clip.en.srt"]
    names.append(unicodedata.normalize("NFD", "Café.srt"))
    for name in names:
        (tmp_path / name).touch()

    def found(stem: str, language: str | None = None, stems: tuple[str, ...] = ()) -> list[str]:
        return [path.name for path in SubtitleFolder(tmp_path, stems).find(stem, language)]

    assert found("talk") == ["talk.vtt"]
    assert found("talk", "en") == ["talk.en.srt"]
    assert found("talk", "en-US") == ["talk.en-US.vtt"]
    assert found("talk two") == ["talk two.SRT"]
    assert found("dub") == ["dub.de.ass", "dub.en-nP7-2PuUl7o.srt"]
    assert found("dub", "en") == ["dub.en-nP7-2PuUl7o.srt"]
    assert found("And then... it broke") == ["And then... it broke.en-US.vtt"]
    assert found("clip") == ["clip.en.vtt"]
    assert found("Café", None, ("Café",)) == [names[-1]]
    assert found("walk") == found("tal") == []
    # a file of the video talk.part is none of the video talk
    assert found("talk", "part") == ["talk.part.2.srt"]
    assert found("talk", "part", ("talk", "talk.part")) == []
    assert found("talk.part", "2", ("talk", "talk.part")) == ["talk.part.2.srt"]
    assert SubtitleFolder(tmp_path / "nowhere").find("talk") == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the subtitles in ../shared/data")
def test_real_captions_of_one_talk_agree_in_both_formats() -> None:
    found = {}
    for name in ("videogrep_manifesto.srt", "videogrep_manifesto.vtt"):
        found[name] = [word.text for word in timed_words(read_cues(SHARED / name)[0])]
    assert found["videogrep_manifesto.srt"] == found["videogrep_manifesto.vtt"]
    assert len(found["videogrep_manifesto.srt"]) > 200
