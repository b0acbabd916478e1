"""Ways to break a video file: cut it, flip its bits, swap and resize its boxes, write lies into its headers.

Each mutation is drawn from a seeded generator, so that a file that does harm can be made again from its number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from video_files import boxes, write_sound, write_video

SEEDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.flv": {},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
}

# Where parts begin: mp4 boxes, Matroska's clusters, cues and tracks, a transport packet, an FLV picture, AVI's chunks,
# MPEG start codes, an Annex B unit.
MARKS = [b"moov", b"mdat", b"moof", b"stbl", b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\x16\x54\xae\x6b"]
MARKS += [b"\x47\x41", b"\x09\x00", b"LIST", b"movi", b"idx1", b"00dc", b"\0\0\1\xba", b"\0\0\1\xe0", b"\0\0\1\x65"]


def write_seeds(folder: Path) -> dict[str, bytes]:
    """The whole files that mutations start from: ten containers and codecs, and one without video."""
    seeds = {name: write_video(folder / name, 24, gop=8, **options).read_bytes() for name, options in SEEDS.items()}
    return {**seeds, "sound.m4a": write_sound(folder / "sound.m4a").read_bytes()}


def mutate(data: bytes, generator: np.random.Generator) -> tuple[str, bytes]:
    """One to three random mutations of a file: what was done, and the result."""
    done = []
    for _ in range(int(generator.integers(1, 4))):
        mutation = MUTATIONS[int(generator.integers(len(MUTATIONS)))]
        data = mutation(data, generator) or data
        done.append(mutation.__name__.lstrip("_"))
    return "+".join(done), data


def _place(data: bytes, generator: np.random.Generator) -> int:
    """Somewhere in the file; every other time within the first or last kilobyte, where headers are."""
    size = len(data)
    kind = int(generator.integers(4))
    if kind == 0:
        return int(generator.integers(min(1024, size)))
    if kind == 1:
        return size - 1 - int(generator.integers(min(1024, size)))
    return int(generator.integers(size))


def _truncate(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: _place(data, generator)]


def _truncate_at_a_mark(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut where a part of a container begins, or a few bytes into it."""
    marks = [place for mark in MARKS if (place := _random_find(data, mark, generator)) >= 0]
    marks += [end for _, _, end in boxes(data) if 0 < end < len(data)] if data[4:8] == b"ftyp" else []
    if not marks:
        return _truncate(data, generator)
    return data[: max(marks[int(generator.integers(len(marks)))] + int(generator.integers(-4, 9)), 0)]


def _random_find(data: bytes, mark: bytes, generator: np.random.Generator) -> int:
    """The first occurrence of `mark` behind a random place, else the first of all; -1 where there is none."""
    return max(data.find(mark, int(generator.integers(len(data)))), data.find(mark))


def _drop_start(data: bytes, generator: np.random.Generator) -> bytes:
    return data[int(generator.integers(min(4096, len(data)))) :]


def _flip_bits(data: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 20))):
        changed[_place(data, generator)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _overwrite_run(data: bytes, generator: np.random.Generator) -> bytes:
    start, size = _place(data, generator), int(generator.integers(1, 512))
    noise = generator.integers(0, 256, size, dtype=np.uint8).tobytes()
    return data[:start] + noise[: len(data) - start] + data[start + size :]


def _lie_in_a_number(data: bytes, generator: np.random.Generator) -> bytes:
    """Write an extreme big-endian or little-endian number somewhere, most often into a header."""
    width = int(generator.choice([1, 2, 4, 8]))
    most = 2 ** (8 * width)
    value = [0, 1, 127, most - 1, most // 2, most // 2 - 1][int(generator.integers(6))]
    order = "big" if generator.integers(2) else "little"
    start = _place(data, generator)
    return data[:start] + value.to_bytes(width, order)[: len(data) - start] + data[start + width :]


def _swap_pieces(data: bytes, generator: np.random.Generator) -> bytes:
    cuts = sorted(int(cut) for cut in generator.integers(0, len(data) + 1, 4))
    one, two, three, four = cuts
    return data[:one] + data[three:four] + data[two:three] + data[one:two] + data[four:]


def _repeat_piece(data: bytes, generator: np.random.Generator) -> bytes:
    start = _place(data, generator)
    piece = data[start : start + int(generator.integers(1, 2048))]
    return data[:start] + piece * int(generator.integers(2, 20)) + data[start:]


def _remove_piece(data: bytes, generator: np.random.Generator) -> bytes:
    start = _place(data, generator)
    return data[:start] + data[start + int(generator.integers(1, 2048)) :]


def _swap_boxes(data: bytes, generator: np.random.Generator) -> bytes:
    """Exchange the names of two boxes of an mp4, or lie about the size of one."""
    names = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco"]
    names += [b"moof", b"traf", b"trun", b"tfhd", b"mdat", b"elst", b"tkhd", b"mdhd", b"avcC", b"hvcC"]
    found = [(data.find(name), name) for name in names if data.find(name) >= 4]
    if not found:
        return _flip_bits(data, generator)
    place, _ = found[int(generator.integers(len(found)))]
    if generator.integers(2):
        _, other = found[int(generator.integers(len(found)))]
        return data[:place] + other + data[place + 4 :]
    size = int(generator.choice([0, 1, 7, 8, 16, 2**31 - 1, 2**32 - 1]))
    return data[: place - 4] + size.to_bytes(4, "big") + data[place:]


def _reorder_boxes(data: bytes, generator: np.random.Generator) -> bytes:
    """Put the boxes of an mp4, or those inside its `moov`, in another order."""
    found = boxes(data)
    inside = [box for box in found if box[0] == "moov"]
    if inside and generator.integers(2):
        found = boxes(data, inside[0][1] + 8, inside[0][2])
    if len(found) < 2 or found[-1][2] > len(data):
        return _swap_pieces(data, generator)
    start, end = found[0][1], found[-1][2]
    order = generator.permutation(len(found))
    return data[:start] + b"".join(data[found[place][1] : found[place][2]] for place in order) + data[end:]


def _stretch_counts(data: bytes, generator: np.random.Generator) -> bytes:
    """Claim very many samples in a table of an mp4."""
    for name in (b"stts", b"stsz", b"ctts", b"stsc", b"trun"):
        place = data.find(name)
        if place >= 0 and generator.integers(2):
            count = int(generator.choice([0, 2**16, 10**9, 2**32 - 1]))
            offset = place + (12 if name == b"stsz" else 8) + 4 * int(generator.integers(2))
            data = data[:offset] + count.to_bytes(4, "big") + data[offset + 4 :]
    return data


MUTATIONS: list[Callable[[bytes, np.random.Generator], bytes]] = [
    _truncate,
    _truncate_at_a_mark,
    _drop_start,
    _flip_bits,
    _overwrite_run,
    _lie_in_a_number,
    _swap_pieces,
    _repeat_piece,
    _remove_piece,
    _swap_boxes,
    _reorder_boxes,
    _stretch_counts,
]
