"""Distributions: a source archive with everything, a wheel with the package alone, metadata without dead links."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")
# setuptools writes to sys.argv
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive and the wheel, made from a copy without what runs left in it."""
    source, out = tmp_path_factory.mktemp("copy") / "source", tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, source, ignore=NOT_COPIED)
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    return out


def test_the_source_archive_holds_every_file_that_tests_and_examples_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "constraints.txt", "CONTRIBUTING.md", "NOTICE", "README.md", "lfvila_hf_cli.py"}
    for folder in ("lfvila_hf", "docs", "examples", "tests", "benchmarks"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert files
        wanted |= {path.relative_to(ROOT).as_posix() for path in files}
    assert not wanted - names
    assert not [name for name in names if "__pycache__" in name or name.startswith("outputs")]


def test_the_wheel_holds_the_package_alone(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"lfvila_hf", "lfvila_hf_cli.py"}


def test_metadata_name_author_python_and_links_that_an_index_page_can_follow(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = email.message_from_string(archive.read(name).decode())
    assert metadata["Author"] and metadata["Requires-Python"] == ">=3.11"
    assert len(metadata.get_all("Project-URL", [])) >= 2
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^)\s]+)\)", str(text))
    assert links and all(link.startswith("https://") for link in links)
