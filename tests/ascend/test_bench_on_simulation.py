"""bench/npu.sh on the simulated NPU, as it will be typed on a real one: what it would trip over there, it does here."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from bench.accelerator import check
from bench.accelerator.records import Store
from bench.accelerator.verdicts import KEPT, RIGHT, right
from tests.ascend.install import ROOT, environment

PARTS = ["check", "bandwidth", "attention", "generate", "cards"]
ABSENT = {  # what a simulation does not have, or a rehearsal leaves out
    "attention infer, float32": "infer takes bfloat16, float16, not float32",
    "captured graph": "this device captures no graphs (Failed to find function aclmdlRICaptureBegin)",
    **dict.fromkeys(check.SUITES, "not in a rehearsal"),
    "sweep of lincomb K=2, FLUX": "the backend ascend has no kernels to sweep (c4d.backends.ascend.lincomb)",
    "sweep of change, FLUX": "the backend ascend has no kernels to sweep (c4d.backends.ascend.lincomb)",
    "sweep of norm_rotary, FLUX": "the backend ascend has no kernels to sweep (c4d.backends.ascend.norm_rotary)",
    "wan-tiny, bfloat16, 8 ranks": "2 of 8 devices are here",
    "collectives and sharded attention and times, 8 ranks": "2 of 8 devices are here",
}


@pytest.mark.nightly
@pytest.mark.slow
def test_every_part_without_a_model(libraries, tmp_path):
    command = ["bench/npu.sh", *PARTS, "--rehearse", "--backend", "ascend", "--out", tmp_path]
    with tempfile.TemporaryDirectory(prefix="c4d-", dir="/dev/shm") as folder:
        settings = environment(libraries, simulate=True, C4D_SIM_FOLDER=folder, PYTHON=sys.executable)
        done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

    store = Store(tmp_path)
    assert store.stamps[0]["backend"] == "ascend" and store.stamps[0]["device"].startswith("Ascend910B")
    assert "CPU_AFFINITY_CONF=2" in store.stamps[0]["settings"] and store.stamps[0]["rehearsal"]
    assert {case: record["absent"] for (_, case), record in store.cases.items() if "absent" in record} == ABSENT
    for part in RIGHT:
        assert right(store.cases, part).state == KEPT, right(store.cases, part)
    assert {part for part, _ in store.cases} == set(PARTS)

    for ranks, case in ((1, "wan-tiny, bfloat16"), (2, "wan-tiny, bfloat16, 2 ranks")):
        clip = store.cases["generate", case]
        assert (clip["exit"], clip["computed"], clip["reused"]) == (0, 4, 4) and clip["peak"] > 10**7
        assert ranks == 1 or clip["ranks"]["ulysses"] * clip["ranks"]["ring"] == ranks
    ranks = store.cases["cards", "collectives and sharded attention and times, 2 ranks"]
    assert ranks["checked"] == 32 and len(ranks["times"]) == 2
    shapes = [record for (part, _), record in store.cases.items() if part == "attention"]
    assert {record["auto"] for record in shapes} == {"infer"}
    assert all("ms" in record["kernels"][kernel] for record in shapes for kernel in ("infer", "fusion", "sdpa"))
    assert "no figure here means anything" in (tmp_path / "report.md").read_text()


def test_without_cann_it_says_what_to_do(libraries, tmp_path):
    settings = environment(libraries, PYTHON=sys.executable)
    for name in ("LD_LIBRARY_PATH", "TORCH_DEVICE_BACKEND_AUTOLOAD"):
        del settings[name]
    settings.pop("ASCEND_HOME_PATH", None)
    command = ["bench/npu.sh", "check", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "source /usr/local/Ascend/cann/set_env.sh" in done.stderr
