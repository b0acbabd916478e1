# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The page and the JSON API: type a story, see which videos tell it and when, play the moments, look inside one video.

A Gradio page on a FastAPI application that serves the videos itself. Three routes give out files, `media/ID`,
`frame/ID/MILLISECONDS` and `thumbnail/ID/SEGMENT`, and none takes a path: ids are salted hashes that hold while the
application runs. A video is opened once, no link is followed, and it is served from the descriptor that was
checked. The page loads nothing from elsewhere.

    GET /api/search?q=STORY&top=5    hits as `VideoLibrary.search` gives them
    GET /api/videos                  the videos of the library
    GET /api/docs                    both in words; `/api/openapi.json` for programs

As a Space: `app = build_app(VideoLibrary.load("index", root="videos"))` and `uvicorn.run(app, host="0.0.0.0",
port=7860)`. Needs `pip install 'lfvila_hf[app]'`.
"""

from __future__ import annotations

import hashlib
import html
import mimetypes
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from lfvila_hf.search import pages
from lfvila_hf.search.app_guard import AppGuard
from lfvila_hf.search.segments import VideoFile, opened, thumbnail
from lfvila_hf.search.story_sentences import MAX_SENTENCES
from lfvila_hf.search.video_library import VideoLibrary
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, read_frames

MAX_STORY_CHARACTERS = 4000
MAX_HITS = 50
MAX_LISTED = 2000
"""Videos that are sent to the browser as a list to choose from; of a larger library the name is typed."""
CHUNK = 2**18
TITLE = "Which video tells this story?"
EXAMPLE = "First a man rides. Then he falls."
ORDERS = {"both": "Both", "aligned": "Sentence by sentence, in order", "global": "Whole story at once"}


def build_app(library: VideoLibrary, hosts: Sequence[str] | None = None) -> Any:
    """Make the application: the page at `/`, the API below `/api`, the library's videos beside them.

    Args:
        library: The library. Its model is loaded now, so that the first question is not slow.
        hosts: Names under which it may be asked. Defaults to any.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: The model is not the one that made the index.
    """
    # Read by Gradio when it is imported; nothing is sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        from fastapi import FastAPI
    except ImportError as error:
        raise ImportError("the page needs Gradio: pip install 'lfvila_hf[app]'") from error

    library.read_story(EXAMPLE)
    salt = secrets.token_bytes(16)

    def id_of(path: str) -> str:
        return hashlib.blake2b(path.encode(), digest_size=12, key=salt).hexdigest()

    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(AppGuard, hosts=hosts)
    _add_files(app, library, {id_of(path): path for path in library.paths})
    _add_api(app, library, id_of)
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page = make_page(library, id_of)
    return gradio.mount_gradio_app(
        app, page, path="", allowed_paths=[], css=pages.STYLE, head=pages.SCRIPT, theme=theme, ssr_mode=False
    )


# -- files -----------------------------------------------------------------------------------------------------------


def _add_files(app: Any, library: VideoLibrary, files: dict[str, str]) -> None:
    """Add the routes of videos, frames and thumbnails."""
    from fastapi import HTTPException, Request, Response

    def path_of(video: str) -> str:
        if video not in files:
            raise HTTPException(404, "there is no such video in this library")
        return files[video]

    def media(video: str, request: Any) -> Any:
        """One video of the library, whole or the range that a player asks for."""
        path = path_of(video)
        try:
            descriptor = library.open_file(path)
        except LFVilaVideoError as error:
            raise HTTPException(410, f"this video cannot be played: {error.reason}") from error
        return _ranged(descriptor, path, request)

    @lru_cache(512)
    def picture(path: str, milliseconds: int) -> bytes:
        video = VideoFile(path, library.provenance.root, *library.view.stamps[path])
        os.close(library.open_file(path))
        with opened(video) as source:
            return thumbnail(read_frames(source, times=[milliseconds / 1000]).frames[0])

    def frame(video: str, milliseconds: int) -> Any:
        """The picture that a video shows at a time."""
        path = path_of(video)
        if not 0 <= milliseconds <= 1000 * library.segments_of(path)[0]["duration"] + 1000:
            raise HTTPException(404, "the video is not that long")
        try:
            return Response(
                picture(path, milliseconds), media_type="image/jpeg", headers={"cache-control": "max-age=600"}
            )
        except LFVilaVideoError as error:
            raise HTTPException(410, f"this video cannot be read: {error.reason}") from error

    def thumb(video: str, segment: int) -> Any:
        """The picture of one segment."""
        try:
            return Response(library.thumbnail(path_of(video), segment), media_type="image/jpeg")
        except ValueError as error:
            raise HTTPException(404, str(error)) from error

    media.__annotations__["request"] = Request
    app.add_api_route("/media/{video}", media, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/frame/{video}/{milliseconds}", frame, include_in_schema=False)
    app.add_api_route("/thumbnail/{video}/{segment}", thumb, include_in_schema=False)


def _ranged(descriptor: int, path: str, request: Any) -> Any:
    """An opened file, whole or the range that was asked for; closed when it is sent."""
    from starlette.background import BackgroundTask
    from starlette.responses import Response, StreamingResponse

    size = os.fstat(descriptor).st_size
    kind = mimetypes.guess_type(path)[0] or ""
    kind = kind if kind.startswith("video/") else "application/octet-stream"  # never a page, whatever its name is
    first, last, status = 0, size - 1, 200
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if asked and (asked[1] or asked[2]):
        first = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
        last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
        status = 206
    if first > last and size:
        os.close(descriptor)
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    headers = {"accept-ranges": "bytes", "content-length": str(last - first + 1)}
    if status == 206:
        headers["content-range"] = f"bytes {first}-{last}/{size}"

    def content() -> Iterator[bytes]:
        place = first
        while request.method != "HEAD" and place <= last:
            part = os.pread(descriptor, min(CHUNK, last + 1 - place), place)
            if not part:
                return
            place += len(part)
            yield part

    return StreamingResponse(content(), status, headers, kind, BackgroundTask(os.close, descriptor))


# -- JSON API --------------------------------------------------------------------------------------------------------


def _add_api(app: Any, library: VideoLibrary, id_of: Callable[[str], str]) -> None:
    """Add the JSON API."""
    from fastapi import HTTPException, Query, Response

    def search(
        q: str,
        top: int = Query(5, ge=1, le=MAX_HITS, description="hits wanted"),
        by: str | None = Query(None, description="global, aligned or both; the best that the index has by default"),
        per_video: int = Query(1, ge=1, le=MAX_HITS, description="hits of one video at most"),
        video: str | None = Query(None, description="only this video, by its path"),
    ) -> dict[str, Any]:
        """Search by a story: hits, best first, with the moments of every sentence.

        `hits` are those of `VideoLibrary.search`, each with the address of its file (`media`); `missing` lists the
        sentences that are found nowhere in the library.
        """
        try:
            if len(q) > MAX_STORY_CHARACTERS:
                raise ValueError(f"the story has {len(q)} characters, at most {MAX_STORY_CHARACTERS} are read")
            story = library.read_story(q)
            hits = library.search(story, top, by, per_video=per_video, path=video)  # type: ignore[arg-type]  # checked there
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return {
            "sentences": list(story.sentences),
            "notes": list(hits.notes),
            "missing": [story.sentences[number] for number in hits.missing],
            "hits": [{**hit.as_dict(), "media": f"/media/{id_of(hit.path)}"} for hit in hits],
        }

    def videos(
        start: int = Query(0, ge=0, description="number of the first video"),
        count: int = Query(1000, ge=1, le=10_000, description="videos wanted"),
    ) -> dict[str, Any]:
        """List the videos of the library, in order of their names."""
        view = library.view
        some = library.paths[start : start + count]
        return {
            "total": len(library),
            "segments": library.num_segments,
            "videos": [
                {
                    "path": path,
                    "duration": view.row(view.rows_of(path)[0])["duration"],
                    "segments": len(view.rows_of(path)),
                    "media": f"/media/{id_of(path)}",
                }
                for path in some
            ],
        }

    def described() -> Any:
        """The API as OpenAPI."""
        return app.openapi()

    def docs() -> Any:
        """The API in words; nothing is loaded from elsewhere."""
        return Response(_docs_html(app.openapi()), media_type="text/html")

    app.add_api_route("/api/search", search, tags=["search"])
    app.add_api_route("/api/videos", videos, tags=["search"])
    app.add_api_route("/api/openapi.json", described, include_in_schema=False)
    app.add_api_route("/api/docs", docs, include_in_schema=False)


def _docs_html(schema: dict[str, Any]) -> str:
    parts = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            rows = "".join(
                f"<tr><td><code>{one['name']}</code></td><td>{'required' if one.get('required') else 'optional'}</td>"
                f"<td>{html.escape(one.get('description') or one['schema'].get('title', ''))}</td></tr>"
                for one in about.get("parameters", [])
            )
            words = "".join(f"<p>{html.escape(part)}</p>" for part in about.get("description", "").split("\n\n"))
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2>{words}<table>{rows}</table>")
    style = (
        "body{font-family:system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
    )
    return (
        f"<!doctype html><html lang=en><meta name=viewport "
        f"content='width=device-width'><title>API</title><style>{style} "
        f"td{{padding:2px 12px 2px 0}}</style><h1>{html.escape(schema['info']['title'])}</h1><p>For programs: <a "
        f"href=/api/openapi.json>/api/openapi.json</a>. Example: <a href='/api/search?q=A man "
        f"rides.'>/api/search?q=A man "
        f"rides.</a></p>{''.join(parts)}</html>"
    )


# -- page ------------------------------------------------------------------------------------------------------------


def make_page(library: VideoLibrary, id_of: Callable[[str], str]) -> Any:
    """The Gradio page of a library, without the routes that its videos come from."""
    import gradio

    provenance = library.provenance
    orders = [one for one in ORDERS if one != "both"] if provenance.has_clips and provenance.has_vector else []
    orders = ["both", *orders] if orders else ["aligned" if provenance.has_clips else "global"]
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        count = f"{len(library)} video{'' if len(library) == 1 else 's'}"
        gradio.Markdown(f"# {TITLE}\n{count}. Enter searches, arrow keys walk through the moments, space plays.")
        with gradio.Tab("Search"):
            story = gradio.Textbox(
                label="Story: a sentence for each event, in the order in which they happen",
                placeholder=EXAMPLE,
                lines=2,
                max_length=MAX_STORY_CHARACTERS,
                elem_id="story",
            )
            button = gradio.Button("Search", variant="primary", elem_id="search")
            with gradio.Accordion("Options", open=False):
                score = gradio.Radio(
                    [(ORDERS[one], one) for one in orders], value=orders[0], label="Order the videos by"
                )
                top = gradio.Slider(1, 20, value=5, step=1, label="Videos")
                per_video = gradio.Slider(1, 10, value=1, step=1, label="Places of one video at most")
            results = gradio.HTML(_first_words(library), elem_id="results")
        with gradio.Tab("Look inside"):
            if len(library) <= MAX_LISTED:
                video: Any = gradio.Dropdown(library.paths, value=None, label="Video", elem_id="video")
            else:
                video = gradio.Textbox(label="Video", placeholder=library.paths[0], elem_id="video")
            inside_story = gradio.Textbox(label="Story", placeholder=EXAMPLE, lines=2, elem_id="inside-story")
            inside_button = gradio.Button("Look", variant="primary", elem_id="look")
            inside = gradio.HTML(elem_id="inside")

        def search(words: str, order: str, count: float, places: float) -> str:
            """Hits of a story, or what is wrong with it."""
            return answered(library, id_of, words, order, int(count), int(places))

        def look(path: str | None, words: str) -> str:
            """One video: every segment, and the story in the best of them."""
            return looked_inside(library, id_of, path, words)

        def begin(request: Any) -> tuple[str, str, float, str]:
            """The question of the address, answered."""
            asked = dict(request.query_params)
            words = str(asked.get("q", ""))[:MAX_STORY_CHARACTERS]
            order = asked.get("by") if asked.get("by") in orders else orders[0]
            number = int(asked["n"]) if str(asked.get("n", "")).isdigit() else 5
            number = min(max(number, 1), 20)
            if not words.strip():
                return "", str(order), number, _first_words(library)
            return words, str(order), number, answered(library, id_of, words, str(order), number, 1)

        begin.__annotations__["request"] = gradio.Request
        button.click(search, [story, score, top, per_video], results, js=pages.REMEMBER, trigger_mode="always_last")
        inside_button.click(look, [video, inside_story], inside, trigger_mode="always_last")
        page.load(begin, None, [story, score, top, results])
    return page


def _first_words(library: VideoLibrary) -> str:
    if not len(library):
        return pages.said(
            "The library has no video yet. Index a folder: lfvila-hf index FOLDER --model NAME --output INDEX"
        )
    return pages.said(f"Write a story of one to {MAX_SENTENCES} sentences, such as “{EXAMPLE}”, and press Enter.")


def answered(
    library: VideoLibrary, id_of: Callable[[str], str], words: str, order: str, count: int, per_video: int = 1
) -> str:
    """The answer to a story as HTML, or a message on what is wrong with it."""
    try:
        story = library.read_story(words or "")
        hits = library.search(story, min(max(count, 1), 20), order, per_video=min(max(per_video, 1), 10))  # type: ignore[arg-type]  # checked there
    except ValueError as error:
        return pages.said(str(error), wrong=True)
    return pages.hits_html(hits, story.sentences, id_of)


def looked_inside(library: VideoLibrary, id_of: Callable[[str], str], path: str | None, words: str) -> str:
    """One video as HTML: its segments in pictures, and the places of the story in it."""
    try:
        if not path:
            raise ValueError("choose a video of the library")
        rows = library.segments_of(path)
        hits = library.search(words if words and words.strip() else EXAMPLE, path=path)
        hit = hits[0]
        if not (words and words.strip()):
            hit = replace(hit, moments=(), cosines=None, scores={}, start=0.0, end=hit.duration)
    except ValueError as error:
        return pages.said(str(error), wrong=True)
    return pages.hit_html(hit, id_of, scale=pages.scale_of([hit]), rows=rows)
