"""The rules of the repository that no linter knows: imports of flat files, the README's tree, what mirrors what.

CONTRIBUTING.md states these rules for people. Behaviour is tested in the other files. Nothing here imports the package,
except in a process of its own.
"""

from __future__ import annotations

import ast
import configparser
import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
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
MAX_LINES = {"modeling_lfvila.py": 1200}
MAX_LINES_DEFAULT = 450
TEXT_SUFFIXES = {"", ".cfg", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if not is_generated(path)]


def is_generated(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return any(part in ("__pycache__", "outputs", "build", "dist") or part.startswith(".venv") for part in parts)


@functools.cache
def syntax_tree(path: Path) -> ast.Module:
    """The module of one file, read once.

    Up to 3.11.7 and 3.12.0, Python counts the depth of every thread's tree in one place (cpython issue 106905): while a
    thread that another test left behind parses too, `ast.parse` may fail on a file that has no fault.
    """
    text = path.read_text("utf-8")
    for _ in range(5):
        try:
            return ast.parse(text)
        except SystemError:
            continue
    return ast.parse(text)


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
    for node in ast.walk(syntax_tree(path)):
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


# -- source ----------------------------------------------------------------------------------------------------------


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, FunctionNode | ast.ClassDef]]:
    """Yield the public functions and classes of a module, and the public methods and classes inside those classes."""
    pending: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    while pending:
        prefix, node = pending.pop()
        if isinstance(node, FunctionNode | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                pending.extend((f"{prefix}{node.name}.", child) for child in node.body)


def unannotated(function: FunctionNode) -> list[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    missing = [a.arg for a in every if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
    return missing if function.returns is not None else [*missing, "return"]


@pytest.mark.parametrize("path", python_files("lfvila_hf"), ids=relative)
def test_everything_public_is_documented_and_annotated(path: Path) -> None:
    tree = syntax_tree(path)
    assert not tree.body or ast.get_docstring(tree), f"{path.name} has no module docstring"
    for name, node in public_definitions(tree):
        is_overload = any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)
        assert is_overload or ast.get_docstring(node), f"{path.name}:{node.lineno}: {name} has no docstring"
        if isinstance(node, FunctionNode):
            assert not unannotated(node), f"{path.name}:{node.lineno}: {name} lacks types of {unannotated(node)}"


@pytest.mark.parametrize("path", python_files(*CODE_FOLDERS), ids=relative)
def test_a_file_is_short_and_free_of_torchvision(path: Path) -> None:
    text = path.read_text("utf-8")
    lines, limit = text.count("\n"), MAX_LINES.get(path.name, MAX_LINES_DEFAULT)
    assert lines <= limit, f"{relative(path)} has {lines} lines, expected at most {limit}"
    imported = {
        name.split(".")[0]
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert "torchvision" not in imported


@pytest.mark.parametrize("path", python_files(*CODE_FOLDERS), ids=relative)
def test_a_suppression_names_its_rule_and_its_reason(path: Path) -> None:
    # "# noqa: E402 -- why" or "# type: ignore[arg-type]  # why"
    suppression, reasoned = (
        re.compile(r"#\s*(noqa|type:\s*ignore)\b"),
        re.compile(r"#\s*(noqa:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*|type:\s*ignore\[[\w, -]+\])\W+\w+ \w+"),
    )
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if suppression.search(line) and path != Path(__file__):
            assert reasoned.search(line), f"{relative(path)}:{number}: {line.strip()}"


# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [path for path in python_files("lfvila_hf") if not path.name.startswith("__")], ids=relative
)
def test_every_module_has_a_test_file_that_mirrors_it(path: Path) -> None:
    """A module that is a part of another one may instead be named in the docstring of that one's test file."""
    folder = ROOT / "tests" / path.relative_to(PACKAGE).parent
    named_alike = list(folder.glob(f"test_{path.stem.removesuffix('_lfvila')}*.py"))
    naming_it = [
        test
        for test in folder.glob("test_*.py")
        if re.search(rf"\b{path.stem}\b", ast.get_docstring(syntax_tree(test)) or "")
    ]
    assert named_alike or naming_it, f"{relative(path)} has neither a test file nor a mention in one's docstring"


def test_names_of_test_files_are_unique_and_their_folders_are_no_packages() -> None:
    names = Counter(path.name for path in python_files("tests"))
    assert not [name for name, count in names.items() if count > 1]
    assert "__init__.py" not in names


# -- what people read ------------------------------------------------------------------------------------------------


def tree_entries(readme: str) -> set[str]:
    """Return the paths that the README's tree lists; folders end in a slash.

    The tree stands between `<!-- tree -->` and `<!-- /tree -->`: one file or folder per line, indented below its
    folder, then its description. Box-drawing characters count as indentation.
    """
    block = re.search(r"<!-- tree -->(.*?)<!-- /tree -->", readme, flags=re.DOTALL)
    assert block, "README.md has no tree between <!-- tree --> and <!-- /tree -->"
    entries: set[str] = set()
    parents: list[tuple[int, str]] = []
    for line in block.group(1).splitlines():
        found = re.match(r"([\s│├└─|`+-]*)([\w.][\w.\-/]*)", line)
        if not found or line.lstrip().startswith("```"):
            continue
        indent, name = len(found.group(1)), found.group(2)
        while parents and parents[-1][0] >= indent:
            parents.pop()
        path = (parents[-1][1] if parents else "") + name
        entries.add(path)
        if name.endswith("/"):
            parents.append((indent, path))
    return entries


def test_tree_entries_understands_both_ways_to_draw_a_tree() -> None:
    drawn = "<!-- tree -->\n```\na.py  one\nb/   two\n├── c.py  three\n└── d/\n    └── e.md\nf.cfg\n```\n<!-- /tree -->"
    plain = "<!-- tree -->\n```\na.py  one\nb/   two\n  c.py  three\n  d/\n    e.md\nf.cfg\n```\n<!-- /tree -->"
    assert tree_entries(drawn) == tree_entries(plain) == {"a.py", "b/", "b/c.py", "b/d/", "b/d/e.md", "f.cfg"}


def test_the_tree_of_the_readme_is_the_tree_of_the_repository() -> None:
    listed = tree_entries((ROOT / "README.md").read_text("utf-8"))
    missing = {
        entry for entry in listed if not (ROOT / entry).exists() or entry.endswith("/") != (ROOT / entry).is_dir()
    }
    assert not missing, f"README.md lists what does not exist: {sorted(missing)}"
    unlisted = {
        relative(path)
        for path in [*python_files(*CODE_FOLDERS), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
        if path.name != "__init__.py" and not is_generated(path)
    } - listed
    assert not unlisted, f"README.md lacks a line for {sorted(unlisted)}"


@pytest.mark.parametrize("path", text_files(), ids=relative)
def test_no_file_names_a_place_on_somebodys_machine(path: Path) -> None:
    pattern = re.compile(r"(?<![\w.])/(work|home|root|Users|opt|mnt)/\w|(--?|_)(extra-)?(index[-_]url|find[-_]links)")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        assert not pattern.search(line) or path == Path(__file__), f"{relative(path)}:{number}: {line.strip()}"


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"


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


def test_every_target_of_the_makefile_explains_itself() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = {name for line in re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE) for name in line.split()}
    assert phony >= {"help", "demo", "test", "test-full", "check", "bench"}
    assert phony == set(re.findall(r"^([a-z-]+):.*## \w", text, flags=re.MULTILINE))
    scripts = re.findall(r"python ([\w/]+\.py)", text)
    assert scripts
    assert not [script for script in scripts if not (ROOT / script).is_file()]


def test_the_checks_of_a_clean_checkout_can_be_started() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
