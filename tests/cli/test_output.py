"""What may happen to the files of a job: kept, refused, replaced, damaged, not writable."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe

from c4d.pipelines import GenerationError
from c4d.pipelines.output import atomic, exclusive_lock, write_clip, write_json
from tests.cli.conftest import PROMPT, QUICK
from tests.sampled import sampled

OTHER = "a blue square moving up on a white background"


def record(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def job(tmp_path):
    """The words of a quick job of two prompts."""
    (tmp_path / "prompts.txt").write_text(f"# two clips\n{PROMPT}\n\n  {OTHER}  \n", encoding="utf-8")
    words = ["generate", "--prompt-file", tmp_path / "prompts.txt", *QUICK, "--quiet", "--out", tmp_path / "out"]
    return words, [tmp_path / "out" / name for name in ("000", "001")]


def test_a_prompt_file_is_resumed(c4d, job):
    words, folders = job
    first = c4d(*words)
    assert first.code == 0 and len(first.out.strip().splitlines()) == 3
    assert [record(folder)["asked"]["prompt"] for folder in folders] == [PROMPT, OTHER]
    manifest = (folders[0].parent / "manifest.jsonl").read_bytes()
    made, clip = (folders[0] / "report.json").stat(), (folders[1] / "video.mp4").read_bytes()

    def damaged(name, change):
        change(folders[1] / name)
        outcome = c4d(*words)
        assert outcome.code == 0 and outcome.out.count("kept") == 1 and f"{folders[0]}: kept" in outcome.out
        assert (folders[1] / "video.mp4").read_bytes() == clip
        assert (folders[0].parent / "manifest.jsonl").read_bytes() == manifest

    damaged("video.mp4", Path.unlink)
    damaged("video.mp4", lambda path: os.truncate(path, len(clip) - 1))
    damaged("video.mp4", lambda path: path.write_bytes(bytes(len(clip))))
    damaged("sheet.png", lambda path: path.write_bytes(b""))
    damaged("report.json", lambda path: path.write_text("{", encoding="utf-8"))
    damaged("report.json", lambda path: path.write_text("[]", encoding="utf-8"))
    assert c4d(*words).out.count("kept") == 2
    assert (folders[0] / "report.json").stat() == made


def test_another_job_is_refused_before_anything_is_loaded(c4d, fails, job, generate, monkeypatch):
    words, folders = job
    assert c4d(*words).code == c4d(*generate).code == 0
    before = [contents(folder) for folder in (folders[0].parent, *folders)]
    with monkeypatch.context() as patch:
        patch.setattr("c4d.cli.command.load_pipeline", lambda *_, **__: pytest.fail("weights were loaded"))
        ways = ["another --out", "--overwrite"]
        fails([*words, "--seed", 1], 2, "out/000", PROMPT, "seed 0", "method none", "seed: 0 there, 1 asked for", *ways)
        fails([*generate, "--cache", "fora:interval=2"], 2, f"{folders[0].parent}'", "cache: None there", *ways)
        assert "kept, already complete" in c4d(*generate).out
    assert [contents(folder) for folder in (folders[0].parent, *folders)] == before

    assert c4d(*words, "--seed", 1, "--overwrite").out.count("kept") == 0
    assert [record(folder)["asked"]["seed"] for folder in folders] == [1, 2]
    lines = [json.loads(line) for line in (folders[0].parent / "manifest.jsonl").read_text().splitlines()]
    assert [(line["path"], line["seed"]) for line in lines] == [
        (f"{folder}{name}", seed)
        for folder, seed in (("", 0), ("000/", 1), ("001/", 2))
        for name in ("video.mp4", "sheet.png")
    ]


def test_a_result_of_another_version_is_not_overwritten(fails, generate):
    folder = generate[-1]
    folder.mkdir()
    (folder / "report.json").write_text('{"schema": 1, "files": ["video.mp4"]}')
    fails(generate, 2, f"{folder}", "another version of c4d", "--overwrite")


def test_what_was_there_stays_until_its_successor_is_made(c4d, fails, generate, monkeypatch):
    assert c4d(*generate).code == 0
    before = contents(generate[-1])

    def fall(*_, **__):
        raise GenerationError("no clip")

    monkeypatch.setattr("c4d.pipelines.job.run_interleaved", fall)
    fails([*generate, "--overwrite", "--seed", 1], 1, "no clip")
    assert contents(generate[-1]) == before


FILES = ("video.mp4", "uncached.mp4", "fewer_steps.mp4", "sheet.png", "report.html", "report.json", "manifest.jsonl")
REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENOSPC)


@pytest.mark.parametrize(("name", "reason"), sampled(zip(FILES, REASONS, strict=True), nth=2, complete=False))
def test_a_full_disk(c4d, fails, generate, monkeypatch, name, reason):
    """Told at the latest moment, as network file systems do: when the file is to be safe on the disk."""
    generate += ["--cache", "fora:interval=2@blocks", "--compare"]
    folder, fsync = Path(generate[generate.index("--out") + 1]), os.fsync
    temporary = re.compile(re.escape(f"{folder}/.") + r"(\w+)\.\d+(\.\w+)")

    def refuse(descriptor):
        match = temporary.fullmatch(os.readlink(f"/proc/self/fd/{descriptor}"))
        if match and match[1] + match[2] == name:
            raise OSError(reason, os.strerror(reason))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        fails(generate, 4, f"{folder / name}", os.strerror(reason), "the same command goes on")
    assert {path.name for path in folder.iterdir()} == set(FILES[: FILES.index(name)])
    outcome = c4d(*generate)
    assert outcome.code == 0 and ("kept" in outcome.out) == (name == "manifest.jsonl")
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_a_folder_that_cannot_be_made(c4d, fails, job):
    words, folders = job
    folders[0].parent.mkdir()
    folders[1].write_text("a file in the way")
    fails(words, 4, f"{folders[1]}", "File exists")
    again = c4d(*words)
    assert again.code == 4 and again.out.count("kept") == 1 and folders[1].read_text() == "a file in the way"
    folders[1].unlink()
    assert c4d(*words).out.count("kept") == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cat > /dev/null; echo cannot draw >&2; exit 3", "exit status 3: cannot draw"),
        ("kill -9 $$", "Killed"),
        ('cat > /dev/null; echo broken > "$target"', "cannot read back"),
        ('{ffmpeg} "$@"; truncate -s -1500 "$target"', "of 5 frames"),
    ],
)
def test_a_film_that_is_not_whole(fails, generate, tmp_path, monkeypatch, script, said):
    encoder = tmp_path / "ffmpeg"
    last = 'for word in "$@"; do target="${word#file:}"; done\n'
    encoder.write_text(f"#!/bin/sh\n{last}{script.replace('{ffmpeg}', get_ffmpeg_exe())}\n")
    encoder.chmod(encoder.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("c4d.pipelines.output.get_ffmpeg_exe", lambda: str(encoder))
    fails(generate, 4, "video.mp4", said)
    assert not list(generate[-1].iterdir())


def test_one_process_a_folder(c4d, fails, generate):
    folder = generate[-1]
    folder.mkdir()
    with exclusive_lock(folder) as notes:
        assert notes == []
        fails(generate, 2, str(folder), "another process", "another folder")
    assert not list(folder.iterdir())
    (folder / ".lock").touch()  # of a process that was killed
    (folder / ".video.123.mp4").touch()
    (folder / ".mine").touch()
    assert c4d(*generate).code == 0
    assert [path.name for path in folder.glob(".*")] == [".mine"]


def test_a_file_system_without_locks_is_named(c4d, generate, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert "has no locks" in c4d(*generate).out
    assert any("has no locks" in note for note in record(generate[-1])["notes"])


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_encoder_that_an_interrupt_left_behind_makes_no_file(tmp_path, monkeypatch):
    """As if SIGINT came while ffmpeg starts, before Python knows of it."""
    left = []

    def interrupted(command, *, pass_fds=(), **_):
        left.append(subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=pass_fds))
        raise KeyboardInterrupt

    monkeypatch.setattr("c4d.pipelines.output.subprocess.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path, "video", torch.rand(5, 3, 32, 32), 16.0)
    left[0].communicate(bytes(5 * 256 * 256 * 3))  # its pixels were on their way
    assert not list(tmp_path.iterdir())
