"""That what tests/test_pipeline.py looks for would be found: the search for secrets, the network that is cut."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.privacy.chain import SECRETS
from tests.scripts import ROOT


@pytest.mark.parametrize(
    "text",
    [
        "no stay CANARYh123", "admitted 2550-03-04 10:00", "2550-03-04T10:00", "datetime.datetime(2550, 3, 4)",
        "numpy.datetime64('2550-03-04')", "at 18308160000000000 us", "at 18308160000", "glucose 24681.3579",
    ],
)  # fmt: skip
def test_the_search_for_secrets_finds_them(text):
    assert SECRETS.search(text)


def test_the_cut_network_is_noticed():
    code = (
        "from tests.privacy.chain import cut_network; cut_network(); import socket; "
        "socket.create_connection(('192.0.2.1', 80))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "NETWORK socket.connect" in done.stderr or "NETWORK socket.getaddrinfo" in done.stderr
