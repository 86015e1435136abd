"""One run of one stage: its directory, log, provenance, inputs and DONE."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import polars as pl
from tqdm import tqdm

from clinrep import artifacts, distributed
from clinrep.config import InputError, StageConfig
from clinrep.error_text import describe_error, describe_failure
from clinrep.failures import DiskError, explain_disk
from clinrep.file_access import limit_access
from clinrep.run.directory import Preparation, prepare, release, undo
from clinrep.run.inputs import find_changed_input
from clinrep.run.streams import open_closed_streams

SECONDS_BETWEEN_LINES = 30.0  # of progress, in a log file
EXIT_INPUT = 2
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

logger = logging.getLogger("clinrep")
ItemT = TypeVar("ItemT")


class RunError(RuntimeError):
    """A run that cannot go on for a reason its message gives in full. Ends with exit code 1, without a traceback."""


@dataclass
class Run:
    """The directory a stage writes, opened by `open_run`."""

    stage: str
    config: StageConfig
    directory: Path
    inputs: dict[str, str]
    rows: dict[str, int] = field(default_factory=dict)
    is_stopped: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return _is_main()

    def write(self, name: str, frame: pl.DataFrame, split: str = "", part: int = 0) -> None:
        """Write a table of the contract and count its rows for DONE."""
        artifacts.write_table(name, frame, self.directory, split, part)
        key = f"{name}/{split}" if split else name
        self.rows[key] = self.rows.get(key, 0) + frame.height

    def clear(self, name: str) -> None:
        """Remove the parts of a table that a run cut off may have left; every rank calls it before writing."""
        if self.is_main:
            for path in artifacts.find_parts(name, self.directory):
                path.unlink()
        distributed.wait_for_all()

    def stop(self, step: int, signal_name: str) -> None:
        """Say in the directory that the run was stopped after saving; launchers decide on that file."""
        self.is_stopped = True
        if self.is_main:
            content = json.dumps({"step": step, "signal": signal_name})
            artifacts.write_text(self.directory / "STOPPED", content + "\n")
        logger.warning("stopped by %s after saving step %d; the same command continues", signal_name, step)


def run_stage(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a stage's `main` as a program: one message and exit code 2 for what a user can mend."""
    open_closed_streams()
    # Stages that train put their own handler in its place (StopSignal). One of several ranks keeps the
    # system's: it may wait for the others outside of Python, where no handler of ours is ever called.
    if distributed.get_world_size() == 1:
        signal.signal(signal.SIGTERM, _end)
    try:
        main(sys.argv[1:])
    except InputError as error:
        if _is_main():
            print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except RunError:
        sys.exit(1)  # open_run has said why
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BaseException as error:
        if not _is_failure(error):
            raise
        report_failure(error, Path(sys.argv[0]).stem)
        sys.exit(1)
    sys.exit(0)


def _is_failure(error: BaseException) -> bool:
    """Return whether an error is a failure of ours, not an end that was asked for.

    Libraries in Rust panic with an exception of their own, each a class of this name, that is no Exception.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def report_failure(error: BaseException, stage: str) -> None:
    """Log the traceback of a failure of ours, once, without what its message may quote of the data."""
    if not hasattr(error, "is_reported"):
        logger.error("%s failed\n%s", stage, describe_failure(error))
        error.is_reported = True  # type: ignore[attr-defined]


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does, so that temporary files are removed; the exit code is the shell's for this signal."""
    print(f"{Path(sys.argv[0]).name}: ended by {signal.Signals(number).name}", file=sys.stderr)
    raise SystemExit(128 + number)


@contextmanager
def open_run(stage: str, config: Any) -> Iterator[Run]:
    """Open the run directory of a stage, and close it with DONE.

    Nothing there: start. No DONE and the same config and inputs: resume. DONE and the same: say so
    and exit 0. Anything else: InputError. A directory this call made is removed again when the
    inputs turn out wrong, so nothing half-written is left. Every rank calls it; rank 0 looks and
    writes, and all act on what it found.

    Raises:
        InputError: the directory holds another run or other files, or an input does not exist.
        SystemExit: 0 when already done, 75 when the run was stopped by a signal after saving.
    """
    with limit_access(config.file_access), _open(stage, config) as run:
        yield run


@contextmanager
def _open(stage: str, config: Any) -> Iterator[Run]:
    _log_to_screen(config.log_level)
    distributed.start_process_group()
    directory = config.run_dir
    found = distributed.share_from_main(prepare(stage, config) if _is_main() else None)
    if found.error or found.is_done:
        distributed.end_process_group()
        if found.error:
            raise InputError(found.error)
        logger.info("%s: already done, same settings and inputs: %s", stage, directory)
        raise SystemExit(0)
    run = Run(stage, config, directory, found.inputs)
    handler = _log_to_file(directory, run.is_main)
    try:
        logger.info("%s: %s", stage, directory)
        yield run
        _finish(run, found)
    except InputError as error:
        if run.is_main and not isinstance(error, DiskError):  # what was computed before a disk failed stays
            undo(directory, found)
        distributed.end_process_group(is_failing=True)
        raise
    except RunError as error:
        logger.error("%s failed: %s", stage, error)
        distributed.end_process_group(is_failing=True)
        raise
    except BaseException as error:
        if not _is_failure(error):
            raise
        message = explain_disk(error, directory)
        if message:  # no `undo`: what was computed so far stays
            logger.error("%s failed: %s", stage, message)
            logger.debug("%s", describe_failure(error))
            distributed.end_process_group(is_failing=True)
            raise DiskError(message) from error
        report_failure(error, stage)
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
        if run.is_main:
            release(directory, found)
    if run.is_stopped:
        raise SystemExit(EXIT_STOPPED)


def _finish(run: Run, found: Preparation) -> None:
    """Write DONE, unless the run was stopped, after the last file of every rank; leave the other ranks.

    Raises:
        InputError: an input is no longer what it was when the run began.
    """
    distributed.wait_for_all()
    is_looking = run.is_main and not run.is_stopped  # the same command, which continues, compares for itself
    error = find_changed_input(run.config, found.inputs, found.stamps) if is_looking else ""
    if error := distributed.share_from_main(error):
        raise InputError(error)
    if run.is_main and not run.is_stopped:
        artifacts.write_done(run.directory, run.stage, run.rows, run.inputs)
        logger.info("%s: done: %s", run.stage, run.directory)
    distributed.end_process_group()


def _is_main() -> bool:
    return distributed.get_rank() == 0


def show_progress(items: Iterable[ItemT], config: StageConfig, title: str, total: int | None = None) -> Iterator[ItemT]:
    """Yield `items` with a progress bar on rank 0; where the screen is no terminal, with a line now and then."""
    if not (config.show_progress and _is_main()):
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=title, total=total, leave=False)
    else:
        if total is None and isinstance(items, Sized):
            total = len(items)
        last = time.monotonic()
        for number, item in enumerate(items):
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                logger.info("%s: %d of %s", title, number, "?" if total is None else total)
            yield item


def _log_to_screen(level: str) -> None:
    is_main = _is_main()
    root = logging.getLogger()
    if not any(getattr(handler, "is_clinrep", False) for handler in root.handlers):
        screen = logging.StreamHandler()
        screen.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
        screen.is_clinrep = True  # type: ignore[attr-defined]
        root.addHandler(screen)
    root.setLevel(logging.WARNING if is_main else logging.ERROR)
    logger.setLevel(level if is_main else logging.ERROR)


class _LogFile(logging.FileHandler):
    """A log that says in one line, once, that its disk fails; Python's own prints a traceback for every message."""

    has_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Say on the screen what went wrong."""
        error = sys.exc_info()[1]
        if error is None or (isinstance(error, OSError) and self.has_told):
            return
        self.has_told |= isinstance(error, OSError)
        print(f"{self.baseFilename}: a message cannot be written ({describe_error(error)})", file=sys.stderr)

    def close(self) -> None:
        """Close the file, whether what was left of it can be written or not."""
        with contextlib.suppress(OSError):
            super().close()


def _log_to_file(directory: Path, is_main: bool) -> logging.Handler:
    """Append messages to run.log on rank 0."""
    handler: logging.Handler = logging.NullHandler()
    if is_main:
        handler = _LogFile(directory / "run.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return handler
