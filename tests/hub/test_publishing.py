"""`lfvila-hf push` (push_command), publishing and the Trainer's push, against the Hub on this machine.

Pushed, deleted here, pulled by a process without the package, run: models, adapters, and the code on their cards.
Cards as text are tested in test_cards.py, adapters without a Hub in test_adapters.py.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_clients import run_client, succeed
from hub_server import READER, Fault, LocalHub
from tiny_models import EXAMPLES, VIDEO, tiny_config, tiny_model
from video_files import write_video

from lfvila_hf import LFVilaForPreTraining, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.cli import main
from lfvila_hf.hub.publishing import check_folder, git_hash, network_error, published_files

COMMAND = "import sys\nfrom lfvila_hf.cli import main\nsys.exit(main(sys.argv[1:]))"
HURRIED = "import time\ntime.sleep = lambda seconds: None\n" + COMMAND
PULLED = "from huggingface_hub import snapshot_download\nimport sys\nprint(snapshot_download(sys.argv[1]))"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A pre-training model in three shards and its processor."""
    folder = tmp_path / "checkpoint"
    model = tiny_model(LFVilaForPreTraining, tiny_config(text={"vocab_size": len(tiny_tokenizer)}))
    model.save_pretrained(folder, max_shard_size="300KB")
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    LFVilaProcessor(videos, tiny_tokenizer, max_sentence_length=8).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps({"text_to_video_R@1": 0.25}))
    (folder / "optimizer.pt").write_bytes(b"pickle")
    return folder


def card_code(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert found
    return found.group(1)


def test_the_card_of_a_pushed_checkpoint_runs_without_the_package(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["push", checkpoint, "org/thing", "--dataset", "shapetales", "--license", "mit"]
    with LocalHub() as hub:
        printed = succeed(run_client(COMMAND, hub, tmp_path / "one", *arguments))
        assert printed.strip() == f"{hub.endpoint}/org/thing"
        files = hub.repositories["org/thing"].files
        assert {"README.md", "config.json", "processor_config.json", "modeling_lfvila.py", "tokenizer.json"} <= set(
            files
        )
        assert len([name for name in files if name.endswith(".safetensors")]) >= 3
        assert "optimizer.pt" not in files
        shutil.rmtree(checkpoint)
        card = files["README.md"].decode()
        assert "text_to_video_R@1" in card and "license: mit" in card and "shapetales" in card
        write_video(tmp_path / "video.mp4", 30)
        program = f"import os\nos.chdir({str(tmp_path)!r})\n{card_code(card)}"
        printed = succeed(run_client(program, hub, tmp_path / "two", hidden=True))
    assert "tensor(" in printed and re.search(r"sentence 1: \d", printed), printed


def test_a_push_goes_on_where_it_broke_off(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["push", checkpoint, "org/thing"]
    shards = len(list(checkpoint.glob("*.safetensors")))
    assert shards >= 3
    with LocalHub() as hub:
        hub.faults.append(Fault("reset", "PUT", "/lfs/", times=99, after=1))
        failed = run_client(HURRIED, hub, tmp_path / "home", *arguments)
        assert failed.returncode == 1 and "lfvila-hf push: error: uploading" in failed.stderr, failed.stderr
        assert "to go on" in failed.stderr and "Traceback" not in failed.stderr
        arrived = hub.uploaded()
        assert len(arrived) == 1 and hub.repositories["org/thing"].files == {}
        hub.faults.clear()
        succeed(run_client(COMMAND, hub, tmp_path / "home", *arguments))
        assert len(hub.uploaded()) == shards == len(set(hub.uploaded())), "a file was sent twice"
        hub.requests.clear()
        succeed(run_client(COMMAND, hub, tmp_path / "home", *arguments))
        assert hub.uploaded() == []
        files = hub.repositories["org/thing"].files
    assert {name: (checkpoint / name).read_bytes() for name in files} == files


def test_what_the_hub_refuses_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["push", checkpoint, "org/thing"]
    with LocalHub() as gone:
        pass
    missing = run_client(HURRIED, gone, tmp_path / "home", *arguments)
    assert missing.returncode == 1 and "cannot be reached" in missing.stderr and "Traceback" not in missing.stderr
    with LocalHub() as hub:
        refused = run_client(COMMAND, hub, tmp_path / "home", *arguments, token=READER)
        assert refused.returncode == 1 and "403" in refused.stderr and "Traceback" not in refused.stderr
        # What the Hub holds is not what the folder holds; and a 503 on the way is tried again.
        hub.faults.append(Fault("status", "POST", "/commit/", times=1, status=503))
        wrong = "import lfvila_hf.hub.publishing as p\np.sha256_of = lambda path: '0' * 64\n" + HURRIED
        failed = run_client(wrong, hub, tmp_path / "home", *arguments)
        assert failed.returncode == 1 and "does not hold what was sent" in failed.stderr, failed.stderr
        assert not any(fault.times for fault in hub.faults), "the 503 was to be met and survived"


ADAPTER = """
import sys, torch
from tiny_models import EXAMPLES
from lfvila_hf import LFVilaForQuestionAnswering
from lfvila_hf.hub.adapters import add_lora
EXAMPLES["contrastive phase"].model().push_to_hub("org/base")
torch.manual_seed(0)
model = add_lora(LFVilaForQuestionAnswering.from_pretrained("org/base"), r=2)
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data.normal_(std=0.2)
model.eval().push_to_hub("org/adapter")
model.save_pretrained(sys.argv[2])
inputs = EXAMPLES["question answering"].inputs(2)
with torch.no_grad():
    torch.save((inputs, model(**inputs).logits), sys.argv[1])
"""
LOAD_ADAPTER = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForVisualQuestionAnswering as Auto
inputs, expected = torch.load(sys.argv[1])
torch.manual_seed(1)
for repo in ("org/adapter", "org/pushed"):
    base = Auto.from_pretrained("org/base", trust_remote_code=True)
    assert type(base).__module__.startswith("transformers_modules.")
    other = Auto.from_pretrained("org/base", trust_remote_code=True)
    other.load_adapter(repo)
    model = PeftModel.from_pretrained(base, repo)
    whole = Auto.from_pretrained(repo, trust_remote_code=True)
    with torch.no_grad():
        print([torch.equal(one.eval()(**inputs).logits, expected) for one in (model, other, whole)])
"""


def test_an_adapter_goes_over_the_hub_with_its_head_and_the_name_of_its_base(tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept.pt", tmp_path / "adapter"
    with LocalHub() as hub:
        succeed(run_client(ADAPTER, hub, tmp_path / "one", kept, folder))
        succeed(run_client(COMMAND, hub, tmp_path / "one", "push", folder, "org/pushed", "--license", "mit"))
        for repo in ("org/adapter", "org/pushed"):
            adapter = json.loads(hub.repositories[repo].files["adapter_config.json"])
            assert adapter["base_model_name_or_path"] == "org/base" and adapter["modules_to_save"] == ["classifier"]
        card = hub.repositories["org/pushed"].files["README.md"].decode()
        assert "base_model: org/base" in card and 'PeftModel.from_pretrained(model, "org/pushed")' in card
        assert "AutoModelForVisualQuestionAnswering" in card
        printed = succeed(run_client(LOAD_ADAPTER, hub, tmp_path / "two", kept, hidden=True))
    assert printed.splitlines() == ["[True, True, True]"] * 2


@pytest.mark.slow
def test_the_trainer_pushes_weights_processor_code_and_card(checkpoint: Path, tmp_path: Path) -> None:
    program = """
import sys, torch
from transformers import AutoProcessor
from tiny_models import tiny_batch
from lfvila_hf import LFVilaForPreTraining, LFVilaTrainer, LFVilaTrainingArguments
model = LFVilaForPreTraining.from_pretrained(sys.argv[1])
rows = [{k: v[i] for k, v in tiny_batch(8).items()} for i in range(8)]
collate = lambda batch: {k: torch.stack([row[k] for row in batch]) for k in batch[0]}
args = LFVilaTrainingArguments(output_dir=sys.argv[2], max_steps=2, per_device_train_batch_size=4, save_steps=1,
    push_to_hub=True, hub_model_id="org/trained", report_to="none", use_cpu=True, eval_strategy="steps", eval_steps=2,
    training_phase="contrastive")
trainer = LFVilaTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=collate,
    processing_class=AutoProcessor.from_pretrained(sys.argv[1]))
trainer.train()
print(trainer.push_to_hub(dataset="ShapeTales", license="mit").oid)
"""
    with LocalHub() as hub:
        succeed(run_client(program, hub, tmp_path / "one", checkpoint, tmp_path / "out"))
        entry = hub.repositories["org/trained"]
        first = next(files for _, files in entry.commits if "model.safetensors" in files)
        assert "modeling_lfvila.py" in first, "what is pushed in mid-training cannot be loaded"
        card = entry.files["README.md"].decode()
        assert "ShapeTales" in card and "2 steps" in card and "model-index" in card
        write_video(tmp_path / "video.mp4", 30)
        code = f"import os\nos.chdir({str(tmp_path)!r})\n{card_code(card)}"
        assert "tensor(" in succeed(run_client(code, hub, tmp_path / "two", hidden=True))


def test_a_folder_that_is_not_complete_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    with pytest.raises(ValueError, match="is not a folder"):
        check_folder(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match="neither a model .* nor an adapter"):
        check_folder(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="configuration of a 'bert'"):
        check_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        check_folder(folder)
    EXAMPLES["joined"].model().config.save_pretrained(folder)
    with pytest.raises(ValueError, match="has no weights"):
        check_folder(folder)
    EXAMPLES["joined"].model().save_pretrained(folder)
    with pytest.raises(ValueError, match="has no processor .*--no-processor"):
        check_folder(folder)
    assert check_folder(folder, processor=False)[0]["model_type"] == "lfvila"
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(ValueError, match="names no repository as its base model"):
        check_folder(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(ValueError, match="has no adapter_model"):
        check_folder(folder)
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="does not say which model the adapter is for, got None: .*--architecture"):
        check_folder(folder)
    assert check_folder(folder, architecture="LFVilaModel")[0]["architectures"] == ["LFVilaModel"]


def test_pickles_and_the_state_of_a_training_stay_at_home(tmp_path: Path) -> None:
    for name in (
        "model.safetensors",
        "optimizer.pt",
        "training_args.bin",
        ".cache/x",
        "checkpoint-5/model.safetensors",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text("x")
    assert [path.as_posix() for path in published_files(tmp_path)] == ["model.safetensors", "sub/notes.txt"]


def test_trouble_of_the_network_is_found_among_the_causes_of_an_error() -> None:
    reset = ConnectionResetError("gone")
    wrapped = RuntimeError("while uploading")
    wrapped.__cause__ = reset
    assert network_error(wrapped) is reset and network_error(reset) is reset
    assert network_error(RuntimeError("a bug")) is None


def test_git_names_are_git_names() -> None:
    assert git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_errors_of_the_command_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tmp_path / "no"), "org/thing"]) == 1
    assert capsys.readouterr().err == f"lfvila-hf push: error: {tmp_path / 'no'} is not a folder\n"
