"""The table goes into a vector store as docs/library.md shows: into LanceDB, embedded, with the same nearest rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_library import RULE, STORY, make_model, make_processor, make_videos

from lfvila_hf.library import VideoLibrary

pytestmark = pytest.mark.slow


def test_lancedb_takes_the_table_and_finds_the_same_segments(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    lancedb = pytest.importorskip("lancedb", reason="LanceDB is not installed (extra test-full)")
    import pyarrow.dataset as ds

    make_videos(tmp_path / "videos", (20, 90, 60))
    library = VideoLibrary(make_model(tiny_vocabulary), make_processor(tiny_vocabulary), RULE, root=tmp_path / "videos")
    library.add(tmp_path / "videos")
    library.save(tmp_path / "index")

    parts = ds.dataset(tmp_path / "index" / "table", format="parquet")
    segments = lancedb.connect(str(tmp_path / "lance")).create_table("segments", parts.to_table())
    query = library.read_story(STORY).embeddings.text_embeds[0].numpy()
    found = segments.search(query, vector_column_name="segment_embedding").metric("cosine").limit(5).to_list()

    scores, rows = library.view.search.search(query[None], 5)
    names = ["path", "segment"]
    expected = [tuple(library.view.row(int(row))[name] for name in names) for row in rows[0]]
    assert [tuple(row[name] for name in names) for row in found] == expected
    assert np.allclose([1 - row["_distance"] for row in found], scores[0], atol=1e-5)
    assert found[0]["thumbnail"]["bytes"].startswith(b"\xff\xd8")
