"""transformers' common model tests, given our models: one test class per model class.

Run by test_common_models.py in a process of its own, with `transformers_common` (see transformers_archive.py) on the
path; pytest does not collect it directly. Every override and every skip has its reason here or in the table of
test_common_models.py.
"""

from __future__ import annotations

import copy
import re
import unittest
from typing import Any, ClassVar
from unittest import mock

import torch
import transformers_common.test_modeling_common as common
from tiny_models import EXAMPLES, TEXT, VIDEO, Example
from transformers_common.test_configuration_common import ConfigTester
from transformers_common.test_modeling_common import ModelTesterMixin

from lfvila_hf import LFVilaConfig, LFVilaTextConfig, LFVilaVideoConfig

BATCH = 3
LENGTH = 6
TARGETS = ("labels", "span_targets", "mlm_targets", "vtm_targets", "phase")
BLOCKS = sum(VIDEO["depths"])
WINDOW = VIDEO["temporal_windows"][0] * VIDEO["spatial_window"][0] * VIDEO["spatial_window"][1]
FUSED = 1 + 4 * LENGTH + 8 * 2  # paragraph token, M * L text tokens, T * P video tokens

NESTED = "its towers have hidden states and attentions of different shapes, each in its own output; tested per tower"
TWO_TOWERS_TEXT = "last_hidden_state is (B, 1 + M * L, D), the paragraph token first; the test expects (B, L, D)"
FROM_THE_END = (
    "an index from the end needs the number of cross-modal layers in num_hidden_layers, or an option of transformers "
    "5.23 that 5.17 does not know"
)
CONVOLUTION = "the input layer of the video tower is a convolution; the test wants an nn.Embedding"
LEVELS = "a pyramid needs its levels: seven blocks in four of them; the model is small (test_model_is_small)"


class Tester:
    """Description of a model for the mixin: a configuration, a batch, and the sizes of its outputs."""

    num_choices = 3
    hidden_size = TEXT["hidden_size"]
    num_attention_heads = TEXT["num_attention_heads"]

    def __init__(self, example: Example, is_training: bool, layers: int, length: int) -> None:
        self.example, self.is_training, self.batch_size = example, is_training, BATCH
        self.num_hidden_layers, self.seq_length = layers, length

    def get_config(self) -> Any:
        return self.example.config()

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        inputs = self.example.inputs(BATCH)
        return self.get_config(), {name: value for name, value in inputs.items() if name not in TARGETS}


def set_calm_fields(config: Any) -> None:
    """Set the fields that keep the mixin's comparisons of attention backends free of noise, as far as we have them.

    transformers' own sets seven names on every configuration and saves it; ours refuse to load names close to a field.
    Scores are cosines divided by the temperature: at 0.05 they show float16's rounding twenty times as large, beyond
    the mixin's absolute tolerance of 5e-3 for one in five draws of the weights (up to 1.2e-2; 6e-4 at temperature 1).
    """
    for part in (config, getattr(config, "text_config", None), getattr(config, "video_config", None)):
        if hasattr(part, "layer_norm_eps"):
            part.layer_norm_eps = 1.0
    if hasattr(config, "temperature"):
        config.temperature = 1.0


class CommonTests(ModelTesterMixin):
    """Shared by all classes below; each test that `not_applicable` names is skipped for the reason beside it."""

    name: ClassVar[str]
    is_training: ClassVar[bool] = True
    layers: ClassVar[int] = 2
    length: ClassVar[int] = LENGTH
    not_applicable: ClassVar[dict[str, str]] = {}
    # A model of two towers leaves a part unused in every step (Example.untrained says which).
    test_all_params_have_gradient = False

    def setUp(self) -> None:
        for pattern, reason in self.not_applicable.items():
            if re.fullmatch(pattern, self._testMethodName):
                self.skipTest(reason)
        self.example = EXAMPLES[self.name]
        self.all_model_classes = (self.example.model_class,)
        self.model_tester = Tester(self.example, self.is_training, self.layers, self.length)
        calm = mock.patch.object(common, "set_config_for_less_flaky_test", set_calm_fields)
        calm.start()
        self.addCleanup(calm.stop)

    def _prepare_for_class(self, inputs: dict[str, Any], model_class: Any, return_labels: bool = False) -> Any:
        prepared = copy.deepcopy(inputs)
        if return_labels:
            prepared |= {name: value for name, value in self.example.inputs(BATCH).items() if name not in inputs}
        return prepared


class JoinedTest(CommonTests, unittest.TestCase):
    name = "joined"
    _is_composite = True
    additional_model_inputs = ["pixel_values_videos"]
    not_applicable = {
        "test_(attention_outputs|hidden_states_output|retain_grad_hidden_states_attentions)": NESTED,
        "test_get_text_features_output_[02]": TWO_TOWERS_TEXT,
    }

    def _video_features_get_expected_num_attentions(self, model_tester: Any = None) -> int:
        return BLOCKS


class ContrastiveTest(JoinedTest):
    name = "contrastive phase"


class QuestionAnsweringTest(CommonTests, unittest.TestCase):
    name = "question answering"
    _is_composite = True
    additional_model_inputs = ["pixel_values_videos"]
    layers, length = TEXT["num_cross_modal_layers"], FUSED
    not_applicable = {"test_can_capture_specific_layers_hidden_states": FROM_THE_END}


class MultipleChoiceTest(QuestionAnsweringTest):
    name = "multiple choice"


class VideoTests(CommonTests):
    layers, length = BLOCKS, WINDOW
    test_resize_embeddings = False
    not_applicable = {"test_model_get_set_embeddings": CONVOLUTION, "test_num_layers_is_small": LEVELS}

    def setUp(self) -> None:
        super().setUp()
        self.model_tester.num_attention_heads = VIDEO["num_heads"][0]
        if self._testMethodName == "test_hidden_states_output":  # (B, T, h, w, C) of level 0; attentions are of windows
            self.model_tester.seq_length = VIDEO["image_size"][1] // VIDEO["patch_size"]
            self.model_tester.hidden_size = VIDEO["embed_dim"]


class ClassificationTest(VideoTests, unittest.TestCase):
    name = "classification"
    _is_composite = True


class VideoTowerTest(VideoTests, unittest.TestCase):
    name = "video tower"
    is_training = False


class TextTowerTest(CommonTests, unittest.TestCase):
    name = "text tower"
    is_training = False


class ConfigurationTest(unittest.TestCase):
    def test_common(self) -> None:
        self.model_tester: Any = None
        for config_class, fields, properties in (
            (LFVilaTextConfig, TEXT, ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"]),
            (LFVilaVideoConfig, {"num_frames": 16}, ["hidden_size", "num_hidden_layers"]),
            (LFVilaConfig, {}, ["hidden_size", "num_attention_heads", "num_hidden_layers"]),
        ):
            tester = ConfigTester(self, config_class, False, common_properties=properties, **fields)
            tester.run_common_tests()
