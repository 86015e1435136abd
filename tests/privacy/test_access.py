"""file_access: who may open what a run writes, and what the run's shell has closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clinrep import artifacts
from clinrep.config import StageConfig
from clinrep.file_access import apply_access, limit_access
from clinrep.run import open_run


@pytest.fixture
def umask(request):
    before = os.umask(getattr(request, "param", 0o022))
    yield
    os.umask(before)


def modes(directory: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o777) for path in [directory, *directory.rglob("*")]}


@pytest.mark.parametrize(
    ("access", "umask", "expected"),
    [
        ("owner", 0o022, {"0o700", "0o600"}),
        ("owner_and_group", 0o022, {"0o750", "0o640"}),
        ("owner_and_group", 0o002, {"0o770", "0o660"}),
        ("owner_and_group", 0o077, {"0o700", "0o600"}),
        ("everyone", 0o022, {"0o755", "0o644"}),
    ],
    indirect=["umask"],
)
@pytest.mark.usefixtures("umask")
def test_files_and_folders_of_a_run(tmp_path: Path, access: str, expected: set[str]):
    directory = tmp_path / "runs" / "out"
    with open_run("01_pretrain", StageConfig(output_dir=str(directory), file_access=access)) as run:
        artifacts.write_text(run.directory / "tables" / "x.csv", "x")
    assert modes(tmp_path / "runs") == expected


@pytest.mark.usefixtures("umask")
def test_the_umask_is_put_back_and_other_access_is_the_same_run(tmp_path: Path):
    out = str(tmp_path / "out")
    with open_run("01_pretrain", StageConfig(output_dir=out, file_access="owner")):
        pass
    assert os.umask(0o022) == 0o022
    with pytest.raises(SystemExit) as done, open_run("01_pretrain", StageConfig(output_dir=out)):
        pass
    assert done.value.code == 0
    assert os.umask(0o022) == 0o022


@pytest.mark.usefixtures("umask")
def test_what_a_library_closed_is_opened_to_the_group_and_no_further(tmp_path: Path):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir(mode=0o700)
    outside.write_text("x")
    outside.chmod(0o600)
    (folder / "weights").touch(mode=0o600)
    (folder / "link").symlink_to(outside)
    with limit_access("owner_and_group"):
        apply_access(folder)
    assert oct(folder.stat().st_mode & 0o777) == "0o750"
    assert oct((folder / "weights").stat().st_mode & 0o777) == "0o640"
    assert oct(outside.stat().st_mode & 0o777) == "0o600"
