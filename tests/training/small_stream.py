"""A few long videos of four clips each in tar shards."""

from __future__ import annotations

from pathlib import Path

from video_files import write_video

from lfvila_hf.data.streaming import write_shards


def write_stream_shards(folder: Path, rows: int, rows_per_shard: int) -> Path:
    """Shards of that many rows, each a long video of four clips; gives the folder."""
    folder.mkdir(parents=True)
    written = []
    for number in range(rows):
        clips = [str(folder / f"{number}-{clip}.mp4") for clip in range(4)]
        for place, clip in enumerate(clips):
            write_video(Path(clip), 4, size=(48, 80), first_number=40 * number + 4 * place)
        sentences = [f"the man is in box {number}", "he rides", "the ball is red", f"then it is {number}"]
        written.append({"id": f"w_{number}", "clips": clips, "sentences": sentences})
    write_shards(written, folder, "webdataset", rows_per_shard)
    return folder
