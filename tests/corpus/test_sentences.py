"""Words into sentences and clips: nothing is lost, bounds hold, sentences end where they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfvila_hf.corpus.sentences import SentenceRules, clips_of, ends_sentence, sentences_of
from lfvila_hf.corpus.subtitles import TimedWord


def spoken(text: str, seconds: float = 0.5) -> list[TimedWord]:
    return [
        TimedWord(word, round(n * seconds * 1000), round((n + 1) * seconds * 1000))
        for n, word in enumerate(text.split())
    ]


@pytest.mark.parametrize("word", ["end.", "end!", "end?", "end.”", 'end."', "終わり。", "end…", "2022."])
def test_a_sentence_ends_here(word: str) -> None:
    assert ends_sentence(word)


@pytest.mark.parametrize("word", ["Mr.", "e.g.", "J.", "3.5", "www.x.org", "end,", "Dr.", "U.S."])
def test_a_sentence_goes_on_here(word: str) -> None:
    assert not ends_sentence(word)


def test_clips_are_sentences_and_short_ones_take_in_the_next() -> None:
    text = "Yes. We cut the bread into eight thin slices now. Then Mr. Smith eats all of it and is very happy. So?"
    clips = clips_of("v", spoken(text), SentenceRules(min_seconds=3))
    assert [clip.text for clip in clips] == [
        "Yes. We cut the bread into eight thin slices now.",
        "Then Mr. Smith eats all of it and is very happy.",
        "So?",
    ]
    assert [clip.clip_id for clip in clips] == ["v.0.mp4", "v.1.mp4", "v.2.mp4"]
    assert [(clip.start, clip.end) for clip in clips] == [(0, 5000), (5000, 10_500), (10_500, 11_000)]


def test_a_pause_ends_a_sentence_without_punctuation() -> None:
    words = [TimedWord("one", 0, 500), TimedWord("two", 500, 900), TimedWord("three", 3000, 3500)]
    assert [clip.text for clip in clips_of("v", words, SentenceRules(pause=1))] == ["one two", "three"]
    assert [clip.text for clip in clips_of("v", words, SentenceRules(pause=3))] == ["one two three"]


words_drawn = st.lists(
    st.tuples(st.sampled_from(["a", "bee", "sea.", "Mr.", "oh!"]), st.integers(0, 3000), st.integers(1, 900)),
    max_size=60,
)


@given(words_drawn, st.sampled_from([SentenceRules(), SentenceRules(0, 4, 5, 0.5), SentenceRules(3, 3, 9, 9)]))
def test_every_word_is_in_one_clip_and_the_bounds_hold(drawn: list[tuple[str, int, int]], rules: SentenceRules) -> None:
    words, now = [], 0
    for text, gap, length in drawn:
        words.append(TimedWord(text, now + gap, now + gap + length))
        now += gap + length
    assert [word for sentence in sentences_of(words, rules) for word in sentence] == words
    clips = clips_of("v", words, rules)
    assert " ".join(clip.text for clip in clips).split() == [word.text for word in words]
    for clip in clips:
        assert len(clip.text.split()) <= rules.max_words
        assert clip.end - clip.start <= rules.max_seconds * 1000 or len(clip.text.split()) == 1
    for before, after in zip(clips, clips[1:], strict=False):
        assert before.end <= after.start


@pytest.mark.parametrize(
    "arguments", [{"min_seconds": 30}, {"max_seconds": 0, "min_seconds": 0}, {"max_words": 0}, {"pause": -1}]
)
def test_sentence_rules_without_sense_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SentenceRules(**arguments)  # type: ignore[arg-type]  # wrong on purpose
