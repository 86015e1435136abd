"""What stage 04 computes: its figures are drawn coarsely, unless a module has a `quick_figures` of its own."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_figures(quick_figures: None) -> None:
    """Draw coarsely in every module of this folder."""
