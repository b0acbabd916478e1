# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The page and the JSON API: type a story, see which videos tell it and when, play the moments, look inside one video.

A Gradio page on a FastAPI application that serves the videos itself. Three routes give out files, `media/ID`,
`frame/ID/MILLISECONDS` and `thumbnail/ID/SEGMENT`, and none takes a path: ids are salted hashes that hold while the
application runs. A video is opened once, no link is followed, and it is served from the descriptor that was
checked. The page loads nothing from elsewhere.

    GET /api/search?q=STORY&top=5    hits as `VideoLibrary.search` gives them
    GET /api/videos                  the videos of the library
    GET /api/docs                    both, as OpenAPI

As a Space: `app = build_app(VideoLibrary.load("index", root="videos"))` and `uvicorn.run(app, host="0.0.0.0",
port=7860)`. Needs `pip install 'lfvila_hf[app]'`.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

import gradio
from fastapi import FastAPI, HTTPException, Path, Query, Response
from starlette.responses import FileResponse

from lfvila_hf.search import pages
from lfvila_hf.search.app_guard import AppGuard
from lfvila_hf.search.ranking import Hits
from lfvila_hf.search.segments import VideoFile, opened, thumbnail
from lfvila_hf.search.story_sentences import MAX_SENTENCES, Story
from lfvila_hf.search.video_library import VideoLibrary
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, read_frames

MAX_STORY_CHARACTERS = 4000
MAX_HITS = 50
MAX_LISTED = 2000
"""Videos that are sent to the browser as a list to choose from; of a larger library the name is typed."""
TITLE = "Which video tells this story?"
EXAMPLE = "First a man rides. Then he falls."
ORDERS = {"both": "Both", "aligned": "Sentence by sentence, in order", "global": "Whole story at once"}

NameOf = Callable[[str], str]

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is sent anywhere
_turn = threading.Lock()


def build_app(library: VideoLibrary, hosts: Sequence[str] | None = None) -> FastAPI:
    """Make the application: the page at `/`, the API below `/api`, the library's videos beside them.

    Args:
        library: The library. Its model is loaded now, so that the first question is not slow.
        hosts: Names under which it may be asked. Defaults to any.

    Raises:
        ValueError: The model is not the one that made the index.
    """
    library.read_story(EXAMPLE)
    salt = secrets.token_bytes(16)

    def id_of(path: str) -> str:
        return hashlib.blake2b(path.encode(), digest_size=12, key=salt).hexdigest()

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title=TITLE, openapi_url="/api/docs", docs_url=None, redoc_url=None)
    app.add_middleware(AppGuard, hosts=hosts)
    _add_files(app, library, {id_of(path): path for path in library.paths})
    _add_api(app, library, id_of)
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(**pages.INKS)
    page = make_page(library, id_of)
    return gradio.mount_gradio_app(
        app, page, path="", allowed_paths=[], css=pages.STYLE, head=pages.SCRIPT, theme=theme, ssr_mode=False
    )


def ask(library: VideoLibrary, words: str, *args: Any, **options: Any) -> tuple[Story, Hits]:
    """Read and search one story at a time: tokenizers are not safe to share, and one search uses all cores."""
    if len(words) > MAX_STORY_CHARACTERS:
        raise ValueError(f"the story has {len(words)} characters, at most {MAX_STORY_CHARACTERS} are read: shorten it")
    with _turn:
        story = library.read_story(words)
        return story, library.search(story, *args, **options)


# -- files -----------------------------------------------------------------------------------------------------------


class DescriptorResponse(FileResponse):
    """An opened file, whole or the ranges that a player asks for; closed when it is sent, or not wanted any more."""

    def __init__(self, descriptor: int, path: str) -> None:
        kind = mimetypes.guess_type(path)[0] or ""
        kind = kind if kind.startswith("video/") else "application/octet-stream"  # never a page, whatever its name is
        super().__init__(f"/dev/fd/{descriptor}", media_type=kind, stat_result=os.fstat(descriptor))
        self.descriptor = descriptor

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the file."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self.descriptor)


def _add_files(app: FastAPI, library: VideoLibrary, files: dict[str, str]) -> None:
    """Add the routes of videos, frames and thumbnails."""

    @lru_cache(512)
    def picture(path: str, milliseconds: int) -> bytes:
        video = VideoFile(path, library.provenance.root, *library.view.stamps[path])
        os.close(library.open_file(path))
        with opened(video) as source:
            return thumbnail(read_frames(source, times=[milliseconds / 1000]).frames[0])

    def answer(video: str, make: Callable[[str], Response]) -> Response:
        if video not in files:
            raise HTTPException(404, "there is no such video in this library")
        try:
            return make(files[video])
        except LFVilaVideoError as error:
            raise HTTPException(410, f"this video cannot be read: {error.reason}") from error
        except ValueError as error:
            raise HTTPException(404, str(error)) from error

    @app.api_route("/media/{video}", methods=["GET", "HEAD"], include_in_schema=False)
    def media(video: str) -> Response:
        """One video of the library."""
        return answer(video, lambda path: DescriptorResponse(library.open_file(path), path))

    @app.get("/frame/{video}/{milliseconds}", include_in_schema=False)
    def frame(video: str, milliseconds: Annotated[int, Path(ge=0, le=10**9)]) -> Response:
        """The picture that a video shows at a time."""
        kept = {"cache-control": "max-age=600"}
        return answer(video, lambda path: Response(picture(path, milliseconds), 200, kept, "image/jpeg"))

    @app.get("/thumbnail/{video}/{segment}", include_in_schema=False)
    def thumb(video: str, segment: int) -> Response:
        """The picture of one segment."""
        return answer(video, lambda path: Response(library.thumbnail(path, segment), media_type="image/jpeg"))


# -- JSON API --------------------------------------------------------------------------------------------------------


def _add_api(app: FastAPI, library: VideoLibrary, id_of: NameOf) -> None:
    """Add the JSON API."""

    @app.get("/api/search")
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
            story, hits = ask(library, q, top, by, per_video=per_video, path=video)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return {
            "sentences": list(story.sentences),
            "notes": list(hits.notes),
            "missing": [story.sentences[number] for number in hits.missing],
            "hits": [{**hit.as_dict(), "media": f"/media/{id_of(hit.path)}"} for hit in hits],
        }

    @app.get("/api/videos")
    def videos(
        start: int = Query(0, ge=0, description="number of the first video"),
        count: int = Query(1000, ge=1, le=10_000, description="videos wanted"),
    ) -> dict[str, Any]:
        """List the videos of the library, in order of their names."""
        listed = []
        for path in library.paths[start : start + count]:
            rows = library.view.rows_of(path)
            about = {"path": path, "duration": library.view.row(rows[0])["duration"], "segments": len(rows)}
            listed.append({**about, "media": f"/media/{id_of(path)}"})
        return {"total": len(library), "segments": library.num_segments, "videos": listed}


# -- page ------------------------------------------------------------------------------------------------------------


def make_page(library: VideoLibrary, id_of: NameOf) -> gradio.Blocks:
    """The Gradio page of a library, without the routes that its videos come from."""
    provenance = library.provenance
    orders = list(ORDERS) if provenance.has_clips and provenance.has_vector else []
    orders = orders or ["aligned" if provenance.has_clips else "global"]
    empty = pages.said(f"Write a story of one to {MAX_SENTENCES} sentences, such as “{EXAMPLE}”, and press Enter.")
    empty = empty if len(library) else pages.said(pages.NO_VIDEO)
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
            results = gradio.HTML(empty, elem_id="results")
        with gradio.Tab("Look inside"):
            video: Any
            if len(library) <= MAX_LISTED:
                video = gradio.Dropdown(library.paths, value=None, label="Video", elem_id="video")
            else:
                video = gradio.Textbox(label="Video", placeholder=library.paths[0], elem_id="video")
            inside_story = gradio.Textbox(label="Story", placeholder=EXAMPLE, lines=2, elem_id="inside-story")
            inside_button = gradio.Button("Look", variant="primary", elem_id="look")
            inside = gradio.HTML(elem_id="inside")

        def search(words: str, order: str, count: float, places: float) -> str:
            """Hits of a story, or what is wrong with it."""
            return answered(library, id_of, words, order, count, places)

        def look(path: str | None, words: str) -> str:
            """One video: every segment, and the story in the best of them."""
            return looked_inside(library, id_of, path, words)

        def begin(request: gradio.Request) -> tuple[str, str, int, str]:
            """The question of the address, answered."""
            asked = dict(request.query_params)
            words, order, number = (str(asked.get(name, "")) for name in ("q", "by", "n"))
            order = order if order in orders else orders[0]
            top = min(max(int(number), 1), 20) if number.isdecimal() and len(number) < 4 else 5
            return words, order, top, answered(library, id_of, words, order, top) if words.strip() else empty

        button.click(search, [story, score, top, per_video], results, js=pages.REMEMBER, trigger_mode="always_last")
        inside_button.click(look, [video, inside_story], inside, js=pages.LOOK, trigger_mode="always_last")
        page.load(begin, None, [story, score, top, results])
    return page


def answered(library: VideoLibrary, id_of: NameOf, words: str, order: str, count: float, places: float = 1) -> str:
    """The answer to a story as HTML, or a message on what is wrong with it."""
    try:
        story, hits = ask(library, words or "", int(count), order, per_video=int(places))
    except ValueError as error:
        return pages.said(str(error), wrong=True)
    return pages.hits_html(hits, story.sentences, id_of)


def looked_inside(library: VideoLibrary, id_of: NameOf, path: str | None, words: str) -> str:
    """One video as HTML: its segments in pictures, and the places of the story in it."""
    try:
        if not path:
            raise ValueError("choose a video of the library")
        rows = library.segments_of(path)
        told = bool(words and words.strip())
        hit = ask(library, words if told else EXAMPLE, path=path)[1][0]
        if not told:
            hit = replace(hit, moments=(), cosines=None, scores={}, start=0.0, end=hit.duration)
    except ValueError as error:
        return pages.said(str(error), wrong=True)
    return pages.hit_html(hit, id_of, scale=pages.scale_of([hit]), rows=rows)
