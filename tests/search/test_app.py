"""The page and the JSON API: what they serve and refuse, without a browser; then in a real one.

Also pins pages (text of others is escaped, bands seek to the right second), app_guard and app_command.
"""

from __future__ import annotations

import http.client
import json
import os
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

from lfvila_hf.search import VideoLibrary, pages
from lfvila_hf.search.app_command import build_parser, check, is_loopback
from lfvila_hf.search.ranking import Hit, Hits
from lfvila_hf.search.sentence_moments import Moment

pytest.importorskip("gradio", reason="Gradio is not installed (extra app)")
uvicorn = pytest.importorskip("uvicorn")

pytestmark = pytest.mark.extras

from starlette.testclient import TestClient  # noqa: E402 -- comes with Gradio

from lfvila_hf.search import app as app_module  # noqa: E402
from lfvila_hf.search.app import answered, build_app, looked_inside  # noqa: E402

STORY = "First a man rides. Then the ball is red."


def new_library(folder: Path, vocabulary: dict[str, int], lengths: tuple[int, ...] = (20, 90, 25)) -> VideoLibrary:
    make_videos(folder / "videos", lengths)
    library = VideoLibrary(make_model(vocabulary), make_processor(vocabulary), RULE, root=folder / "videos")
    library.add(folder / "videos")
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, int]) -> VideoLibrary:
    folder = tmp_path_factory.mktemp("app")
    library = new_library(folder, tiny_vocabulary)
    (folder / "secret.mp4").write_bytes(b"another user's")
    library.save(folder / "index")
    return library


@pytest.fixture(scope="module")
def address(library: VideoLibrary) -> Iterator[tuple[str, int]]:
    """The page on a free port of the loopback."""
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


def media_of(client: Any) -> dict[str, str]:
    """Address of the file of every video."""
    return {one["path"]: one["media"] for one in client.get("/api/videos").json()["videos"]}


# -- API and files -----------------------------------------------------------------------------------------------------


def test_the_api_gives_the_answers_of_the_library(address: tuple[str, int], library: VideoLibrary) -> None:
    status, content, headers = get(
        address, "/api/search?q=First%20a%20man%20rides.%20Then%20the%20ball%20is%20red.&top=2"
    )
    answer = json.loads(content)
    expected = library.search(STORY, 2)
    assert status == 200 and answer["sentences"] == ["First a man rides.", "Then the ball is red."]
    for hit, found in zip(answer["hits"], expected, strict=True):
        assert {**hit, "media": None} == {**json.loads(json.dumps(found.as_dict())), "media": None}
        assert hit["moments"][0].keys() >= {"sentence", "text", "spans", "score", "found"}
    assert answer["missing"] == [answer["sentences"][number] for number in expected.missing]
    assert (
        headers["cross-origin-resource-policy"] == "same-origin"
        and "frame-ancestors" in headers["content-security-policy"]
    )
    assert not [name for name in headers if name.lower().startswith("access-control")]
    listed = json.loads(get(address, "/api/videos?count=2")[1])
    assert (listed["total"], listed["segments"], len(listed["videos"])) == (3, library.num_segments, 2)
    schema = json.loads(get(address, "/api/docs")[1])
    assert set(schema["paths"]) == {"/api/search", "/api/videos"} and schema["openapi"]
    for path, word in {
        "q=": "the story is empty",
        "q=a&by=x": "must be one of",
        "q=a&video=absent.mp4": "is not in",
    }.items():
        status, content, _ = get(address, f"/api/search?{path}")
        assert status == 422 and word in content.decode()


def test_videos_frames_and_pictures_are_served(address: tuple[str, int], library: VideoLibrary) -> None:
    media = {one["path"]: one["media"] for one in json.loads(get(address, "/api/videos")[1])["videos"]}
    for path, place in media.items():
        whole = Path(library.file_of(path)).read_bytes()
        status, content, headers = get(address, place)
        assert (status, content, headers["content-type"]) == (200, whole, "video/mp4")
        assert headers["x-content-type-options"] == "nosniff"
        for asked, part in {
            "bytes=10-19": whole[10:20],
            "bytes=-5": whole[-5:],
            f"bytes={len(whole) - 3}-": whole[-3:],
        }.items():
            status, content, headers = get(address, place, Range=asked)
            assert (status, content) == (206, part), "players jump by asking for ranges"
        assert get(address, place, Range=f"bytes={len(whole)}-")[0] == 416
    video = media["clip_1.mp4"].removeprefix("/media/")
    assert get(address, f"/thumbnail/{video}/0")[1] == library.thumbnail("clip_1.mp4", 0)
    status, picture, headers = get(address, f"/frame/{video}/1500")
    assert status == 200 and picture.startswith(b"\xff\xd8\xff") and headers["content-type"] == "image/jpeg"
    assert picture != get(address, f"/frame/{video}/200")[1]
    seconds = library.segments_of("clip_1.mp4")[0]["duration"]
    for beyond in (f"frame/{video}/{1000 * seconds + 500:.0f}", f"frame/{video}/900000", f"thumbnail/{video}/99"):
        assert get(address, f"/{beyond}")[0] == 404
    assert get(address, f"/frame/{video}/{10**400}")[0] == 422


@pytest.mark.parametrize(
    "path",
    [
        "/media/clip_0.mp4",
        "/media/../secret.mp4",
        "/media/..%2fsecret.mp4",
        "/media/%2fetc%2fpasswd",
        "/media/",
        "/thumbnail/clip_0.mp4/0",
        "/frame/..%2f..%2fsecret.mp4/0",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=FOLDER/secret.mp4",
        "/file=/etc/passwd",
        "/FOLDER/secret.mp4",
    ],
)
def test_nothing_outside_the_library_is_served(address: tuple[str, int], library: VideoLibrary, path: str) -> None:
    folder = str(Path(library.provenance.root).parent)
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


def test_hostile_requests_neither_leave_files_open_nor_fill_memory(address: tuple[str, int]) -> None:
    media = json.loads(get(address, "/api/videos")[1])["videos"][1]["media"]

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(30):
        assert get(address, media, Range="bytes=5-2")[0] in (400, 416)
        with socket.create_connection(address) as player:  # that hangs up
            player.sendall(f"GET {media} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            player.recv(10)
    deadline = time.monotonic() + 20
    while descriptors() > before + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descriptors() <= before + 5
    connection = http.client.HTTPConnection(*address, timeout=60)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("POST", "/gradio_api/queue/join", b" " * (2**21), {"content-type": "application/json"})
        answer = connection.getresponse()
        raise http.client.HTTPException(str(answer.status)) if answer.status >= 400 else AssertionError
    assert get(address, "/?n=%C2%B2&q=a")[0] == get(address, "/api/videos")[0] == 200


def test_many_questions_at_once_get_their_own_answers(address: tuple[str, int], library: VideoLibrary) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import quote

    words = ["a man rides", "the ball is red", "then it is blue. " * 3, "a woman " * 30]
    expected = [[hit.path for hit in library.search(story)] for story in words]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: get(address, f"/api/search?q={quote(words[n % 4])}"), range(64)))
    for number, (status, content, _) in enumerate(answers):
        assert status == 200 and [hit["path"] for hit in json.loads(content)["hits"]] == expected[number % 4][:5]


def test_on_the_loopback_it_answers_to_its_own_names_only(
    library: VideoLibrary, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lfvila_hf.search import app_command, search_command

    served: list[Any] = []
    monkeypatch.setattr(search_command, "open_library", lambda *_, **__: library)
    monkeypatch.setattr(app_command, "check", lambda *_: None)
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: served.append(app))
    for host in ("127.0.0.1", "::1", "0.0.0.0"):
        assert app_command.main(["index", "--host", host]) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == [
        "http://127.0.0.1:7860",
        "http://[::1]:7860",
        "http://0.0.0.0:7860",
    ]
    assert said.err.count("without a password") == 1 and said.err.startswith("opening index and its model")
    client = TestClient(served[0], base_url="http://localhost")
    for path in (media_of(client)["clip_0.mp4"], "/api/videos", "/"):
        for name, status in {
            "localhost:7860": 200,
            "127.0.0.1:7860": 200,
            "[::1]:7860": 200,
            "evil.example": 421,
        }.items():
            assert client.get(path, headers={"host": name}).status_code == status, (path, name)
    assert "frame-ancestors 'none'" in client.get("/api/videos").headers["content-security-policy"]
    assert TestClient(served[2]).get("/api/videos", headers={"host": "films.example"}).status_code == 200
    assert media_of(client) != media_of(TestClient(served[2])), "ids are salted"


def test_a_video_that_became_a_link_changed_or_vanished_is_not_served(tmp_path: Path, tiny_vocabulary: Any) -> None:
    library = new_library(tmp_path, tiny_vocabulary, (20, 25, 30))
    (tmp_path / "secret").write_text("another user's")
    client = TestClient(build_app(library))
    media = media_of(client)
    assert client.get(media["clip_0.mp4"]).status_code == 200
    first, second, third = (tmp_path / "videos" / f"clip_{n}.mp4" for n in range(3))
    first.unlink()
    first.symlink_to(tmp_path / "secret")
    second.unlink()
    third.write_bytes(third.read_bytes() + b"x")
    for path, word in {
        "clip_0.mp4": "it is a link",
        "clip_1.mp4": "cannot be opened",
        "clip_2.mp4": "changed since",
    }.items():
        for place in (media[path], media[path].replace("/media/", "/frame/") + "/0"):
            answer = client.get(place)
            assert answer.status_code == 410 and word in answer.text and "another user's" not in answer.text


def test_an_index_without_a_root_serves_its_own_videos_only(tmp_path: Path, tiny_vocabulary: Any) -> None:
    (video,) = make_videos(tmp_path / "videos", (20,))
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    library = VideoLibrary(model, processor, RULE)
    library.add(video)
    disguised = tmp_path / "passwd"
    shutil.copy(video, disguised)
    os.utime(disguised, ns=(video.stat().st_mtime_ns,) * 2)
    library.add(disguised)  # a stranger's index could name any file
    client = TestClient(build_app(library))
    media = media_of(client)
    assert client.get(media[str(video)]).status_code == 200
    answer = client.get(media[str(disguised)])
    assert answer.status_code == 410 and "its name is not that of a video" in answer.text
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    (tmp_path / "videos").symlink_to(tmp_path / "elsewhere")
    assert client.get(media[str(video)]).status_code == 410, "its folder became a link"


# -- words -------------------------------------------------------------------------------------------------------------


def test_questions_get_hits_or_a_clear_word(library: VideoLibrary) -> None:
    shown = answered(library, str, STORY, "both", 2)
    assert shown.count('<section class="lf-hit">') == 2 and shown.count('class="lf-band') >= 4
    assert "the story is empty" in answered(library, str, " ", "both", 5)
    assert "has 100 sentences" in answered(library, str, "A man rides. " * 100, "both", 5)
    inside = looked_inside(library, str, "clip_1.mp4", STORY)
    assert inside.count('src="thumbnail/') == len(library.segments_of("clip_1.mp4")) > 3
    assert 'class="lf-band' not in looked_inside(library, str, "clip_1.mp4", "")
    assert "choose a video of the library" in looked_inside(library, str, None, STORY)
    assert "is not in this library" in looked_inside(library, str, "/etc/passwd", STORY)
    assert "lfvila-hf index FOLDER" in pages.hits_html(Hits(), [], str)


def moment(text: str, found: bool = True, spans: Any = ((2.5, 5.0), (7.5, 10.0))) -> Moment:
    return Moment(0, text, 2.5, 5.0, 0.5, found, 0.01, spans if found else ())


def test_text_of_others_is_shown_as_text() -> None:
    evil = "<script>alert(1)</script>${1+1}\"'.mp4"
    times = (0.0, 2.5, 5.0, 7.5, 10.0)
    cosines = torch.tensor([[0.1, 0.5, 0.2, 0.3]])
    hit = Hit(evil, 1.0, 0.0, 10.0, 20.0, 0, {"global": 1.0}, (moment(evil),), times, cosines)
    hits = Hits([hit])
    hits.notes, hits.missing = (evil,), (0,)
    shown = pages.hits_html(hits, [evil], lambda path: "ID")
    assert "<script" not in shown and "${" not in shown and shown.count("&lt;script&gt;") >= 5
    assert 'data-start="2.500" data-end="5.000"' in shown and "left: 12.50%; width: 12.50%" in shown
    assert shown.count('class="lf-band"') == 2, "a band for every span"
    assert shown.count('class="lf-cell chosen"') == 2 and 'src="media/ID"' in shown and 'src="frame/ID/3750"' in shown
    missing = pages.hits_html(
        Hits([Hit(evil, 1.0, 0.0, 10.0, 20.0, 0, {}, (moment("a", found=False),), times, cosines)]), [], str
    )
    assert 'class="lf-band nearest"' in missing and "not found here; nearest 0:00:02.5 to 0:00:05.0" in missing


def test_colours_mean_the_same_in_every_hit_and_numbers_stand_out() -> None:
    def hit(values: list[float]) -> Hit:
        return Hit("a.mp4", 1.0, 0.0, 2.0, 2.0, 0, {}, (moment("a"),), (0.0, 1.0, 2.0), torch.tensor([values]))

    shown = pages.hits_html(Hits([hit([0.1, 0.2]), hit([0.2, 0.9])]), ["a"], str)
    styles = re.findall(
        r'background: hsl\(210, 60%, (\d+)%\); color: (#\w+)" data-start="\S+" data-end="\S+">([\d.]+)<', shown
    )
    assert len(styles) == 4 and len({light for light, _, value in styles if value == "0.20"}) == 1
    for light, ink, _ in styles:
        assert (ink == "#000") == (int(light) > 47), "the contrast of text is at least 4.5"


def test_names_of_a_large_library_are_typed(library: VideoLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind() -> str:
        parts = app_module.make_page(library, str).get_config_file()["components"]
        return next(part["type"] for part in parts if part["props"].get("elem_id") == "video")

    assert kind() == "dropdown"
    monkeypatch.setattr(app_module, "MAX_LISTED", 2)
    assert kind() == "textbox"


def test_it_listens_to_this_machine_unless_told_otherwise() -> None:
    assert build_parser().parse_args(["index"]).host == "127.0.0.1"
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.8.9.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.org")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = build_parser().parse_args(["s3://index", "--port", str(port)])
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 cannot be used"):
            check(options)
    check(options)


# -- in a browser ------------------------------------------------------------------------------------------------------


FAINT = """() => {
  const parse = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number), unit = text.startsWith('color(srgb') ? 255 : 1;
    return [...numbers.slice(0, 3).map((one) => one * unit), numbers.length > 3 ? numbers[3] : 1];
  };
  const over = (ink, back) => [0, 1, 2].map((i) => ink[i] * ink[3] + back[i] * (1 - ink[3])).concat(1);
  const luminance = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const part = colour[i] / 255;
    return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0);
  const contrast = (one, pseudo) => {
    let back = [255, 255, 255, 1], opacity = 1;
    const chain = [];
    for (let p = one; p; p = p.parentElement) chain.unshift(getComputedStyle(p));
    for (const style of chain) { back = over(parse(style.backgroundColor), back); opacity *= style.opacity; }
    const ink = parse(getComputedStyle(one, pseudo).color);
    const pair = [over([...ink.slice(0, 3), ink[3] * opacity], back), back].map(luminance).sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  };
  const told = [...document.querySelectorAll('body *:not(script, style)')].filter((one) => one.offsetParent &&
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  const all = [...told.map((one) => [one, null]),
    ...[...document.querySelectorAll('textarea')].map((one) => [one, '::placeholder'])];
  return all.filter((one) => contrast(...one) < 4.5).map(([one]) => one.className + ' ' + one.textContent.slice(0, 40));
}"""
"""Text whose contrast to what lies behind it is below 4.5 to 1 (WCAG AA)."""


@pytest.mark.browser
@pytest.mark.timeout(600)
def test_a_person_searches_walks_through_moments_and_shares_the_address(
    address: tuple[str, int], library: VideoLibrary
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test-full)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    expected = library.search(STORY)[0]
    at = "document.querySelector('#results video').currentTime"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(180_000)
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        home = "http://{}:{}".format(*address)
        page.goto(home)
        page.locator("#results .lf-say").wait_for()
        assert "press Enter" in page.locator("#results").inner_text()
        page.fill("#story textarea", STORY)
        page.press("#story textarea", "Enter")
        hit = page.locator("#results .lf-hit").first
        hit.wait_for()
        assert expected.path in hit.locator("h3").inner_text()
        assert "q=First+a+man+rides" in page.url
        bands = hit.locator(".lf-band")
        assert bands.count() >= 2
        page.wait_for_function("document.querySelector('#results video').readyState >= 1")
        for number, one in enumerate(expected.moments):
            bands.nth(number).click()
            page.wait_for_function("document.querySelector('#results video').paused")  # stops at the end of its moment
            assert one.start - 0.01 <= page.evaluate(at) <= one.end + 0.6
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("ArrowLeft")
        page.wait_for_function(f"Math.abs({at} - {expected.moments[0].start}) < 0.01")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"Math.abs({at} - {expected.moments[1].start}) < 0.01")
        page.keyboard.press("Space")
        page.wait_for_function(f"{at} > {expected.moments[1].start} + 0.02")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            beyond = page.evaluate(
                "[...document.querySelectorAll('#results *')].filter(e => !e.closest('.lf-scroll') && "
                "e.getBoundingClientRect().right > innerWidth + 1).length"
            )
            assert beyond == 0, "nothing leaves the page"
        assert page.evaluate("document.querySelector('#results img, #results video[poster]') !== null")
        again = browser.new_page()
        again.set_default_timeout(180_000)
        again.goto(page.url)
        again.locator("#results .lf-hit").first.wait_for()
        assert again.input_value("#story textarea") == STORY
        for theme in ("light", "dark"):
            again.goto(f"{page.url}&__theme={theme}")
            again.locator("#results .lf-hit").first.wait_for()
            again.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            again.wait_for_timeout(500)
            assert again.evaluate(FAINT) == [], theme
        page.fill("#story textarea", "")
        page.click("#search")
        page.locator("#results .lf-say.wrong").wait_for()
        assert "the story is empty" in page.locator("#results").inner_text()
        browser.close()
    assert not wrong, wrong
    assert all(url.startswith(("http://127.0.0.1", "data:", "blob:")) for url in asked), (
        "something was loaded elsewhere"
    )
