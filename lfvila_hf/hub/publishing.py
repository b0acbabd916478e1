"""Publish a checkpoint folder on the Hub: checked first, resumable, verified at the end.

The folder holds a model (`config.json`, safetensors) or a PEFT adapter, and the processor. Only regular files that
`PUBLISHED` lists are uploaded; links, pickles, states of a training and whatever else lies there stay at home and are
named. Weights are opened before anything is sent: every tensor that the model has must be there, in its shape and
finite.

Once the repository exists, code files and a card are added to the folder. A card of a former push that nobody has
edited is made again; an edited one is kept. Large files are uploaded before the commit that names them, and a file that
has arrived is not sent twice, so after a failure the same call continues. Finally the Hub's hash of every file is
compared.
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

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from lfvila_hf.configuration_lfvila import AUTO_MAPS
from lfvila_hf.hub.cards import HEADS, METRIC_FILES, CardFacts, is_generated, metrics_of, model_card, training_lines
from lfvila_hf.video_processing_lfvila import LFVilaVideoProcessor

logger = logging.get_logger(__name__)

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PUBLISHED = (
    # model
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "*_lfvila.py",
    # adapter
    *ADAPTER_FILES,
    # processor and tokenizer
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    # sentence-transformers
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    # documentation
    "README.md",
    "LICENSE*",
    "NOTICE*",
    *METRIC_FILES,
    "*.png",
    "*.jpg",
    "*.svg",
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
        "processing_kwargs": {"text": {"as_sentences": True}},
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
    """Publish a checkpoint folder and return the repository's address.

    Args:
        folder: Folder that `save_pretrained` of a model (or PEFT adapter) and of its processor wrote.
        repo_id: Repository, created if it does not exist.
        facts: Facts of the card. Metrics default to those in the folder.
        private: Whether a new repository is private. Defaults to the account's setting.
        processor: Whether a model must come with its processor.
        message: Commit message.
        architecture: Model class of an adapter whose configuration does not name one.

    Raises:
        ValueError: The repository's name is not valid, the folder is not a complete checkpoint of ours, or the Hub ends
            up with other files than the folder.
        ConnectionError: The upload broke off repeatedly; call again to continue.
        OSError: The Hub refuses (no token, no right to write, no such namespace).
    """
    folder = Path(folder)
    check_repo_id(repo_id, "the repository")
    config, adapter = check_folder(folder, processor, architecture)
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
    except Exception as error:
        trouble = network_error(error)
        if trouble is None or isinstance(trouble, OSError):
            raise
        raise ConnectionError(f"the Hub at {api.endpoint} cannot be reached: {trouble}") from error
    if not adapter:
        add_code(folder, config)
        if (config.get("architectures") or [None])[0] in EMBEDDING_MODELS:
            add_sentence_transformer(folder)
    write_card(folder, url.repo_id, config, facts or CardFacts(), adapter)
    if left_out := [path.as_posix() for path in files_of(folder) if path not in published_files(folder)]:
        named = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        logger.warning(f"not published, because no file of a checkpoint: {named}")
    upload(api, folder, url.repo_id, message)
    verify(api, folder, url.repo_id)
    return str(url)


def check_repo_id(name: Any, what: str) -> None:
    """Check that a repository's name has the form NAME or ORG/NAME.

    Raises:
        ValueError: It does not.
    """
    try:
        if not isinstance(name, str) or Path(name).is_absolute():
            raise HFValidationError("a path, or no string")
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{what} is {name!r}, expected a name such as org/name ({error})") from None


def check_folder(
    folder: Path, processor: bool = True, architecture: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check a checkpoint folder; return the model's configuration and the adapter's (empty for a model).

    Raises:
        ValueError: The folder is missing or is no complete checkpoint of ours, its weights are damaged, a processor is
            missing although one is required, or an adapter does not name its base model or its class.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    adapter_file, config_file = folder / ADAPTER_FILES[0], folder / "config.json"
    if adapter_file.is_file():
        adapter = read_json(adapter_file)
        base = adapter.get("base_model_name_or_path")
        try:
            check_repo_id(base, "base_model_name_or_path")
        except ValueError as error:
            raise ValueError(
                f"{adapter_file} names no repository as its base model: {error}. Load the base from the Hub before "
                f"you create the adapter, or correct the file."
            ) from None
        if not (folder / ADAPTER_FILES[1]).is_file():
            raise ValueError(f"{folder} has no {ADAPTER_FILES[1]}")
        named = architecture or (adapter.get("auto_mapping") or {}).get("base_model_class")
        if named not in HEADS:
            raise ValueError(
                f"{adapter_file} does not name the adapter's model class, got {named!r}. Pass --architecture, one of "
                f"{', '.join(HEADS)}."
            )
        if not read_shapes([folder / ADAPTER_FILES[1]]):
            raise ValueError(f"{folder / ADAPTER_FILES[1]} holds no tensors")
        return {"architectures": [named]}, adapter
    if not config_file.is_file():
        raise ValueError(f"{folder} holds neither a model (config.json) nor an adapter (adapter_config.json)")
    config = read_json(config_file)
    if config.get("model_type") not in AUTO_MAPS:
        raise ValueError(
            f"{config_file} is the configuration of a {config.get('model_type')!r}, expected one of {list(AUTO_MAPS)}"
        )
    if processor and config["model_type"] == "lfvila":
        check_processor(folder)
    check_weights(folder, config)
    return config, {}


def check_processor(folder: Path) -> None:
    """Check that a processor and its vocabulary are in the folder, and that their files can be read.

    Raises:
        ValueError: One of them is missing, damaged, or has settings that no picture can be made with.
    """
    advice = f"Save it with processor.save_pretrained({str(folder)!r}), or publish without (--no-processor)."
    if not (folder / "processor_config.json").is_file():
        raise ValueError(f"{folder} has no processor (processor_config.json), which the model's users need. {advice}")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise ValueError(f"{folder} has a processor without a vocabulary (tokenizer.json). {advice}")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    LFVilaVideoProcessor(**read_json(folder / "processor_config.json").get("video_processor", {}))


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Open the weights of a model and compare their names and shapes with the model that `config` describes.

    Raises:
        ValueError: There are none, a shard is missing or damaged, a tensor is missing, unknown, of another shape or not
            finite.
    """
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"{folder} has no weights, or not all: {', '.join(missing)} is missing")
    if links := [name for name in names if (folder / name).is_symlink()]:
        raise ValueError(
            f"{folder / links[0]} is a link; only regular files are published. Copy the file it points to."
        )
    found = read_shapes([folder / name for name in names])
    if config.get("quantization_config"):
        return  # stored under other names and in other shapes
    wanted = expected_shapes(config)
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"{name} is unknown" for name in sorted(found.keys() - wanted.keys())]
    both = sorted(wanted.keys() & found.keys())
    wrong += [f"{name} is {found[name]}, expected {wanted[name]}" for name in both if found[name] != wanted[name]]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"the weights of {folder} do not fit its config.json: {'; '.join(wrong[:5])}{more}")


def read_shapes(paths: list[Path]) -> dict[str, tuple[int, ...]]:
    """Read every tensor of some safetensors files and return the shapes by name.

    Raises:
        ValueError: A file cannot be read, or a tensor is not finite.
    """
    shapes = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        raise ValueError(f"{path}: {name} is not finite")
                    shapes[name] = tuple(tensor.shape)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    return shapes


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a checkpoint of this configuration holds."""
    import lfvila_hf

    fields = {name: value for name, value in config.items() if name != "auto_map"}
    configuration: Any = CONFIG_MAPPING[config["model_type"]].from_dict(fields)
    default = AUTO_MAPS[config["model_type"]]["AutoModel"].rpartition(".")[2]
    name = (config.get("architectures") or [default])[0]
    model_class = getattr(lfvila_hf, name, None)
    if model_class is None:
        raise ValueError(f"config.json names the model class {name!r}, expected one of {', '.join(HEADS)}")
    with torch.device("meta"):
        model = model_class(configuration)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file is not one.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def write_card(folder: Path, repo: str, config: dict[str, Any], facts: CardFacts, adapter: dict[str, Any]) -> None:
    """Write the card of a repository into the folder, unless somebody wrote or edited the one that is there."""
    card = folder / "README.md"
    if card.is_symlink():
        raise ValueError(f"{card} is a link, through which a card would overwrite another file. Replace it by a file.")
    if card.is_file():
        text = card.read_text("utf-8")
        if PLACEHOLDER not in text and not is_generated(text):
            given = [name for name, value in vars(facts).items() if value]
            if given:
                logger.warning(f"{card} was written by hand and is kept: {', '.join(given)} do not get onto it")
            return
    if adapter:
        facts.base_model = facts.base_model or adapter["base_model_name_or_path"]
    if not facts.metrics:
        facts.metrics = metrics_of(folder)
    card.write_text(model_card(repo, config, facts, training_lines(folder), bool(adapter)), encoding="utf-8")


def add_code_files(folder: Path) -> None:
    """Copy the code files that `folder` lacks: those of models, processor and pipelines."""
    package = Path(sys.modules["lfvila_hf"].__file__ or "").parent
    roots = ["modeling_lfvila.py", "processing_lfvila.py", "pipeline_lfvila.py"]
    files = {str(path) for root in roots for path in get_relative_import_files(str(package / root))}
    for path in sorted(files | {str(package / root) for root in roots}):
        if not (folder / Path(path).name).is_file():
            shutil.copyfile(path, folder / Path(path).name)


def add_code(folder: Path, config: dict[str, Any]) -> None:
    """Add code files next to the weights, and their names to a configuration that has none."""
    add_code_files(folder)
    if not config.get("auto_map"):
        config["auto_map"] = dict(AUTO_MAPS[config["model_type"]])
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def add_sentence_transformer(folder: Path) -> None:
    """Add the files by which `SentenceTransformer(folder)` embeds texts and videos: normalised global features."""
    for name, content in SENTENCE_TRANSFORMER.items():
        if not (folder / name).is_file():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def files_of(folder: Path) -> list[Path]:
    """Return the files of `folder`, as paths inside it, without hidden files, caches and checkpoints of a run."""
    hidden = (".*", "__pycache__", "checkpoint-*")
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    return [path for path in found if not any(fnmatch(part, pattern) for part in path.parts for pattern in hidden)]


def published_files(folder: Path) -> list[Path]:
    """Return the files of `folder` that are published, as paths inside it: regular files on the list.

    Of folders inside it, only the files of further adapters, as PEFT writes them, are published.
    """
    found = []
    for inside in files_of(folder):
        patterns = PUBLISHED if len(inside.parts) == 1 else ADAPTER_FILES if len(inside.parts) == 2 else ()
        linked = any((folder / part).is_symlink() for part in [inside, *inside.parents][:-1])
        if not linked and any(fnmatch(inside.name, pattern) for pattern in patterns):
            found.append(inside)
    return found


def upload(api: HfApi, folder: Path, repo: str, message: str) -> None:
    """Upload all files in one commit; retry after trouble of the network.

    Raises:
        ConnectionError: The trouble lasted.
        OSError: The Hub refused.
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
        logger.warning(f"attempt {attempt} of {ATTEMPTS} to upload {folder} failed: {trouble}")
        if attempt < ATTEMPTS:
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise ConnectionError(
        f"uploading {folder} to {repo} failed {ATTEMPTS} times, the last time with {type(trouble).__name__}: {trouble}"
        f". Run the same command to go on: files that have arrived are not sent twice."
    ) from trouble


def network_error(error: BaseException) -> Exception | None:
    """Return the error of the network or the Hub among an exception and its causes; `None` if there is none.

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
    """Compare the Hub's hash of every file with that of the folder's.

    Raises:
        ValueError: Files are missing or differ; all are named.
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
    """Return the sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def git_hash(content: bytes) -> str:
    """Return the git object name of a file's content, by which the Hub identifies small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
