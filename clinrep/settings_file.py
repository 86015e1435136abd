"""Refuses settings files that are none, or whose words would be read otherwise than they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"  # `<<: *name`, which takes over the keys of another mapping


class _StrictLoader(yaml.SafeLoader):
    """Reads YAML, refusing what has no single meaning.

    It looks at the nodes as they are written: a constructor sees mappings into which others are merged already.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias within what it stands for, which would never end."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            named = self.anchors.get(event.anchor)
            if named is not None and named.end_mark is None:  # still being read
                problem = f"*{event.anchor} stands within &{event.anchor}; write out what it should hold"
                raise yaml.composer.ComposerError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Refuse half of a character, which no file can hold."""
        node = super().compose_scalar_node(anchor)
        try:
            node.value.encode()
        except UnicodeEncodeError as error:
            problem = r"\u with half of a character; write the character itself, or \U and eight digits"
            raise yaml.composer.ComposerError(problem=problem, problem_mark=node.start_mark) from error
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that stands twice: the last would silently win."""
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        repeated = sorted({name for tag, name in keys if keys.count((tag, name)) > 1})
        if repeated:
            problem = f"twice: {', '.join(repeated)}"
            raise yaml.composer.ComposerError(problem=problem, problem_mark=node.start_mark)
        return node


def check_settings_file(path: str) -> None:
    """Raise a ValueError, naming the file, which jsonargparse does not, where it is no mapping of settings."""
    try:
        content = None if Path(path).is_fifo() else yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        what = f"--config {path} does not exist or cannot be read ({error.strerror}); check the path"
        raise ValueError(what) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is not text"
        raise ValueError(f"--config {path} is not valid YAML{where}: {what}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"--config {path} holds {found}; expected lines of 'key: value', as in configs/")
    _check_keys(path, content)


def _check_keys(path: str, content: dict[Any, Any]) -> None:
    """Refuse the keys that jsonargparse takes for more than the name of a setting."""
    if "config" in content:
        raise ValueError(
            f"--config {path} names a further file as 'config'; take that line out and give both: "
            f"--config {content['config']} --config {path}"
        )
    for key in content:
        if isinstance(key, str) and "." in key:  # would win over the group of that name, whichever stands last
            group, _, name = key.partition(".")
            raise ValueError(
                f"--config {path} holds {key!r}, as only flags are written; write {group}: {{{name}: ...}}"
            )
