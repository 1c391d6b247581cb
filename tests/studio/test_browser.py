"""The studio in a real browser: a clip is made, compared, found again and taken home by clicks alone.

Runs where gradio, Playwright (PyPI) and a Chromium are (Debian's package ``chromium``; ``C4D_CHROMIUM`` names another);
under ``make test-studio``, which has the first two, it fails without the third.
``C4D_SHOTS`` names a folder for a picture of each page; else they are in pytest's own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from c4d.pipelines.output import write_clip
from c4d.studio.history import rollouts, runs
from tests.pipes import vace
from tests.studio.trial import WAIT, browser, chromium, trial

pytest.importorskip("gradio", reason="no browser test: pip install 'c4d[studio]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="no browser test: pip install playwright")
if chromium() is None and os.environ.get("C4D_REQUIRE_BROWSER"):
    pytest.fail("no chromium here: apt-get install chromium, or name one by C4D_CHROMIUM", pytrace=False)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no browser test: no chromium here (apt-get install chromium)"),
]

answered: list[str] = []  # what the opened page asked for


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """A page of a fresh studio, what it asked of others, and where pictures of it go."""
    from c4d.studio.pages.app import pages, serve
    from c4d.studio.pages.generate import GeneratePage
    from c4d.studio.workshop import Workshop

    root = tmp_path_factory.mktemp("studio")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))  # no profile of somebody's, and none made for them
    (root / "out").mkdir()
    shots = Path(os.environ.get("C4D_SHOTS") or root / "shots")
    shots.mkdir(exist_ok=True)
    with Workshop(root / "out") as workshop, browser() as chrome:
        whole = pages(workshop)
        patch.setattr(GeneratePage, "offered", late(GeneratePage.offered))
        address = serve(whole, workshop, "127.0.0.1", None, max_upload=2**20)
        context = chrome.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(WAIT)
        asked, wrong = list[str](), list[str]()
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        page = context.new_page()
        page.goto(address)
        yield page, shots, workshop, asked, wrong, address
        whole.close(verbose=False)
    patch.undo()


def late(offered):
    """What the opened page asks for takes longer than what is asked of it next, as on a busy machine."""

    def slow(self, model, steps):
        found = offered(self, model, steps)
        if steps is None and not answered:
            time.sleep(1.5)
            answered.append(model)
        return found

    return slow


def opened(page, title):
    page.get_by_role("tab", name=title).click()


def field(page, name):
    return page.locator(f"#{name} input, #{name} textarea").first


def test_a_clip_by_clicks(tour):
    page, shots, workshop, *_ = tour
    page.locator("#generate").wait_for()
    page.get_by_text("(14 of 50 steps)").wait_for()
    page.get_by_role("button", name="Picture and sampling").click()
    field(page, "Options-steps").fill("14")
    field(page, "Options-frames").fill("5")
    page.keyboard.press("Tab")
    while not answered:
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)  # an answer that was overtaken would be there now
    page.get_by_text("(10 of 14 steps)").first.wait_for()
    page.locator("#generate").click()
    page.locator("#steps .c4d-steps").first.wait_for()
    page.locator("#result .c4d-player[data-shown]").wait_for()
    page.screenshot(path=shots / "compared.png", full_page=True)
    assert page.locator("#steps .cells i.r").count() == 2 * 4  # forecast, in both branches
    drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    seen = [
        page.locator(f'[data-view="{view}"] canvas').evaluate(
            f"c => ({drawn})(c).filter((_, i) => i % 4 < 3).reduce((sum, x) => sum + x, 0) / (c.width * c.height * 3)"
        )
        for view in ("uncached", "cached", "difference")
    ]
    assert seen[0] > 1 and seen[1] > 1 and seen[2] < seen[0] / 2  # a shape, the same, little between them on average

    page.locator("#result .play").click()
    slider = page.locator("#result .frame")
    slider.evaluate("s => { s.value = 3; s.dispatchEvent(new Event('input')); }")
    assert page.locator("#result .c4d-player").get_attribute("data-shown") == "3"
    first = page.locator('[data-view="difference"] canvas').evaluate(f"c => ({drawn})(c).reduce((a, b) => a + b)")
    page.locator("#result .gain").evaluate("s => { s.value = 32; s.dispatchEvent(new Event('input')); }")
    second = page.locator('[data-view="difference"] canvas').evaluate(f"c => ({drawn})(c).reduce((a, b) => a + b)")
    assert second > first
    with page.expect_download() as got:
        page.get_by_text("Download the clip").click()
    (folder,) = [each for each in workshop.root.iterdir() if each.is_dir()]
    assert Path(got.value.path()).read_bytes() == (folder / "video.mp4").read_bytes()


def test_settings_are_taken_from_the_history(tour):
    page, shots, *_ = tour
    opened(page, "Generate")
    field(page, "Options-prompt").fill("something else")
    field(page, "Options-steps").fill("30")
    opened(page, "History")
    page.locator("#gallery button:has(video, img)").first.click()
    page.locator("#past .c4d-player[data-shown]").wait_for()
    page.screenshot(path=shots / "history.png", full_page=True)
    page.locator("#again").click()
    page.locator("#generate").wait_for()
    sync_api.expect(field(page, "Options-prompt")).to_have_value("a red circle moving left on a black background")
    sync_api.expect(field(page, "Options-steps")).to_have_value("14")
    sync_api.expect(page.get_by_role("radio", name="balanced")).to_be_checked()


def test_a_rollout_plays_while_it_is_made(tour):
    page, shots, workshop, *_ = tour
    opened(page, "Rollout")
    field(page, "RolloutOptions-model").fill("wan-tiny")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Picture and sampling").last.click()
    for name, value in {"height": "32", "width": "32", "steps": "1000/500", "max_sequence_length": "16"}.items():
        field(page, f"RolloutOptions-{name}").fill(value)
    page.get_by_role("button", name="How to run").last.click()
    for name, value in {"block": "1", "window": "4"}.items():
        field(page, f"RolloutOptions-{name}").fill(value)
    field(page, "RolloutOptions-seconds").fill("600")
    page.locator("#roll").click()
    page.locator('.c4d-stream[data-ended="0"][data-shown]').wait_for()
    page.screenshot(path=shots / "rollout.png")
    page.locator("#roll-stop").click()
    page.locator('.c4d-stream[data-ended="1"][data-shown]').wait_for()
    with page.expect_download() as got:
        page.locator("#rolled").get_by_text("Download the clip").click()
    (folder,) = rollouts(workshop.root)
    assert Path(got.value.path()).read_bytes() == (folder / "clip.mp4").read_bytes()

    field(page, "RolloutOptions-seconds").fill("5")
    opened(page, "History")
    page.locator("#gallery").get_by_text("rollout").first.click()
    page.locator("#past video").wait_for()
    page.locator("#again").click()
    page.locator("#roll").wait_for()
    sync_api.expect(field(page, "RolloutOptions-seconds")).to_have_value("600")
    sync_api.expect(field(page, "RolloutOptions-steps")).to_have_value("1000/500")


def test_a_front_grows(tour):
    page, shots, *_ = tour
    opened(page, "Tune")
    field(page, "tune-prompts").fill(
        "a red circle moving left on a gray background\na blue square moving up on a black background"
    )
    field(page, "TuneOptions-minutes").fill("0")
    field(page, "TuneOptions-computed").fill("8/6")
    page.get_by_role("button", name="Picture and sampling").last.click()
    field(page, "TuneOptions-steps").fill("14")
    field(page, "TuneOptions-frames").fill("5")
    page.locator("#tune").click()
    page.locator("#front circle").first.wait_for()
    page.locator("#rows .taken").wait_for()
    page.screenshot(path=shots / "tune.png", full_page=True)
    assert page.locator("#front circle").count() == page.locator("#rows tr").count() - 1 > 6
    opened(page, "Generate")


def test_pictures_and_films_are_given(tour, tmp_path):
    page, shots, workshop, *_ = tour
    vace()[0].save_pretrained(tmp_path / "vace")
    write_clip(tmp_path, "film", torch.rand(9, 3, 256, 256), 8)
    for name in ("a", "b"):
        Image.new("RGB", (64, 32), (200, 30, 30)).save(tmp_path / f"{name}.png")
    opened(page, "Generate")
    field(page, "Options-model").fill(str(tmp_path / "vace"))
    page.keyboard.press("Enter")
    pictures = page.locator("#Options-image")
    pictures.locator("input[type=file]").set_input_files([tmp_path / "a.png", tmp_path / "b.png"])
    pictures.locator("img").nth(1).wait_for()
    for name in ("video", "mask"):
        page.locator(f"#Options-{name} input[type=file]").set_input_files(tmp_path / "film.mp4")
        page.locator(f"#Options-{name}").get_by_text("film").first.wait_for()
    for name, value in {"steps": "12", "frames": "5", "height": "32", "width": "32"}.items():
        field(page, f"Options-{name}").fill(value)
    page.screenshot(path=shots / "given.png", full_page=True)
    page.locator("#generate").click()
    page.get_by_text("step 12 of 12").first.wait_for()
    page.locator("#result .c4d-player[data-shown]").wait_for()
    asked = next(iter(runs(workshop.root).values()))["asked"]
    assert len(asked["image"]) == 2 and asked["video_sha256"] == asked["mask_sha256"]
    assert {Path(each).parent for each in (*asked["image"], asked["video"])} == {workshop.root / "uploads"}


def test_what_is_too_large_is_refused_while_it_comes(tour):
    page, *_, address = tour
    for size, code in ((2**19, 200), (2**20 + 1, 413)):
        files = {"files": {"name": "a.mp4", "mimeType": "video/mp4", "buffer": bytes(size)}}
        assert page.request.post(f"{address}gradio_api/upload", multipart=files).status == code


def test_somebody_with_only_a_browser(tour):
    page, _, workshop, *_, address = tour
    other, steps = page.context.new_page(), []
    other.goto(address)
    clip, comparison = trial(other, steps.append)
    assert steps == ["opened", "its steps", "made", "compared", "taken home", "found again"]
    folder, record = next(iter(runs(workshop.root).items()))
    assert record["asked"]["prompt"] == "a blue square moving up on a white background"
    assert clip.read_bytes() == (folder / "video.mp4").read_bytes()
    assert comparison.read_bytes() == (folder / "report.html").read_bytes()
    other.close()


def test_nothing_was_asked_of_others_and_nothing_went_wrong(tour):
    *_, asked, wrong, address = tour
    assert wrong == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
