"""Model cards: what a checkpoint is, what it was trained on, its numbers, code that runs, licence and citation.

Everything on a card is read from the checkpoint's own files or given by its publisher; what neither says is said to be
unknown. The usage code is for a reader without this package (`trust_remote_code=True`) and runs as it stands, given a
`video.mp4`.
"""

from __future__ import annotations

import json
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
# Where an evaluation leaves its numbers in a folder; the first that is there counts.
METRIC_FILES = ("metrics.json", "eval_results.json", "all_results.json")


@dataclass(frozen=True)
class Head:
    """What a card says of a model class."""

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
    "LFVilaModel": Head("AutoModel", "feature-extraction", "embeds long videos and the paragraphs that tell them", ""),
    "LFVilaForPreTraining": Head(
        "AutoModel", "feature-extraction", "embeds long videos and the paragraphs that tell them", ""
    ),
    "LFVilaForQuestionAnswering": Head(
        "AutoModelForVisualQuestionAnswering",
        "visual-question-answering",
        "answers questions about long videos with one of the answers it was trained on",
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
    """What a card says that the checkpoint's files do not.

    Attributes:
        datasets: what the model was trained on.
        license: identifier of the weights' licence, as the Hub writes it.
        base_model: repository that training started from (of an adapter: that it belongs on).
        metrics: numbers by name.
        evaluated_on: data set of those numbers.
        notes: what else a reader should know, Markdown.
    """

    datasets: Sequence[str] = ()
    license: str | None = None
    base_model: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluated_on: str | None = None
    notes: str = ""


def read_metrics(path: Path) -> dict[str, float]:
    """Numbers of a JSON file by name; nested objects are joined by a dot, anything else is left out.

    Raises:
        ValueError: it is no JSON object.
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
    """Metrics that an evaluation left in `folder`; empty where none did."""
    return next((read_metrics(folder / name) for name in METRIC_FILES if (folder / name).is_file()), {})


def usage_code(repo: str, config: Mapping[str, Any], adapter_base: str | None = None) -> str:
    """Python that loads and runs the checkpoint, for a process without this package.

    Args:
        repo: its repository.
        config: fields of its configuration (of an adapter: those of its base, with the adapted `architectures`).
        adapter_base: repository of the base model, for an adapter.
    """
    name = (config.get("architectures") or ["LFVilaModel"])[0]
    head = HEADS.get(name, HEADS["LFVilaModel"])
    usage = head.usage
    if not usage:
        aligns = config.get("temporal_alignment", True)
        usage = RETRIEVAL.format(score="both" if aligns else "global") + (ALIGNMENT if aligns else "")
    source, lines = adapter_base or repo, ["import torch"]
    if adapter_base:
        lines.append("from peft import PeftModel")
    lines += [
        f"from transformers import {head.auto_class}, AutoProcessor",
        "",
        f'processor = AutoProcessor.from_pretrained("{source}", trust_remote_code=True)',
        f'model = {head.auto_class}.from_pretrained("{source}", trust_remote_code=True)',
    ]
    if adapter_base:
        lines.append(f'model = PeftModel.from_pretrained(model, "{repo}").eval()')
    return "\n".join([*lines, "", usage])


def training_lines(folder: Path) -> list[str]:
    """What the Trainer's state in `folder` says about the training, in sentences; empty without one."""
    state_file = folder / "trainer_state.json"
    if not state_file.is_file():
        return []
    state = json.loads(state_file.read_text("utf-8"))
    losses = [entry["loss"] for entry in state.get("log_history", []) if "loss" in entry]
    lines = [f"{state.get('global_step', 0)} steps, {state.get('epoch') or 0:.2f} epochs."]
    return lines + ([f"Last training loss in the log: {losses[-1]:.4f}."] if losses else [])


def model_card(
    repo: str, config: Mapping[str, Any], facts: CardFacts, training: Sequence[str] = (), adapter: bool = False
) -> str:
    """The card of a checkpoint, Markdown with its metadata in front.

    Args:
        repo: repository it is published under.
        config: fields of the model's configuration.
        facts: what its publisher knows.
        training: sentences about the training.
        adapter: whether it is a PEFT adapter on `facts.base_model`.

    Raises:
        ValueError: an adapter without a base model.
    """
    if adapter and not facts.base_model:
        raise ValueError("an adapter's card names its base model, got none")
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
        datasets=[one for one in facts.datasets if " " not in one] or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    trained = [f"Trained on {', '.join(facts.datasets)}."] if facts.datasets else ["The training data was not stated."]
    table = ["| metric | value |", "|---|---|", *(f"| {key} | {value:g} |" for key, value in facts.metrics.items())]
    where = f"On {facts.evaluated_on}:" if facts.evaluated_on else "The publisher did not state on what:"
    kind = f"A LoRA adapter on [{facts.base_model}](../{facts.base_model}) that" if adapter else "It"
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        f"An LF-VILA model. {kind} {head.sentence}.",
        *([f"Started from {facts.base_model}."] if facts.base_model and not adapter else []),
        "## Training\n\n" + "\n".join([*trained, *training]),
        "## Metrics\n\n" + ("\n".join([where, "", *table]) if facts.metrics else "None were given."),
        "## Usage\n\nNeeds `torch`, `transformers` and `av`"
        + (" and `peft`" if adapter else "")
        + "; its code comes with it.\n\n```python\n"
        + usage_code(repo, config, facts.base_model if adapter else None)
        + "\n```",
        "## Licence\n\n" + (facts.license or "The publisher did not state one."),
        *([facts.notes] if facts.notes else []),
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(sections) + "\n"
