"""What somebody does who has only a browser: makes a clip, compares it, and takes it home, by what can be read.

    python -m tests.studio.trial [--shots out/trial] [--picture docs/studio.png]

Starts ``c4d studio`` as a person does and goes through it on a desktop, in the dark and on a phone; says how long each
step took, and leaves a picture of each. ``--picture`` also writes the one of docs/studio.md. Nothing here knows a name
that stands in the page's code: labels, words on buttons, and what a link is called.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROMPT = "a blue square moving up on a white background"
WAIT = 60_000  # ms: on a busy machine
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


def chromium() -> str | None:
    """The browser: ``C4D_CHROMIUM``, or Debian's."""
    return os.environ.get("C4D_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield made
        made.close()


def trial(page: Any, seen: Callable[[str], None]) -> tuple[Path, Path]:
    """Goes through an opened page; ``seen`` is called with the name of each step when it is done.

    Returns the clip and the comparison that were downloaded.
    """
    page.get_by_role("button", name="Generate").wait_for()
    seen("opened")
    page.get_by_role("textbox", name=re.compile("^prompt")).fill(PROMPT)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text(" forwards computed").first.wait_for()
    seen("its steps")
    page.get_by_text("dB close to the uncached clip").first.wait_for()
    page.get_by_role("button", name="pause").wait_for()
    seen("made")
    page.get_by_role("button", name="pause").click()
    page.get_by_label("difference ×").fill("24")
    seen("compared")
    files = []
    for name in ("Download the clip", "Download the comparison"):
        with page.expect_download() as got:
            page.get_by_role("link", name=name).click()
        files.append(Path(got.value.path()))
    seen("taken home")
    page.get_by_role("tab", name="History").click()
    page.get_by_text(f"{PROMPT} · seed 0").first.click()
    page.get_by_text("dB close to the uncached clip").last.wait_for()
    seen("found again")
    page.get_by_role("button", name="Take these settings").click()
    page.get_by_role("button", name="Generate").wait_for()
    return files[0], files[1]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """``c4d studio`` over ``folder``, as from the command line; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "c4d", "studio", "--port", str(port), "--out", str(folder / "out")]
    settings = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}  # no profile of somebody's
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if "c4d studio at http" not in said:
                sys.exit(f"c4d studio did not start: {said}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.studio.trial", description=str(__doc__).splitlines()[0])
    parser.add_argument("--shots", type=Path, default=Path("out/trial"), help="folder for the pictures")
    parser.add_argument("--picture", type=Path, help="where the picture of a comparison goes")
    told = parser.parse_args()
    told.shots.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, browser() as opened:
        began = time.monotonic()
        with served(Path(folder)) as address:
            print(f"served after {time.monotonic() - began:.1f} s")
            for screen, how in SCREENS.items():
                page = opened.new_page(**how)
                page.set_default_timeout(WAIT)
                page.goto(address)
                trial(page, Told(page, screen, told.shots, told.picture if screen == "desktop" else None))
                page.screenshot(path=told.shots / f"{screen}-whole.png", full_page=True)
                page.close()


class Told:
    """Says when a step is done, and leaves a picture of it."""

    def __init__(self, page: Any, screen: str, folder: Path, picture: Path | None) -> None:
        self.page, self.screen, self.folder, self.picture = page, screen, folder, picture
        self.steps, self.began = 0, time.monotonic()

    def __call__(self, step: str) -> None:
        print(f"{self.screen}: {step} after {time.monotonic() - self.began:.1f} s")
        self.page.screenshot(path=self.folder / f"{self.screen}-{self.steps}-{step.replace(' ', '-')}.png")
        self.steps += 1
        if self.picture is not None and step == "made":
            self.page.screenshot(path=self.picture, full_page=True)


if __name__ == "__main__":
    main()
