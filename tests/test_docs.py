"""README and docs: code blocks run as printed, relative links lead somewhere.

The python and bash blocks of a page run in order, in one namespace and one folder. The folder holds tiny versions of
what a reader of the README has by then: a trained checkpoint with its stories in `outputs/demo`, a converted
checkpoint, some videos and annotation files. Bash blocks may call `lfvila-hf` only. A block that needs more is preceded
by `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny_models import VIDEO, tiny_config, tiny_model
from transformers import BertTokenizer
from video_files import write_video

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor, cli
from lfvila_hf.search import app_command
from lfvila_hf.serving import serve_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("*.md"))]
# Packages of extras: a page that imports one which is not installed is skipped from there on.
OPTIONAL = {"gradio", "lancedb", "matplotlib", "mteb", "onnx", "openvino", "ray", "sentence_transformers"}
# Commands that serve until they are stopped: their arguments are parsed.
SERVING = {"app": app_command.build_parser, "serve": serve_command.build_parser}
MARK = re.compile(r"<!-- not run: (\S.+) -->")


class Block(NamedTuple):
    """One fenced block."""

    line: int
    language: str
    code: str
    reason: str
    """Why it is not run; empty for a block that is."""


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page."""
    found, lines = [], page.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        if lines[number].startswith("```"):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].startswith("```"))
            marked = MARK.fullmatch(lines[number - 1]) if number else None
            code = "\n".join(lines[number + 1 : end])
            found.append(Block(number + 1, lines[number][3:], code, marked[1] if marked else ""))
            number = end
        number += 1
    return found


def runnable(page: Path) -> list[Block]:
    """Blocks of a page that this file runs."""
    return [block for block in blocks(page) if block.language in ("python", "bash") and not block.reason]


@pytest.fixture(scope="session")
def readers_folder(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, int]) -> Path:
    """The folder that blocks run in, to be copied."""
    root = tmp_path_factory.mktemp("reader")
    demo = root / "outputs" / "demo"
    stories = demo / "shapetales" / "videos"
    for folder in (stories, demo / "shapetales" / "annotations", root / "videos", root / "clips" / "film"):
        folder.mkdir(parents=True)
    height, width = VIDEO["image_size"]
    processor = LFVilaProcessor(
        LFVilaVideoProcessor(size={"height": height, "width": width}, num_frames=8, num_clips=4),
        BertTokenizer(vocab=dict(tiny_vocabulary)),
        max_sentences=4,
        max_sentence_length=10,
    )
    config = tiny_config(text={"vocab_size": len(tiny_vocabulary)})
    checkpoints = {demo / "checkpoint": LFVilaForPreTraining, root / "lfvila-actnet": LFVilaModel}
    for folder, model_class in checkpoints.items():
        tiny_model(model_class, config).save_pretrained(folder)
        processor.save_pretrained(folder)
    rows = []
    for number in range(4):
        write_video(stories / f"test_{number:05}.mp4", 40, size=(48, 80), first_number=100 * number)
        rows.append(
            {"clip_id": f"test_{number:05}", "text": ["A man rides.", "The ball is red.", "It is blue.", "It is in."]}
        )
        write_video(root / "clips" / "film" / f"film.{number}.mp4", 10, size=(48, 80), first_number=50 * number)
    annotations = demo / "shapetales" / "annotations" / "retrieval_validation.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    clips = [{"clip_id": f"film.{number}.mp4", "text": "The man is in the box."} for number in range(4)]
    (root / "train.jsonl").write_text(2 * (json.dumps(clips) + "\n"), encoding="utf-8")
    for name in ("videos/a.mp4", "videos/b.mkv"):
        write_video(root / name, 60, size=(48, 80))
    write_video(root / "film.mkv", 90, fps=1, size=(48, 80))
    return root


def run_commands(block: Block) -> None:
    """Run every line of a bash block, in this process."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == cli.PROGRAM, f"only {cli.PROGRAM} is run here; mark the block: {line}"
            if words[1] in SERVING:
                SERVING[words[1]]().parse_args(words[2:])
                continue
            assert cli.main(["--traceback", *words[1:]]) == 0, line


# PEFT reads an attribute that transformers has renamed; the call is not ours.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_in_order(
    page: Path, readers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(readers_folder, tmp_path / "reader")
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in runnable(page):
        place = f"{page.name}:{block.line}"
        try:
            if block.language == "bash":
                run_commands(block)
            else:
                exec(compile(block.code, place, "exec"), namespace)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"{place}: {error.name} is not installed")
        except Exception as error:
            error.add_note(f"in the block at {place}; a block that cannot run is marked <!-- not run: REASON -->")
            raise


def test_the_readme_runs_what_a_new_user_copies_first() -> None:
    code = "\n".join(block.code for block in runnable(ROOT / "README.md"))
    for words in (
        "AutoModel.from_pretrained",
        "model.similarity",
        "post_process_alignment",
        "lfvila-hf index",
        "LFVilaTrainer(",
    ):
        assert words in code


def slug(title: str) -> str:
    """The anchor of a heading, as code forges make it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", LINKED_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{page.name} links out of the repository: {link}"
        if anchor:
            titles = re.findall(r"(?m)^#+ (.+)$", target.read_text("utf-8"))
            assert anchor in {slug(title) for title in titles}, f"{page.name} links to {link}"
