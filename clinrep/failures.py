"""Errors of libraries and of the system in a line: what a message of ours says of them."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from clinrep.config import InputError
from clinrep.error_text import describe_error

LONGEST = 200  # letters of a library's words
# What the user can mend on a disk; libraries in Rust and C++ tell of it in words alone.
REMEDIES = {
    errno.ENOSPC: "make room there, or give another --output_dir",
    errno.EDQUOT: "make room there, or give another --output_dir",
    errno.EFBIG: "allow larger files (ulimit -f), or give another --output_dir",
    errno.EROFS: "give an --output_dir that can be written",
    errno.EACCES: "allow it, or give an --output_dir that can be written",
    errno.EPERM: "allow it, or give an --output_dir that can be written",
    errno.EIO: "the disk or its network failed: start again where it works",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ESTALE: "the network's file system failed: start again where it works",
}
_WORDS = {os.strerror(number).lower(): number for number in REMEDIES}


class DiskError(InputError):
    """A disk that is full, read-only or broken: nothing is wrong with the input, and what was written stays."""


def say(error: BaseException) -> str:
    """Return what a message of ours may tell of an error, in at most `LONGEST` letters; its kind where it is silent."""
    text = describe_error(error)
    return f"{text[:LONGEST]}..." if len(text) > LONGEST else text or type(error).__name__


def explain_disk(error: BaseException, directory: Path) -> str:
    """Return what to say of an error that a disk gave while a run wrote `directory`, '' for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    if number not in REMEDIES:
        told = re.search(r"os error (\d+)|\[errno (\d+)\]", text)
        number = int(told[1] or told[2]) if told else next((n for words, n in _WORDS.items() if words in text), None)
    if number not in REMEDIES:
        return ""
    name = getattr(error, "filename", None)
    where = f" ({name})" if name and not str(name).startswith(str(directory)) else ""
    return (
        f"--output_dir {directory} cannot be written{where}: {os.strerror(number)}; {REMEDIES[number]}; "
        "then the same command goes on"
    )
