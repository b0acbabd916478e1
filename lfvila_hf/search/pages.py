# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What the page shows, as HTML: a playable video, a timeline with a band per sentence, the clip-by-sentence heat map.

Plain strings, no framework: bands and cells are buttons that set the time of the player of the same hit. Everything
that comes from a file name or a person is escaped. Videos are named by their id, never by a path.

Letters: M sentences, K clips.
"""

from __future__ import annotations

import html
from typing import Any

from lfvila_hf.search.ranking import Hit
from lfvila_hf.search.search_command import clock
from lfvila_hf.search.table import video_id

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b07aa1", "#9c755f", "#edc948")
LIGHT = 0.25
"""Share of the heat map's scale above which black stands out from it more than white does."""

STYLE = """
.lfvila-hit { border: 1px solid #8886; border-radius: 8px; padding: 12px; margin: 10px 0; }
.lfvila-hit h3 { margin: 0 0 8px 0; overflow-wrap: anywhere; }
.lfvila-row { display: flex; gap: 16px; flex-wrap: wrap; align-items: flex-start; }
.lfvila-hit video { width: 360px; max-width: 100%; background: #000; border-radius: 6px; }
.lfvila-side { flex: 1 1 420px; min-width: 300px; }
.lfvila-track { position: relative; height: 20px; background: #8882; border-radius: 4px; margin: 1px 0 7px 0; }
.lfvila-track .segment { position: absolute; top: 0; bottom: 0; background: #8883; }
.lfvila-track button { position: absolute; top: 2px; bottom: 2px; border: 0; border-radius: 3px; cursor: pointer;
  min-width: 7px; padding: 0; }
.lfvila-label { font-size: 13px; }
.lfvila-ruler { position: relative; height: 16px; font-size: 11px; opacity: 0.75; }
.lfvila-ruler span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.lfvila-ruler span:first-child { transform: none; }
.lfvila-ruler span:last-child { transform: translateX(-100%); }
.lfvila-scroll { overflow-x: auto; margin-top: 8px; }
.lfvila-heat { border-collapse: collapse; font-size: 12px; }
.lfvila-heat th { font-weight: normal; text-align: left; padding: 1px 6px; white-space: nowrap; }
.lfvila-heat, .lfvila-heat tr, .lfvila-heat th, .lfvila-heat td { border: 0 !important; }
.lfvila-heat td { padding: 1px !important; }
.lfvila-heat button { border: 2px solid transparent; border-radius: 3px; cursor: pointer; width: 46px; height: 24px;
  padding: 0; font-size: 11px; line-height: 20px; text-align: center; }
.lfvila-heat button.chosen { border-color: #e15759; font-weight: bold; }
.lfvila-error { border-left: 4px solid #e15759; padding: 8px 12px; }
.lfvila-note { opacity: 0.75; }
.lfvila-strip { display: flex; gap: 4px; flex-wrap: wrap; margin-top: 8px; }
.lfvila-strip button { border: 0; padding: 0; cursor: pointer; background: none; font-size: 11px; }
.lfvila-strip img { width: 120px; border-radius: 4px; display: block; }
"""


def hits_html(hits: list[Hit], notes: tuple[str, ...] = ()) -> str:
    """A list of hits, best first."""
    said = "".join(f'<p class="lfvila-note">{_text(note)}</p>' for note in notes)
    found = "".join(hit_html(hit, f"{number}. ") for number, hit in enumerate(hits, start=1))
    return said + (found or message_html("the library has no video"))


def hit_html(hit: Hit, before: str = "", rows: list[dict[str, Any]] | None = None) -> str:
    """One hit: its player, its timeline, its heat map; with `rows`, a picture of every segment too."""
    scores = ", ".join(f"{_text(name)} {value:.3f}" for name, value in hit.scores.items())
    first = hit.moments[0].start if hit.moments else hit.start
    return (
        f'<section class="lfvila-hit"><h3>{before}{_text(hit.path)} '
        f'<small class="lfvila-note">{clock(hit.start)} - {clock(hit.end)} of {clock(hit.duration)}; {scores}'
        f"</small></h3>"
        f'<div class="lfvila-row"><video controls preload="metadata" '
        f'src="media/{video_id(hit.path)}#t={first:.3f}"></video>'
        f'<div class="lfvila-side">{_timeline(hit)}{_heat_map(hit)}</div></div>{_strip(rows or [])}</section>'
    )


def _text(text: str) -> str:
    """Text in HTML; Gradio fills in `${...}`, so no text of others may hold one."""
    return html.escape(text).replace("$", "&#36;")


def message_html(text: str) -> str:
    """What went wrong, for people."""
    return f'<p class="lfvila-error">{_text(text)}</p>'


def _seek(second: float) -> str:
    """What a button does: the player of the same hit goes to that second."""
    action = (
        "const v = this.closest('.lfvila-hit').querySelector('video'); "
        f"v.currentTime = {second:.3f}; v.play().catch(() => {{}});"
    )
    return f'onclick="{_text(action)}"'


def _timeline(hit: Hit) -> str:
    def place(start: float, end: float) -> str:
        left, right = (100 * min(second / hit.duration, 1.0) for second in (start, end))
        return f"left: {left:.2f}%; width: {max(right - left, 0.5):.2f}%"

    segment = f'<div class="segment" style="{place(hit.start, hit.end)}"></div>'
    lines = []
    for number, moment in enumerate(hit.moments):
        colour = COLOURS[number % len(COLOURS)]
        span = f"{moment.start:.1f} - {moment.end:.1f} s"
        lines.append(
            f'<div class="lfvila-label">{_text(moment.sentence)} <span class="lfvila-note">{span}</span></div>'
            f'<div class="lfvila-track">{segment}<button class="lfvila-band" data-start="{moment.start:.3f}" '
            f'title="{span}" aria-label="play {_text(moment.sentence)}" '
            f'style="{place(moment.start, moment.end)}; background: {colour}" {_seek(moment.start)}></button></div>'
        )
    return ("".join(lines) or f'<div class="lfvila-track">{segment}</div>') + _ruler(hit.duration)


def _ruler(duration: float) -> str:
    """The seconds below the tracks, in quarters."""
    marks = "".join(
        f'<span style="left: {100 * part:g}%">{clock(part * duration)}</span>' for part in (0, 0.25, 0.5, 0.75, 1)
    )
    return f'<div class="lfvila-ruler">{marks}</div>'


def _heat_map(hit: Hit) -> str:
    if hit.cosines is None or not hit.moments:
        return ""
    low, high = float(hit.cosines.min()), float(hit.cosines.max())
    head = "".join(f"<th>{second:.1f} s</th>" for second in hit.clip_times[:-1])
    body = []
    for number, moment in enumerate(hit.moments):
        cells = []
        for clip, value in enumerate(hit.cosines[number].tolist()):
            part = (value - low) / (high - low) if high > low else 0.5
            chosen = " chosen" if abs(hit.clip_times[clip] - moment.start) < 1e-6 else ""
            ink = "#000" if part > LIGHT else "#fff"
            style = f"background: hsl({240 - 180 * part:.0f}, 65%, {30 + 35 * part:.0f}%); color: {ink}"
            start = hit.clip_times[clip]
            cells.append(f'<td><button class="cell{chosen}" style="{style}" {_seek(start)}>{value:.2f}</button></td>')
        body.append(f"<tr><th>{number + 1}</th>{''.join(cells)}</tr>")
    table = f'<table class="lfvila-heat"><tr><th>clip at</th>{head}</tr>{"".join(body)}</table>'
    return f'<div class="lfvila-scroll">{table}</div>'


def _strip(rows: list[dict[str, Any]]) -> str:
    pictures = "".join(
        f'<button {_seek(row["start"])}><img loading="lazy" alt="" src="thumbnail/{row["row"]}">'
        f"{clock(row['start'])} - {clock(row['end'])}</button>"
        for row in rows
    )
    return f'<div class="lfvila-strip">{pictures}</div>' if rows else ""
