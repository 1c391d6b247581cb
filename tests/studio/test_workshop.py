"""What the pages have made: clips as ``c4d generate`` leaves them, in turns, stopped, made again to the same bits."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from dataclasses import fields

import pytest
from imageio_ffmpeg import count_frames_and_secs

from c4d.cli.options import Options, RolloutOptions, TuneOptions
from c4d.cli.tune import FRONT
from c4d.pipelines import InputError, results
from c4d.studio import history
from c4d.studio.pages.follow import Following
from c4d.studio.workshop import OF_A_REQUEST, Stopped, Workshop
from tests.cli.conftest import PROMPT

QUICK = dict(prompt=PROMPT, steps=5, frames=5, cache="taylorseer-lite:interval=2,last=1")


@pytest.fixture
def workshop(tmp_path):
    with Workshop(tmp_path / "out") as made:
        made.root.mkdir()
        yield made


def made(workshop, options):
    job = workshop.begin(lambda job: workshop.clip(options, job))
    told = [each for news in job.news() for each in news]
    return job.done.result(), told


def test_a_clip_tells_its_steps_and_is_made_again_by_its_record(workshop, monkeypatch):
    loads = []
    monkeypatch.setattr("c4d.cli.command.load_pipeline", counted("c4d.cli.command.load_pipeline", loads))
    folder, told = made(workshop, Options(**QUICK, seed=3, compare=True))
    assert [(each.label, each.number, each.of) for each in told[:6]] == [
        *(("cached", i, 5) for i in range(1, 6)),
        ("uncached", 1, 5),
    ]
    assert told[4].timelines == {"cond": "CrCrC", "uncond": "CrCrC"} and told[5].timelines == {}
    assert told[1].timelines == {"cond": "Cr", "uncond": "Cr"}  # as it went
    assert folder.name == "001-a-red-circle-moving-left-on-a-black-back" and list(results(folder)) == [folder]
    assert {"video.mp4", "cached.webp", "uncached.webp", "report.html"} <= set(results(folder)[folder]["files"])

    (found,) = history.runs(workshop.root).values()
    told = history.asked(found)
    assert told["frames"] == 5 and told["seed"] == 3 and told["cache"] == QUICK["cache"] and told["compare"]
    again, _ = made(workshop, Options(**told))
    assert again != folder and again.name.startswith("002-")
    one, other = (results(each)[each]["files"] for each in (folder, again))
    assert one["cached.webp"] == other["cached.webp"] and one["uncached.webp"] == other["uncached.webp"]
    assert one["cached.webp"] != one["uncached.webp"] and len(loads) == 1  # the pipeline stayed
    made(workshop, Options(**{**told, "attention": "own", "compare": False}))
    assert len(loads) == 2  # what it depends on has changed
    made(workshop, Options(**{**told, "attention": "own", "compare": False, "shift": 5.0}))
    assert len(loads) == 3  # so has its scheduler


def counted(name, calls):
    import c4d.cli.command

    load = c4d.cli.command.load_pipeline

    def counting(*given, **how):
        calls.append(name)
        return load(*given, **how)

    return counting


def test_a_job_that_is_stopped_leaves_nothing_and_the_next_one_runs(workshop):
    job = workshop.begin(lambda job: workshop.clip(Options(**QUICK), job))
    for news in job.news():
        if news:
            job.stop()
    with pytest.raises(Stopped):
        job.done.result()
    assert not list(workshop.root.iterdir())
    assert made(workshop, Options(**QUICK))[0].is_dir()


def test_jobs_take_turns(workshop):
    held, order = threading.Event(), []
    first = workshop.begin(lambda job: (held.wait(30), order.append(1)))
    second, third = (workshop.begin(lambda job, i=i: order.append(i)) for i in (2, 3))
    assert [workshop.ahead(job) for job in (first, second, third)] == [0, 1, 2]
    second.stop()  # while it waits: it is never begun
    held.set()
    third.done.result(30)
    assert order == [1, 3] and workshop.ahead(third) == 0
    with pytest.raises(Stopped):
        second.done.result()


def test_what_cannot_be_is_said_and_makes_no_folder(workshop):
    with pytest.raises(InputError, match="no/such/model/here"):
        made(workshop, Options(prompt="x", model="no/such/model/here"))
    with pytest.raises(InputError, match="height 33"):
        made(workshop, Options(**QUICK, height=33))
    assert not list(workshop.root.iterdir())


def test_a_job_that_failed_holds_nothing_and_one_that_nobody_follows_goes(workshop):
    class Latents:
        pass

    held, following = [], Following(workshop)

    def act(job):
        latents = Latents()
        held.append(weakref.ref(latents))
        job.tell(latents)
        try:
            raise MemoryError
        except MemoryError as error:
            raise InputError("too large") from error

    job = following.begin("a browser", act)
    told = [each for news in job.news() for each in news]
    assert len(told) == 1 and "too large" in str(job.done.exception())
    told.clear()
    gc.collect()
    assert held[0]() is None and job.done.exception().__cause__ is not None
    job = following.begin("a browser", act)
    assert job.done.exception() and held[1]() is not None  # in what it told
    job = weakref.ref(job)
    following.begin("another", lambda job: None).done.result()
    gc.collect()
    assert job() is None and held[1]() is None


def test_an_upload_that_is_there_is_not_written_again(workshop, tmp_path_factory):
    """A job may be reading it."""
    file = tmp_path_factory.mktemp("from") / "a.png"
    file.write_bytes(b"picture")
    kept = workshop.kept_file(file)
    os.utime(kept, (1, 1))
    assert workshop.kept_file(file) == kept and kept.stat().st_mtime == 1 and kept.read_bytes() == b"picture"


def test_uploads_stay_with_the_clips(workshop, tmp_path):
    upload = tmp_path / "upload.png"
    upload.write_bytes(b"picture")
    kept = workshop.kept(Options(prompt="x", image=upload))
    upload.unlink()
    assert kept.image.parent == workshop.root / "uploads" and kept.image.read_bytes() == b"picture"
    assert workshop.kept(kept) == kept


def test_the_history_leaves_out_what_goes_while_it_is_listed(workshop, monkeypatch):
    folder = workshop.root / "one"
    folder.mkdir()
    (folder / history.CLIP).touch()
    (folder / history.FILE).write_text('{"asked": {}, "prompt": "a dot", "seed": 1}')
    (listed,) = history.both(workshop.root)
    assert listed == (folder, str(folder / history.CLIP), "a dot · seed 1 · rollout")
    there = history.rollouts(workshop.root)

    def gone(root):
        (folder / history.FILE).unlink()
        return there

    monkeypatch.setattr(history, "rollouts", gone)
    assert history.both(workshop.root) == []


ROLLED = dict(
    model="wan-tiny", prompt=PROMPT, block=1, steps=(1000, 500), height=32, width=32, max_sequence_length=16, frames=13
)


def test_a_rollout_gives_its_blocks_takes_another_prompt_and_can_be_stopped(workshop):
    blocks, other = [], "a blue square moving up on a white background"

    def rolled(options, on_block):
        job = workshop.begin(lambda job: workshop.roll(options, job, on_block(job)))
        return job.done.result(300)

    def watch(prompt):
        def of(job):
            def on_block(frames, fps):
                blocks.append(frames.clone())
                return prompt if len(blocks) == 2 else None

            return on_block

        return of

    folder = rolled(RolloutOptions(**ROLLED), watch(None))
    assert [len(each) for each in blocks] == [1, 4, 4, 4]
    assert count_frames_and_secs(str(folder / "clip.mp4"))[0] == 13
    before, blocks[:] = list(blocks), []
    rolled(RolloutOptions(**ROLLED), watch(other))
    assert all((a == b).all() for a, b in zip(before[:2], blocks[:2], strict=True))
    assert not any((a == b).all() for a, b in zip(before[2:], blocks[2:], strict=True))

    def ended(job):
        def on_block(frames, fps):
            job.stop()
            job.tell(frames)

        return on_block

    assert count_frames_and_secs(str(rolled(RolloutOptions(**ROLLED), ended) / "clip.mp4"))[0] == 1


def test_a_profile_is_made_and_its_lines_are_told(workshop, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\na green square moving up on a white background\n")
    out = tmp_path / "profile.json"
    options = TuneOptions(prompt_file=prompts, steps=12, frames=5, computed=(6,), minutes=0, out=out, quiet=True)
    job = workshop.begin(lambda job: workshop.tuned(options, job))
    lines = [line for news in job.news() for line in news]
    assert job.done.result() == out and out.with_suffix(FRONT).is_file()
    assert any(line.startswith("6 computed steps: ") for line in lines)
    assert sum(line.startswith("measured ") for line in lines) > 3


def test_every_option_of_a_request_is_one():
    """A name that no command has would keep a pipeline that should be loaded anew from being so."""
    known = {each.name for kind in (Options, RolloutOptions) for each in fields(kind)} | {"num_frames"}
    assert known >= OF_A_REQUEST
