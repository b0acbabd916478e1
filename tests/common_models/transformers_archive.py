"""transformers' own test files, out of the source archive of the pinned release on the package index.

They are in no wheel. pip fetches the archive (with whatever index the user's pip is set up for), its hash is compared
with the one written here, and what the common model tests need of it is unpacked as a package `transformers_common`
into the repository's ignored cache folder. Nothing of it is committed. The few modules that those files import and
that the archive lacks (tests of exporters and of generation, which are about other things) are written as stubs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "transformers_common"
SHA256 = {"5.23.0": "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71"}
WANTED = re.compile(r"tests/(test_(modeling|configuration)_common\.py)$")
CONFIG_STUB = """
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["LFVilaModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
"""
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": CONFIG_STUB,
}


def pinned_version() -> str:
    """Return the release of transformers in constraints.txt."""
    found = re.search(r"^transformers==([\w.]+)$", (ROOT / "constraints.txt").read_text("utf-8"), flags=re.MULTILINE)
    assert found, "constraints.txt does not pin transformers"
    return found.group(1)


def common_tests_folder(cache: Path | None = None) -> Path:
    """Return the folder to put on `sys.path` for `transformers_common`; it is filled on first use.

    Args:
        cache: Folder for archive and files. Defaults to the repository's `.cache`.

    Raises:
        RuntimeError: pip cannot fetch the archive, or its hash differs.
    """
    version = pinned_version()
    folder = (ROOT / ".cache" if cache is None else cache) / f"transformers-tests-{version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                archive = download(version, Path(temporary))
                new = Path(temporary) / "new"
                unpack(archive, new / PACKAGE)
                shutil.move(new, folder)
    return folder


def download(version: str, folder: Path) -> Path:
    """Fetch the source archive of a release with pip and check its hash.

    Raises:
        RuntimeError: the release is unknown here, pip fails, or the hash is another one.
    """
    if version not in SHA256:
        raise RuntimeError(f"no hash is known for the source archive of transformers {version}: add it to {__file__}")
    wanted = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", f"transformers=={version}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), *wanted]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if run.returncode or len(archives) != 1:
        raise RuntimeError(
            f"transformers' own tests are in the source archive of transformers {version} on the package index, and "
            f"pip could not fetch it: {' '.join(command)}\n{run.stdout}{run.stderr}"
        )
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != SHA256[version]:
        raise RuntimeError(f"{archives[0].name} has sha256 {found}, expected {SHA256[version]}")
    return archives[0]


def unpack(archive: Path, package: Path) -> None:
    """Write the wanted files of the archive and the stubs as a package."""
    for name, text in STUBS.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    names = []
    with tarfile.open(archive) as files:
        for member in files:
            wanted = WANTED.search(member.name)
            content = files.extractfile(member) if wanted and member.name.count("/") == 2 else None
            if wanted and content is not None:
                (package / wanted.group(1)).write_bytes(content.read())
                names.append(wanted.group(1))
    if sorted(names) != ["test_configuration_common.py", "test_modeling_common.py"]:
        raise RuntimeError(f"{archive.name} holds {names}, expected the common tests of models and configurations")
