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
OF_LIBRARIES = {"ComputeError", "SafetensorError"}  # of polars and safetensors; pyarrow raises OSError
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`""")
_WORDS = {os.strerror(number).lower(): number for number in REMEDIES}


class DiskError(InputError):
    """A disk that is full, read-only or broken: nothing is wrong with the input, and what was written stays."""


def say(error: BaseException) -> str:
    """Return what a message of ours may tell of an error, in at most `LONGEST` letters; its kind where it is silent."""
    text = describe_error(error)
    return f"{text[:LONGEST]}..." if len(text) > LONGEST else text or type(error).__name__


def find_disk_error(error: BaseException) -> int | None:
    """Return which of `REMEDIES` an error asks for, None for any other error.

    Libraries in Rust and C++ tell of the system's error in words, and so may anybody quote them: only theirs count.
    """
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return error.errno
    if not isinstance(error, OSError) and type(error).__name__ not in OF_LIBRARIES:
        return None
    text = _QUOTED.sub("", str(error)).lower()  # a value may be any words
    told = re.search(r"os error (\d+)|\[errno (\d+)\]", text)
    number = int(told[1] or told[2]) if told else next((n for words, n in _WORDS.items() if words in text), None)
    return number if number in REMEDIES else None


def pass_disk_error(error: BaseException, path: Path) -> None:
    """Raise a DiskError where a disk failed while `path` was read: then the file is not to blame."""
    if find_disk_error(error) is not None:
        raise DiskError(_explain(error, f"{path} cannot be read")) from error


def explain_unreadable(error: OSError, path: str | Path) -> str:
    """Return what to say of a file or folder of an input that the system does not let be read."""
    remedy = REMEDIES.get(error.errno or 0, "check it").partition(", or give")[0]
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = "allow it (chmod, or ask its owner), or move what is not needed out of the input"
    return f"{path} cannot be read: {error.strerror or say(error)}; {remedy}"


def explain_disk(error: BaseException, directory: Path) -> str:
    """Return what to say of an error that a disk gave while a run wrote `directory`, '' for any other error."""
    number = find_disk_error(error)
    if number is None:
        return ""
    name = getattr(error, "filename", None)
    if isinstance(name, str | Path) and not Path(name).absolute().is_relative_to(directory.absolute()):
        return _explain(error, f"{name} cannot be used")
    return (
        f"--output_dir {directory} cannot be written: {os.strerror(number)}; {REMEDIES[number]}; then the same command "
        "goes on"
    )


def _explain(error: BaseException, what: str) -> str:
    """Return what to say of a disk's error where another --output_dir would not help."""
    number = find_disk_error(error) or 0
    remedy = REMEDIES[number].partition(", or give")[0]
    remedy = "see to it that it can be" if remedy.startswith("give") else remedy
    return f"{what}: {os.strerror(number)}; {remedy}; then the same command goes on"
