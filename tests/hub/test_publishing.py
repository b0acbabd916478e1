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
import torch
from hub_clients import run_client, succeed
from hub_server import READER, Fault, LocalHub
from safetensors.torch import load_file, save_file
from tiny_models import EXAMPLES, VIDEO, tiny_config, tiny_model
from transformers.utils import logging
from video_files import write_video

from lfvila_hf import LFVilaForPreTraining, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.cli import main
from lfvila_hf.hub.cards import CardFacts
from lfvila_hf.hub.publishing import check_folder, git_hash, network_error, published_files, write_card

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


@pytest.mark.slow
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
        check_folder(folder, processor=False)
    EXAMPLES["joined"].model().save_pretrained(folder)
    with pytest.raises(ValueError, match="has no processor .*--no-processor"):
        check_folder(folder)
    assert check_folder(folder, processor=False)[0]["model_type"] == "lfvila"


def test_an_adapter_names_its_base_its_class_and_holds_weights(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter_config.json"
    for base in (str(tmp_path), "./base", "base\n# code", None):
        adapter.write_text(json.dumps({"base_model_name_or_path": base}))
        with pytest.raises(ValueError, match="names no repository as its base model"):
            check_folder(tmp_path)
    adapter.write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(ValueError, match="has no adapter_model"):
        check_folder(tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="does not name the adapter's model class, got None. .*--architecture"):
        check_folder(tmp_path)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        check_folder(tmp_path, architecture="LFVilaModel")
    save_file({"a": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    assert check_folder(tmp_path, architecture="LFVilaModel")[0]["architectures"] == ["LFVilaModel"]


def damage(folder: Path, kind: str) -> None:
    """Break a checkpoint in three shards."""
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    tensors = load_file(shard)
    name = next(key for key, value in tensors.items() if value.is_floating_point())
    if kind == "cut file":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif kind == "missing shard":
        shard.unlink()
    elif kind == "link":
        shard.rename(folder.parent / "elsewhere")
        shard.symlink_to(folder.parent / "elsewhere")
    elif kind == "vocabulary":
        (folder / "tokenizer.json").unlink()
    elif kind == "configuration":
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["num_sentence_layers"] += 1
        (folder / "config.json").write_text(json.dumps(config))
    else:
        changed = {
            "missing": {key: value for key, value in tensors.items() if key != name},
            "shape": tensors | {name: tensors[name].flatten()[:1]},
            "NaN": tensors | {name: tensors[name] * torch.nan},
        }
        save_file(changed[kind], shard, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut file", "cannot be read as safetensors"),
        ("missing shard", r"model-00002-of-\d+.safetensors is missing"),
        ("link", "is a link"),
        ("vocabulary", "processor without a vocabulary"),
        ("configuration", "do not fit its config.json: .* is missing"),
        ("missing", "do not fit its config.json: .* is missing"),
        ("shape", r"is \(1,\), expected"),
        ("NaN", "is not finite"),
    ],
)
def test_weights_are_opened_before_anything_is_sent(kind: str, message: str, checkpoint: Path) -> None:
    check_folder(checkpoint)
    damage(checkpoint, kind)
    with pytest.raises(ValueError, match=message):
        check_folder(checkpoint)


def test_only_regular_files_of_a_checkpoint_are_published(tmp_path: Path) -> None:
    home = (
        "optimizer.pt",
        "training_args.bin",
        "a.pickle",
        "a.ckpt",
        "a.joblib",
        "id_rsa",
        "hf_token.txt",
        ".env",
        "x.py",
    )
    home += (".cache/config.json", "checkpoint-5/model.safetensors", "sub/notes.txt", "sub/config.json", "other.json")
    kept = (
        "model.safetensors",
        "config.json",
        "modeling_lfvila.py",
        "README.md",
        "plot.png",
        "second/adapter_config.json",
    )
    for name in (*home, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "tokenizer.json").symlink_to("id_rsa")
    (tmp_path / "linked").symlink_to("second")
    (tmp_path / "metrics.json").mkdir()
    assert sorted(path.as_posix() for path in published_files(tmp_path)) == sorted(kept)


def test_a_card_is_made_again_until_somebody_edits_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, card = {"architectures": ["LFVilaModel"]}, tmp_path / "README.md"
    write_card(tmp_path, "org/wrong", config, CardFacts(), {})
    assert "# wrong" in card.read_text()
    write_card(tmp_path, "org/right", config, CardFacts(datasets=["coin"], license="mit"), {})
    text = card.read_text()
    assert "# right" in text and "license: mit" in text and "wrong" not in text
    card.write_text(text.replace("An LF-VILA model.", "My model."))
    logging.enable_propagation()
    write_card(tmp_path, "org/right", config, CardFacts(license="mit"), {})
    logging.disable_propagation()
    assert "My model." in card.read_text()
    assert "is kept: license do not get onto it" in caplog.text


def test_the_name_is_checked_before_the_folder_is_touched(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(checkpoint.rglob("*"))
    for name in ("a/b/c", "org/-x", "org/na me"):
        assert main(["push", str(checkpoint), name, "--license", "mit"]) == 1
        assert "expected a name such as org/name" in capsys.readouterr().err
    assert sorted(checkpoint.rglob("*")) == before


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
