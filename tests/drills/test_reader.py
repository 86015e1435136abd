"""The drill's reader tells half a file from a whole one."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import matplotlib.figure
import polars as pl
import pytest

from tests.drills.reader import Reader
from tests.fake_weights import write_weights


def make_figure(kind: str) -> bytes:
    buffer = io.BytesIO()
    matplotlib.figure.Figure().savefig(buffer, format=kind)
    return buffer.getvalue()


def make_contents(folder: Path) -> dict[str, bytes]:
    """Return a whole file of each kind."""
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    frame.write_parquet(folder / "a.parquet")
    write_weights(folder / "a.safetensors", {"weight": [4, 4]}, {"format": "pt"})
    return {
        "splits.parquet": (folder / "a.parquet").read_bytes(),
        "model.safetensors": (folder / "a.safetensors").read_bytes(),
        "scores.csv": frame.write_csv().encode(),
        "config.json": b'{"a": 1}',
        "report.html": b"<html><body></body></html>\n",
        "roc.png": make_figure("png"),
        "roc.pdf": make_figure("pdf"),
        "DONE": b'{"outputs": {}}',
    }


def test_whole_files_are_no_fault_and_half_ones_are(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    reader = Reader(directory)
    contents = make_contents(tmp_path)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    reader.read_all()
    assert not reader.faults
    assert reader.seen.keys() == contents.keys()
    for name, content in contents.items():
        (directory / name).write_bytes(content[:-2])  # in place, as nothing of ours does
        if name == "DONE":
            with pytest.raises(json.JSONDecodeError):
                reader.read_all()
        else:
            reader.read_all()
            (directory / name).write_bytes(content)
    assert [fault.partition(":")[0] for fault in reader.faults] == list(contents)
    assert {len(digests) for digests in reader.seen.values()} == {2}


def test_hidden_files_and_checkpoints_without_their_marker_are_nobodys_to_read(tmp_path):
    folder = tmp_path / "checkpoints" / "checkpoint-4"
    for path in (folder / "model.safetensors", tmp_path / ".backbone.1.tmp" / "config.json", tmp_path / ".a.2.tmp"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    reader = Reader(tmp_path)
    reader.read_all()
    assert not reader.seen
    (folder / "COMPLETE").write_text("{}")
    reader.read_all()
    assert len(reader.faults) == 1


@pytest.mark.parametrize("content", [b"other", None])
def test_an_output_that_is_not_what_done_says_is_a_fault(tmp_path, content):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    digest = hashlib.blake2b(b"whole", digest_size=16).hexdigest()
    (tmp_path / "DONE").write_text(json.dumps({"outputs": {"a.txt": digest}}))
    reader = Reader(tmp_path)
    reader.read_all()
    assert len(reader.faults) == 1
