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
    Case(
        "itself",
        "a list that holds itself",
        write(b"seed: 1\npoolings: &a [*a]\n"),
        ("is not valid YAML in line 2: *a stands within &a", "write out what it should hold"),
    ),
    Case(
        "merged_itself",
        "a group that is merged into itself",
        write(b"extraction: &a {<<: *a}\n"),
        ("is not valid YAML in line 1: *a stands within &a", "write out what it should hold"),
    ),
    Case(
        "half",
        "half of a character",
        write(b'outcome: "\\ud800"\n'),
        ("is not valid YAML in line 1: \\u with half of a character", "write the character itself"),
    ),
    Case(
        "dotted",
        "a setting of a group as flags name it",
        write(b"zero_shot: {num_samples: 3}\nzero_shot.num_samples: 4\n"),
        ("holds 'zero_shot.num_samples', as only flags are written", "write zero_shot: {num_samples: ...}"),
    ),
    Case(
        "nested",
        "a settings file that names another",
        write(b"seed: 1\nconfig: other.yaml\n"),
        ("names a further file as 'config'", "--config other.yaml --config"),
    ),
    Case("unhashable", "a mapping in place of a key", write(b"{[1, 2]: 3}\n"), ("is not valid YAML",)),
]
