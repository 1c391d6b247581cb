"""A rank that dies, raises, stalls or is frozen: the others end, one line says which it was, and the job goes on."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys

import pytest

from tests.cli.losing_ranks import CAUGHT
from tests.cli.test_stopped import complete_files
from tests.packages import ROOT
from tests.sampled import first_of

pytestmark = pytest.mark.slow
PROMPTS = "a red circle moving left on a black background\na blue square moving up on a white background\n"
TIMEOUT = 15  # seconds of a collective
GOES_ON = "what is finished is kept, and the same command goes on from there (with --overwrite: starts again)"
WAYS = (["--ulysses", "2", "--cfg", "1"], ["--ring", "2", "--cfg", "1"], ["--cfg", "2"])


@pytest.fixture(scope="module")
def lose(tmp_path_factory):
    """Runs a job of two prompts on two ranks, of which the second is lost; gives exit codes, seconds and lines."""
    folder, numbers = tmp_path_factory.mktemp("lost"), itertools.count()
    (folder / "prompts.txt").write_text(PROMPTS)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.losing_ranks"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def own(how, ranks, **what):
        """The same of a program of one's own, and what it says."""
        log = folder / f"{next(numbers)}.log"
        answer = ask({"how": how, "log": str(log), "ranks": ranks, **what})
        return answer["codes"], answer["seconds"], log.read_text().splitlines()

    def ask(what):
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def run(out, way=WAYS[0], **how):
        log = folder / f"{next(numbers)}.log"
        words = ["generate", "--prompt-file", folder / "prompts.txt", "--steps", "6", "--frames", "5", "--quiet"]
        words += ["--cache", "fora:interval=2", "--timeout", TIMEOUT, *way, "--out", out]
        answer = ask({"words": [str(word) for word in words], "log": str(log), "ranks": 2, **how})
        lines = [line for line in log.read_text().splitlines() if line.startswith("c4d: error")]
        return answer["codes"], answer["seconds"], lines

    run.own = own
    yield run
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("fate", "code", "said"),
    [
        ("raising", 1, "(rank 1): ValueError: out of luck (unexpected; --debug shows where), in step 1"),
        ("stalled", 1, "(rank 0): rank 1 stalled in step 1, at losing_ranks.py:"),
        pytest.param("exhausted", 1, "(rank 1): out of memory on ", marks=pytest.mark.nightly),
        pytest.param("frozen", -9, "(rank 0): rank 1 has not been heard of for ", marks=pytest.mark.nightly),
    ],
)
def test_one_line_names_rank_and_step_and_the_job_goes_on(lose, tmp_path, fate, code, said):
    codes, seconds, lines = lose(tmp_path / "out", fate=fate, at=15)  # in the second prompt
    assert codes == [1, code] and seconds < 2 * TIMEOUT
    assert len(lines) == 1 and lines[0].startswith(f"c4d: error {said}") and "in step " in lines[0]
    before = complete_files(tmp_path / "out")
    assert before, "the first prompt is finished"
    assert lose(tmp_path / "out")[::2] == ([0, 0], [])
    assert before.items() <= complete_files(tmp_path / "out").items() and (tmp_path / "out/001/video.mp4").exists()


def test_the_rank_that_has_the_store(lose, tmp_path):
    codes, _, lines = lose(tmp_path / "out", fate="killed", at=15, who=0)
    assert codes == [-9, 1] and len(lines) == 1
    assert lines[0].startswith("c4d: error (rank 1): rank 0 died in step 2; what is finished is kept")


@pytest.mark.parametrize("kills", first_of([2, 20]))
def test_killed_at_random(lose, tmp_path, kills):
    moments = random.Random(kills)
    for number, way in zip(range(kills), itertools.cycle(WAYS)):
        out, before = tmp_path / f"{number}", {}
        codes, seconds, lines = lose(out, way, kill=moments.uniform(0.2, 3.5))
        if codes[0] == 0:
            assert not lines, "it was done before"
            continue
        assert codes == [1, -9] and seconds < 2 * TIMEOUT, "before they have met, the longest"
        told = any(f"(rank 0): rank 1 {what}" in lines[0] for what in ("died", "has never been heard of"))
        assert len(lines) == 1 and told and GOES_ON in lines[0]
        before = complete_files(out) if out.exists() else {}
        assert lose(out, way)[::2] == ([0, 0], []) and before.items() <= complete_files(out).items()


@pytest.mark.parametrize(
    ("ranks", "fate", "code", "said"),
    [
        (3, "killed", -9, "rank 1 died in step 3"),
        (2, "raising", 70, "rank 1 failed in step 3: ValueError: out of luck"),
        (2, "stalled", -9, "rank 1 stalled in step 3, at losing_ranks.py:"),
    ],
)
def test_a_program_of_ones_own_gets_an_exception(lose, ranks, fate, code, said):
    how = {"ulysses": ranks, "cfg": 1, "timeout": 6.0}
    codes, seconds, lines = lose.own(how, ranks, fate=fate, at=6)
    caught = [line for line in lines if line.startswith(f"caught: {said}")]
    assert codes == [CAUGHT if rank != 1 else code for rank in range(ranks)] and seconds < 12, lines
    assert len(caught) == ranks - 1 and all(line.endswith("because of RuntimeError") for line in caught), lines


def test_a_program_of_ones_own_in_a_collective_that_never_gives_up(lose):
    how = {"ulysses": 2, "cfg": 1, "timeout": 2.0}
    codes, seconds, lines = lose.own(how, 2, fate="stalled", at=6, others="stuck")
    assert codes == [1, -9] and seconds < 12
    ended = [line for line in lines if "this process is ended: it waits in a collective that does not" in line]
    assert len(ended) == 1 and ended[0].startswith("rank 1 stalled in step 3, at losing_ranks.py:")


def test_a_program_of_ones_own_without_a_watch(lose):
    codes, _, lines = lose.own({"ulysses": 2, "cfg": 1, "watch": False}, 2, fate="killed", at=6)
    assert codes == [70, -9] and not any("rank 1" in line for line in lines)
    assert any(line.startswith("[rank0]: RuntimeError") and "by peer" in line for line in lines), lines
