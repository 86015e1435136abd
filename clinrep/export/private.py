"""What no file of a bundle may hold: paths, names of machines and users, and columns of single patients."""

from __future__ import annotations

import getpass
import re
import socket
from typing import Any

PATIENT_COLUMNS = frozenset(
    {
        *("subject_id", "patient_id", "hospitalization_id", "token_ids", "times", "time", "start", "end"),
        *("index_time", "event_time", "label", "probability", "representation", "hidden_state", "jumps", "bits"),
    }
)
"""Columns of tables with a row a patient or stay."""
REMOVED = "[removed]"
_PATH_ENDS = ("_dir", "_path")
_PATH = re.compile(r"(?<![\w.:/<])(?:~|[A-Za-z]:)?[/\\]+[\w.@-]+[/\\]\S*|(?<![\w.:/<])/[\w.-]+(?![\w/.-])")


PATIENT_SETTINGS = frozenset({"subject_ids"})
"""Settings that name single patients."""


def strip_settings(settings: Any) -> Any:
    """Return settings without paths and ids: keys that hold them are gone, text that shows a path is `[removed]`."""
    if isinstance(settings, dict):
        is_gone = {key for key in settings if str(key).endswith(_PATH_ENDS) or key in PATIENT_SETTINGS}
        return {key: strip_settings(value) for key, value in settings.items() if key not in is_gone}
    if isinstance(settings, list):
        return [strip_settings(one) for one in settings]
    return REMOVED if isinstance(settings, str) and find_private(settings) else settings


def find_private(text: str) -> str:
    """Return what in a text names a path, this machine or this user, '' where nothing does."""
    if found := _PATH.search(text):
        return f"a path ({found[0]})"
    for what, name in (("this machine", socket.gethostname()), ("this user", _get_user())):
        if len(name) >= 2 and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            return f"the name of {what}"
    return ""


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return ""
