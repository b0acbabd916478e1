# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Accuracy of the right twin, and the scores of any story encoder on the films.

A pair of twins gives a 2 x 2 matrix of scores, paragraphs by films. Three accuracies are read off it:

- *text to video*: how often a paragraph scores higher with its own film than with the twin (two comparisons);
- *video to text*: how often a film scores higher with its own paragraph (two comparisons);
- *pair*: whether the two right matches together score higher than the two wrong ones. A score that prefers one film, or
  one paragraph, whatever it is compared with, gains nothing here.

A tie counts one half. Scores tie if they differ by less than `TIE` of the largest one, which is what float32 rounding
leaves of sums in different orders. The mean of sentence vectors, and MaxSim, give both paragraphs of a pair the same
scores, so they have exactly 0.5.

Intervals are Wilson's, 95 %, with the number of pairs as the number of observations: both comparisons of a pair share
films and sentences.

Letters: P pairs, M sentences, K clips, F frames of a clip, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from tqdm.auto import tqdm

from lfvila_hf.alignment_lfvila import monotone_alignment
from lfvila_hf.evaluation.order_twins.films import KINDS, Film, TwinFilms
from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.video_reading_lfvila import read_frames

TIE = 1e-6
SCORES = ("global", "pooled", "maxsim", "aligned", "both")
"""Names of the scores; see `pair_scores`."""
ACCURACIES = ("pair", "text_to_video", "video_to_text")
DEFAULT_CLIPS = 8
"""Clips that a film is cut into, for encoders that read clips."""
Z_95 = 1.959963984540054


class Accuracy(NamedTuple):
    """A share of pairs with its interval.

    Args:
        value: Accuracy from 0 to 1; 0.5 is chance.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def wilson_interval(share: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """Compute the Wilson score interval of a share.

    Args:
        share: Share of successes, from 0 to 1.
        count: Number of observations.
        z: Quantile of the normal distribution. Defaults to that of 95 %.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: The share is outside 0 to 1, or there is no observation.
    """
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"the share is {share} of {count} observations, expected 0 to 1 of at least 1")
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def twin_accuracies(scores: torch.Tensor) -> dict[str, Accuracy]:
    """Compute the accuracies of the right twin.

    Args:
        scores: `(P, 2, 2)`, of paragraphs by films: the original first, then the twin.

    Returns:
        "pair", "text_to_video" and "video_to_text".

    Raises:
        ValueError: The shape is another, there is no pair, or a score is not finite.
    """
    if scores.ndim != 3 or scores.shape[1:] != (2, 2) or not len(scores):
        raise ValueError(f"scores have the shape {tuple(scores.shape)}, expected (P, 2, 2) with at least one pair")
    if not scores.isfinite().all():
        raise ValueError(f"a score is {scores[~scores.isfinite()][0].item()}, expected finite numbers")
    scores = scores.double()
    tie = TIE * max(float(scores.abs().max()), 1.0)

    def right(own: torch.Tensor, twin: torch.Tensor) -> torch.Tensor:
        difference = own - twin
        return (difference > tie).double() + (difference.abs() <= tie).double() / 2

    own = scores.diagonal(dim1=1, dim2=2)  # (P, 2)
    shares = {
        "pair": right(own.sum(1), scores.flip(2).diagonal(dim1=1, dim2=2).sum(1)),
        "text_to_video": right(own, scores.flip(2).diagonal(dim1=1, dim2=2)).mean(1),
        "video_to_text": right(own, scores.flip(1).diagonal(dim1=1, dim2=2)).mean(1),
    }
    found = {}
    for name, pairs in shares.items():
        share = float(pairs.mean())
        found[name] = Accuracy(share, *wilson_interval(share, len(scores)))
    return found


@dataclass(frozen=True)
class FilmVectors:
    """Vectors of one film and its paragraph, L2-normalised.

    Args:
        sentences: `(M, D)`, or `None` for an encoder without clip vectors.
        clips: `(K, D)`, the same.
        paragraph: `(D,)` of the sentences as one text.
        film: `(D,)` of the whole film.
    """

    sentences: torch.Tensor | None
    clips: torch.Tensor | None
    paragraph: torch.Tensor
    film: torch.Tensor


def encode_films(
    encoder: StoryEncoder,
    data: TwinFilms,
    *,
    num_clips: int = DEFAULT_CLIPS,
    known_cuts: bool = False,
    batch_size: int = 16,
    progress: bool = True,
) -> list[FilmVectors]:
    """Embed all films and paragraphs.

    An encoder that reads segments (LF-VILA) gets every film as one segment and gives its own clips. Any other gets
    clips of `frames_per_clip` frames, the middles of equal parts of the clip, and the whole film as one more such clip.

    Args:
        encoder: From `lfvila_hf.search.encoders.load_encoder`.
        data: The films.
        num_clips: Clips of equal length that a film is cut into. Defaults to 8.
        known_cuts: Cut where the clips of the film begin instead.
        batch_size: Clips in one pass of the model. Defaults to 16.
        progress: Show a progress bar.

    Raises:
        ValueError: `num_clips` is below 1, or `known_cuts` is asked of an encoder that cuts by itself.
        LFVilaVideoError: A film cannot be read.
    """
    if num_clips < 1 or batch_size < 1:
        raise ValueError(f"num_clips is {num_clips} and batch_size {batch_size}, expected at least 1")
    if known_cuts and encoder.num_frames:
        raise ValueError(f"{encoder.name} cuts films into clips by itself: known_cuts is for encoders of clips")
    found = []
    for film in tqdm(data.films, desc="films", unit="film", disable=not progress):
        if encoder.num_frames:
            frames = read_frames(data.path(film), num_frames=encoder.num_frames, transform=encoder.prepare).frames
            whole, clips = encoder.encode_segments(frames[None])
            sentences, paragraph = encoder.encode_story(film.sentences)
            assert paragraph is not None  # an encoder of segments has one
            found.append(FilmVectors(sentences, None if clips is None else clips[0], paragraph, whole[0]))
        else:
            vectors = _encode_clips(encoder, data, film, num_clips, known_cuts, batch_size)
            texts = encoder.encode_sentences([film.paragraph, *film.sentences])
            found.append(FilmVectors(texts[1:], vectors[:-1], texts[0], vectors[-1]))
    return found


def _encode_clips(
    encoder: StoryEncoder, data: TwinFilms, film: Film, num_clips: int, known_cuts: bool, batch_size: int
) -> torch.Tensor:
    """Embed the clips of a film, and the whole film as one more clip, `(K + 1, D)`."""
    per_clip, total = encoder.frames_per_clip, film.first_frames[-1]
    edges = film.first_frames if known_cuts else tuple(total * k / num_clips for k in range(num_clips + 1))
    spans = [*zip(edges[:-1], edges[1:], strict=True), (0, total)]
    # The middles of F equal parts in whole frames, so that a clip gives the same frames wherever it stands.
    indices = [
        int(start + (2 * part + 1) * (end - start) / (2 * per_clip)) for start, end in spans for part in range(per_clip)
    ]
    read = read_frames(data.path(film), indices=indices, transform=encoder.prepare)
    frames = read.frames.unflatten(0, (-1, per_clip))  # (K + 1, F, ...)
    seconds = torch.tensor(indices).view(-1, per_clip).div(film.fps).tolist()
    parts = [slice(first, first + batch_size) for first in range(0, len(spans), batch_size)]
    return torch.cat([encoder.encode_clips(frames[part], seconds[part]) for part in parts])


def pair_scores(vectors: list[FilmVectors], pairs: list[tuple[int, int]], score: str) -> torch.Tensor:
    """Score the paragraphs of every pair with its films.

    Args:
        vectors: From `encode_films`.
        pairs: From `TwinFilms.pairs`.
        score: "global", paragraph vector with film vector; "pooled", mean sentence vector with mean clip vector;
            "maxsim", the mean over sentences of the largest cosine with a clip; "aligned", the mean under the best
            non-decreasing map of sentences to clips; "both", the sum of global and aligned.

    Returns:
        `(P, 2, 2)`, paragraphs by films, float64.
    """
    rows = [[[_score(vectors[text], vectors[film], score) for film in pair] for text in pair] for pair in pairs]
    return torch.tensor(rows, dtype=torch.float64)


def _score(text: FilmVectors, film: FilmVectors, score: str) -> float:
    if score == "global":
        return float(text.paragraph.double() @ film.film.double())
    if score == "both":
        return _score(text, film, "global") + _score(text, film, "aligned")
    assert text.sentences is not None and film.clips is not None
    sentences, clips = text.sentences.double(), film.clips.double()
    if score == "pooled":
        return float(functional.cosine_similarity(sentences.mean(0), clips.mean(0), dim=0))
    cosines = sentences @ clips.T  # (M, K)
    if score == "maxsim":
        return float(cosines.amax(1).mean())
    if score == "aligned":
        return float(monotone_alignment(cosines)[0])
    raise ValueError(f"the score is {score!r}, expected one of {', '.join(SCORES)}")


def evaluate_order_twins(encoder: StoryEncoder, data: TwinFilms, **options: Any) -> dict[str, Any]:
    """Compute all accuracies of an encoder.

    Args:
        encoder: From `lfvila_hf.search.encoders.load_encoder`.
        data: The films.
        **options: See `encode_films`.

    Returns:
        JSON: "model", "films" (settings of the data), "pairs" (per kind), "clips" (the rule), "notes" (what the encoder
        cannot read), "accuracy": score -> kind -> name -> [value, low, high]. The kind "all" is over the pairs of all
        kinds, with the number of stories as its number of observations.
    """
    vectors = encode_films(encoder, data, **options)
    scores = SCORES if all(one.clips is not None and one.sentences is not None for one in vectors) else SCORES[:1]
    accuracy: dict[str, dict[str, dict[str, Accuracy]]] = {}
    for score in scores:
        matrices = {kind: pair_scores(vectors, data.pairs(kind), score) for kind in KINDS}
        accuracy[score] = {kind: twin_accuracies(matrix) for kind, matrix in matrices.items()}
        accuracy[score]["all"] = _over_kinds(list(accuracy[score].values()), len(matrices[KINDS[0]]))
    rule = "known cuts" if options.get("known_cuts") else f"{options.get('num_clips', DEFAULT_CLIPS)} equal parts"
    return {
        "model": encoder.name,
        "films": data.settings,
        "pairs": len(data.pairs(KINDS[0])),
        "clips": "the model's own" if encoder.num_frames else rule,
        "notes": _notes(encoder, data),
        "accuracy": accuracy,
    }


def _over_kinds(kinds: list[dict[str, Accuracy]], count: int) -> dict[str, Accuracy]:
    """Average over kinds; the three pairs of a story share the original, so stories are the observations."""
    found = {}
    for name in ACCURACIES:
        share = sum(kind[name].value for kind in kinds) / len(kinds)
        found[name] = Accuracy(share, *wilson_interval(share, count))
    return found


def _notes(encoder: StoryEncoder, data: TwinFilms) -> list[str]:
    """Say what the encoder cannot read, with the number of films."""
    cut = 0
    if encoder.text_limit and not encoder.num_frames:
        counts = encoder.count_tokens([film.paragraph for film in data.films])
        cut = sum(count > encoder.text_limit for count in counts)
    found = [f"global: only the first {encoder.text_limit} tokens were read of {cut} paragraphs"] if cut else []
    stories = [notes for film in data.films if (notes := encoder.notes(film.sentences))]
    if stories:
        found.append(f"of {len(stories)} films not all sentences can be read as they are; the first: {stories[0][0]}")
    most, frames = max(len(film.order) for film in data.films), encoder.frames_per_clip
    if not encoder.num_frames and frames < most:
        found.append(
            f"global: {frames} frames of films of up to {most} clips; which clips they show depends on the order"
        )
    return found


def format_table(result: dict[str, Any]) -> str:
    """Format the result of `evaluate_order_twins` as a table: scores by kinds of twins."""
    films = result["films"]
    lines = [
        f"{result['model']}: accuracy of the right twin, {result['pairs']} pairs a kind, chance 0.50",
        f"films of {films['source']}, seed {films['seed']}, {films['fingerprint'][:12]}; clips: {result['clips']}",
        *(f"note: {note}" for note in result["notes"]),
        "",
        f"{'score':<10}{'':<15}" + "".join(f"{kind:<20}" for kind in (*KINDS, "all")).rstrip(),
    ]
    for score, kinds in result["accuracy"].items():
        for number, name in enumerate(ACCURACIES):
            cells = [Accuracy(*kinds[kind][name]) for kind in (*KINDS, "all")]
            texts = "".join(f"{f'{cell.value:.2f} [{cell.low:.2f}, {cell.high:.2f}]':<20}" for cell in cells)
            lines.append(f"{'' if number else score:<10}{name.replace('_', ' '):<15}{texts}".rstrip())
    return "\n".join(lines)
