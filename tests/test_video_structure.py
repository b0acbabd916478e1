"""The structure of a container: whole files have no fault, cut and damaged ones have, in every container."""

from __future__ import annotations

import io
import itertools
import time
from pathlib import Path

import av
import pytest
from test_video_field_cases import REQUESTS
from video_files import sequential_frames, write_video

from lfvila_hf.video_reading_lfvila import read_frames
from lfvila_hf.video_sources_lfvila import structure_fault

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
KINDS = {
    "a.mp4": {},
    "fragmented.mp4": {"container_options": FRAGMENTED},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
    "live.mkv": {"container_options": {"live": "1"}},
    "a.avi": {"codec": "mpeg4"},
    "a.flv": {},
    "a.ts": {},
    "a.m2ts": {"container_format": "mpegts", "container_options": {"mpegts_m2ts_mode": "1"}},
    "a.mpg": {"codec": "mpeg2video"},
    "a.vob": {"codec": "mpeg2video"},
}


def _write(folder: Path, name: str) -> Path:
    return write_video(folder / name, 40, gop=10, **KINDS[name])


def _container(path: Path) -> str:
    with av.open(str(path)) as container:
        return str(container.format.name)


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_has_no_fault_and_one_answer(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    data = path.read_bytes()
    assert structure_fault(data, _container(path)) is None
    padded = data if _container(path) == "mpegts" else data + bytes(100)
    assert structure_fault(memoryview(padded), _container(path)) is None
    for source, request in itertools.product((path, io.BytesIO(data)), REQUESTS[:2]):
        info = read_frames(source, **request).metadata
        assert (info.total_num_frames, info.notes) == (40, ())


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("live.mkv", "a.mp4")])
def test_a_file_without_its_end_says_so(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10 - 7])
    fault = structure_fault(path.read_bytes(), _container(path))
    assert fault is not None and fault.startswith("truncated: at least ")
    info = read_frames(path, accept_truncated=True).metadata
    assert info.total_num_frames == len(sequential_frames(path)) < 40
    assert any(note.startswith("truncated: ") for note in info.notes)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "a.mp4"])
def test_bytes_that_are_missing_or_changed_are_noted_whatever_is_asked_for(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    whole, container = path.read_bytes(), _container(path)
    middle = len(whole) // 2
    shorter = whole[: middle - 300] + whole[middle + 311 :]
    changed = whole[:middle] + b"\xa5" * 700 + whole[middle + 700 :]
    for data in (shorter, changed):
        answers = {
            (info.total_num_frames, info.duration, info.notes)
            for request in REQUESTS
            for info in [read_frames(data, accept_truncated=True, **request).metadata]
        }
        assert len(answers) == 1
        (count, _, notes) = answers.pop()
        assert notes or count == 40
    assert structure_fault(shorter, container) is not None


def test_a_start_that_is_missing_is_noted(tmp_path: Path) -> None:
    for name in ("a.ts", "a.mpg"):
        data = _write(tmp_path, name).read_bytes()[1000:]
        info = read_frames(data).metadata
        assert info.total_num_frames < 40
        assert "damaged: the structure of the container is broken at byte 0" in info.notes


def test_a_packet_of_a_transport_stream_that_is_missing_is_noticed_and_a_cut_on_purpose_is_none(tmp_path: Path) -> None:
    data = _write(tmp_path, "a.ts").read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    video = [n for n, packet in enumerate(packets) if packet[1] & 0x1F == 1 and packet[2] == 0 and packet[3] & 0x10]
    announced = next(n for n in video[5:] if packets[n][3] & 0x20 and packets[n][4] > 0)
    lost = b"".join(packet for n, packet in enumerate(packets) if n != announced - 1)
    assert "is broken at byte" in str(structure_fault(lost, "mpegts"))
    packets[announced] = packets[announced][:5] + bytes([packets[announced][5] | 0x80]) + packets[announced][6:]
    lost = b"".join(packet for n, packet in enumerate(packets) if n != announced - 1)
    assert structure_fault(lost, "mpegts") is None


def test_what_is_not_known_is_not_judged() -> None:
    assert structure_fault(b"anything", "ogg") is None
    assert structure_fault(b"", "mov,mp4,m4a,3gp,3g2,mj2") is None


def test_a_file_of_countless_parts_costs_little() -> None:
    matroska = bytes.fromhex("1a45dfa3801853806701ffffffffffffff") + b"\xec\x80" * 4_000_000
    start = time.process_time()
    assert structure_fault(matroska, "matroska,webm") is None
    assert structure_fault(b"\0\0\1\xb9" * 2_000_000, "mpeg") is None
    assert time.process_time() - start < 5
