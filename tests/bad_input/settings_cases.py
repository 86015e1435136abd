"""Settings files that are none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.bad_input.workshop import Case

DEEP = b"[" * 3000


def write(content: bytes) -> Any:
    return lambda folder: (folder / "x.yaml").write_bytes(content)


def make_pipe(folder: Path) -> None:
    os.mkfifo(folder / "x.yaml")


NOT_THERE = ("does not exist or cannot be read", "check the path")
FILES = [
    Case("pipe", "a pipe, which would never end", make_pipe, ("holds nothing", "as in configs/")),
    Case("folder", "a folder", lambda f: (f / "x.yaml").mkdir(), NOT_THERE),
    Case("gone", "no such file", lambda f: None, NOT_THERE),
    Case("bytes", "a file that is no text", write(b"\xff\xfe\x00\x01"), ("is not valid YAML", "it is not text")),
    Case("nul", "a NUL in the file", write(b"seed: 1\x00\n"), ("is not valid YAML",)),
    Case("empty", "an empty file", write(b""), ("holds nothing", "as in configs/")),
    Case("list", "a list", write(b"- seed\n"), ("holds a list", "as in configs/")),
    Case("tab", "a tab where blanks should be", write(b"a:\n\tb: 1\n"), ("is not valid YAML in line 2",)),
    Case("twice", "a setting that stands twice", write(b"seed: 1\nseed: 2\n"), ("twice: seed",)),
    Case(
        "code",
        "code in place of a value",
        write(b"seed: !!python/object/apply:os.getcwd []\n"),
        ("is not valid YAML in line 1", "could not determine a constructor"),
    ),
    Case("deep", "a thousand lists in each other", write(b"seed: " + DEEP), ("is not valid YAML",)),
    Case("unhashable", "a mapping in place of a key", write(b"{[1, 2]: 3}\n"), ("is not valid YAML",)),
]
