"""ConSE, an encoder with real weights, on real clips: retrieval of films by their story, order, and "not here".

    PYTHONPATH=examples/custom_encoder python benchmarks/search_real.py --videos ../shared/data/videos

Needs the two packages of examples/custom_encoder/requirements.txt and the real clips of `CAPTIONS` (their captions were
written for this benchmark). One vector a clip, from four frames. Films are five clips one behind the other: which of 60
films a story tells, by mean-pooled vectors, by MaxSim and by the ordered alignment; and how often the right order is
preferred to a permutation of the film. Then the whole way: the files are indexed in segments of 8 s, and every caption
is searched in every file; `foreign_found` is the share of files that are said to show a caption of another file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import finish, make_parser, record

from lfvila_hf.alignment_lfvila import aligned_similarity
from lfvila_hf.evaluation.moments import auroc
from lfvila_hf.search import SegmentRule, VideoLibrary

CAPTIONS = {
    "decord_pancake_10s.mkv": "A woman flips a pancake in a kitchen.",
    "gram_husky_15s_portrait.mp4": "A husky dog sits on a sofa and howls.",
    "llavanext_jobs_17s_portrait.mp4": "A man on a stage shows a small music player.",
    "mmaction2_gym_10s.mp4": "Boys throw basketballs in a gym.",
    "mmaction2_pool_10s.mp4": "Someone cleans a swimming pool with a long pole.",
    "moviechat_9s_720p.mp4": "A king in armour sits on a dark throne.",
    "moviepy_bbb_30s.webm": "A cartoon bird sits on a tree in a green meadow.",
    "moviepy_chaplin_10s.mp4": "Two men in old suits and hats stand on a street in a black and white film.",
    "moviepy_failing_audio_11s.mp4": "An airplane flies over a field.",
    "pllava_dance_10s.mp4": "A man dances among drawings of cartoon figures.",
    "pllava_yoga_10s.mp4": "A woman does yoga on a terrace in the mountains.",
    "torchcodec_nasa_13s.mp4": "A crane lifts people in a red basket in a dark hall.",
    "videogrep_manifesto_88s.mp4": "A red book cover shows a raised fist.",
    "videollava_demo1_10s.mp4": "A baby with glasses reads a book on a bed.",
    "videollava_demo9_9s.mp4": "Hands put sliced peppers on a baking tray.",
    "videollava_drums_36s.mp4": "A man plays the drums.",
    "videollava_screencast_32s.mp4": "A website with text and pictures is shown on a computer screen.",
    "videoprism_drumming_8s_12fps.mp4": "A child drums on plastic water bottles.",
}
FILMS, CLIPS_PER_FILM, PAIRS = 60, 5, 600


def recall_at_1(scores: torch.Tensor) -> float:
    """Share of rows of `(texts, films)` whose own film scores best."""
    return float((scores.argmax(1) == torch.arange(len(scores))).float().mean())


def films(clips: torch.Tensor, captions: torch.Tensor) -> dict[str, float]:
    """Retrieval of films of five clips, and preference of the right order."""
    generator = np.random.default_rng(0)
    chosen = np.stack([generator.choice(len(clips), CLIPS_PER_FILM, replace=False) for _ in range(FILMS)])
    videos, stories = clips[chosen], captions[chosen]  # (N, 5, D)
    pooled = [torch.nn.functional.normalize(one.mean(1), dim=-1) for one in (stories, videos)]
    similarity = torch.einsum("nmd,vkd->nvmk", stories, videos)
    mask = torch.ones(FILMS, CLIPS_PER_FILM)
    right = 0.0
    for _ in range(PAIRS):
        film = int(generator.integers(FILMS))
        order = generator.permutation(CLIPS_PER_FILM)
        while (order == np.arange(CLIPS_PER_FILM)).all():
            order = generator.permutation(CLIPS_PER_FILM)
        both = torch.stack([videos[film], videos[film][order]])
        scores = aligned_similarity(stories[film : film + 1], mask[:1], both)[0]
        right += float(scores[0] > scores[1]) + 0.5 * float(scores[0] == scores[1])
    return {
        "clip_r1": recall_at_1(captions @ clips.T),
        "pooled_r1": recall_at_1(pooled[0] @ pooled[1].T),
        "maxsim_r1": recall_at_1(similarity.amax(3).mean(2)),
        "aligned_r1": recall_at_1(aligned_similarity(stories, mask, videos)),
        "order": right / PAIRS,
        "chance_r1": 1 / FILMS,
    }


def not_here(library: VideoLibrary, names: list[str]) -> dict[str, float]:
    """Every caption searched in every file."""
    own_found, foreign_found, raw, p_values = [], [], ([], []), ([], [])  # type: ignore[var-annotated]  # lists of numbers
    for name in names:
        story = library.read_story([CAPTIONS[name]])
        for path in library.paths:
            (hit,) = library.search(story, path=path)
            moment = hit.moments[0]
            own = path == name
            (own_found if own else foreign_found).append(moment.found)
            raw[not own].append(float(hit.cosines.max()))  # type: ignore[union-attr]  # there are clips
            p_values[not own].append(-moment.p_value)
    return {
        "own_found": float(np.mean(own_found)),
        "foreign_found": float(np.mean(foreign_found)),
        "auroc_raw": auroc(*raw),
        "auroc_p": auroc(*p_values),
        "pairs": float(len(foreign_found)),
        "segments": float(library.num_segments),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--videos", required=True, help="folder of the real clips")
    parser.add_argument("--segment-seconds", type=float, default=8.0, help="segments of the indexed files")
    parser.add_argument("--dump", help="write the clip vectors of the index to this .npy")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    from conse_encoder import ConSEEncoder

    encoder = ConSEEncoder()
    videos = Path(options.videos)
    names = sorted(name for name in CAPTIONS if (videos / name).is_file())
    results: dict[str, Any] = {"videos": len(names)}
    whole = VideoLibrary(encoder, rule=SegmentRule(1e5, 0.0, 1e5), root=videos)
    whole.add([videos / name for name in names])
    clips = torch.from_numpy(np.concatenate([whole.view.clips(whole.view.rows_of(name)[0]) for name in names]))
    captions = whole.encoder.encode_sentences([CAPTIONS[name] for name in names])
    results["films"] = films(clips, captions)
    print(json.dumps(results["films"]), flush=True)
    library = VideoLibrary(whole.encoder, rule=SegmentRule(options.segment_seconds, 0.5, 2.0), root=videos)
    library.add([videos / name for name in names])
    results["not_here"] = not_here(library, names)
    print(json.dumps(results["not_here"]), flush=True)
    if options.dump:
        np.save(options.dump, library.view.block)
    answer = record(Path(__file__).stem, options, **results)
    finish(answer, options)
    return answer


if __name__ == "__main__":
    main()
