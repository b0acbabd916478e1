"""Cleaning and checking of transcripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfvila_hf.corpus.text import TextRules, check_text, clean_text, count_words


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  Hello,\n\tworld.  ", "Hello, world."),
        ("fish &amp; chips &#39;n&#39; peas", "fish & chips 'n' peas"),
        ("the HTML5 &lt;video&gt; tag", "the HTML5 <video> tag"),
        ('<font color="red">red</font> <c.blue>and</c><br/>blue', "red and blue"),
        ("[Music] so we begin [Applause]", "so we begin"),
        ("♪ la la ♪", "la la"),
        ("so [laughs], he said [sighs].", "so, he said."),
        (">> and now >>you", "and now you"),
        ("x >> y is a shift, a > b", "x y is a shift, a > b"),
        ("<i>slowly</i>, {\\an8}now", "slowly, now"),
        ("a\u200bb\ufeffc\u00add", "abcd"),
        ("cafe\u0301", "café"),
        ("bad \ud800 half", "bad half"),
        ("nul\x00l", "null"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("3 < 4 and 5 > 2", "3 < 4 and 5 > 2"),
        ("", ""),
    ],
)
def test_what_is_no_speech_goes_and_every_word_stays(text: str, clean: str) -> None:
    assert clean_text(text) == clean


def test_sound_tags_stay_on_request() -> None:
    assert clean_text("[Music] we begin", keep_sound_tags=True) == "[Music] we begin"


@given(st.text(alphabet=st.characters(codec=None) | st.sampled_from("<>&;[]{}\\/ am♪"), max_size=60), st.booleans())
def test_cleaning_twice_is_cleaning_once_and_the_result_can_be_written(text: str, keep: bool) -> None:
    clean = clean_text(text, keep)
    assert clean_text(clean, keep) == clean
    assert clean == " ".join(clean.split())
    clean.encode()


@pytest.mark.parametrize(
    ("text", "words"), [("", 0), ("a b  c", 3), ("naïve résumé", 2), ("我喜欢 cats", 4), ("สวัสดี", 6)]
)
def test_words_are_counted_in_scripts_with_and_without_spaces(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        ("Fine enough.", TextRules(), None),
        ("", TextRules(), "empty"),
        ("Too short.", TextRules(min_words=3), "2 words, expected at least 3"),
        ("One two three four", TextRules(max_words=3), "4 words, expected at most 3"),
        ("1 2 3 4 a", TextRules(), "1 letters in 5 characters, expected at least 0.4 of them"),
        ("1 2 3", TextRules(min_letters=0), None),
        ("日本語", TextRules(), None),
    ],
)
def test_a_text_is_checked(text: str, rules: TextRules, reason: str | None) -> None:
    assert check_text(text, count_words(text), rules) == reason
