"""Which backend is taken, what is said of those that cannot run, and backends of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from c4d import backends
from c4d.backends import Backend, BackendUnavailableError
from c4d.backends.accelerator import Accelerator
from c4d.backends.cuda import Cuda
from c4d.backends.reference import Reference
from tests.packages import commands, package

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def accelerator(monkeypatch, kind):
    found = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)


def test_every_backend_has_all_members():
    for name in backends.BACKENDS:
        assert isinstance(backends.load(name), Backend)


def test_auto_takes_the_first_that_can_run(monkeypatch):
    monkeypatch.setattr(Cuda, "missing", lambda self: None)
    assert backends.select().name == "cuda"
    monkeypatch.setattr(Cuda, "missing", lambda self: "no driver")
    accelerator(monkeypatch, None)
    assert backends.select().name == "cpu"


def test_auto_does_not_leave_an_accelerator_unused_in_silence(monkeypatch, recwarn):
    accelerator(monkeypatch, "cuda")
    monkeypatch.setattr(Cuda, "missing", lambda self: "triton is not installed")
    assert backends.select().name == "cpu"
    (said,) = [str(w.message) for w in recwarn]
    assert "sees an accelerator (cuda)" in said and "triton is not installed" in said


def test_the_host_named_is_the_host_taken_without_a_word(monkeypatch, recwarn):
    accelerator(monkeypatch, "cuda")
    assert backends.select("cpu").name == "cpu" and not list(recwarn)


def test_a_backend_that_cannot_run_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(Cuda, "missing", lambda self: "torch finds no CUDA device")
    with pytest.raises(BackendUnavailableError, match="backend 'cuda' cannot run here: torch finds no CUDA device"):
        backends.select("cuda")
    with pytest.raises(ValueError, match="unknown backend 'gpu': known are auto, cuda, ascend, cpu"):
        backends.select("gpu")


def test_an_accelerator_names_what_torch_has_instead(monkeypatch):
    class Xpu(Accelerator):
        device_type = "xpu"

    for kind, said in (
        (None, "torch finds no accelerator"),
        ("cuda", "torch's accelerator here is cuda"),
        ("xpu", None),
    ):
        accelerator(monkeypatch, kind)
        assert Xpu().missing() == said


# -- backends of other packages

TOY = """
import torch
from c4d.backends.kernels import Kernel, Limits
from c4d.backends.reference import Reference

class Toy(Reference):
    name = "toy"
    verified = "in a test"

    def lincomb(self, features, weights):
        print("toy: lincomb of", len(features))
        return super().lincomb(features, weights)

class Half:
    name = "half"
    def missing(self):
        return None

class Leaving:
    def __init__(self):
        raise SystemExit(5)

class Renamed(Toy):
    name = "cpu"

class Nowhere(Toy):
    name, device_type = "nowhere", "warp"

class Untyped(Toy):
    name, dtypes = "untyped", ("float32",)

class Listed(Toy):
    name, attention_kernels = "listed", []

class Owning(Toy):
    name = "owning"
    attention_kernels = {"own": Reference.attention_kernels["sdpa"]}

class Raising(Toy):
    name = "raising"
    def missing(self):
        raise OSError("no permission on /dev/toy0")

class Silent(Toy):
    name = "silent"
    def missing(self):
        return ""

class Forgetful(Toy):
    name = "forgetful"
    def memory(self):
        raise OSError("no memory to be seen")

class Shrinking(Toy):
    name = "shrinking"
    attention_kernels = {"first": Kernel("", Limits((torch.float32,)), lambda q, *rest: (q[:, :1], None))}
"""
# Name -> what is said of it; the class is the name with a capital.
WRONG = {
    "leaving": "cannot be loaded: SystemExit: 5",
    "renamed": "is no backend: its name is 'cpu'; it has to be that of its entry point",
    "nowhere": "cannot be loaded: RuntimeError: Expected one of cpu",
    "untyped": "is no backend: its dtypes ('float32',) have to be torch dtypes",
    "listed": "is no backend: its attention_kernels have to map names to",
    "owning": "is no backend: a kernel cannot be named own",
}
UNABLE = {"raising": "OSError: no permission on /dev/toy0", "silent": "missing() gave '' instead of a text or None"}


@pytest.fixture
def installed(tmp_path):
    """Runs commands where a package is that registers backends; gives what each came to."""

    def with_entries(entries, *words):
        site = tmp_path / "site"
        package(site, "toy-backend", f"[c4d.backends]\n{entries}\n", {"toy_backend.py": TOY})
        return commands(site, *words, cwd=tmp_path)

    return with_entries


def test_a_package_brings_a_backend_by_its_entry_point(installed):
    entries = textwrap.dedent("""
        toy = toy_backend:Toy
        half = toy_backend:Half
        gone = toy_backend:Gone
        cpu = toy_backend:Toy
    """)
    entries += "".join(f"{name} = toy_backend:{name.title()}\n" for name in (*WRONG, *UNABLE, "forgetful", "shrinking"))
    command = ["generate", "--cache", "fora:interval=2@blocks", "--steps", "3", "--frames", "1"]
    made = [*command, "--prompt", "a red circle on a black background", "--backend", "toy"]
    (code, out, err), (made_code, made_out, made_err) = installed(entries, ["doctor"], made)
    assert code == 0, err
    assert "  toy           usable" in out and "verified: in a test" in out
    assert "  half          missing: backend 'half' (toy_backend:Half) is no backend: it lacks device_type, coll" in out
    for name, words in WRONG.items():
        assert f"  {name:<13} missing: backend '{name}' (toy_backend:{name.title()}) {words}" in out, name
    for name, words in UNABLE.items():
        assert f"  {name:<13} cannot run here: it cannot say whether it can run: {words}" in out, name
    assert "forgetful     usable" in out and "cannot tell what it can do: OSError: no memory to be seen" in out
    assert "cpu           ignored: toy_backend:Toy registers a name that is taken" in out
    assert "  gone          missing: backend 'gone' (toy_backend:Gone) cannot be loaded: AttributeError" in out
    assert "verified: every test of the suite" in out, "the name of one of ours is not theirs to take"
    assert "auto          takes cpu" in out, "a backend of others on the host is not taken unasked"
    assert made_code == 0 and "toy: lincomb of 2" in made_out, made_err


@pytest.mark.nightly
def test_a_backend_of_a_package_that_cannot_do_it(installed):
    entries = "half = toy_backend:Half\nshrinking = toy_backend:Shrinking"
    command = ["generate", "--cache", "fora:interval=2@blocks", "--steps", "3", "--frames", "1"]
    command += ["--prompt", "a red circle", "--out", "out", "--backend"]
    half, shrinking = installed(entries, [*command, "half"], [*command, "shrinking"])
    assert half.code == 3 and "is no backend" in half.err and "Traceback" not in half.err
    assert shrinking.code == 1 and "for queries [" in shrinking.err
    assert "attention kernel 'first' of backend 'shrinking' gave [" in shrinking.err


# -- what backends do beyond arithmetic


def test_generators_draw_the_same_numbers_on_every_device():
    for backend in (Reference(), Cuda()):
        drawn = torch.randn(3, generator=backend.generator(7))
        assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(7)))


def test_memory_of_the_host():
    memory = Reference().memory()
    assert 0 < memory.allocated <= memory.peak and 0 < memory.free < memory.total
    held = torch.ones(1 << 26)
    assert Reference().memory().allocated - memory.allocated > held.nbytes * 0.9


def test_copies_go_beside_the_computation_and_in_order(monkeypatch):
    """The order of what an accelerator is told; the streams themselves need one."""
    told = []

    class Stream:
        def __init__(self, name):
            self.name = "side" if isinstance(name, torch.device) else name

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

        def record_event(self):
            return f"what is on {self.name}"

        def wait_event(self, event):
            told.append(f"{self.name} waits for {event}")

        def __enter__(self):
            told.append(f"on {self.name}")

        def __exit__(self, *exc):
            told.append(f"off {self.name}")

    class OnHost(Accelerator):
        device_type = "cpu"

    empty, current = torch.empty, [Stream("main")]
    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: current[0])
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: told.append(f"kept for {stream.name}"))

    def new(*size, pin_memory=False, **how):
        told.append("pinned" if pin_memory else "new")
        return empty(*size, **how)

    monkeypatch.setattr(torch, "empty", new)
    x = torch.randn(3, 4).T
    backend = OnHost()
    parked = backend.offload(x)
    assert told == ["pinned", "side waits for main", "on side", "off side", "kept for side"]
    assert parked.device == CPU and parked.tensor.data_ptr() != x.data_ptr() and torch.equal(parked.tensor, x)
    told.clear()
    begun = ["new", "side waits for main", "on side", "off side"]
    fetching = backend.begin_fetch(parked)
    assert told == begun
    assert torch.equal(fetching.wait(), x) and told == [*begun, "main waits for what is on side"]
    del fetching
    assert torch.equal(backend.fetch(parked), x) and told == 2 * [*begun, "main waits for what is on side"]
    told.clear()
    fetching, current[0] = backend.begin_fetch(parked), Stream("another")
    fetching.wait()
    assert told == [*begun, "another waits for what is on side", "kept for another"]
    told.clear()
    backend.begin_fetch(parked)  # and nobody waits for it
    assert told == ["new", "side waits for another", "on side", "off side", "kept for side"]


RANKS = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
from c4d.backends.reference import Reference
rank = int(sys.argv[1])
meet = f"file://{sys.argv[2]}"
dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=60))
both = Reference().group(None, timedelta(seconds=60))
alone = Reference().group([0], timedelta(seconds=60))
x = torch.ones(1) * (rank + 1)
dist.all_reduce(x, group=both)
assert x.item() == 3 and dist.get_backend(both) == "gloo"
assert dist.get_world_size(alone) == (1 if rank == 0 else -1)
hasty = Reference().group(None, timedelta(seconds=1))
if rank == 0:
    try:
        dist.all_reduce(x, group=hasty)
    except RuntimeError as error:
        print("gave up:", str(error).splitlines()[0][:60])
    else:
        raise SystemExit("waited for a rank that never came")
dist.barrier(group=both)
"""


def test_groups_carry_their_own_timeout(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), str(tmp_path / "meet")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "gave up" in said[0]


def test_a_group_is_asked_of_torch_with_the_backends_collectives(monkeypatch):
    asked = {}
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks, **options: asked.update(options, ranks=ranks))
    Cuda().group((1, 3), timedelta(seconds=9))
    assert asked == {"ranks": [1, 3], "timeout": timedelta(seconds=9), "backend": "nccl"}
