"""Checkpoints on the Hub load, bit for bit, where the package is not installed: models, processor, tokenizer.

Pushed by one process, pulled by another one with an empty cache that cannot import `lfvila_hf`. That the flat files can
be published at all is checked in test_house.py, what the configurations refuse in test_bad_repositories.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_clients import run_client, succeed
from hub_server import LocalHub

AUTO_CLASSES = {
    "joined": "AutoModel",
    "contrastive phase": "AutoModelForPreTraining",
    "question answering": "AutoModelForVisualQuestionAnswering",
    "multiple choice": "AutoModelForMultipleChoice",
    "classification": "AutoModelForVideoClassification",
    "video tower": "AutoModel",
    "text tower": "AutoModel",
}
PUSH_MODELS = """
import sys, torch
from tiny_models import EXAMPLES
auto_classes, file = eval(sys.argv[1]), sys.argv[2]
kept = {}
for number, (name, auto_class) in enumerate(auto_classes.items()):
    model = EXAMPLES[name].model()
    model.push_to_hub(f"org/model-{number}")
    batches = []
    for inputs in (EXAMPLES[name].inputs(1), EXAMPLES[name].inputs(2)):
        with torch.no_grad():
            batches.append((inputs, {k: v for k, v in model(**inputs).items() if torch.is_tensor(v)}))
    kept[f"org/model-{number}"] = (auto_class, batches)
torch.save(kept, file)
"""
PULL_MODELS = """
import sys, torch, transformers
for repo, (auto_class, batches) in torch.load(sys.argv[1]).items():
    model = getattr(transformers, auto_class).from_pretrained(repo, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    for inputs, expected in batches:
        with torch.no_grad():
            outputs = model(**inputs)
        assert expected and all(torch.equal(outputs[k], v) for k, v in expected.items()), repo
    print(repo, type(model).__name__, len(expected))
assert sys.modules["lfvila_hf"] is None
"""
PUSH_PROCESSOR = """
import sys, torch
from transformers import BertTokenizer
from lfvila_hf import LFVilaProcessor, LFVilaVideoProcessor
tokenizer = BertTokenizer(vocab=eval(sys.argv[1]))
video_processor = LFVilaVideoProcessor(size={"height": 24, "width": 40}, num_frames=8, num_clips=4)
processor = LFVilaProcessor(video_processor, tokenizer, max_sentences=3, max_sentence_length=9)
processor.push_to_hub("org/processor")
torch.manual_seed(0)
videos = torch.randint(255, (2, 12, 3, 30, 50), dtype=torch.uint8)
text = [["a man rides", "the ball"], ["he falls"]]
torch.save((text, videos, dict(processor(text=text, videos=videos))), sys.argv[2])
"""
PULL_PROCESSOR = """
import sys, torch
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
text, videos, expected = torch.load(sys.argv[1])
processor = AutoProcessor.from_pretrained("org/processor", trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
found = processor(text=text, videos=videos)
assert len(expected) == 3 and all(torch.equal(found[k], v) for k, v in expected.items())
part = AutoVideoProcessor.from_pretrained("org/processor", trust_remote_code=True)
assert torch.equal(part(videos)["pixel_values_videos"], expected["pixel_values_videos"])
tokenizer = AutoTokenizer.from_pretrained("org/processor")
print(tokenizer(text[0][0], padding="max_length", max_length=9)["input_ids"] == expected["input_ids"][0, 0].tolist())
"""
PUSH_ONE = """
import sys, torch
from tiny_models import EXAMPLES
EXAMPLES["contrastive phase"].model().push_to_hub("org/base")
"""
LOAD_AS_HEADS = """
import transformers
for name in ("AutoModel", "AutoModelForPreTraining", "AutoModelForVisualQuestionAnswering",
             "AutoModelForMultipleChoice", "AutoModelForVideoClassification"):
    model, info = getattr(transformers, name).from_pretrained(
        "org/base", trust_remote_code=True, output_loading_info=True
    )
    print(name, sorted({key.split(".")[0] for key in info["missing_keys"]}))
model.push_to_hub("org/again")
model = transformers.AutoModelForVideoClassification.from_pretrained("org/again", trust_remote_code=True)
print(type(model).__name__)
"""


def test_every_model_gives_the_same_bits_without_the_package(tmp_path: Path) -> None:
    kept = tmp_path / "kept.pt"
    with LocalHub() as hub:
        succeed(run_client(PUSH_MODELS, hub, tmp_path / "one", AUTO_CLASSES, kept))
        assert "modeling_lfvila.py" in hub.repositories["org/model-0"].files
        printed = succeed(run_client(PULL_MODELS, hub, tmp_path / "two", kept, hidden=True))
    assert len(printed.splitlines()) == len(AUTO_CLASSES)


def test_processor_video_processor_and_tokenizer_need_no_package(
    tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    kept = tmp_path / "kept.pt"
    with LocalHub() as hub:
        succeed(run_client(PUSH_PROCESSOR, hub, tmp_path / "one", tiny_vocabulary, kept))
        printed = succeed(run_client(PULL_PROCESSOR, hub, tmp_path / "two", kept, hidden=True))
    assert printed.strip() == "True"


@pytest.mark.slow
def test_one_checkpoint_loads_as_every_head_and_can_be_pushed_again(tmp_path: Path) -> None:
    with LocalHub() as hub:
        succeed(run_client(PUSH_ONE, hub, tmp_path / "one"))
        lines = succeed(run_client(LOAD_AS_HEADS, hub, tmp_path / "two", hidden=True)).splitlines()
    assert lines == [
        "AutoModel []",
        "AutoModelForPreTraining []",
        "AutoModelForVisualQuestionAnswering ['classifier']",
        "AutoModelForMultipleChoice ['classifier', 'span_classifier']",
        "AutoModelForVideoClassification ['classifier']",
        "LFVilaForVideoClassification",
    ]


def test_code_of_a_repository_does_not_run_unasked(tmp_path: Path) -> None:
    program = (
        "from transformers import AutoModel\n"
        "try:\n    AutoModel.from_pretrained('org/base')\n"
        "except ValueError as error:\n    print('trust_remote_code' in str(error))\n"
    )
    with LocalHub() as hub:
        succeed(run_client(PUSH_ONE, hub, tmp_path / "one"))
        printed = succeed(run_client(program, hub, tmp_path / "two", hidden=True))
    assert printed.splitlines()[-1].endswith("True"), "transformers asks on the same line first"
