"""The Hub on this machine: a real client pushes, lists, pulls, and every fault on purpose is one that it meets.

What is pushed there by our models is tested in the other files of this folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hub_clients import run_client, succeed
from hub_server import READER, Fault, LocalHub, Repository, git_oid

PUSH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("org/thing", exist_ok=True)
print(api.upload_folder(repo_id="org/thing", folder_path=sys.argv[1]).oid)
"""
PULL = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/thing"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small files, one of them in a folder, and a large one."""
    folder = tmp_path / "thing"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub" / "notes.txt").write_text("notes")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_is_listed_and_pulled_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    program = (
        PUSH
        + PULL
        + (
            "print(sorted(api.list_repo_files('org/thing')), api.repo_exists('org/thing'), api.repo_exists('org/no'))\n"
            "print(api.whoami()['name'], api.model_info('org/thing').sha, api.file_exists('org/thing', 'no.txt'))\n"
            "print([one.lfs.sha256 for one in api.get_paths_info('org/thing', ['model.safetensors'])])\n"
        )
    )
    with LocalHub() as hub:
        printed = succeed(run_client(program, hub, tmp_path / "home", folder)).splitlines()
    expected = contents(folder)
    assert contents(Path(printed[1])) == expected == hub.repositories["org/thing"].files
    assert printed[2] == f"{sorted(expected)} True False"
    assert printed[3] == f"org {printed[0]} False"
    assert printed[4] == f"['{hashlib.sha256(expected['model.safetensors']).hexdigest()}']"
    assert len(hub.uploaded()) == 1, "the large file goes as an LFS object, the small ones in the commit"


def test_a_file_is_named_as_git_names_it() -> None:
    assert git_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("status", "POST", "/commit/", times=99, status=503), "503"),
        (Fault("status", "POST", "/commit/", status=409), "409"),
        (Fault("status", "POST", "/preupload/", status=401), "401"),
        (Fault("status", "POST", "/preupload/", status=403), "403"),
        (Fault("reset", "PUT", "/lfs/", times=99), "Connection|reset|EOF|Broken|RemoteProtocol|ReadError|WriteError"),
    ],
    ids=["503", "409", "401", "403", "reset in mid-upload"],
)
def test_a_push_that_fails_changes_nothing_and_can_be_repeated(
    fault: Fault, message: str, folder: Path, tmp_path: Path
) -> None:
    import re

    with LocalHub() as hub:
        hub.faults.append(fault)
        # Retries wait a second and more; the fault is what is tested.
        hurried = "import time\ntime.sleep = lambda seconds: None\n" + PUSH
        failed = run_client(hurried, hub, tmp_path / "home", folder)
        assert failed.returncode != 0 and re.search(message, failed.stderr), failed.stderr
        assert hub.repositories["org/thing"].files == {}
        hub.faults.clear()
        succeed(run_client(PUSH, hub, tmp_path / "home", folder))
    assert hub.repositories["org/thing"].files == contents(folder)


def test_an_object_that_arrives_with_other_bytes_is_refused(folder: Path, tmp_path: Path) -> None:
    program = (
        "import huggingface_hub._commit_api as api\n"
        "from huggingface_hub.lfs import UploadInfo\n"
        "UploadInfo.sha256 = property(lambda self: bytes(32), lambda self, value: None)\n" + PUSH
    )
    with LocalHub() as hub:
        failed = run_client(program, hub, tmp_path / "home", folder)
    assert failed.returncode != 0
    assert [status for method, _, status in hub.requests if method == "PUT"] == [400], failed.stderr
    assert hub.repositories["org/thing"].files == {}


@pytest.mark.parametrize("kind", ["cut", "status"])
def test_a_download_that_breaks_off_is_taken_up_again(kind: str, folder: Path, tmp_path: Path) -> None:
    with LocalHub() as hub:
        succeed(run_client(PUSH, hub, tmp_path / "one", folder))
        hub.faults.append(Fault(kind, "GET", "/resolve/.*safetensors"))
        if kind == "status":  # the client goes on after a broken connection by itself, not after an answer
            refused = run_client(PULL, hub, tmp_path / "two")
            assert refused.returncode != 0 and "503" in refused.stderr
        pulled = succeed(run_client(PULL, hub, tmp_path / "two"))
    assert contents(Path(pulled.strip())) == contents(folder)
    assert not any(fault.times for fault in hub.faults), "the fault was never met"


def test_a_download_of_other_bytes_is_found_by_their_hash(folder: Path, tmp_path: Path) -> None:
    program = PULL + (
        "from huggingface_hub import HfApi\n"
        "found = HfApi().verify_repo_checksums('org/thing')\n"
        "print([one['path'] for one in found.mismatches], found.missing_paths, found.checked_count)\n"
    )
    with LocalHub() as hub:
        succeed(run_client(PUSH, hub, tmp_path / "one", folder))
        sound = succeed(run_client(program, hub, tmp_path / "two")).splitlines()
        hub.faults.append(Fault("corrupt", "GET", "/resolve/.*safetensors"))
        broken = succeed(run_client(program, hub, tmp_path / "three")).splitlines()
    assert sound[1] == "[] [] 3" and broken[1] == "['model.safetensors'] [] 3"
    # The client looks at sizes while it downloads, and only at those.
    name = "model.safetensors"
    assert (Path(broken[0]) / name).stat().st_size == (folder / name).stat().st_size


@pytest.mark.parametrize(("status", "message"), [(401, "If this is a private repository"), (403, "403")])
def test_a_repository_that_is_closed_to_a_reader_is_a_clear_error(status: int, message: str, tmp_path: Path) -> None:
    program = "from lfvila_hf import LFVilaModel\nLFVilaModel.from_pretrained('org/thing')"
    with LocalHub() as hub:
        hub.repositories["org/thing"] = Repository(private=True)
        if status == 403:
            hub.faults.append(Fault("status", "GET", "", times=99, status=403))
            hub.faults.append(Fault("status", "HEAD", "", times=99, status=403))
        run = run_client(program, hub, tmp_path / "home", token=None)
    assert run.returncode != 0 and "org/thing" in run.stderr and message in run.stderr, run.stderr


def test_a_token_without_the_right_to_write_reads_only(folder: Path, tmp_path: Path) -> None:
    with LocalHub() as hub:
        refused = run_client(PUSH, hub, tmp_path / "home", folder, token=READER)
        assert refused.returncode != 0 and "403" in refused.stderr
        strange = run_client(PUSH, hub, tmp_path / "home", folder, token="hf_nobody")
        assert strange.returncode != 0 and "401" in strange.stderr
        assert not hub.repositories
        succeed(run_client(PUSH, hub, tmp_path / "home", folder))
        succeed(run_client(PULL, hub, tmp_path / "other", token=READER))
