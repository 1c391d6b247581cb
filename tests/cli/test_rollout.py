"""``c4d rollout``: its files, what grows, and what it refuses."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image

from c4d.pipelines import InputError, OutputError
from c4d.pipelines.film import GrowingClip, read_film
from tests.cli.conftest import PROMPT

WORDS = ("rollout", "--model", "wan-tiny", "--prompt", PROMPT, "--block", "1", "--steps", "1000/500", "--height", "32")
SMALL = (*WORDS, "--width", "32", "--max-sequence-length", "16")


def test_a_clip_its_numbers_and_one_that_goes_on_from_it(c4d, fails, tmp_path):
    first = c4d(*SMALL, "--frames", "9", "--out", tmp_path / "a")
    assert first.code == 0, first.err
    assert "9 frames in" in first.out and "first after" in first.out and "MiB of keys" in first.out
    told = json.loads((tmp_path / "a/rollout.json").read_text())
    assert told["frames"] == 9 and [block["frames"] for block in told["blocks"]] == [1, 4, 4]
    assert told["settings"]["steps"] == [1000, 500] and told["settings"]["block"] == 1
    assert told["bytes_held"] > 0 and told["frames_a_second"] > 0
    film = tmp_path / "a/clip.mp4"
    assert count_frames_and_secs(str(film))[0] == 9
    fails(
        [*SMALL, "--frames", "9", "--out", tmp_path / "a"], 2, "holds a clip; name another folder, or give --overwrite"
    )
    more = c4d(*SMALL, "--frames", "6", "--window", "3", "--video", film, "--out", tmp_path / "b", "--quiet")
    assert more.code == 0, more.err
    assert count_frames_and_secs(str(tmp_path / "b/clip.mp4"))[0] == 6
    assert len(more.out.splitlines()) == 2  # what it made, and where


def test_a_film_can_be_watched_while_it_grows(tmp_path):
    path, frames = tmp_path / "clip.mp4", torch.linspace(0, 1, 32).expand(4, 3, 16, 32)
    with GrowingClip(path, 8) as film:
        for _ in range(4):
            film.add(frames)
        seen = waited(path)  # as somebody does who watches it, or finds it after a kill
        assert film.frames == 16 and 4 <= len(seen) <= 16
        assert (seen[0] - frames[0]).abs().mean() < 0.02
        assert b"moof" in path.read_bytes()  # in fragments
    assert count_frames_and_secs(str(path))[0] == 16 and b"moof" not in path.read_bytes()


def waited(path):
    """The frames that are there, once there are some: the encoder is a process of its own."""
    for _ in range(300):
        time.sleep(0.1)
        with suppress(InputError):
            return read_film(path, 16, 32)
    raise AssertionError("nothing to be seen within 30 s")


def test_a_film_that_is_interrupted_has_what_was_made(tmp_path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt), GrowingClip(path, 8) as film:
        film.add(torch.rand(4, 3, 16, 16))
        film.add(torch.rand(4, 3, 16, 16))
        raise KeyboardInterrupt
    assert count_frames_and_secs(str(path))[0] == 8


def test_a_film_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        GrowingClip(tmp_path / "absent/clip.mp4", 8).add(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt-file", "p.txt"), "rollout makes one clip: give --prompt"),
        (("--steps", "500/1000"), "steps is [500, 1000]; allowed are timesteps from 1000 down to above 0, falling"),
        (("--window", "1", "--sink", "1"), "window is 1; it has to hold 1 frames of the sink and a block of 1"),
        (("--threads", "0"), "threads is 0; allowed are whole numbers from 1 to"),
        (("--kv-on", "moon"), "unknown place 'moon' for keys and values: known are device, host"),
        (("--kv-dtype", "int8"), "unknown dtype 'int8'"),
        (("--frames", "5", "--seconds", "1"), "seconds and frames are both given"),
        (("--height", "30"), "height is 30; this model takes multiples of 8"),
        (("--model", "flux-tiny"), "c4d does not know how FluxTransformer2DModel goes through a clip"),
        (("--video", "absent.mp4"), "'absent.mp4' is no file"),
        (("--checkpoint", "model.pt"), "is pickled: give --allow-pickle if you trust who made it"),
        (("--checkpoint", "absent.safetensors"), "is no file; name the checkpoint"),
        (("--cache", "nothing"), "unknown method 'nothing'"),
    ],
)
def test_what_is_refused(fails, tmp_path, words, said):
    fails([*SMALL, *words, "--out", tmp_path / "out"], 2, said)


def test_one_thing_to_go_on_from(fails, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    given = ("--video", tmp_path / "a.mp4", "--image", tmp_path / "b.png")
    fails([*SMALL, *given, "--out", tmp_path / "out"], 2, "give one --video or one --image")


def test_a_student_is_none_of_generate_s_models(fails, c4d, generate):
    fails(
        [*generate, "--model", "wan-tiny-causal"], 2, "makes a clip block by block: c4d rollout --model wan-tiny-causal"
    )
    assert "wan-tiny-causal  (c4d rollout)" in c4d("models").out
