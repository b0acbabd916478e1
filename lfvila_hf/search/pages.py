# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""HTML of the page: hits with a player, a band for every moment, and a table of similarities.

Plain strings. Bands and cells are buttons with `data-start` and `data-end`; one script (`SCRIPT`) plays them, walks
through them by the arrow keys and keeps the story in the address. Everything that comes from a file name or a person is
escaped. Videos are named by salted ids, never by a path.

Letters: M sentences, n cells.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from lfvila_hf.search.formats import clock
from lfvila_hf.search.ranking import Hit, Hits

COLOURS = ("#4e79a7", "#b85c00", "#3f7f37", "#c23b3d", "#2f7f79", "#8a4f83", "#7d5a47", "#8a6d00")
"""One a sentence; each has a contrast of at least 3 to white and to the dark theme's background."""

INKS = {
    "body_text_color_subdued": "*neutral_600",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "input_placeholder_color": "*neutral_600",
    "input_placeholder_color_dark": "*neutral_400",
}
"""Colours of Gradio's theme that stand out by 4.5 to 1 (WCAG AA) where its own do not."""

STYLE = """
[role=tab][aria-selected=true] { color: var(--body-text-color) !important; font-weight: 600; }
.lf-hit { border: 1px solid color-mix(in srgb, currentColor 30%, transparent); border-radius: 8px; padding: 12px;
  margin: 10px 0; min-width: 0; }
.lf-hit h3 { margin: 0 0 4px 0; overflow-wrap: anywhere; font-size: 16px; }
.lf-note { font-size: 13px; margin: 0 0 8px 0; color: var(--body-text-color); opacity: 0.85; overflow-wrap: anywhere; }
.lf-row { display: flex; gap: 16px; flex-flow: row-reverse wrap-reverse; align-items: flex-end; }
.lf-hit video { width: 360px; max-width: 100%; max-height: 300px; background: #000; border-radius: 6px;
  object-fit: contain; flex: 0 1 360px; }
.lf-side { flex: 1 1 300px; min-width: 0; }
.lf-line { margin: 0 0 10px 0; }
.lf-label { font-size: 14px; overflow-wrap: anywhere; }
.lf-label b { font-weight: 600; }
.lf-track { position: relative; height: 26px; background: color-mix(in srgb, currentColor 10%, transparent);
  border-radius: 4px; margin: 2px 0; overflow: hidden; }
.lf-track .segment { position: absolute; top: 0; bottom: 0;
  background: color-mix(in srgb, currentColor 12%, transparent); }
.lf-band { position: absolute; top: 2px; bottom: 2px; border: 0; border-radius: 3px; cursor: pointer; min-width: 10px;
  padding: 0; }
.lf-band.nearest { background: transparent !important; border: 2px dashed currentColor; }
.lf-band:focus-visible, .lf-cell:focus-visible, .lf-shot:focus-visible, .lf-band.now { outline: 3px solid currentColor;
  outline-offset: -2px; }
.lf-shots { display: flex; gap: 6px; flex-wrap: wrap; margin: 4px 0 0 0; }
.lf-shot { border: 0; padding: 0; background: none; cursor: pointer; font-size: 12px; color: inherit; }
.lf-shot img { width: 96px; height: 54px; object-fit: contain; background: #000; border-radius: 4px; display: block; }
.lf-ruler { position: relative; height: 16px; font-size: 12px; opacity: 0.85; }
.lf-ruler span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.lf-ruler span:first-child { transform: none; }
.lf-ruler span:last-child { transform: translateX(-100%); }
.lf-scroll { overflow-x: auto; max-width: 100%; }
.lf-heat { border-collapse: collapse; font-size: 12px; }
.lf-heat, .lf-heat tr, .lf-heat th, .lf-heat td { border: 0 !important; padding: 1px !important; }
.lf-heat th { font-weight: normal; text-align: left; padding: 1px 6px !important; white-space: nowrap; max-width: 180px;
  overflow: hidden; text-overflow: ellipsis; }
.lf-cell { border: 2px solid transparent; border-radius: 3px; cursor: pointer; width: 46px; height: 26px; padding: 0;
  font-size: 12px; line-height: 20px; text-align: center; }
.lf-cell.chosen { border-color: #c23b3d; font-weight: bold; }
.lf-say { border-left: 4px solid #b85c00; padding: 8px 12px; margin: 10px 0; overflow-wrap: anywhere; }
.lf-say.wrong { border-color: #c23b3d; }
@media (max-width: 480px) { .lf-hit { padding: 8px; } .lf-hit video { flex: 1 1 100%; width: 100%; } }
"""

SCRIPT = """
<script>
(() => {
  if (window.lfvilaReady) return;
  window.lfvilaReady = true;
  let now = null;
  const playerOf = (one) => one.closest('.lf-hit').querySelector('video');
  const show = (one, play) => {
    const video = playerOf(one);
    if (now) now.classList.remove('now');
    if (one.classList.contains('lf-band')) { now = one; one.classList.add('now'); }
    video.dataset.end = one.dataset.end || '';
    video.currentTime = parseFloat(one.dataset.start);
    if (play) video.play().catch(() => {});
  };
  document.addEventListener('click', (event) => {
    const one = event.target.closest('[data-start]');
    if (one) show(one, true);
  });
  document.addEventListener('timeupdate', (event) => {
    const video = event.target;
    if (video.dataset && video.dataset.end && video.currentTime >= parseFloat(video.dataset.end)) {
      video.pause();
      video.dataset.end = '';
    }
  }, true);
  document.addEventListener('keydown', (event) => {
    const target = event.target;
    if (target.matches && target.matches('#story textarea, #inside-story textarea')) {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        event.stopPropagation();
        document.querySelector(target.closest('#story') ? '#search' : '#look').click();
      }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !target.closest) return;
    if (target.closest('input, textarea, select, video, [role=slider], [role=listbox], [role=tab]')) return;
    const bands = [...document.querySelectorAll('.lf-band')].filter((band) => band.offsetParent);
    if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') {
      if (!bands.length) return;
      const place = bands.indexOf(now) + (event.key === 'ArrowRight' ? 1 : bands.indexOf(now) < 0 ? 0 : -1);
      const next = bands[Math.max(0, Math.min(place, bands.length - 1))];
      show(next, false);
      next.focus({preventScroll: true});
      next.scrollIntoView({block: 'nearest'});
      event.preventDefault();
    } else if (event.key === ' ') {
      const held = target.closest('.lf-band') || now;
      if (!held || (target.closest('button') && !target.closest('.lf-band'))) return;
      const video = playerOf(held);
      if (video.paused) video.play().catch(() => {}); else video.pause();
      event.preventDefault();
    }
  }, true);
  document.addEventListener('keyup', (event) => {
    if (event.key === ' ' && event.target.closest && event.target.closest('.lf-band')) event.preventDefault();
  }, true);
})();
</script>
"""

# The field tells Gradio of its text a moment after the last key, so it is read from the field itself.
LOOK = "(video, _) => [video, document.querySelector('#inside-story textarea').value]"
REMEMBER = """(_, score, top, ...rest) => {
  const story = document.querySelector('#story textarea').value;
  const address = new URL(window.location);
  const values = {q: story, by: score, n: String(top)};
  for (const name in values) values[name] ? address.searchParams.set(name, values[name]) :
  address.searchParams.delete(name); window.history.replaceState(null, '', address);
  return [story, score, top, ...rest];
}"""
"""Keeps the question in the address, before it is sent."""

NO_VIDEO = "The library has no video yet. Index a folder: lfvila-hf index FOLDER --model NAME --output INDEX"
NameOf = Callable[[str], str]


def text(words: str) -> str:
    """Escape text for HTML; Gradio fills in `${...}`, so no text of others may hold one."""
    return html.escape(words).replace("$", "&#36;")


def said(words: str, wrong: bool = False) -> str:
    """A message."""
    return f'<p class="lf-say{" wrong" if wrong else ""}" role="status">{text(words)}</p>'


def hits_html(hits: Hits, sentences: Sequence[str], id_of: NameOf) -> str:
    """A list of hits, best first, with a word on what was not found and not read."""
    if not hits:
        return said(NO_VIDEO)
    parts = [f'<p class="lf-note">{text(note)}</p>' for note in hits.notes]
    if hits.missing:
        missing = " ".join(f"“{sentences[number]}”" for number in hits.missing)
        parts.append(said(f"Not found in this library: {missing} The nearest places have a dashed outline."))
    scale = scale_of(hits)
    parts += [hit_html(hit, id_of, f"{number}. ", scale) for number, hit in enumerate(hits, start=1)]
    return "".join(parts)


def scale_of(hits: Sequence[Hit]) -> tuple[float, float]:
    """Smallest and largest cosine of all hits, so that a colour means the same everywhere."""
    cosines = [hit.cosines for hit in hits if hit.cosines is not None]
    return min((float(one.min()) for one in cosines), default=0.0), max(
        (float(one.max()) for one in cosines), default=1.0
    )


def hit_html(
    hit: Hit,
    id_of: NameOf,
    before: str = "",
    scale: tuple[float, float] = (0.0, 1.0),
    rows: Sequence[dict[str, Any]] = (),
) -> str:
    """One hit: its bands, its player, its similarities; with `rows`, a picture of every segment too."""
    video = id_of(hit.path)
    first = hit.moments[0].start if hit.moments else hit.start
    poster = f"frame/{video}/{max(int(first * 1000), 0)}"
    names = {"global": "whole story", "aligned": "sentence by sentence", "both": "both", "vtm": "match"}
    scores = ", ".join(f"{names.get(name, name)} {value:.3f}" for name, value in hit.scores.items())
    return (
        f'<section class="lf-hit"><h3>{before}{text(hit.path)}</h3>'
        f'<p class="lf-note">best from {clock(hit.start)} to {clock(hit.end)} of {clock(hit.duration)}. '
        f'<span title="similarity, at most 1; both is the sum">Similarity: {text(scores)}</span></p>'
        # Bands come first in the order of tabs; the style puts the player before them.
        f'<div class="lf-row"><div class="lf-side">{_lines(hit, video)}</div>'
        f'<video controls preload="metadata" poster="{poster}" src="media/{video}"></video></div>'
        f"{_strip(video, rows)}{_similarities(hit, scale)}</section>"
    )


def _lines(hit: Hit, video: str) -> str:
    def place(start: float, end: float) -> str:
        left, right = (100 * min(second / hit.duration, 1.0) for second in (start, end))
        return f"left: {left:.2f}%; width: {max(right - left, 0.5):.2f}%"

    segment = f'<div class="segment" style="{place(hit.start, hit.end)}"></div>'
    lines = []
    for moment in hit.moments:
        colour = COLOURS[moment.sentence % len(COLOURS)]
        spans = moment.spans or ((moment.start, moment.end),)
        state = "" if moment.found else " nearest"
        where = ", ".join(f"{clock(start, 1)} to {clock(end, 1)}" for start, end in spans)
        words = where if moment.found else f"not found here; nearest {where}"
        bands = "".join(
            f'<button class="lf-band{state}" data-start="{start:.3f}" data-end="{end:.3f}" title="{clock(start, 1)} to '
            f'{clock(end, 1)}" aria-label="play {text(moment.text)}, {clock(start, 1)}" '
            f'style="{place(start, end)}; background: {colour}"></button>'
            for start, end in spans
        )
        shots = "".join(
            f'<button class="lf-shot" tabindex="-1" data-start="{start:.3f}" data-end="{end:.3f}"><img '
            f'loading="lazy" alt="" '
            f'src="frame/{video}/{int(500 * (start + end))}">{clock(start, 1)}</button>'
            for start, end in (spans if moment.found else ())
        )
        lines.append(
            f'<div class="lf-line"><div class="lf-label"><b>{text(moment.text)}</b> <span '
            f'class="lf-note">{words}</span></div>'
            f'<div class="lf-track">{segment}{bands}</div>{f"<div class=lf-shots>{shots}</div>" if shots else ""}</div>'
        )
    marks = "".join(f'<span style="left: {100 * part:g}%">{clock(part * hit.duration)}</span>' for part in (0, 0.5, 1))
    return ("".join(lines) or f'<div class="lf-track">{segment}</div>') + f'<div class="lf-ruler">{marks}</div>'


def _similarities(hit: Hit, scale: tuple[float, float]) -> str:
    if hit.cosines is None or not hit.moments:
        return ""
    low, high = scale
    head = "".join(f"<th>{clock(second, 1)}</th>" for second in hit.clip_times[:-1])
    body = []
    for number, moment in enumerate(hit.moments):
        cells = []
        for cell, value in enumerate(hit.cosines[number].tolist()):
            start, end = hit.clip_times[cell], hit.clip_times[cell + 1]
            inside = any(a <= start < b for a, b in moment.spans)
            part = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5
            # One hue from pale to dark; at 47 % black and white text stand out equally, 4.6 to 1.
            light = round(95 - 65 * part)
            style = f"background: hsl(210, 60%, {light}%); color: {'#000' if light > 47 else '#fff'}"
            chosen = " chosen" if inside else ""
            cells.append(
                f'<td><button class="lf-cell{chosen}" tabindex="-1" style="{style}" data-start="{start:.3f}" '
                f'data-end="{end:.3f}">{value:.2f}</button></td>'
            )
        body.append(f'<tr><th title="{text(moment.text)}">{text(moment.text)}</th>{"".join(cells)}</tr>')
    table = f'<table class="lf-heat"><tr><th>part from</th>{head}</tr>{"".join(body)}</table>'
    words = "Similarity of every part (outlined: found)"
    return f'<details><summary class="lf-note">{words}</summary><div class="lf-scroll">{table}</div></details>'


def _strip(video: str, rows: Sequence[dict[str, Any]]) -> str:
    pictures = "".join(
        f'<button class="lf-shot" data-start="{row["start"]:.3f}" data-end="{row["end"]:.3f}"><img loading="lazy" '
        f'alt="" '
        f'src="thumbnail/{video}/{row["segment"]}">{clock(row["start"])} to {clock(row["end"])}</button>'
        for row in rows
    )
    return f'<div class="lf-shots">{pictures}</div>' if rows else ""
