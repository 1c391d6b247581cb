"""The kernels compiled for GPUs that are not here, and what their bandwidth and exactness depend on read in the PTX.

This is the strongest evidence about the compiled kernels that a machine without a GPU can give: the assembler for each
architecture accepts them, loads and stores are as wide as the hardware has them, addresses are of 64 bits, sums are of
fp32, rounding is to the nearest, nothing spills. It does not show that they run, nor how fast.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.sampled import first_of

pytest.importorskip("triton", reason="the compiler under test")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton brings the assembler for Linux")

WIDE = "v4.b32"  # 16 bytes: the widest there is for a thread


@pytest.fixture(scope="module", params=first_of([90, 80, 100]), ids=lambda capability: f"sm_{capability}")
def kernels(request, tmp_path_factory):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    del environment["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "tests.backends.compiling", str(request.param)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert all(f".target sm_{request.param}" in kernel["ptx"] for kernel in made.values())
    return made


def accesses(kernel):
    """How wide each load and store of global memory is, such as ("ld", "v4.b32")."""
    return re.findall(r"\b(ld|st)\.global(?:\.\w+::\w+)*\.((?:v\d\.)?b\d+)", kernel["ptx"])


# Numbers of 16 bytes that 128 threads have to move for a tile of 2048: loads of every feature, and stores.
MOVED = {"lincomb": (2, 3), "lincomb rows": (2, 3), "lincomb fp16": (2, 2), "lincomb fp32": (4, 2)}


def test_lincomb_moves_sixteen_bytes_at_a_time(kernels):
    for name, (each, features) in MOVED.items():
        found = accesses(kernels[name])
        assert found.count(("ld", WIDE)) == each * features, name
        assert found.count(("st", WIDE)) == each, name
        weights = features if name == "lincomb rows" else 0  # read from the device there
        assert len(found) == each * (features + 1) + weights, name


def test_what_is_not_a_multiple_of_sixteen_bytes_is_moved_by_the_number(kernels):
    """The limit of the above: a mask that may end within 16 bytes. Features of transformers never do."""
    assert set(accesses(kernels["lincomb odd"])) == {("ld", "b16"), ("st", "b16")}


def test_change_reads_sixteen_bytes_at_a_time(kernels):
    found = accesses(kernels["change"])
    assert [each for each in found if each[0] == "ld"] == [("ld", WIDE)] * 4
    assert found.count(("st", "b32")) == 2
    assert "atom" not in kernels["change"]["ptx"] + kernels["change end"]["ptx"]


def test_norm_and_rotary_move_rows_sixteen_bytes_at_a_time(kernels):
    """The angles are fp32 in every other place, as models hand them over; they are read by the number."""
    for name in ("token norm", "head norm", "halves", "token norm fp32"):
        found = accesses(kernels[name])
        assert {width for way, width in found if way == "st"} == {WIDE}, name
        assert {width for way, width in found if way == "ld"} <= {WIDE, "b32"}, name
    assert ("ld", "b32") not in accesses(kernels["halves"])


def test_nothing_spills(kernels):
    for name, kernel in kernels.items():
        assert kernel["resources"]["STACK"] == kernel["resources"]["LOCAL"] == 0, name
        assert kernel["resources"]["REG"] <= 64 or name == "lincomb odd", (
            name
        )  # 1024 threads at once on a multiprocessor
        assert not re.search(r"\b(ld|st)\.local\b", kernel["ptx"]), name


def test_sums_are_of_fp32_and_rounded_to_the_nearest(kernels):
    for name, kernel in kernels.items():
        ptx = kernel["ptx"]
        assert not re.search(r"\b(add|sub|mul|fma)\.\w*\.?(bf16|f16)", ptx), name
        assert not re.search(r"\bcvt\.r[zmp]\S*\.(bf16|f16)", ptx), name
        if name != "lincomb fp32" and "change" not in name and "fp32" not in name:
            assert re.search(r"\bcvt\.rn\.(bf16|f16)(x2)?\.f32\b", ptx), name
        if name.startswith("lincomb"):
            assert "fma.rn.f32" in ptx, name
    for name in ("lincomb", "lincomb rows", "lincomb fp16"):  # a thread has 16 numbers, each rounded once
        rounded = re.findall(r"\bcvt\.rn\.(?:bf16|f16)(x2)?\.f32\b", kernels[name]["ptx"])
        assert sum(2 if pair else 1 for pair in rounded) == 16, name


def test_addresses_are_of_64_bits(kernels):
    """A tile's first number and a row's place are products of 64 bits; the interpreter sees the same by its result."""
    for name in MOVED:
        ptx = kernels[name]["ptx"]
        assert re.search(r"\bmul\.wide\.u32\b.*\b2048;", ptx), name
        assert re.search(r"\bsetp\.lt\.s64\b", ptx), name
    for name, kernel in kernels.items():
        if not name.endswith("end"):
            assert re.search(r"\b(mul|mad)\.(wide\.[su]32|lo\.s64)\b", kernel["ptx"]), name


def test_weights_on_the_device_are_loaded_by_the_kernel(kernels):
    """Not passed as values, so that a captured graph sees others when it is replayed."""
    assert accesses(kernels["lincomb rows"]).count(("ld", "b32")) == 3
    numbers = [kernels[name]["ptx"].count(".param .f32") for name in ("lincomb", "lincomb fp16", "lincomb rows")]
    assert numbers == [3, 2, 0]  # a weight of 1 is not compiled in
