"""What may be said of an error that we did not write: its message may quote a patient's row, id or date."""

from __future__ import annotations

import re
import traceback

HIDDEN = "…"
# messages of the system and of devices, which know paths and sizes but no table
_PLAIN_KINDS: tuple[type[BaseException], ...] = (OSError, MemoryError, ImportError)
_PLAIN_NAMES = frozenset({"OutOfMemoryError"})  # of torch, which this layer does not import

# what is quoted, in marks or brackets; an opening mark without its closing one hides the rest of the line
_QUOTED = re.compile(
    r"""'[^'\n]*(?:'(?!\w)|$)|"[^"\n]*(?:"|$)|`[^`\n]*(?:`|$)|\[[^\]\n]*(?:\]|$)|\{[^}\n]*(?:\}|$)|<[^>\n]*(?:>|$)""",
    re.MULTILINE,
)
_APOSTROPHE = re.compile(r"(?<=[a-z])'(?=[a-z])")  # within a word it quotes nothing
_PROSE = re.compile(rf"\(?(?:[A-Za-z][a-z]*(?:[\0-][a-z]+)*|[{HIDDEN}=/&|-])\)?[.,:;!?]*")


def describe_error(error: BaseException) -> str:
    """Return the message of an error in one line, less everything in it that may be a value of a table."""
    if isinstance(error, _PLAIN_KINDS) or type(error).__name__ in _PLAIN_NAMES:
        return " ".join(str(error).split())
    return hide_values(str(error))


def hide_values(text: str) -> str:
    """Return `text` in one line with everything quoted, and every word that is no plain prose, as an ellipsis."""
    line = " ".join(text.split())  # first: a quoted value may go over several lines
    marked = _QUOTED.sub(HIDDEN, _APOSTROPHE.sub("\0", line))
    words = [word if _PROSE.fullmatch(word) else HIDDEN for word in marked.split()]
    return re.sub(rf"{HIDDEN}(?: {HIDDEN})+", HIDDEN, " ".join(words)).replace("\0", "'")


def describe_failure(error: BaseException) -> str:
    """Return the traceback of an error and of those behind it, with their messages as `describe_error` has them.

    A traceback holds lines of code, never what the variables held.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    name = ".".join(part for part in (type(error).__module__, type(error).__qualname__) if part != "builtins")
    text = f"Traceback (most recent call last):\n{frames}{name}: {describe_error(error)}"
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text if before is None else f"{describe_failure(before)}\n\nwhich led to\n\n{text}"
