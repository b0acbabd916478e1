# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf plot`: training curves, alignment matrices, attention over frames, similarity of a whole evaluation set.

Each is written to PNG or SVG, by the suffix of `--output`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SUFFIXES = (".png", ".svg")
SCORES = ("global", "aligned", "both")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="lfvila-hf plot", description="Draw what a model does, to PNG or SVG.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    def kind(name: str, help_text: str) -> argparse.ArgumentParser:
        one = kinds.add_parser(name, help=help_text, description=help_text)
        one.add_argument("--output", required=True, metavar="FILE", help="file to write, .png or .svg")
        return one

    losses = kind("losses", "training curves of one or more runs")
    losses.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a Trainer, or a trainer_state.json")
    alignment = kind("alignment", "cosine of every sentence with every clip of a video")
    alignment.add_argument("--model", required=True, metavar="CKPT", help="checkpoint")
    alignment.add_argument("--video", required=True, metavar="FILE", help="video")
    alignment.add_argument("--story", required=True, help="sentences")
    attention = kind("attention", "attention of each level of the video tower, frame by frame")
    attention.add_argument("--model", required=True, metavar="CKPT", help="checkpoint")
    attention.add_argument("--video", required=True, metavar="FILE", help="video")
    attention.add_argument("--frames", type=int, default=8, help="frames drawn (default: %(default)s)")
    similarity = kind("similarity", "score of every text with every video of an evaluation set")
    similarity.add_argument("--model", required=True, metavar="CKPT", help="checkpoint")
    similarity.add_argument("--annotations", required=True, metavar="JSONL", help="lines with clip_id and text")
    similarity.add_argument("--videos", required=True, metavar="FOLDER", help="folder of the videos")
    similarity.add_argument("--score", choices=SCORES, default="global", help="score to draw (default: %(default)s)")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check the suffix of the picture and that the files exist, before the package is imported.

    Raises:
        ValueError: The suffix is unknown, or a file does not exist.
    """
    if Path(options.output).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output must end in {' or '.join(SUFFIXES)}, got {options.output}")
    for name in ("video", "annotations", "videos"):
        path = getattr(options, name, None)
        if path is not None and not Path(path).exists():
            raise ValueError(f"--{name} {path}: no such file or folder")
    for run in getattr(options, "runs", []):
        if not Path(run).exists():
            raise ValueError(f"there is no file or folder {run}")
        training_states(run)


def main(arguments: list[str]) -> int:
    """Run the command: compute, draw, say where the picture is."""
    options = build_parser().parse_args(arguments)
    check(options)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    draw = {"losses": _losses, "alignment": _alignment, "attention": _attention, "similarity": _similarity}
    print(draw[options.kind](options, output))
    return 0


def training_states(run: str) -> list[Path]:
    """The states in a Trainer's output folder and its checkpoints.

    Raises:
        ValueError: There is no `trainer_state.json`.
    """
    place = Path(run)
    files = [place] if place.is_file() else [*place.glob("trainer_state.json"), *place.glob("*/trainer_state.json")]
    if not files:
        raise ValueError(f"there is no trainer_state.json in {run} or in its checkpoints")
    return files


def training_log(run: str) -> list[dict[str, float]]:
    """The log of a Trainer's output folder: that of its last state.

    Raises:
        ValueError: There is none, or one is damaged.
    """
    states = []
    for file in training_states(run):
        try:
            state = json.loads(file.read_text("utf-8"))
            states.append((state["global_step"], state["log_history"]))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is damaged, or no state of a Trainer") from None
    return max(states, key=lambda state: state[0])[1]


def _losses(options: argparse.Namespace, output: Path) -> Path:
    from lfvila_hf.search.plots import plot_losses

    return plot_losses({Path(run).name: training_log(run) for run in options.runs}, output)


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    from transformers.utils import logging

    from lfvila_hf.search.encoder_families import LFVilaEncoder
    from lfvila_hf.search.encoders import load_encoder

    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    encoder = load_encoder(options.model)
    if not isinstance(encoder, LFVilaEncoder):
        raise ValueError(f"plots are drawn of LF-VILA checkpoints, {options.model} holds a {encoder.name}")
    return encoder.model, encoder.processor


def _alignment(options: argparse.Namespace, output: Path) -> Path:
    from lfvila_hf.alignment_lfvila import monotone_alignment
    from lfvila_hf.inference import encode_paragraphs, encode_videos
    from lfvila_hf.search.plots import plot_alignment
    from lfvila_hf.search.story_sentences import check_sentences

    model, processor = _load(options)
    sentences = check_sentences(options.story)
    story, video = encode_paragraphs(model, processor, [sentences]), encode_videos(model, processor, options.video)
    if story.sentence_embeds is None or video.clip_embeds is None:
        raise ValueError("this model has no sentence and clip features (temporal_alignment=False)")
    cosines = story.sentence_embeds[0] @ video.clip_embeds[0].T  # (M, K)
    times, clips = video.metadata[0].timestamps, video.clip_embeds.shape[1]
    bounds = [*times[:: len(times) // clips], video.metadata[0].duration]
    chosen = monotone_alignment(cosines)[1].tolist()
    return plot_alignment(cosines, sentences, bounds, chosen, output, Path(options.video).name)


def _attention(options: argparse.Namespace, output: Path) -> Path:
    from lfvila_hf.search.attention_maps import attention_received
    from lfvila_hf.search.plots import plot_attention

    model, processor = _load(options)
    read = processor.video_processor.read_pictures(options.video)
    pixels = processor.video_processor.normalize_pictures(read.frames)[None]  # (1, T, 3, H, W)
    maps = attention_received(model.video_model, pixels)
    windows = [min(frames, len(read.frames)) for frames in model.config.video_config.temporal_windows]
    title = f"attention inside windows: {Path(options.video).name}"
    return plot_attention(read.frames, maps, windows, read.times, output, options.frames, title)


def _similarity(options: argparse.Namespace, output: Path) -> Path:
    from lfvila_hf.data.annotations import load_retrieval
    from lfvila_hf.inference import encode_paragraphs, encode_videos
    from lfvila_hf.search.plots import plot_similarity

    model, processor = _load(options)
    rows = load_retrieval(options.annotations, options.videos)
    videos = encode_videos(model, processor, [row["video"] for row in rows], progress=True)
    texts = encode_paragraphs(model, processor, [row["sentences"] for row in rows], progress=True)
    scores = model.similarity(texts, videos, options.score)
    return plot_similarity(scores, output, f"{Path(options.annotations).name}: {options.score} score")
