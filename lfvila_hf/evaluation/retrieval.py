"""Recall, ranks and order accuracy of text-to-video and video-to-text retrieval, from any score.

The paper reports R@1, R@5 and R@10 of paragraphs against videos. The functions here compute them from a *score
function* `score_block(texts, videos) -> (n_text, n_video)` over two slices of indices, so the global score, the aligned
one and any other go through the same code (`lfvila_hf.evaluation.retrieval_features` has the model's scores).

**Memory.** Scores are computed in blocks of at most `block_size` x `block_size`, one at a time; a few counts per text
and video are kept. Blocks that hold a right answer are computed twice: once for the score to beat, once for counting.
With one text per video these are the blocks on the diagonal.

**Ties.** A query whose right answer ties with `e` wrong ones has no definite rank. Ordering tied items by index, or
counting them all as right, would reward a constant score. Tied items count as being in random order. With `g` wrong
answers strictly ahead, the rank is its expectation `1 + g + e / 2`, and R@k is the probability that the right one is
among the first k, `clamp((k - g) / (e + 1), 0, 1)`. So for scores [[1, 1], [0, 1]] text-to-video R@1 is
(0.5 + 1) / 2 = 0.75, and a constant score gives exactly the chance level.

**Several texts per video** (`target` names the video of each text). Text-to-video asks for the one right video;
video-to-text asks for the first right text, and other right ones are not competitors. When `o` right texts share the
best score, its expected rank is `1 + g + e / (o + 1)`, and R@k the probability that at least one of them is among the
first k. A video without a text is a candidate but no query.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

ScoreBlock = Callable[[slice, slice], torch.Tensor]
"""Scores of a slice of texts with a slice of videos, `(n_text, n_video)`; higher is better. Both slices have start and
stop within the numbers of texts and videos. Called several times, so it must always give the same answer (a model in
eval mode does)."""

DEFAULT_BLOCK_SIZE = 512
DEFAULT_RECALL_AT = (1, 5, 10)


def retrieval_metrics(
    score_block: ScoreBlock,
    num_texts: int,
    num_videos: int,
    *,
    target: Sequence[int] | torch.Tensor | None = None,
    block_size: int = DEFAULT_BLOCK_SIZE,
    recall_at: Sequence[int] = DEFAULT_RECALL_AT,
    dual_softmax_temperature: float | None = None,
) -> dict[str, float]:
    """Compute retrieval metrics in both directions.

    Args:
        score_block: The score function; see `ScoreBlock`.
        num_texts: Number of texts.
        num_videos: Number of videos.
        target: The video of each text, `(num_texts,)`. By default text i belongs to video i.
        block_size: Largest number of texts, and of videos, in one call of `score_block`.
        recall_at: The k of the reported R@k.
        dual_softmax_temperature: Adds the metrics of the dual softmax (see `dual_softmax`) at this temperature, under
            keys that begin with `dsl_`. They are not comparable with plain ones. Defaults to none.

    Returns:
        Fractions, not percentages: `t2v_r1`, `t2v_r5`, `t2v_r10`, `t2v_medr` and `t2v_meanr` (median and mean of the
        expected ranks, 1 is best), the same with `v2t_`, and `num_texts`, `num_videos`, `chance_r1` (1 / num_videos).

    Raises:
        ValueError: There is no text or no video; `target` has another length, names a video that is not there, or is
            missing although the numbers of texts and videos differ; a score is NaN or infinite; a block has a wrong
            shape.
    """
    checked_target = _check_target(target, num_texts, num_videos)
    metrics = direction_metrics(
        retrieval_ranks(score_block, num_texts, num_videos, target=checked_target, block_size=block_size), recall_at
    )
    if dual_softmax_temperature is not None:
        sharpened = dual_softmax(
            score_block, num_texts, num_videos, temperature=dual_softmax_temperature, block_size=block_size
        )
        ranks = retrieval_ranks(sharpened, num_texts, num_videos, target=checked_target, block_size=block_size)
        metrics.update({f"dsl_{key}": value for key, value in direction_metrics(ranks, recall_at).items()})
    metrics.update(num_texts=float(num_texts), num_videos=float(num_videos), chance_r1=1 / num_videos)
    return metrics


class Ranks(NamedTuple):
    """Counts behind the ranks of a set of queries' right answers, `(queries,)` int64 each."""

    ahead: torch.Tensor
    """Wrong answers with a higher score than the best right one."""
    tied: torch.Tensor
    """Wrong answers with the same score."""
    right: torch.Tensor
    """Right answers with that score, at least 1."""

    def expected(self) -> torch.Tensor:
        """Return the expected rank of the first right answer, `(queries,)` float64, 1 is best."""
        return 1 + self.ahead + self.tied.double() / (self.right + 1)

    def found_among(self, k: int) -> torch.Tensor:
        """Return the probability that a right answer is among the first k, `(queries,)` float64."""
        group = self.tied + self.right
        places = (k - self.ahead).clamp(min=0).minimum(group)  # places that the tied group has among the first k
        missed = torch.ones(group.shape, dtype=torch.float64)
        for index in range(int(self.right.max())):
            # All right ones stand behind the first `places` of the shuffled group: drawn one after the other.
            chance = (group - places - index).clamp(min=0).double() / (group - index).clamp(min=1)
            missed = torch.where(index < self.right, missed * chance, missed)
        return 1 - missed


def retrieval_ranks(
    score_block: ScoreBlock,
    num_texts: int,
    num_videos: int,
    *,
    target: Sequence[int] | torch.Tensor | None = None,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> tuple[Ranks, Ranks]:
    """Count the items ranked before the right answer, for each text and for each video that has a text.

    Args:
        score_block: The score function; see `ScoreBlock`.
        num_texts: Number of texts.
        num_videos: Number of videos.
        target: The video of each text, `(num_texts,)`. By default text i belongs to video i.
        block_size: Largest number of texts, and of videos, in one call of `score_block`.

    Returns:
        The ranks of the texts' videos, `(num_texts,)`, and of the videos' texts, `(videos with a text,)` in order.

    Raises:
        ValueError: As `retrieval_metrics`.
    """
    target = _check_target(target, num_texts, num_videos)
    text_slices, video_slices = _slices(num_texts, block_size), _slices(num_videos, block_size)

    own_score = torch.empty(num_texts, dtype=torch.float64)
    for texts in text_slices:
        for videos in video_slices:
            rows, columns = torch.nonzero(target[texts, None] == torch.arange(videos.start, videos.stop), as_tuple=True)
            if len(rows):
                block = _checked_block(score_block, texts, videos)
                own_score[texts.start + rows] = block[rows.to(block.device), columns.to(block.device)].double().cpu()

    best_score = torch.full((num_videos,), -math.inf, dtype=torch.float64)
    best_score.scatter_reduce_(0, target, own_score, reduce="amax")
    is_best = own_score == best_score[target]

    video_ahead, video_tied = torch.zeros(2, num_texts, dtype=torch.int64)
    text_ahead, text_tied = torch.zeros(2, num_videos, dtype=torch.int64)
    for texts in text_slices:
        for videos in video_slices:
            block = _checked_block(score_block, texts, videos)
            wrong = (target[texts, None] != torch.arange(videos.start, videos.stop)).to(
                block.device
            )  # (n_text, n_video)
            to_beat = own_score[texts, None].to(block)  # (n_text, 1)
            video_ahead[texts] += ((block > to_beat) & wrong).sum(1).cpu()
            video_tied[texts] += ((block == to_beat) & wrong).sum(1).cpu()
            to_beat = best_score[None, videos].to(block)  # (1, n_video)
            text_ahead[videos] += ((block > to_beat) & wrong).sum(0).cpu()
            text_tied[videos] += ((block == to_beat) & wrong).sum(0).cpu()

    num_best = torch.bincount(target[is_best], minlength=num_videos)
    asked = num_best > 0
    text_ranks = Ranks(text_ahead[asked], text_tied[asked], num_best[asked])
    return Ranks(video_ahead, video_tied, torch.ones_like(video_ahead)), text_ranks


def dual_softmax(
    score_block: ScoreBlock,
    num_texts: int,
    num_videos: int,
    *,
    temperature: float,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> ScoreBlock:
    """Return a score function that normalises a pair's score over all its competitors in both directions.

    The new score is the logarithm of the softmax over videos times the softmax over texts,
    `2 s / temperature - logsumexp over videos - logsumexp over texts`. It looks at all queries of the test set at once
    and uses that each video has about one text, while a real query comes alone. So its metrics are labelled.

    Args:
        score_block: The score function; see `ScoreBlock`.
        num_texts: Number of texts.
        num_videos: Number of videos.
        temperature: Divides the scores; the one that the model was trained with (0.05 for cosines) is a fair choice.
        block_size: Largest number of texts, and of videos, in one call of `score_block`.

    Raises:
        ValueError: The temperature is not above 0, or a score is NaN or infinite.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of the dual softmax is {temperature}, expected a number above 0")
    over_videos = torch.full((num_texts,), -math.inf, dtype=torch.float64)
    over_texts = torch.full((num_videos,), -math.inf, dtype=torch.float64)
    for texts in _slices(num_texts, block_size):
        for videos in _slices(num_videos, block_size):
            block = _checked_block(score_block, texts, videos).double() / temperature
            over_videos[texts] = torch.logaddexp(over_videos[texts], block.logsumexp(1).cpu())
            over_texts[videos] = torch.logaddexp(over_texts[videos], block.logsumexp(0).cpu())

    def dual_softmax_block(texts: slice, videos: slice) -> torch.Tensor:
        block = 2 * score_block(texts, videos).double() / temperature  # (n_text, n_video)
        return block - over_videos[texts, None].to(block.device) - over_texts[None, videos].to(block.device)

    return dual_softmax_block


def twin_scores(
    score_block: ScoreBlock,
    twins: Sequence[tuple[int, int]],
    *,
    target: Sequence[int] | torch.Tensor | None = None,
) -> torch.Tensor:
    """Score both texts of each twin pair against its own video and against its twin's.

    Order twins are two stories of the same events in different orders. A model that is blind to time scores both alike.

    Args:
        score_block: The score function; see `ScoreBlock`.
        twins: Pairs of text indices.
        target: The video of each text. By default text i belongs to video i.

    Returns:
        `(2 * len(twins), 2)` float64: first own video, then the twin's, for text i and then for text j of each pair.

    Raises:
        ValueError: A pair's two texts belong to the same video, or a score is NaN or infinite.
    """
    rows = []
    for first, second in twins:
        videos = [int(index if target is None else target[index]) for index in (first, second)]
        if videos[0] == videos[1]:
            raise ValueError(f"texts {first} and {second} are no twins, both belong to video {videos[0]}")
        for text, own, other in ((first, videos[0], videos[1]), (second, videos[1], videos[0])):
            one = slice(text, text + 1)
            blocks = [_checked_block(score_block, one, slice(video, video + 1)) for video in (own, other)]
            rows.append([block.double().item() for block in blocks])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)  # (2 * pairs, 2)


def order_accuracy(score_pairs: torch.Tensor | Sequence[Sequence[float]]) -> float:
    """Fraction of the texts that score higher with their own video than with its order twin; a tie counts one half.

    Args:
        score_pairs: `(texts, 2)`, the score with the own video and with the twin, as `twin_scores` gives them.

    Returns:
        A fraction; a model that is blind to order has 0.5.

    Raises:
        ValueError: There is no pair, the shape is another, or a score is NaN or infinite.
    """
    pairs = torch.as_tensor(score_pairs, dtype=torch.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"score_pairs has shape {tuple(pairs.shape)}, expected (texts, 2) with at least one text")
    if not pairs.isfinite().all():
        raise ValueError(f"score_pairs holds {pairs[~pairs.isfinite()][0].item()}, expected finite scores")
    own, twin = pairs.unbind(1)
    return ((own > twin).double() + (own == twin).double() / 2).mean().item()


def direction_metrics(ranks: tuple[Ranks, Ranks], recall_at: Sequence[int]) -> dict[str, float]:
    """Recall and ranks of both directions, from the ranks of the texts' videos and of the videos' texts."""
    metrics = {}
    for direction, counts in zip(("t2v", "v2t"), ranks, strict=True):
        for k in recall_at:
            metrics[f"{direction}_r{k}"] = counts.found_among(k).mean().item()
        # quantile averages the two in the middle of an even number of ranks, where Tensor.median takes the lower one
        metrics[f"{direction}_medr"] = counts.expected().quantile(0.5).item()
        metrics[f"{direction}_meanr"] = counts.expected().mean().item()
    return metrics


def _check_target(target: Sequence[int] | torch.Tensor | None, num_texts: int, num_videos: int) -> torch.Tensor:
    if num_texts < 1 or num_videos < 1:
        raise ValueError(f"there are {num_texts} texts and {num_videos} videos, expected at least one of each")
    if target is None:
        if num_texts != num_videos:
            raise ValueError(f"{num_texts} texts and {num_videos} videos need `target`, the index of each text's video")
        return torch.arange(num_texts)
    target = torch.as_tensor(target).cpu()
    if target.shape != (num_texts,) or target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"target has shape {tuple(target.shape)} and type {target.dtype}, expected one integer for each of "
            f"{num_texts} texts"
        )
    if target.min() < 0 or target.max() >= num_videos:
        raise ValueError(
            f"target holds {target.min().item()} to {target.max().item()}, expected indices of {num_videos} videos"
        )
    return target.long()


def _slices(count: int, size: int) -> list[slice]:
    if size < 1:
        raise ValueError(f"block_size is {size}, expected at least 1")
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _checked_block(score_block: ScoreBlock, texts: slice, videos: slice) -> torch.Tensor:
    block = score_block(texts, videos).detach()
    expected = (texts.stop - texts.start, videos.stop - videos.start)
    if block.shape != expected:
        raise ValueError(f"score_block gave {tuple(block.shape)} for {texts} x {videos}, expected {expected}")
    finite = block.isfinite()
    if not finite.all():
        row, column = torch.nonzero(~finite)[0].tolist()
        raise ValueError(
            f"the score of text {texts.start + row} with video {videos.start + column} is {block[row, column].item()}, "
            "expected a finite number"
        )
    return block
