# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The page: type a story, see which videos tell it and when, play the moment, look inside one video.

A Gradio page on a FastAPI application that serves the videos itself. Two routes give out files, `media/ID` and
`thumbnail/ROW`, and neither takes a path: an id is looked up among the videos of the library, and what it stands for
must lie in the library's folder once links are followed. Gradio's own routes for files are closed (`app_guard`). The
page loads nothing from elsewhere.

As a Space: `app = build_app(VideoLibrary.load("index", root="videos"))` and `uvicorn.run(app, host="0.0.0.0",
port=7860)`. Needs `pip install 'lfvila_hf[app]'`.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lfvila_hf.search import pages
from lfvila_hf.search.app_guard import AppGuard
from lfvila_hf.search.ranking import rows_of
from lfvila_hf.search.table import video_id
from lfvila_hf.search.video_library import VideoLibrary

MAX_STORY_CHARACTERS = 4000
MAX_LISTED = 2000
"""Videos that are sent to the browser as a list to choose from; of a larger library the name is typed."""
TITLE = "Which video tells this story?"
EXAMPLE = "First a man rides. Then he falls."


def build_app(library: VideoLibrary, hosts: Sequence[str] | None = None) -> Any:
    """The application: the page at `/`, the library's videos below it.

    Args:
        library: What is searched. Its model is loaded now, so that the first question is not slow.
        hosts: Names under which it may be asked; any, if left out.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: The model is not the one that made the index.
    """
    # Read by Gradio when it is imported; nothing is sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        from fastapi import FastAPI, HTTPException, Response
        from fastapi.responses import FileResponse
    except ImportError as error:
        raise ImportError("the page needs Gradio: pip install 'lfvila_hf[app]'") from error

    library.read_story(EXAMPLE)
    files = {video_id(path): path for path in library.paths}
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)

    def media(video: str) -> Any:
        """One video of the library, whole or the range that a player asks for."""
        if video not in files:
            raise HTTPException(404, "there is no such video in this library")
        try:
            file = library.file_of(files[video])
        except ValueError as error:
            raise HTTPException(404, "there is no such video in this library") from error
        if not os.path.isfile(file):
            raise HTTPException(410, "the file of this video is gone: index the folder again")
        kind = mimetypes.guess_type(files[video])[0] or ""
        kind = kind if kind.startswith("video/") else "application/octet-stream"  # never a page, whatever it is called
        return FileResponse(file, media_type=kind, headers={"x-content-type-options": "nosniff"})

    def picture(row: int) -> Any:
        """The picture of one segment."""
        if not 0 <= row < library.num_segments:
            raise HTTPException(404, "there is no such segment in this library")
        try:
            content = library.thumbnail(row)
        except OSError as error:
            raise HTTPException(410, "the index was replaced: start the page again") from error
        return Response(content, media_type="image/jpeg")

    app.add_middleware(AppGuard, hosts=hosts)
    app.add_api_route("/media/{video}", media, methods=["GET", "HEAD"])
    app.add_api_route("/thumbnail/{row}", picture, methods=["GET"])
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page = make_page(library)
    return gradio.mount_gradio_app(app, page, path="", allowed_paths=[], css=pages.STYLE, theme=theme, ssr_mode=False)


def make_page(library: VideoLibrary) -> Any:
    """The Gradio page of a library, without the routes that its videos come from."""
    import gradio

    has_clips = library.view.clips is not None
    scores = ["both", "aligned", "global"] if has_clips else ["global"]
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\n{len(library)} videos, {library.num_segments} segments.")
        with gradio.Tab("Search"):
            story = gradio.Textbox(
                label="Story", placeholder=EXAMPLE, lines=3, max_length=MAX_STORY_CHARACTERS, elem_id="story"
            )
            with gradio.Row():
                score = gradio.Radio(scores, value=scores[0], label="Order by")
                top = gradio.Slider(1, 20, value=5, step=1, label="Videos")
            button = gradio.Button("Search", variant="primary", elem_id="search")
            results = gradio.HTML(elem_id="results")
        with gradio.Tab("Look inside"):
            if len(library) <= MAX_LISTED:
                video: Any = gradio.Dropdown(library.paths, value=None, label="Video", elem_id="video")
            else:
                video = gradio.Textbox(label="Video", placeholder=library.paths[0], elem_id="video")
            inside_story = gradio.Textbox(label="Story", placeholder=EXAMPLE, lines=2, elem_id="inside-story")
            inside_button = gradio.Button("Look", variant="primary", elem_id="look")
            inside = gradio.HTML(elem_id="inside")

        def search(text: str, order: str, count: float) -> str:
            """Hits of a story, or what is wrong with it."""
            return answered(library, text, order, int(count))

        def look(path: str | None, text: str) -> str:
            """One video: every segment, and the story in the best of them."""
            return looked_inside(library, path, text)

        button.click(search, [story, score, top], results)
        story.submit(search, [story, score, top], results)
        inside_button.click(look, [video, inside_story], inside)
    return page


def answered(library: VideoLibrary, text: str, order: str, count: int) -> str:
    """The answer to a story as HTML; what is wrong with it where something is."""
    try:
        story = library.read_story(text or "")
        hits = library.search(story, top_k=min(max(count, 1), 20), score=order)  # type: ignore[arg-type]  # checked there
    except ValueError as error:
        return pages.message_html(str(error))
    return pages.hits_html(hits, story.notes)


def looked_inside(library: VideoLibrary, path: str | None, text: str) -> str:
    """One video as HTML: its segments in pictures, and where the story happens in it."""
    try:
        if not path:
            raise ValueError("choose a video of the library")
        rows = [{**library.view.row(int(row)), "row": int(row)} for row in rows_of(library.view, path)]
        rows.sort(key=lambda row: row["segment"])
        (hit,) = library.search(text if text and text.strip() else EXAMPLE, path=path)
        if not (text and text.strip()):
            hit = replace(hit, moments=(), cosines=None, scores={}, start=0.0, end=hit.duration)
    except ValueError as error:
        return pages.message_html(str(error))
    return pages.hit_html(hit, rows=rows)
