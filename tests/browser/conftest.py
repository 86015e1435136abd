"""Pages in Debian's chromium: every request is seen, and none may leave the machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@dataclass
class Watched:
    """A page that keeps what went wrong on it."""

    page: object
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: Path) -> object:
        self.page.goto(path.as_uri())
        return self.page


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A browser with a new profile, as a person's: with storage, without our session's state."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium: make test-browser installs Debian's")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=executable,
            headless=True,
            args=FLAGS,
            viewport={"width": 1440, "height": 900},
            color_scheme="light",
        )
        yield context
        context.close()


@pytest.fixture
def watched(chromium):
    """A new page; when the test ends it must have asked for nothing outside and said nothing on its console."""
    page = chromium.new_page()
    watched = Watched(page)

    def route(route):
        watched.requests.append(route.request.url)
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            route.abort()

    page.route("**/*", route)
    page.on("request", lambda request: watched.requests.append(request.url))
    page.on("console", lambda message: watched.problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: watched.problems.append(str(error)))
    yield watched
    page.close()
    assert watched.problems == []
    assert all(url.startswith(("file:", "data:")) for url in watched.requests), watched.requests
