"""Model cards: description, training data, metrics, runnable code, licence and citation of a checkpoint.

A card is made from the checkpoint's files and from `CardFacts`; unknown facts are stated as unknown. Its usage code
needs no package but those it names (`trust_remote_code=True`), and a `video.mp4`. Strings that somebody wrote are
escaped: they are text on a card, never markup or code.

The last line of a card is a comment with a checksum of the rest, by which `is_generated` tells an untouched card from
one that its publisher edited.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

CITATION = """@inproceedings{sun2022lfvila,
  title = {Long-Form Video-Language Pre-Training with Multimodal Temporal Contrastive Learning},
  author = {Sun, Yuchong and Xue, Hongwei and Song, Ruihua and Liu, Bei and Yang, Huan and Fu, Jianlong},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022}
}"""
# Files of an evaluation's metrics; the first that exists is read.
METRIC_FILES = ("metrics.json", "eval_results.json", "all_results.json")


@dataclass(frozen=True)
class Head:
    """Auto class, task, description and usage code of a model class.

    Args:
        auto_class: Auto class that loads it.
        task: Pipeline tag of the Hub.
        sentence: Description, as the predicate of a sentence.
        usage: Code after loading; empty for retrieval.
    """

    auto_class: str
    task: str
    sentence: str
    usage: str


RETRIEVAL = """story = ["A man rides a horse.", "He falls."]
inputs = processor(text=[story], videos=["video.mp4"], return_metadata=True)
metadata = inputs.pop("video_metadata")
with torch.no_grad():
    outputs = model(**inputs)
print(model.similarity(outputs, outputs, score="{score}"))"""
ALIGNMENT = """
for moment in processor.post_process_alignment(outputs, metadata)[0]:
    print(f"sentence {moment.sentence}: {moment.start:.1f} to {moment.end:.1f} s")"""
LABELS = """with torch.no_grad():
    scores = model(**inputs).logits.softmax(-1)[0]
for score, label in zip(*scores.topk(min(3, len(scores)))):
    print(f"{score:.3f}", model.config.id2label[label.item()])"""
HEADS = {
    "LFVilaModel": Head(
        "AutoModel", "feature-extraction", "embeds long videos and multi-sentence descriptions in one space", ""
    ),
    "LFVilaForPreTraining": Head(
        "AutoModel", "feature-extraction", "embeds long videos and multi-sentence descriptions in one space", ""
    ),
    "LFVilaForQuestionAnswering": Head(
        "AutoModelForVisualQuestionAnswering",
        "visual-question-answering",
        "answers questions about long videos by one of its trained answers",
        'inputs = processor(text=[["What is the man doing?"]], videos=["video.mp4"])\n' + LABELS,
    ),
    "LFVilaForMultipleChoice": Head(
        "AutoModelForMultipleChoice",
        "visual-question-answering",
        "chooses among answers to a question about a long video",
        'question, answers = "What is the man doing?", ["riding", "sleeping"]\n'
        'inputs = processor(text=[[[question, answer] for answer in answers]], videos=["video.mp4"])\n'
        "with torch.no_grad():\n    scores = model(**inputs).logits.softmax(-1)[0]\n"
        "print(answers[scores.argmax().item()], scores.tolist())",
    ),
    "LFVilaForVideoClassification": Head(
        "AutoModelForVideoClassification",
        "video-classification",
        "classifies long videos",
        'inputs = processor(videos=["video.mp4"])\n' + LABELS,
    ),
}


@dataclass
class CardFacts:
    """Facts of a card that the checkpoint's files do not hold.

    Args:
        datasets: Names of the training data.
        license: Identifier of the weights' licence, in the Hub's spelling.
        base_model: Repository that training started from; for an adapter, of its base model.
        metrics: Metrics by name.
        evaluated_on: Name of the evaluation data.
        notes: Further Markdown, taken as it is.
    """

    datasets: Sequence[str] = ()
    license: str | None = None
    base_model: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluated_on: str | None = None
    notes: str = ""


def read_metrics(path: Path) -> dict[str, float]:
    """Read the numbers of a JSON file by name; names of nested objects are joined by dots, other values are left out.

    Raises:
        ValueError: The file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object of metrics, got {type(content).__name__}")
    found: dict[str, float] = {}

    def collect(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{name}.")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[prefix + name] = value

    collect(content, "")
    return found


def metrics_of(folder: Path) -> dict[str, float]:
    """Read the metrics that an evaluation wrote to `folder`; empty without such a file."""
    return next((read_metrics(folder / name) for name in METRIC_FILES if (folder / name).is_file()), {})


def usage_code(repo: str, config: Mapping[str, Any], adapter_base: str | None = None) -> str:
    """Return Python code that loads and runs a checkpoint without this package.

    Args:
        repo: Repository of the checkpoint.
        config: Fields of its configuration; for an adapter, of its base with the adapted `architectures`.
        adapter_base: Repository of the base model of an adapter.
    """
    name = (config.get("architectures") or ["LFVilaModel"])[0]
    head = HEADS.get(name, HEADS["LFVilaModel"])
    usage = head.usage
    if not usage:
        aligns = config.get("temporal_alignment", True)
        usage = RETRIEVAL.format(score="both" if aligns else "global") + (ALIGNMENT if aligns else "")
    source, lines = json.dumps(adapter_base or repo), ["import torch"]
    if adapter_base:
        lines.append("from peft import PeftModel")
    lines += [
        f"from transformers import {head.auto_class}, AutoProcessor",
        "",
        f"processor = AutoProcessor.from_pretrained({source}, trust_remote_code=True)",
        f"model = {head.auto_class}.from_pretrained({source}, trust_remote_code=True)",
    ]
    if adapter_base:
        lines.append(f"model = PeftModel.from_pretrained(model, {json.dumps(repo)}).eval()")
    return "\n".join([*lines, "", usage])


def training_lines(folder: Path) -> list[str]:
    """Describe the training by the Trainer's state in `folder`, in sentences; empty without one."""
    state_file = folder / "trainer_state.json"
    if not state_file.is_file():
        return []
    state = json.loads(state_file.read_text("utf-8"))
    losses = [entry["loss"] for entry in state.get("log_history", []) if "loss" in entry]
    lines = [f"{int(state.get('global_step') or 0)} steps, {float(state.get('epoch') or 0):.2f} epochs."]
    return lines + ([f"Last training loss in the log: {float(losses[-1]):.4f}."] if losses else [])


def as_text(value: str) -> str:
    """Escape a string for Markdown: one line in which no character is markup."""
    line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]()|#!~])", r"\\\1", line)


def checksum(card: str) -> str:
    """Return the comment that ends a generated card."""
    return f"<!-- lfvila-hf card {hashlib.sha256(card.rstrip().encode()).hexdigest()[:16]} -->"


def is_generated(card: str) -> bool:
    """Return whether a card is one of `model_card` that nobody has edited."""
    text, _, comment = card.rstrip().rpartition("\n")
    return comment == checksum(text)


def model_card(
    repo: str, config: Mapping[str, Any], facts: CardFacts, training: Sequence[str] = (), adapter: bool = False
) -> str:
    """Return the card of a checkpoint: Markdown after its metadata.

    Args:
        repo: Repository of the checkpoint.
        config: Fields of the model's configuration.
        facts: Facts from its publisher.
        training: Sentences about the training.
        adapter: Whether the checkpoint is a PEFT adapter on `facts.base_model`.

    Raises:
        ValueError: An adapter without a base model.
    """
    if adapter and not facts.base_model:
        raise ValueError("an adapter's card names its base model, got none. Pass facts.base_model.")
    name = (config.get("architectures") or ["LFVilaModel"])[0]
    head = HEADS.get(name, HEADS["LFVilaModel"])
    tags = ["lfvila", "video", "long-video", "video-text-retrieval", "custom_code"]
    title = repo.split("/")[-1]
    results = [
        EvalResult(
            task_type=head.task,
            dataset_type=(facts.evaluated_on or "unknown").lower().replace(" ", "-"),
            dataset_name=facts.evaluated_on or "not stated",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in facts.metrics.items()
    ]
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag=head.task,
        tags=[*tags, "lora"] if adapter else tags,
        license=facts.license,
        base_model=facts.base_model,
        datasets=[one for one in facts.datasets if re.fullmatch(r"[\w./-]+", one)] or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    trained = "The training data was not stated."
    if facts.datasets:
        trained = f"Trained on {', '.join(map(as_text, facts.datasets))}."
    rows = [f"| {as_text(key)} | {value:g} |" for key, value in facts.metrics.items()]
    table = ["| metric | value |", "|---|---|", *rows]
    where = f"On {as_text(facts.evaluated_on)}:" if facts.evaluated_on else "The publisher did not state on what:"
    kind = f"An adapter on {as_text(facts.base_model or '')} that" if adapter else "It"
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {as_text(title)}",
        f"An LF-VILA model. {kind} {head.sentence}.",
        *([f"Started from {as_text(facts.base_model)}."] if facts.base_model and not adapter else []),
        "## Training\n\n" + "\n".join([trained, *training]),
        "## Metrics\n\n" + ("\n".join([where, "", *table]) if facts.metrics else "None were given."),
        "## Usage\n\nNeeds `torch`, `transformers` and `av`"
        + (" and `peft`" if adapter else "")
        + "; its code comes with it.\n\n```python\n"
        + usage_code(repo, config, facts.base_model if adapter else None)
        + "\n```",
        "## Licence\n\n" + (as_text(facts.license) if facts.license else "The publisher did not state one."),
        *([facts.notes] if facts.notes else []),
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    card = "\n\n".join(sections)
    return f"{card}\n{checksum(card)}\n"
