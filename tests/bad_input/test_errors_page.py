"""docs/errors.md is made of the cases."""

from __future__ import annotations

from tests.bad_input.page import write_page
from tests.scripts import ROOT


def test_the_page_of_errors_is_current() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == write_page(), (
        "run python -m tests.bad_input.page > docs/errors.md"
    )
