"""Pushing a checkpoint folder to the Hub: checked before, taken up again where it broke off, verified after.

A folder holds a model (`config.json` and safetensors) or a PEFT adapter, and the processor. What is missing for
somebody without this package is added to it: the code files, and a card unless it has one. Pickles and the state of a
training (`NOT_PUBLISHED`) stay at home. Large files are uploaded before the commit that names them; those that are
there already are not sent again, so the same call after a failure goes on where the last one stopped. At the end the
Hub's hash of every file is compared with the file's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from lfvila_hf.configuration_lfvila import AUTO_MAPS
from lfvila_hf.hub.cards import HEADS, CardFacts, metrics_of, model_card, training_lines

logger = logging.get_logger(__name__)

NOT_PUBLISHED = (
    "checkpoint-*",
    ".*",
    "*.pt",
    "*.pth",
    "*.bin",
    "*.pkl",
    "__pycache__",
    "_*",
    "runs",
    "events.out.*",
)
EMBEDDING_MODELS = ("LFVilaModel", "LFVilaForPreTraining")
SENTENCE_TRANSFORMER: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.base.modules.normalize.Normalize",
        },
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
            "video": {"method": "get_video_features", "method_output_name": "pooler_output"},
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
}
PLACEHOLDER = "[More Information Needed]"  # in the card that PEFT writes beside an adapter
ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    facts: CardFacts | None = None,
    private: bool | None = None,
    processor: bool = True,
    message: str = "Upload LF-VILA checkpoint",
    architecture: str | None = None,
) -> str:
    """Publish a checkpoint folder; returns the repository's address.

    Args:
        folder: what `save_pretrained` of a model (or a PEFT adapter) and of its processor wrote.
        repo_id: repository, made if it is new.
        facts: for the card, if the folder has none; metrics are read from the folder where none are given.
        private: of a new repository.
        processor: whether a model has to come with its processor.
        message: of the commit.
        architecture: model class that an adapter is for, where its own configuration does not say so.

    Raises:
        ValueError: the folder is none of ours or not complete, or the Hub ends up with another file than ours.
        ConnectionError: the upload broke off, again and again; call it again to go on.
        OSError: the Hub refuses (no token, no right to write, no such place).
    """
    folder = Path(folder)
    config, adapter = check_folder(folder, processor, architecture)
    facts = facts or CardFacts()
    if adapter:
        facts.base_model = facts.base_model or adapter["base_model_name_or_path"]
    if not facts.metrics:
        facts.metrics = metrics_of(folder)
    if not adapter:
        add_code(folder, config)
        if (config.get("architectures") or [None])[0] in EMBEDDING_MODELS:
            add_sentence_transformer(folder)
    card = folder / "README.md"
    if not card.is_file() or PLACEHOLDER in card.read_text("utf-8"):
        card.write_text(model_card(repo_id, config, facts, training_lines(folder), bool(adapter)), encoding="utf-8")
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
    except Exception as error:
        trouble = network_error(error)
        if trouble is None or isinstance(trouble, OSError):
            raise
        raise ConnectionError(f"the Hub at {api.endpoint} cannot be reached: {trouble}") from error
    upload(api, folder, url.repo_id, message)
    verify(api, folder, url.repo_id)
    return str(url)


def check_folder(
    folder: Path, processor: bool = True, architecture: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the model's configuration, and of the adapter's (empty for a model).

    Raises:
        ValueError: no folder, no model of ours in it, no weights, no processor although one is wanted, or an adapter
            for who knows what.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    adapter_file, config_file = folder / "adapter_config.json", folder / "config.json"
    if adapter_file.is_file():
        adapter = read_json(adapter_file)
        base = adapter.get("base_model_name_or_path")
        if not base or Path(base).is_absolute() or str(base).startswith("."):
            raise ValueError(
                f"{adapter_file} names no repository as its base model, got {base!r}: load the base from the Hub "
                f"before the adapter is made, or correct base_model_name_or_path"
            )
        if not (folder / "adapter_model.safetensors").is_file():
            raise ValueError(f"{folder} has no adapter_model.safetensors")
        named = architecture or (adapter.get("auto_mapping") or {}).get("base_model_class")
        if named not in HEADS:
            raise ValueError(
                f"{adapter_file} does not say which model the adapter is for, got {named!r}: name it (--architecture), "
                f"one of {', '.join(HEADS)}"
            )
        return {"architectures": [named]}, adapter
    if not config_file.is_file():
        raise ValueError(f"{folder} holds neither a model (config.json) nor an adapter (adapter_config.json)")
    config = read_json(config_file)
    if config.get("model_type") not in AUTO_MAPS:
        raise ValueError(
            f"{config_file} is the configuration of a {config.get('model_type')!r}, expected one of {list(AUTO_MAPS)}"
        )
    if not list(folder.glob("model*.safetensors")):
        raise ValueError(f"{folder} has no weights (model.safetensors)")
    if processor and config["model_type"] == "lfvila" and not (folder / "processor_config.json").is_file():
        raise ValueError(
            f"{folder} has no processor (processor_config.json): whoever loads the model needs it. Save it with "
            f"processor.save_pretrained({str(folder)!r}), or publish without (--no-processor)"
        )
    return config, {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def add_code_files(folder: Path) -> None:
    """Put the code files that `folder` lacks into it: what models, processor and pipelines need to be loaded."""
    package = Path(sys.modules["lfvila_hf"].__file__ or "").parent
    roots = ["modeling_lfvila.py", "processing_lfvila.py", "pipeline_lfvila.py"]
    files = {str(path) for root in roots for path in get_relative_import_files(str(package / root))}
    for path in sorted(files | {str(package / root) for root in roots}):
        if not (folder / Path(path).name).is_file():
            shutil.copyfile(path, folder / Path(path).name)


def add_code(folder: Path, config: dict[str, Any]) -> None:
    """Put code files beside the weights, and their names into the configuration that has none."""
    add_code_files(folder)
    if not config.get("auto_map"):
        config["auto_map"] = dict(AUTO_MAPS[config["model_type"]])
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def add_sentence_transformer(folder: Path) -> None:
    """Say how `SentenceTransformer(repo)` embeds with the model: projected features of either tower, normalised."""
    for name, content in SENTENCE_TRANSFORMER.items():
        if not (folder / name).is_file():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def published_files(folder: Path) -> list[Path]:
    """Files of `folder` that are published, as paths inside it."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        kept = not any(fnmatch(part, pattern) for part in inside.parts for pattern in NOT_PUBLISHED)
        if path.is_file() and kept:
            found.append(inside)
    return found


def upload(api: HfApi, folder: Path, repo: str, message: str) -> None:
    """Upload in one go; what was uploaded before is not sent again. Trouble of the moment is tried again.

    Raises:
        ConnectionError: it did not pass.
        OSError: the Hub refused.
    """
    patterns = [path.as_posix() for path in published_files(folder)]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, allow_patterns=patterns)
            return
        except Exception as error:
            trouble = network_error(error)
            if trouble is None:
                raise
            if isinstance(trouble, HfHubHTTPError) and trouble.response.status_code < 500:
                raise trouble from error
        logger.warning(f"attempt {attempt} of {ATTEMPTS} to upload {folder} broke off: {trouble}")
        if attempt < ATTEMPTS:
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise ConnectionError(
        f"uploading {folder} to {repo} broke off {ATTEMPTS} times, at last with {type(trouble).__name__}: {trouble}. "
        f"Do the same again to go on: files that have arrived are not sent twice"
    ) from trouble


def network_error(error: BaseException) -> Exception | None:
    """What the network or the Hub said, in an exception or among its causes; `None` where it is about something else.

    The client wraps such errors in others, and its HTTP library differs between its releases.
    """
    cause: BaseException | None = error
    while cause is not None:
        names = {kind.__name__ for kind in type(cause).__mro__}
        known = isinstance(cause, HfHubHTTPError | ConnectionError | TimeoutError)
        if isinstance(cause, Exception) and (known or "TransportError" in names):
            return cause
        cause = cause.__cause__
    return None


def verify(api: HfApi, folder: Path, repo: str) -> None:
    """Compare the Hub's hash of every file with that of ours.

    Raises:
        ValueError: a file is missing or another one; all of them are named.
    """
    wanted = [path.as_posix() for path in published_files(folder)]
    there: dict[str, Any] = {one.path: one for one in api.get_paths_info(repo, wanted)}
    wrong = []
    for name in wanted:
        entry = there.get(name)
        if entry is None:
            wrong.append(f"{name} is missing")
        elif entry.lfs is not None:
            if sha256_of(folder / name) != entry.lfs.sha256:
                wrong.append(f"{name} has sha256 {entry.lfs.sha256}")
        elif git_hash((folder / name).read_bytes()) != entry.blob_id:
            wrong.append(f"{name} is git object {entry.blob_id}")
    if wrong:
        raise ValueError(f"{repo} does not hold what was sent: {'; '.join(wrong)}")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def git_hash(content: bytes) -> str:
    """The name that git, and the Hub for small files, gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
