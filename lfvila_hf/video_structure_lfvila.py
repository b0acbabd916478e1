# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Check of a container's structure: do its parts follow each other until the end of the file?

FFmpeg skips what it cannot parse and looks for the next packet behind it, and says so in its log alone. Frames lost in
that way leave no other trace where a container has no index: a Matroska file that was cut off, a transport stream with
an overwritten packet. So `structure_fault` follows the parts of short files by their stated sizes, without looking at
pictures: boxes (mp4), elements (Matroska, WebM), chunks (AVI), tags (FLV), packets (MPEG transport and program
streams).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Zeros up to a sector after the last part are padding.
PADDING = 2048
# Identifiers of Matroska: the header, the segment, its children, clusters and their children.
HEADER, SEGMENT, CLUSTER, VOID, CHECKSUM = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC, 0xBF
IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, CLUSTER, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469}
IN_SEGMENT |= {VOID, CHECKSUM}
IN_CLUSTER = {0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854, VOID, CHECKSUM}
# Boxes of a movie fragment.
IN_FRAGMENT = {b"mfhd", b"traf", b"pssh", b"meta", b"udta", b"uuid", b"free"}
# Sizes of transport packets (bare, with a time code of 4 bytes before, with a checksum after), and the marker's place.
PACKET_SIZES = ((188, 0), (192, 4), (204, 0))
# Ends of a part, from its place: `(data, place, end of what it is in)`.
Step = Callable[[bytes, int, int], int]


class _Fault(Exception):
    """End of a check, with the fault in words."""


def structure_fault(data: bytes | memoryview, container: str) -> str | None:
    """Follow the parts of a file.

    Args:
        data: The whole file.
        container: FFmpeg's name of the container format.

    Returns:
        The first fault in words; `None` if there is none, or the container is of no kind that is known here.
    """
    check = _CHECKS.get(container.partition(",")[0])
    try:
        if check is not None:
            check(bytes(data))
    except _Fault as fault:
        return str(fault)
    return None


def _follow(data: bytes, place: int, end: int, step: Step) -> None:
    """Go from part to part until `end`."""
    while place < end:
        if data[place] == 0 and end - place <= PADDING and not any(data[place:end]):
            return
        place = step(data, place, end)
    if place > end:
        if end < len(data):
            raise _broken(end)
        raise _missing(place - len(data))


def _broken(place: int) -> _Fault:
    return _Fault(f"damaged: the structure of the container is broken at byte {place}")


def _missing(count: int) -> _Fault:
    return _Fault(f"truncated: at least {count} bytes of the container are missing at its end")


def _check_boxes(data: bytes) -> None:
    _follow(data, 0, len(data), _after_box)


def _after_box(data: bytes, place: int, end: int) -> int:
    size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
    if size == 1:
        size = int.from_bytes(data[place + 8 : place + 16], "big")
    if size == 0:  # until the end
        return end
    if size < 8 or not name.isascii() or not name.decode("ascii").isprintable():
        raise _broken(place)
    after = place + size
    if name == b"moof" and after <= end:
        _follow(data, place + 8, after, _after_box_of_fragment)
    return after


def _after_box_of_fragment(data: bytes, place: int, end: int) -> int:
    if data[place + 4 : place + 8] not in IN_FRAGMENT:
        raise _broken(place)
    return _after_box(data, place, end)


def _check_elements(data: bytes) -> None:
    name, start, end = _element(data, 0)
    if name != HEADER or end is None:
        raise _broken(0)
    _follow(data, end, len(data), _after_segment)


def _after_segment(data: bytes, place: int, end: int) -> int:
    name, start, after = _element(data, place)
    if name == VOID and after is not None:
        return after
    if name != SEGMENT:
        raise _broken(place)
    _follow(data, start, min(after or end, end), _after_child)
    return after or end


def _after_child(data: bytes, place: int, end: int) -> int:
    name, start, after = _element(data, place)
    if name not in IN_SEGMENT:
        raise _broken(place)
    if name == CLUSTER and after is None:  # a live recording: its children follow each other with those of the segment
        return start
    if name == CLUSTER and after is not None and after <= end:
        _follow(data, start, after, _after_block)
    if after is None:
        raise _broken(place)
    return after


def _after_block(data: bytes, place: int, end: int) -> int:
    name, _, after = _element(data, place)
    if name not in IN_CLUSTER or after is None:
        raise _broken(place)
    return after


def _element(data: bytes, place: int) -> tuple[int, int, int | None]:
    """Read the identifier of an element, the place of its content, and its end; `None` if the size is not stated."""
    numbers = []
    start = place
    for bits in (0, 7):
        length = 9 - data[start].bit_length() if start < len(data) else 9
        if length > 8 or start + length > len(data):
            raise _broken(place)
        number = int.from_bytes(data[start : start + length], "big")
        numbers.append(number & ((1 << bits * length) - 1) if bits else number)
        start += length
    unknown = numbers[1] == (1 << 7 * length) - 1
    return numbers[0], start, None if unknown else start + numbers[1]


def _check_chunks(data: bytes) -> None:
    _follow(data, 0, len(data), _after_riff)


def _after_riff(data: bytes, place: int, end: int) -> int:
    if data[place : place + 4] != b"RIFF":
        raise _broken(place)
    after = place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")
    if after <= end:
        _follow(data, place + 12, after, _after_chunk)
    return after + after % 2


def _after_chunk(data: bytes, place: int, end: int) -> int:
    name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
    if not name.isalnum() and name.rstrip() != b"rec":
        raise _broken(place)
    after = place + 8 + size
    if name == b"LIST" and data[place + 8 : place + 12] in (b"movi", b"rec ") and after <= end:
        _follow(data, place + 12, after + after % 2, _after_chunk)
    return after + after % 2


def _check_tags(data: bytes) -> None:
    if data[:3] != b"FLV":
        raise _broken(0)
    _follow(data, int.from_bytes(data[5:9], "big") + 4, len(data), _after_tag)


def _after_tag(data: bytes, place: int, end: int) -> int:
    if data[place] & 31 not in (8, 9, 18):
        raise _broken(place)
    after = place + 11 + int.from_bytes(data[place + 1 : place + 4], "big")
    if after + 4 <= end and int.from_bytes(data[after : after + 4], "big") not in (0, after - place):
        raise _broken(after)
    return after + 4


def _check_transport_packets(data: bytes) -> None:
    """Look at the marker, the error flag and the counter of every transport packet."""
    sizes = [(size, place) for size, place in PACKET_SIZES if len(data) > size and data[place] == data[place + size]]
    size, place = next(((size, place) for size, place in sizes if data[place] == 0x47), (0, 0))
    if not size:
        raise _broken(0)
    count, rest = divmod(len(data), size)
    packets = np.frombuffer(data, np.uint8, count * size).reshape(count, size)[:, place : place + 6].astype(np.int64)
    broken = (packets[:, 0] != 0x47) | (packets[:, 1] & 0x80 > 0)
    program = (packets[:, 1] & 0x1F) << 8 | packets[:, 2]
    has_content = packets[:, 3] & 0x10 > 0
    announced = (packets[:, 3] & 0x20 > 0) & (packets[:, 4] > 0) & (packets[:, 5] & 0x80 > 0)  # a cut on purpose
    for one in np.unique(program[program != 0x1FFF]):
        places = np.flatnonzero((program == one) & has_content)
        steps = np.diff(packets[places, 3]) & 0xF
        broken[places[1:]] |= (steps > 1) & ~announced[places[1:]]
    if broken.any():
        raise _broken(int(broken.argmax()) * size)
    if rest:
        raise _missing(size - rest)


def _check_program_packets(data: bytes) -> None:
    _follow(data, 0, len(data), _after_program_packet)


def _after_program_packet(data: bytes, place: int, end: int) -> int:
    if data[place : place + 3] != b"\0\0\1" or place + 4 > end or data[place + 3] < 0xB9:
        raise _broken(place)
    kind = data[place + 3]
    if kind == 0xB9:
        return place + 4
    if kind == 0xBA:
        second = data[place + 4 : place + 5] >= b"\x40"  # MPEG-2 has stuffing
        return place + 14 + (data[place + 13] & 7 if place + 13 < end else 0) if second else place + 12
    return place + 6 + int.from_bytes(data[place + 4 : place + 6], "big")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "mov": _check_boxes,
    "matroska": _check_elements,
    "avi": _check_chunks,
    "flv": _check_tags,
    "mpegts": _check_transport_packets,
    "mpeg": _check_program_packets,
}
