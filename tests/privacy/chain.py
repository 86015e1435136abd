"""All five stages in one process on data whose ids, dates and values can be told from anything else, network cut.

python tests/privacy/chain.py FOLDER: writes FOLDER/clif and the runs beside it. What it prints is looked at too.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

CANARY = "CANARY"
SHIFT = "146097d"  # 400 years of the calendar: 2110 becomes 2510
VALUE = 24681.3579
# an id, a date of the 26th century or after as people or numpy write it, as datetime shows it, as seconds, ms or us, or
# the value
SECRETS = re.compile(
    r"CANARY|\b2[56]\d\d-[01]\d(?!\d)|\b2[56]\d\d/[01]\d/|datetime(?:64)?\(\W?2[56]\d\d|(?<![\d.])1[6-9]\d{9}(?:\d{3}){0,2}(?![\d.])|24681\.3",
    re.IGNORECASE,
)
OUTCOMES = ("long_length_of_stay", "imv_event")


def cut_network() -> None:
    """Let every attempt to reach another machine raise, and name it; localhost and Unix sockets stay."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            is_local = isinstance(address, str | bytes) or address is None or address[0] in ("127.0.0.1", "::1")
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            is_local = arguments[0] in (None, "localhost", "127.0.0.1", "::1", socket.gethostname())
        else:
            return
        if not is_local:
            print(f"NETWORK {event} {arguments}", file=sys.stderr, flush=True)
            raise OSError(f"{event}: the network is cut")

    sys.addaudithook(refuse)


def write_site(folder: Path) -> Path:
    """Write the sample's tables with other ids, dates 400 years later, and one odd value of one stay."""
    import polars as pl
    import polars.selectors as cs

    folder.mkdir(parents=True)
    for path in sorted((ROOT / "sample_data" / "clif_demo").glob("clif_*.parquet")):
        frame = pl.read_parquet(path)
        ids = [column for column in frame.columns if column.endswith("_id")]
        frame = frame.with_columns(
            cs.datetime().dt.cast_time_unit("us").dt.offset_by(SHIFT),
            *(pl.format(f"{CANARY}{column[0]}{{}}", pl.col(column)).alias(column) for column in ids),
        )
        if path.stem == "clif_labs":
            is_odd = (pl.col("lab_category") == "glucose_serum") & pl.col("lab_category").is_first_distinct()
            frame = frame.with_columns(
                lab_value_numeric=pl.when(is_odd).then(VALUE).otherwise(pl.col("lab_value_numeric"))
            )
            assert (frame["lab_value_numeric"] == VALUE).sum() == 1
        frame.write_parquet(folder / path.name)
    return folder


def list_commands(root: Path) -> list[list[str]]:
    """Return the commands of `make demo` and of a second site, with fewer steps."""
    first, second = root / "first", root / "second"

    def stage(name: str, output: Path, **settings: object) -> list[str]:
        given = {"output_dir": output, "log_level": "DEBUG"} | settings
        return [
            name, f"--config={ROOT / 'configs' / 'ehr' / 'demo' / name}.yaml",
            *(f"--{key.replace('__', '.')}={value}" for key, value in given.items()),
        ]  # fmt: skip

    timelines, backbone = first / "00_tokenize", first / "01_pretrain"
    few = {"training__max_steps": 2, "training__eval_steps": 2}
    inputs = {"timelines_dir": timelines, "backbone_dir": backbone}
    return [
        stage("00_tokenize", timelines, clif_dir=root / "clif"),
        stage("00_tokenize", second / "00_tokenize", clif_dir=root / "clif", tokenizer_dir=timelines),
        stage("01_pretrain", backbone, timelines_dir=timelines, **few),
        *(
            stage("02_finetune", first / "02_finetune" / outcome, outcome=outcome, **inputs, **few)
            for outcome in OUTCOMES
        ),
        stage("03_extract_reps", first / "03_extract_reps", **inputs),
        [
            *stage("04_analyze", first / "04_analyze", num_bootstraps=20),
            "--timelines_dir", f"{{first: {timelines}}}", "--predictions_dir", f"{{first: {first / '02_finetune'}}}",
            "--representations_dir", f"{{first: {first / '03_extract_reps'}}}",
        ],
        [
            "leakage", f"--timelines_dir={timelines}", f"--output_dir={first / 'leakage'}", "--log_level=DEBUG",
            f"--results_dir.reps={first / '03_extract_reps'}", f"--source_timelines_dir={second / '00_tokenize'}",
        ],
    ]  # fmt: skip


def main(root: Path) -> None:
    """Run all commands, one after another."""
    write_site(root / "clif")
    cut_network()
    from clinrep.ehr import moments

    moments.LAST = datetime(3000, 1, 1, tzinfo=UTC)  # else dates that can be told from others are placeholders
    os.umask(0)  # a careless shell: what is closed, the stages closed
    from clinrep.ehr.leakage.__main__ import main as audit
    from tests.scripts import load_main

    for name, *flags in list_commands(root):
        sys.argv = [f"{name}.py", *flags]
        run = audit if name == "leakage" else load_main(name)
        run(flags)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
