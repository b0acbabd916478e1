"""Guard what would break users and no linter knows: flat files that travel with a checkpoint, and pinned versions.

Nothing here imports the package, except in a process of its own.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lfvila_hf"
CODE_FOLDERS = ("lfvila_hf", "tests", "examples", "benchmarks")
FLAT_FILES = sorted(PACKAGE.glob("*_lfvila.py"))
# What `trust_remote_code` may ask a user to have installed in order to load a model.
FLAT_FILE_PACKAGES = {"torch", "numpy", "transformers", "huggingface_hub"}
TEXT_SUFFIXES = {"", ".cfg", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}

def is_generated(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return any(part in ("__pycache__", "outputs", "build", "dist") or part.startswith(".venv") for part in parts)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_files() -> list[Path]:
    """Every text file of the project: those of the top folder, and those of the folders that hold the project."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    folders = [path for name in (*CODE_FOLDERS, "docs", ".ci") for path in (ROOT / name).rglob("*") if path.is_file()]
    return [path for path in [*top, *folders] if path.suffix in TEXT_SUFFIXES and not is_generated(path)]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


# -- flat files ------------------------------------------------------------------------------------------------------


def test_there_are_flat_files() -> None:
    assert {"configuration_lfvila.py", "modeling_lfvila.py"} <= {path.name for path in FLAT_FILES}


@pytest.mark.parametrize("path", FLAT_FILES, ids=lambda path: path.name)
def test_a_flat_file_imports_its_neighbours_only_by_name(path: Path) -> None:
    neighbours = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"{path.name}:{node.lineno}: `from . import x` cannot be published"
            assert "*" not in {alias.name for alias in node.names}
            assert (PACKAGE / f"{node.module}.py") in FLAT_FILES, f"{path.name}:{node.lineno}: not a flat file"
            neighbours.add(node.module)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            own = [name for name in names if (name or "").split(".")[0] == "lfvila_hf"]
            assert not own, f"{path.name}:{node.lineno}: {own} loads only where the package is installed"

    # transformers finds a file's neighbours by a regular expression, which also reads docstrings and comments.
    from transformers.dynamic_module_utils import get_relative_imports

    assert set(get_relative_imports(path)) == neighbours, f"{path.name}: a line of prose reads like an import"


@pytest.mark.parametrize("path", FLAT_FILES, ids=lambda path: path.name)
def test_a_flat_file_requires_only_what_loading_a_model_needs(path: Path) -> None:
    from transformers.dynamic_module_utils import get_imports

    third_party = set(get_imports(path)) - set(sys.stdlib_module_names)
    assert third_party <= FLAT_FILE_PACKAGES, f"{path.name} needs {third_party - FLAT_FILE_PACKAGES} outside a `try:`"


def test_flat_files_work_alone_without_the_package_and_without_a_decoder(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in FLAT_FILES:
        shutil.copy(path, folder)
    program = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(['lfvila_hf', 'av', 'PIL', 'datasets', 'peft', 'torchvision']))\n"
        f"for name in {[path.stem for path in FLAT_FILES]!r}:\n"
        "    print(importlib.import_module(f'published.{name}').__name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [f"published.{path.stem}" for path in FLAT_FILES]


# -- what people read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", text_files(), ids=relative)
def test_no_file_names_a_place_on_somebodys_machine(path: Path) -> None:
    pattern = re.compile(r"(?<![\w.])/(work|home|root|Users|opt|mnt)/\w|(--?|_)(extra-)?(index[-_]url|find[-_]links)")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        assert not pattern.search(line) or path == Path(__file__), f"{relative(path)}:{number}: {line.strip()}"


# -- installation ----------------------------------------------------------------------------------------------------


def test_the_pinned_versions_lie_in_the_accepted_ranges() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "expected name==version and no local label"
    pins = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}
    assert pins["torch"] == Version("2.13.0")
    assert "torchvision" not in pins

    options = setup_cfg()
    wanted = [options["options"]["install_requires"], *options["options.extras_require"].values()]
    requirements = [Requirement(line) for block in wanted for line in block.split("\n") if line.strip()]
    assert len(requirements) > 10
    for requirement in requirements:
        if canonicalize_name(requirement.name) != "lfvila-hf":
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} has no pin in constraints.txt"
            assert version in requirement.specifier, f"{requirement} does not accept the pinned {version}"
