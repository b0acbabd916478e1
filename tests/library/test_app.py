"""The page: what it serves and what it refuses, without a browser; then in a real one.

Also pins pages (what is shown is escaped and seeks to the right second), app_guard and app_command.
"""

from __future__ import annotations

import colorsys
import http.client
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_library import RULE, make_model, make_processor, make_videos

from lfvila_hf.library import VideoLibrary, pages
from lfvila_hf.library.app_command import build_parser, is_loopback
from lfvila_hf.library.ranking import Hit, Moment
from lfvila_hf.library.table import video_id

STORY = "First a man rides. Then the ball is red."


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, int]) -> VideoLibrary:
    folder = tmp_path_factory.mktemp("app")
    make_videos(folder / "videos", (20, 90, 25))
    library = VideoLibrary(make_model(tiny_vocabulary), make_processor(tiny_vocabulary), RULE, root=folder / "videos")
    library.add(folder / "videos")
    (folder / "secret.mp4").write_bytes(b"another user's")
    library.save(folder / "index")
    return library


@pytest.fixture(scope="module")
def address(library: VideoLibrary) -> Iterator[tuple[str, int]]:
    """The page on a free port of the loopback."""
    pytest.importorskip("gradio", reason="Gradio is not installed (extra app)")
    uvicorn = pytest.importorskip("uvicorn")
    from lfvila_hf.library.app import build_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(build_app(library), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    yield "127.0.0.1", port
    server.should_exit = True
    thread.join(20)


def get(address: tuple[str, int], path: str, **headers: str) -> tuple[int, bytes, Any]:
    """One request, with the path as it is (a client that tidies paths would hide what is tested)."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def test_videos_and_pictures_of_the_library_are_served(address: tuple[str, int], library: VideoLibrary) -> None:
    for path in library.paths:
        whole = Path(library.file_of(path)).read_bytes()
        status, content, headers = get(address, f"/media/{video_id(path)}")
        assert (status, content, headers["content-type"]) == (200, whole, "video/mp4")
        assert headers["x-content-type-options"] == "nosniff"
        status, content, headers = get(address, f"/media/{video_id(path)}", Range="bytes=10-19")
        assert (status, content) == (206, whole[10:20]), "players jump by asking for ranges"
    status, content, _ = get(address, "/thumbnail/0")
    assert status == 200 and content == library.thumbnail(0)


@pytest.mark.parametrize(
    "path",
    [
        "/media/clip_0.mp4",
        "/media/../secret.mp4",
        "/media/..%2fsecret.mp4",
        "/media/%2fetc%2fpasswd",
        "/media/",
        "/thumbnail/9999",
        "/thumbnail/-1",
        "/thumbnail/..%2f..%2fsecret.mp4",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=FOLDER/secret.mp4",
        "/gradio_api/file=FOLDER/index/library.json",
        "/file=/etc/passwd",
        "/FOLDER/secret.mp4",
    ],
)
def test_nothing_outside_the_library_is_served(address: tuple[str, int], library: VideoLibrary, path: str) -> None:
    folder = str(Path(library.manifest.root).parent)
    status, content, _ = get(address, path.replace("FOLDER", folder))
    assert status in (403, 404, 405, 422) or b"<html" in content.lower(), (status, content[:80])
    assert b"another user's" not in content and b"root:" not in content and b"fingerprint" not in content


def test_gradios_own_doors_for_files_are_closed(address: tuple[str, int]) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nmine\r\n--x--\r\n'
    for path in ("/gradio_api/upload", "/upload"):
        connection = http.client.HTTPConnection(*address, timeout=60)
        connection.request("POST", path, body, {"content-type": "multipart/form-data; boundary=x"})
        assert connection.getresponse().status == 404
        connection.close()
    for path in ("/gradio_api/file=/etc/hostname", "/gradio_api/file/etc/hostname", "/gradio_api/proxy=http://a.b/"):
        status, content, _ = get(address, path)
        assert (status, content) == (404, b"there is no such page")


def test_on_the_loopback_it_answers_to_its_own_names_only(
    library: VideoLibrary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed (extra app)")
    uvicorn = pytest.importorskip("uvicorn")
    from starlette.testclient import TestClient

    from lfvila_hf.library import app_command, search_command

    served: list[Any] = []
    monkeypatch.setattr(search_command, "open_library", lambda *_: library)
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: served.append(app))
    for host in ("127.0.0.1", "::1", "0.0.0.0"):
        assert app_command.main(["index", "--host", host]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["http://127.0.0.1:7860", "http://[::1]:7860", "http://0.0.0.0:7860"]
    assert said.err.count("without a password") == 1
    client = TestClient(served[0])
    path = f"/media/{video_id('clip_0.mp4')}"
    for name, status in {"localhost:7860": 200, "127.0.0.1:7860": 200, "[::1]:7860": 200, "evil.example": 421}.items():
        assert client.get(path, headers={"host": name}).status_code == status, name
    assert TestClient(served[2]).get(path, headers={"host": "films.example"}).status_code == 200


def test_a_video_that_became_a_link_out_of_the_folder_or_vanished_is_not_served(
    tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed (extra app)")
    from starlette.testclient import TestClient

    from lfvila_hf.library.app import build_app

    first, second = make_videos(tmp_path / "videos", (20, 25))
    library = VideoLibrary(make_model(tiny_vocabulary), make_processor(tiny_vocabulary), RULE, root=tmp_path / "videos")
    library.add(tmp_path / "videos")
    (tmp_path / "secret").write_text("another user's")
    client = TestClient(build_app(library))
    assert client.get(f"/media/{video_id('clip_0.mp4')}").status_code == 200
    first.unlink()
    first.symlink_to(tmp_path / "secret")
    second.unlink()
    assert client.get(f"/media/{video_id('clip_0.mp4')}").status_code == 404
    answer = client.get(f"/media/{video_id('clip_1.mp4')}")
    assert answer.status_code == 410 and "is gone: index the folder again" in answer.text


def test_an_index_that_was_replaced_under_the_page_is_said(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed (extra app)")
    from starlette.testclient import TestClient

    from lfvila_hf.library.app import build_app

    make_videos(tmp_path / "videos", (20, 25))
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    VideoLibrary(model, processor, RULE, root=tmp_path / "videos").save(tmp_path / "index")
    library = VideoLibrary.load(tmp_path / "index", model, processor)
    library.add(tmp_path / "videos")
    library.save(tmp_path / "index")
    client = TestClient(build_app(VideoLibrary.load(tmp_path / "index", model, processor)))
    assert client.get("/thumbnail/0").status_code == 200
    library.remove("clip_0.mp4")
    library.save(tmp_path / "index")
    answer = client.get("/thumbnail/0")
    assert answer.status_code == 410 and "the index was replaced: start the page again" in answer.text


def test_names_of_a_large_library_are_typed(library: VideoLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed (extra app)")
    from lfvila_hf.library import app

    def kind() -> str:
        parts = app.make_page(library).get_config_file()["components"]
        return next(part["type"] for part in parts if part["props"].get("elem_id") == "video")

    assert kind() == "dropdown"
    monkeypatch.setattr(app, "MAX_LISTED", 2)
    assert kind() == "textbox"


def test_questions_get_hits_or_a_clear_word(library: VideoLibrary) -> None:
    from lfvila_hf.library.app import answered, looked_inside

    shown = answered(library, STORY, "both", 2)
    assert shown.count('<section class="lfvila-hit">') == 2 and shown.count('class="lfvila-band"') == 4
    assert "the story is empty" in answered(library, " ", "both", 5)
    assert "has 100 sentences" in answered(library, "A man rides. " * 100, "both", 5)
    inside = looked_inside(library, "clip_1.mp4", STORY)
    assert inside.count('src="thumbnail/') == len(library.segments_of("clip_1.mp4")) > 3
    assert 'class="lfvila-band"' not in looked_inside(library, "clip_1.mp4", "")
    assert "choose a video of the library" in looked_inside(library, None, STORY)
    assert "is not in this library" in looked_inside(library, "/etc/passwd", STORY)


def test_numbers_stand_out_from_every_colour_of_the_heat_map() -> None:
    values = torch.linspace(0, 1, 21)
    times = tuple(float(second) for second in range(22))
    moment = Moment("a", 0.0, 1.0, 0.0)
    hit = Hit("a.mp4", 1.0, 0.0, 21.0, 21.0, 0, {}, (moment,), times, values[None])
    styles = re.findall(r"hsl\((\d+), (\d+)%, (\d+)%\); color: #(000|fff)", pages.hits_html([hit]))
    assert len(styles) == 21 and {ink for *_, ink in styles} == {"000", "fff"}
    for hue, saturation, lightness, ink in styles:
        colour = colorsys.hls_to_rgb(int(hue) / 360, int(lightness) / 100, int(saturation) / 100)
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # of WCAG 2, as is the contrast
        contrast = (luminance + 0.05) / 0.05 if ink == "000" else 1.05 / (luminance + 0.05)
        assert contrast > 4, (hue, ink)


def test_text_of_others_is_shown_as_text() -> None:
    evil = "<script>alert(1)</script>${1+1}\"'.mp4"
    hit = Hit(
        path=evil,
        score=1.0,
        start=0.0,
        end=10.0,
        duration=20.0,
        segment=0,
        scores={"global": 1.0},
        moments=(Moment(evil, 2.5, 5.0, 0.5),),
        clip_times=(0.0, 2.5, 5.0, 7.5, 10.0),
        cosines=torch.tensor([[0.1, 0.5, 0.2, 0.3]]),
    )
    shown = pages.hits_html([hit], (evil,)) + pages.message_html(evil)
    assert "<script" not in shown and "${" not in shown and shown.count("&lt;script&gt;") >= 4
    assert '<span style="left: 75%">0:00:15</span><span style="left: 100%">0:00:20</span>' in shown
    assert 'data-start="2.500"' in shown and "left: 12.50%; width: 12.50%" in shown
    assert shown.count('class="cell chosen"') == 1 and "v.currentTime = 7.500" in shown
    assert f'src="media/{video_id(evil)}#t=2.500"' in shown


def test_it_listens_to_this_machine_unless_told_otherwise() -> None:
    assert build_parser().parse_args(["index"]).host == "127.0.0.1"
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.8.9.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.org")))


@pytest.mark.browser
@pytest.mark.timeout(600)
def test_a_person_types_a_story_clicks_a_band_and_the_player_is_at_that_second(
    address: tuple[str, int], library: VideoLibrary
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test-full)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    expected = library.search(STORY)[0]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(180_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto("http://{}:{}".format(*address))
        page.fill("#story textarea", STORY)
        page.click("#search")
        hit = page.locator("#results .lfvila-hit").first
        hit.wait_for()
        assert expected.path in hit.locator("h3").inner_text()
        bands = hit.locator(".lfvila-band")
        assert bands.count() == 2
        page.wait_for_function("document.querySelector('#results video').readyState >= 1")
        for number, moment in enumerate(expected.moments):
            bands.nth(number).click()
            page.evaluate("document.querySelector('#results video').pause()")
            second = page.evaluate("document.querySelector('#results video').currentTime")
            assert moment.start - 0.01 <= second <= moment.start + 1.0
        hit.locator(".lfvila-heat button").last.click()
        page.evaluate("document.querySelector('#results video').pause()")
        assert page.evaluate("document.querySelector('#results video').currentTime") >= expected.clip_times[-2] - 0.01
        page.fill("#story textarea", "")
        page.click("#search")
        page.locator("#results .lfvila-error").wait_for()
        assert "the story is empty" in page.locator("#results").inner_text()
        browser.close()
    assert all(url.startswith(("http://127.0.0.1", "data:", "blob:")) for url in asked), (
        "something was loaded elsewhere"
    )
