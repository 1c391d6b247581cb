"""What the pages say before and after: offers with what is known of them, steps, results, the front."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from c4d.core.caching.profiles import named
from c4d.pipelines import Step, skeleton
from c4d.pipelines.tuning import OTHER, PLAIN, PROFILE, Row
from c4d.studio import front, show
from c4d.studio.offers import NONE, TEXT, offers


@pytest.fixture(autouse=True)
def nobody_tuned(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def labels(*given):
    return {each.value: each.label for each in offers(*given)}


def test_offers_say_what_the_profile_of_this_model_knows():
    pipe = skeleton("wan-tiny")
    found = labels("wan-tiny", pipe, None)
    assert list(found) == ["high", "balanced", "fast", NONE, TEXT]
    assert found["balanced"] == "balanced: up to 3.6 times as fast (14 of 50 steps); 53.3 dB, worst 41.3"
    assert labels("wan-tiny", pipe, 20)["fast"].endswith("(7 of 20 steps); closeness not measured in 20 steps")
    assert labels("wan-tiny", pipe, 14)["high"] == "high: all 14 steps are computed"
    assert "no cache: of 8 steps none can be spared" in labels("wan-tiny", pipe, 8)["fast"]


def test_offers_say_what_is_known_of_a_profile_of_ones_own_and_what_was_measured_here(tmp_path):
    told = json.loads(named()["wan-tiny"].read_text())
    del told["plans"]["14"]["measured"]["held_out"]
    fit = told["plans"]["14"]["measured"]["fit"]
    mine = tmp_path / "cache/c4d/profiles/wan-tiny.json"
    mine.parent.mkdir(parents=True)
    mine.write_text(json.dumps(told))
    runs = [
        {
            "asked": {"model": "wan-tiny", "cache": "profile:wan-tiny,quality=balanced"},
            "fidelity": {"cached": {"psnr_db": db}},
            "timing": {"speedup": 2.0},
        }
        for db in (50.0, 60.0)
    ]
    said = labels("wan-tiny", skeleton("wan-tiny"), None, runs)["balanced"]
    assert f"latents {fit['db_mean']:.0f} dB, worst {fit['db_worst']:.0f}, where it learned" in said
    assert said.endswith("in your 2 runs 55.0 dB and 2.0 times as fast")


def test_steps_are_drawn_as_they_are_done():
    drawn = show.progress([Step(3, 8, True, "cached", {"cond": "CrC", "uncond": "Crr"})])
    assert "step 3 of 8, 3 of 6 forwards computed" in drawn
    rows = re.findall(r'<div class="cells">(.*?)</div>', drawn)
    assert [row.count("<i") for row in rows] == [8, 8]
    assert [re.findall(r'class="(\w)"', row) for row in rows] == [list("CrC"), list("Crr")]


def test_of_an_uncached_clip_nobody_counted_the_forwards():
    drawn = show.progress([Step(3, 8, True, "uncached")])
    assert "step 3 of 8, all computed" in drawn and "forwards" not in drawn


def test_every_clip_says_how_close_it_is(tmp_path):
    for kind in show.ORDER:
        Image.new("RGB", (4, 4)).save(tmp_path / f"{kind}.webp", lossless=True)
    record = {
        "asked": {"model": "wan-tiny"},
        "clip": {"frames": 1, "fps": 8, "height": 4, "width": 4, "enlarged": 1},
        "timing": {"median": {"uncached": 2.0, "cached": 1.0, "fewer_steps": 0.9}, "speedup": 2.0},
        "fidelity": {
            "cached": {"identical": False, "psnr_db": 41.26},
            "fewer_steps": {"identical": True, "psnr_db": None},
        },
        "fewer_steps": 14,
        "files": {"video.mp4": {}},
    }
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", show.result(tmp_path, record))
    assert captions[:2] == ["uncached · 2.00 s", "cached · 1.00 s · 41.3 dB"]
    assert captions[3] == "14 plain steps · 0.90 s · identical"


def test_blocks_are_without_loss():
    frames = torch.randint(0, 256, (4, 3, 5, 6)) / 255
    made = show.block(2, frames)
    drawn = show.stream(7, 8.0, [made], "4 < 5 frames", ended=False)
    assert 'data-block="2" data-frames="4"' in drawn and 'data-run="7"' in drawn and "4 &lt; 5" in drawn
    import base64
    import io

    import numpy as np

    picture = Image.open(io.BytesIO(base64.b64decode(made.uri.partition(",")[2])))
    seen = torch.from_numpy(np.array(picture)).view(5, 4, 6, 3).permute(1, 3, 0, 2) / 255
    assert torch.equal(seen, frames)


ROWS = [
    Row(PROFILE, "profile:x,computed=10", 50, (45.0, 41.0), 0.2, 100, 1.0),
    Row(PLAIN, "10 plain steps", 10, (33.0, 21.0), 0.2, 0, 0.9),
    Row(OTHER, "<b>", 50, (40.0, 39.0), 0.36, 100, 1.5),
    Row(PROFILE, "profile:x,computed=20", 50, (float("inf"), 50.0), 0.4, 100, 2.0),
]


def test_the_front_grows():
    assert "<svg" not in front.draw([])
    for count in range(1, len(ROWS) + 1):
        drawn = front.draw(ROWS[:count], "profile:x,computed=10")
        tree = ElementTree.fromstring(drawn)
        assert len(tree.findall(".//circle")) == count
    assert "<title>&lt;b&gt;" in drawn and drawn.count("taken") == 1
    line = tree.find(".//polyline").get("points")  # type: ignore[union-attr]
    assert len(line.split()) == 2 and "inf" not in line  # two of the four are on the front
    listed = front.table(ROWS, "profile:x,computed=10")
    assert listed.index("10 plain") < listed.index("computed=10") or "take this" in listed
    assert "&lt;b&gt;" in listed and listed.count("<tr") == 5
