"""Stories in words: where they are cut, what is refused, what longer ones become.

Module: `stories`. What the embeddings of a paragraph are is tested in test_inference.py.
"""

from __future__ import annotations

import pytest
import torch
from small_library import STORY, D, make_model, make_processor

from lfvila_hf import encode_paragraphs
from lfvila_hf.library.stories import MAX_CHARACTERS, MAX_SENTENCES, check_sentences, read_story, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("First a man rides. Then he falls.", ["First a man rides.", "Then he falls."]),
        ("no full stop", ["no full stop"]),
        ("  He said “go.” They went!\nThe end ", ["He said “go.”", "They went!", "The end"]),
        ("It is 3.5 m long. Really?", ["It is 3.5 m long.", "Really?"]),
    ],
)
def test_a_text_is_cut_at_its_full_stops(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_a_list_of_sentences_is_taken_as_it_is() -> None:
    assert check_sentences(["One. Two.", "Three"]) == ["One. Two.", "Three"]


@pytest.mark.parametrize("story", ["", "   \n ", "...", "?!", [], ["?"]])
def test_an_empty_story_is_refused_with_an_example(story: str | list[str]) -> None:
    with pytest.raises(ValueError, match="the story is empty: write at least one sentence, such as"):
        check_sentences(story)


def test_too_much_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match=f"has 100 sentences, at most {MAX_SENTENCES} are read"):
        check_sentences("A man rides. " * 100)
    with pytest.raises(ValueError, match=f"at most {MAX_CHARACTERS} are read"):
        check_sentences("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(ValueError, match="sentence 1 of the story is None, expected words"):
        check_sentences(["a man", None])  # type: ignore[list-item]  # what a program may hand over


def test_a_story_that_fits_is_embedded_as_one_paragraph(tiny_vocabulary: dict[str, int]) -> None:
    model, processor = make_model(tiny_vocabulary).model, make_processor(tiny_vocabulary)
    read = read_story(model, processor, STORY)
    expected = encode_paragraphs(model, processor, [STORY])
    torch.testing.assert_close(read.embeddings.text_embeds, expected.text_embeds)
    assert read.embeddings.sentence_embeds is not None
    torch.testing.assert_close(read.embeddings.sentence_embeds, expected.sentence_embeds)
    assert read.sentences == tuple(STORY) and read.notes == ()


def test_every_sentence_of_a_longer_story_keeps_its_own_feature(tiny_vocabulary: dict[str, int]) -> None:
    model, processor = make_model(tiny_vocabulary).model, make_processor(tiny_vocabulary)
    story = [*STORY, "a circle", "the end", "a woman rides left", "in a blue box"]
    read = read_story(model, processor, story)
    assert read.embeddings.sentence_embeds is not None and read.embeddings.sentence_embeds.shape == (1, 7, D)
    assert read.embeddings.sentence_mask.tolist() == [[1] * 7]
    for number, sentence in enumerate(story):
        alone = encode_paragraphs(model, processor, [sentence]).sentence_embeds
        assert alone is not None
        torch.testing.assert_close(read.embeddings.sentence_embeds[0, number], alone[0, 0], atol=1e-5, rtol=0)
    assert read.embeddings.text_embeds.norm().item() == pytest.approx(1)
    assert "this story of 7 was read in 2 paragraphs" in read.notes[0]


def test_what_is_cut_off_is_said(tiny_vocabulary: dict[str, int]) -> None:
    model, processor = make_model(tiny_vocabulary).model, make_processor(tiny_vocabulary)
    read = read_story(model, processor, ["a man", "a man and a woman and a ball and a box and a circle"])
    assert read.notes == ("only the first 10 tokens of sentence 2 were read",)
