"""Videos that are still being made: files that grow, pipes, addresses; how each ends."""

from __future__ import annotations

import functools
import gc
import http.server
import threading
import time
from pathlib import Path

import pytest
from live_sources import colour_of, feed, make_pipe, write_colours
from video_files import read_barcode, write_video

from lfvila_hf.video.live import LiveVideo
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, read_frames

PARTS = (("red", 1.0), ("green", 1.0), ("blue", 1.0))
SEEN = [(0.0, "red"), (0.5, "red"), (1.0, "green"), (1.5, "green"), (2.0, "blue"), (2.5, "blue")]


def seen(live: LiveVideo, step: float = 0.5) -> list[tuple[float, str]]:
    return [(second, colour_of(picture)) for second, picture in live.sampled(step)]


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4", "a.nut"])
def test_a_finished_file_gives_the_frames_on_screen_as_the_reader_does(name: str, tmp_path: Path) -> None:
    film = write_video(tmp_path / name, 60, size=(48, 80), codec="mpeg4")
    live = LiveVideo(str(film), stall_seconds=0.2)
    found = [(second, read_barcode(picture)) for second, picture in live.sampled(0.35)]
    expected = read_frames(film, times=[second for second, _ in found])
    assert len(found) == 7 and [number for _, number in found] == [read_barcode(one) for one in expected.frames]
    assert live.ending == "end" and live.notes == []


def test_a_file_is_read_while_it_grows(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "whole.ts", [("red", 20.0), ("green", 2.0)]).read_bytes()
    growing = tmp_path / "growing.ts"
    growing.write_bytes(data[: len(data) // 2])
    live = LiveVideo(str(growing), stall_seconds=2.0)
    found = []
    for second, picture in live.sampled(1.0):
        if not found:  # nothing more is written before a picture was given out
            assert not live._bytes.has_ended, "the picture came only when the file counted as finished"
            with growing.open("ab") as file:
                file.write(data[len(data) // 2 :])
        found.append((second, colour_of(picture)))
    assert found == [*((float(second), "red") for second in range(20)), (20.0, "green"), (21.0, "green")]
    assert live.ending == "end"


def test_a_pipe_ends_when_its_writer_closes_it(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "whole.mkv", PARTS).read_bytes()
    pipe = make_pipe(tmp_path / "pipe")
    writer = feed(pipe, data)
    live = LiveVideo(str(pipe), stall_seconds=5.0)
    assert seen(live) == SEEN and live.ending == "end"
    writer.join()


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_seconds_count_from_the_start_of_the_sound_as_the_reader_counts_them(name: str, tmp_path: Path) -> None:
    film = write_colours(tmp_path / name, PARTS, first_second=1.0, sound_seconds=4)
    pipe = make_pipe(tmp_path / "pipe")
    writer = feed(pipe, film.read_bytes())
    for source in (film, pipe):
        found = seen(LiveVideo(str(source), stall_seconds=0.5), 0.35)
        # the first picture stands for the second before it; colours change at 2 and 3 s
        assert [colour for _, colour in found] == ["red"] * 6 + ["green"] * 3 + ["blue"] * 3, found
        read = read_frames(film, times=[second for second, _ in found])
        assert [colour_of(picture) for picture in read.frames] == [colour for _, colour in found]
    writer.join()


def test_a_first_picture_long_after_the_sound_does_not_stand_for_the_time_before_it(tmp_path: Path) -> None:
    film = write_colours(tmp_path / "a.mkv", [("red", 1.0)], first_second=40.0, sound_seconds=1)
    found = seen(LiveVideo(str(film), stall_seconds=0.2))
    assert found == [(40.0, "red"), (40.5, "red")]


def test_a_pipe_that_stalls_gives_what_came_before(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "whole.ts", PARTS).read_bytes()
    pipe = make_pipe(tmp_path / "pipe")
    feed(pipe, data, hold=30.0)
    live, start = LiveVideo(str(pipe), stall_seconds=0.4), time.monotonic()
    assert seen(live) == SEEN and live.ending == "stalled"
    assert time.monotonic() - start < 10


def test_nothing_at_all_is_an_error_and_no_hang(tmp_path: Path) -> None:
    pipe = make_pipe(tmp_path / "pipe")  # nobody ever writes
    live = LiveVideo(str(pipe), stall_seconds=0.3)
    with pytest.raises(LFVilaVideoError, match=r"nothing that can be decoded came for 0\.3 s"):
        seen(live)
    assert live.ending == "stalled"
    text = tmp_path / "text.ts"
    text.write_text("no video\n" * 1000)
    with pytest.raises(LFVilaVideoError, match=r"text\.ts"):
        seen(LiveVideo(str(text), stall_seconds=0.1))


def test_a_stream_that_ends_within_a_frame_says_so(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "whole.nut", PARTS).read_bytes()
    cut = tmp_path / "cut.nut"
    # within the packet of the last frame: its beginning is at most some bytes before the end
    cut.write_bytes(data[: len(data) * 9 // 10])
    live = LiveVideo(str(cut), stall_seconds=0.1)
    found = seen(live)
    assert found == SEEN[: len(found)] and len(found) >= 4
    assert live.ending == "broken" and live.notes == ["1 broken packets or frames"]


def test_a_stop_ends_reading_with_what_has_come(tmp_path: Path) -> None:
    data = write_colours(tmp_path / "whole.ts", PARTS).read_bytes()
    pipe, stop = make_pipe(tmp_path / "pipe"), threading.Event()
    feed(pipe, data, hold=30.0)
    live = LiveVideo(str(pipe), stall_seconds=30.0, stop=stop)
    threading.Timer(1.0, stop.set).start()
    assert seen(live) == SEEN and live.ending == "stopped"
    none = LiveVideo(str(make_pipe(tmp_path / "other")), stop=stop)
    with pytest.raises(LFVilaVideoError, match="stopped before there was a frame"):
        seen(none)
    assert none.ending == "stopped"


def test_a_gap_in_time_is_not_filled_and_time_stamps_that_go_back_are_an_error(tmp_path: Path) -> None:
    first = write_colours(tmp_path / "1.ts", [("red", 1.0)]).read_bytes()
    late = write_colours(tmp_path / "2.ts", [("blue", 1.0)], first_second=600.0).read_bytes()
    film = tmp_path / "gap.ts"
    film.write_bytes(first + late)
    live = LiveVideo(str(film), stall_seconds=1.0)
    found = seen(live)
    assert [colour for _, colour in found] == ["red", "red", "blue", "blue"] and found[2][0] == 600.0
    assert "1 gaps in time, the longest of 599.1 s after 0.9 s" in live.notes
    film.write_bytes(write_colours(tmp_path / "3.ts", [("blue", 1.0)], first_second=20.0).read_bytes() + first)
    live = LiveVideo(str(film), stall_seconds=1.0)
    found = []
    with pytest.raises(LFVilaVideoError, match=r"at 0\.90 s: its time stamps go back"):
        for second, picture in live.sampled(0.5):
            found.append((second, colour_of(picture)))
    assert found == [(0.0, "blue"), (0.5, "blue")]


def test_seconds_go_on_where_the_clock_of_a_transport_stream_starts_again(tmp_path: Path) -> None:
    first = write_colours(tmp_path / "1.ts", [("red", 1.0)], first_second=100.0).read_bytes()
    # 2**33 ticks of 90 kHz are 95443.7 s
    late = write_colours(tmp_path / "2.ts", [("blue", 3.0)], first_second=95442.0).read_bytes()
    later = write_colours(tmp_path / "3.ts", [("green", 1.0)], first_second=60.0).read_bytes()
    film = tmp_path / "days.ts"
    film.write_bytes(first + late + later)
    live = LiveVideo(str(film), stall_seconds=1.0)
    found = seen(live, 1.0)
    assert [colour for _, colour in found] == ["red", "blue", "blue", "blue", "green"], found
    assert [second for second, _ in found] == pytest.approx([0, 95342, 95343, 95344, 95404], abs=1.0)
    assert live.ending == "end" and live.notes[-1].startswith("2 gaps in time")


def test_an_address_needs_permission(tmp_path: Path) -> None:
    write_colours(tmp_path / "film.ts", PARTS)
    with pytest.raises(LFVilaVideoError, match="it is an address: allow it with --allow-network"):
        LiveVideo("http://localhost/film.ts")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        live = LiveVideo(f"{address}/film.ts", allow_network=True)
        assert seen(live) == SEEN and live.ending == "end"
        with pytest.raises(LFVilaVideoError, match=r"absent\.ts"):
            seen(LiveVideo(f"{address}/absent.ts", allow_network=True))
        live = LiveVideo(f"{address}/slow/film.ts", stall_seconds=0.5, allow_network=True)
        found = seen(live)
        assert found == SEEN and live.ending == "stalled"
        # a play list may not name files of this machine
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:3,\nfile://{tmp_path}/film.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(LFVilaVideoError, match=r"list\.m3u8"):
            seen(LiveVideo(f"{address}/list.m3u8", allow_network=True))
    finally:
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log; below `/slow` a file that never ends."""

    def do_GET(self) -> None:
        """Send a file, and below `/slow` nothing more, for longer than anybody waits."""
        if not self.path.startswith("/slow/"):
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write((Path(self.directory) / self.path.removeprefix("/slow/")).read_bytes())
        self.wfile.flush()
        time.sleep(5)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LFVilaVideoError, match="no such file or device"):
        LiveVideo(str(tmp_path / "absent.ts"))
    with pytest.raises(LFVilaVideoError, match="this is a directory"):
        seen(LiveVideo(str(tmp_path)))
    with pytest.raises(ValueError, match="stall_seconds must be above 0, got nan"):
        LiveVideo("-", stall_seconds=float("nan"))


def test_decoded_pictures_do_not_pile_up(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.ts", 100, size=(48, 80))
    gc.collect()
    gc.disable()  # what is in a reference cycle stays now
    try:
        read_frames(film)
        list(LiveVideo(str(film), stall_seconds=0.1).sampled(0.04))
        large = [one for one in gc.get_objects() if type(one).__name__ == "VideoFrame" and one.height > 2]
    finally:
        gc.enable()
    assert len(large) <= 2
