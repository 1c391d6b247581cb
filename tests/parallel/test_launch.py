"""Ranks without torchrun: they find each other, and what they end with is what the command ends with."""

from __future__ import annotations

import signal

import pytest

from c4d.parallel.launch import launch

JOB = """
import os, sys, time
from pathlib import Path
rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
place = [world, os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]]
Path(sys.argv[1], rank).write_text(" ".join([*place, *sys.argv[2:]]))
{}
"""


def run(folder, *words, last=""):
    (folder / "job.py").write_text(JOB.format(last))
    return launch(2, [str(folder / "job.py"), str(folder), *words])


def test_ranks_get_their_places_and_the_words(tmp_path, capfd):
    assert run(tmp_path, "a b", "c") == 0
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [f"2 {rank} 2 a b c" for rank in (0, 1)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("sys.exit(2)", 2),
        ("sys.exit(3) if rank == '1' else time.sleep(60)", 3),
        (f"os.kill(os.getpid(), {signal.SIGKILL:d}) if rank == '0' else time.sleep(60)", 128 + signal.SIGKILL),
    ],
    ids=["all", "one of them", "killed"],
)
def test_a_failure_is_the_exit_status_and_nothing_more_is_said(tmp_path, capfd, last, code):
    assert run(tmp_path, last=last) == code
    assert capfd.readouterr() == ("", "")
