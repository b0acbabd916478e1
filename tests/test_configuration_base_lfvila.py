"""What the configurations share: sizes of video are left for the model to change, and fields are checked by name.

What each configuration checks is tested in test_configuration_lfvila.py, the change of size in test_resizing_lfvila.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lfvila_hf import LFVilaConfig, LFVilaVideoConfig
from lfvila_hf.configuration_base_lfvila import VIDEO_SIZES, check_range, refuse_strangers


@pytest.mark.parametrize("config", [LFVilaConfig.tiny(), LFVilaConfig.tiny().video_config], ids=["both", "video"])
def test_sizes_of_video_are_left_to_the_model_that_is_loaded(config: LFVilaConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    sizes = {"num_frames": 64, "temporal_windows": [1] * 6, "image_size": [32, 32], "spatial_window": [1, 1]}
    assert set(sizes) == set(VIDEO_SIZES)
    loaded, unused = type(config).from_pretrained(tmp_path, return_unused_kwargs=True, **sizes)
    assert unused == sizes
    assert loaded.to_dict() == config.to_dict()


def test_a_video_configuration_alone_takes_sizes_as_fields(tmp_path: Path) -> None:
    LFVilaConfig.tiny().video_config.save_pretrained(tmp_path)
    assert LFVilaVideoConfig.from_pretrained(tmp_path, num_frames=32).num_frames == 32


def test_misspelt_derived_and_foreign_fields_are_refused() -> None:
    config = LFVilaVideoConfig()
    with pytest.raises(ValueError, match="no field 'num_frame'; is 'num_frames' meant"):
        refuse_strangers(config, {"num_frame": 8})
    with pytest.raises(ValueError, match="channels follows from the other fields"):
        refuse_strangers(config, {"channels": [1]})
    with pytest.raises(ValueError, match='the fields of a "bert"'):
        refuse_strangers(config, {"model_type": "bert"})
    refuse_strangers(config, {"auto_map": {}})


def test_a_range_names_the_first_field_outside_it() -> None:
    config = LFVilaVideoConfig()
    check_range(config, 1, 32, "num_clips", "num_frames")
    with pytest.raises(ValueError, match="num_frames must be at least 1 and at most 31, got 32"):
        check_range(config, 1, 31, "num_clips", "num_frames")
    with pytest.raises(ValueError, match="num_clips must be at least 5, got 4"):
        check_range(config, 5, float("inf"), "num_clips")
