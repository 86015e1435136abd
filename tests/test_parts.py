from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts, distributed, parts
from clinrep.config import InputError
from clinrep.ehr.configs.extract import ExtractConfig
from clinrep.run import Run


def make_run(directory) -> Run:
    config = ExtractConfig(timelines_dir="unused", backbone_dir="unused", output_dir=str(directory))
    return Run("03_extract_reps", config, directory, {})


def make_trajectories(ids: list[str], split: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"subject_id": ids, "split": [split] * len(ids), "times": [[]] * len(ids), "jumps": [[]] * len(ids)},
        schema_overrides={"subject_id": pl.String, "split": pl.String}
        | {"times": pl.List(pl.Datetime("us")), "jumps": pl.List(pl.Float32)},
    ).with_columns(path_length=pl.lit(0.0), max_jump=pl.lit(None, pl.Float32), mean_jump=pl.lit(None, pl.Float32))


def make_vectors(ids: list[str], split: str) -> pl.DataFrame:
    vectors = pl.Series(np.zeros((len(ids), 2), np.float32), dtype=pl.Array(pl.Float32, 2))
    columns = {"subject_id": pl.Series(ids, dtype=pl.String), "split": pl.Series([split] * len(ids), dtype=pl.String)}
    return pl.DataFrame(columns).with_columns(layer=pl.lit(1, pl.Int16), pooling=pl.lit("mean"), representation=vectors)


@pytest.mark.parametrize(("num_rows", "world_size", "size"), [(10, 1, 4), (10, 3, 2), (2, 4, 5), (0, 2, 5), (9, 2, 3)])
def test_every_row_is_in_one_part_of_one_rank_the_same_for_any_number_of_ranks(
    monkeypatch, tmp_path, num_rows, world_size, size
):
    sizes = {"train": num_rows, "val": 1, "test": num_rows + 1}
    run = make_run(tmp_path)
    alone = {
        (split, part): rows.tolist() for split, part, rows in parts.parts_to_do(run, "representations", sizes, size)
    }
    monkeypatch.setattr(distributed, "get_world_size", lambda: world_size)
    monkeypatch.setattr(distributed, "share_from_main", lambda value: value)
    monkeypatch.setattr(Run, "is_main", True)
    shared, counts = {}, []
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        mine = list(parts.parts_to_do(run, "representations", sizes, size))
        counts.append(len(mine))
        for split, part, rows in mine:
            assert (split, part) not in shared
            shared[split, part] = rows.tolist()
    assert shared == alone
    assert max(counts) - min(counts) <= 1
    for split, total in sizes.items():
        of_split = [rows for (one, _), rows in sorted(shared.items()) if one == split]
        assert [row for rows in of_split for row in rows] == list(range(total))
        assert len(of_split) >= 1
        assert all(len(rows) <= size for rows in of_split)


def test_parts_that_are_there_are_not_done_again_and_strange_ones_are_refused(tmp_path):
    run = make_run(tmp_path)
    for split, part in (("train", 0), ("test", 1)):
        parts.write_part(run, "representations", make_vectors(["a"], split), split, part)
    left = [(split, part) for split, part, _ in parts.parts_to_do(run, "representations", {"train": 3, "test": 2}, 1)]
    assert left == [("train", 1), ("train", 2), ("test", 0)]
    with pytest.raises(InputError, match=r"part-00001\.parquet is no part of this run; remove"):
        list(parts.parts_to_do(run, "representations", {"train": 3, "test": 1}, 1))


def test_one_file_is_joined_in_order_counted_and_its_parts_are_gone(tmp_path):
    run = make_run(tmp_path)
    for part in (10, 2, 0):  # by number, not by name
        parts.write_part(run, "trajectories", make_trajectories([f"t{part}", f"u{part}"], "train"), "train", part)
    parts.write_part(run, "trajectories", make_trajectories([], "test"), "test", 0)
    parts.write_part(run, "representations", make_vectors(["a", "b"], "train"), "train", 0)
    parts.write_part(run, "representations", make_vectors([], "test"), "test", 0)
    splits = ["train", "test"]
    parts.finish_parts(run, {"trajectories": splits, "representations": splits})
    artifacts.write_done(tmp_path, "03_extract_reps", run.rows, {})
    table = artifacts.read_table("trajectories", tmp_path)
    assert table["subject_id"].to_list() == ["t0", "u0", "t2", "u2", "t10", "u10"]
    assert run.rows == {"trajectories": 6, "representations/train": 2, "representations/test": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DONE", "representations", "trajectories.parquet"]
    assert set(artifacts.read_done(tmp_path, "03_extract_reps")["outputs"]) == {
        "representations/test/part-00000.parquet",
        "representations/train/part-00000.parquet",
        "trajectories.parquet",
    }


def test_a_run_cut_off_after_joining_keeps_the_joined_file(tmp_path):
    run = make_run(tmp_path)
    artifacts.write_frames("trajectories", [make_trajectories(["a"], "train")], tmp_path)
    (tmp_path / parts.WORKING_DIR / "train").mkdir(parents=True)  # some of its parts are gone already
    parts.finish_parts(run, {"trajectories": ["train"]})
    assert run.rows == {"trajectories": 1}
    assert not (tmp_path / parts.WORKING_DIR).exists()
