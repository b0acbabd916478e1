"""transformers' own common model tests, from the source archive of the pinned release, on every model class of ours.

They run in a separate process (common_testers), because they are unittest classes that import modules outside any wheel
(transformers_archive). Every skipped test must be in `NOT_APPLICABLE` with its reason, and every row there must be
needed. Slow: fetches an archive of 10 MB once, then runs some 1,000 tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
import transformers
from transformers_archive import PACKAGE, common_tests_folder, download, pinned_version

HERE = Path(__file__).resolve().parent
CLASSES = [
    "JoinedTest",
    "ContrastiveTest",
    "QuestionAnsweringTest",
    "MultipleChoiceTest",
    "ClassificationTest",
    "VideoTowerTest",
    "TextTowerTest",
    "ConfigurationTest",
]
NO_GPU = "needs an accelerator; this is the CPU tier"
NO_LIBRARY = "needs a library that is no dependency of ours"
# Names of skipped tests, as a regular expression after `test_`, and why they do not apply.
NOT_APPLICABLE = {
    r"(cpu_offload|disk_offload_\w+|can_load_with_\w+|flex_attention_with_grads|model_parallelism)": NO_GPU,
    r"sdpa_can_(compile_dynamic|dispatch_on_flash)": NO_GPU,
    r"torch_compile_for_training": "slow, and for an accelerator",
    r"(flash_attn_\w+|kernels_can_load_without_crashing)": NO_LIBRARY + " (and the video tower adds a learned bias)",
    r"resize_\w+_with_deepspeed\w*": NO_LIBRARY,
    r"(model_rope\w+|vision_axial_rope)": "no rotary positions",
    r"(moe\w+|output_router_logits\w+|eager_matches_batched_and_grouped_\w+)": "no mixture of experts",
    r"(tp_plan_matches_params|tied_head_has_a_tp_plan_entry)": "no tensor-parallel plan, no tied head",
    r"(encoder_decoder_loss_no_double_shift|causal_lm_loss_honors_shift_labels)": "does not generate text",
    r"sliding_window_mask": "windows are cut out of the grid, not masked in a sequence",
    r"(can_load_from_already_mapped_keys|reverse_loading_mapping)": "stored names are the names in memory",
    r"keep_in_fp32_modules(_exist)?": "nothing is kept in float32",
    r"resize_position_vector_embeddings": "positions are resized by set_num_frames and set_image_size, tested there",
    r"(resize_tokens_embeddings|resize_embeddings_untied\w*)": "no text tower, or no head over the vocabulary",
    r"inputs_embeds(_matches_input_ids)?": "word vectors are taken by the text tower, or there are no words",
    r"(sdpa_can_dispatch_(non_)?composite_models)": "the other of these two tests is the one for this class",
    r"(attn_implementation_composite_models|can_set_attention_dynamically_composite_model)": "a single tower",
    r"internal_model_config_and_subconfig_are_same": "a single tower",
    r"enable_input_require_grads_with_gradient_checkpointing": "no loss without targets, or no word embeddings",
    r"(attention_outputs|hidden_states_output|retain_grad_hidden_states_attentions)": "towers record their own",
    r"get_text_features_output_[02]": "the paragraph token stands in front of M * L tokens",
    r"can_capture_specific_layers_hidden_states": "needs an option of transformers 5.23 that 5.17 does not know",
    r"model_get_set_embeddings": "the video tower's input layer is a convolution",
    r"num_layers_is_small": "a pyramid needs a block for each of its levels",
    r"(training\w*|problem_types)": "towers have no loss of their own",
    r"eager_matches_sdpa_inference_\d+_fp32_pad_left_output_attentions": "attentions come with eager only",
}
MINIMUM = {"ConfigurationTest": 1, "TextTowerTest": 60, "VideoTowerTest": 60}
MINIMUM_DEFAULT = 70


class Results(NamedTuple):
    """Names of tests by outcome."""

    passed: list[str]
    skipped: list[tuple[str, str]]
    failed: list[tuple[str, str]]


seen: dict[str, Results] = {}


def run_class(name: str, folder: Path) -> Results:
    """Run one class of common_testers.py and read what pytest reports of it."""
    report = folder / "report.xml"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "HF_"))}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(common_tests_folder()), str(HERE.parent)]),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    options = ["-q", "-c", os.devnull, "--rootdir", str(folder), "--noconftest", "-p", "no:cacheprovider"]
    target = f"{HERE / 'common_testers.py'}::{name}"
    command = [sys.executable, "-m", "pytest", *options, "--junitxml", str(report), target]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert report.exists(), run.stdout + run.stderr
    results = Results([], [], [])
    outcomes: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = ("passed", "")
        for kind, outcome in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
            for entry in case.findall(kind):
                found = (outcome, f"{entry.get('message')}\n{entry.text}")
        # A test with subtests is reported once for each of them: the worst counts.
        test = str(case.get("name"))
        worst = ("passed", "skipped", "failed")
        if test not in outcomes or worst.index(found[0]) > worst.index(outcomes[test][0]):
            outcomes[test] = found
    for test, (outcome, message) in outcomes.items():
        getattr(results, outcome).append(test if outcome == "passed" else (test, message))
    return results


@pytest.mark.slow
@pytest.mark.timeout(1500)  # on a busy machine; two minutes of computing
@pytest.mark.parametrize("name", CLASSES)
def test_the_common_tests_pass_or_do_not_apply(name: str, tmp_path: Path) -> None:
    if transformers.__version__ != pinned_version():
        pytest.skip(f"the tests are those of transformers {pinned_version()}, installed is {transformers.__version__}")
    results = seen[name] = run_class(name, tmp_path)
    assert not results.failed, "\n".join(f"{test}: {message}" for test, message in results.failed)
    unexplained = [
        (test, message.splitlines()[0])
        for test, message in results.skipped
        if not any(re.fullmatch(f"test_{pattern}", test) for pattern in NOT_APPLICABLE)
    ]
    assert not unexplained
    assert len(results.passed) >= MINIMUM.get(name, MINIMUM_DEFAULT), sorted(results.passed)


@pytest.mark.slow
def test_every_reason_not_to_apply_is_needed() -> None:
    if len(seen) < len(CLASSES):
        pytest.skip("the classes ran in other processes, or not at all")
    skipped = {test for results in seen.values() for test, _ in results.skipped}
    unneeded = [
        pattern for pattern in NOT_APPLICABLE if not any(re.fullmatch(f"test_{pattern}", test) for test in skipped)
    ]
    assert not unneeded


def test_an_archive_that_is_unknown_or_cannot_be_fetched_is_a_loud_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=r"no hash is known .* transformers 0\.0\.1"):
        download("0.0.1", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RuntimeError, match="pip could not fetch it"):
        download(pinned_version(), tmp_path)


def test_the_unpacked_tests_are_no_part_of_the_repository() -> None:
    ignored = (HERE.parents[1] / ".gitignore").read_text("utf-8").split()
    assert ".cache/" in ignored and not list(HERE.rglob(f"{PACKAGE}/*"))
