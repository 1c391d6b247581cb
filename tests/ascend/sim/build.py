"""Builds the stand-in for CANN beside an installed torch_npu: its symbols are those that the wheel asks for.

What the sources here do not implement answers 0. libopapi gets every ``aclnn`` kernel whose name stands in the wheel:
each notes its name, in the order of the calls, and computes nothing.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = [HERE / "cann.c", HERE / "memory.c", HERE / "hccl.c"]
MADE = (
    "Tensor",
    "Scalar",
    "IntArray",
    "FloatArray",
    "BoolArray",
    "TensorList",
    "ScalarList",
)  # aclCreateX, aclDestroyX


def build(torch: Path, npu: Path, into: Path) -> Path:
    """The folder for LD_LIBRARY_PATH, built once for a wheel and these sources. ``torch``, ``npu``: the packages."""
    version = re.search(r"__version__ = '(.+?)'", (npu / "version.py").read_text())
    digest = hashlib.sha256(
        b"".join(path.read_bytes() for path in (*SOURCES, HERE / "sim.h", Path(__file__)))
    ).hexdigest()[:12]
    out = into / f"cann-{version[1] if version else 'unknown'}-{digest}"
    if (out / "complete").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    # libop_plugin_atb is loaded when one of its operators is called, and wants a library of its own.
    users = [p for p in (*npu.glob("_C*.so"), *npu.glob("lib/lib*.so")) if p.name != "libop_plugin_atb.so"]
    there = [*torch.glob("lib/lib*.so*"), *users]
    objects = [compiled(path, npu, out) for path in SOURCES]
    (out / "rest.c").write_text(rest(users, [*there, *objects]))
    (out / "opapi.c").write_text(kernels(users))
    link(out / "libascendcl.so", *objects, compiled(out / "rest.c", npu, out), "-lpthread")
    link(out / "libopapi.so", compiled(out / "opapi.c", npu, out), "-L", out, "-lascendcl")
    needed = re.findall(r"NEEDED.*\[(lib\w+\.so)\]", run("readelf", "-d", *users))
    for name in set(needed) - {path.name for path in there} - {"libascendcl.so"}:
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to("libascendcl.so")
    (out / "complete").touch()
    return out


def rest(users: list[Path], there: list[Path]) -> str:
    """A function that answers 0 for each plain symbol that the wheel wants and nobody has (versioned: libc's)."""
    wanted = set(re.findall(r" U ([A-Za-z_]\w*)$", run("nm", "-D", "--undefined-only", *users), re.M))
    libraries, objects = [p for p in there if p.suffix != ".o"], [p for p in there if p.suffix == ".o"]
    listed = run("nm", "-D", "--defined-only", *libraries) + run("nm", "--defined-only", *objects)
    missing = wanted - set(re.findall(r" [A-Za-z] ([A-Za-z_]\w*)", listed))
    return "".join(f"long {name}(void) {{ return 0; }}\n" for name in sorted(missing) if not python_or_libc(name))


def python_or_libc(name: str) -> bool:
    return re.match(r"_?Py|dl|pthread_", name) is not None


def kernels(users: list[Path]) -> str:
    """All of libopapi; every kernel comes in two, one of which asks for its workspace: none."""
    text = b"\0".join(path.read_bytes() for path in users)
    found = {name.decode() for name in re.findall(rb"(?<=\0)aclnn[A-Z]\w*(?=\0)", text)}
    launched = sorted({name.removesuffix("GetWorkspaceSize") for name in found})
    lines = ["extern void sim_trace(const char *);"]
    for name in launched:
        if "WorkspaceSize" not in name:
            lines.append(f'int {name}(void) {{ sim_trace("{name}"); return 0; }}')
            lines.append(f"int {name}GetWorkspaceSize(void) {{ return 0; }}")
    for what in MADE:
        lines.append(f"static char an_{what}; void *aclCreate{what}(void) {{ return &an_{what}; }}")
        lines.append(f"int aclDestroy{what}(void) {{ return 0; }}")
    return "\n".join(lines) + "\n"


def compiled(source: Path, npu: Path, out: Path) -> Path:
    made = out / f"{source.stem}.o"
    run("gcc", "-c", "-fPIC", "-O1", "-w", "-I", npu / "include", source, "-o", made)
    return made


def link(library: Path, *parts: object) -> None:
    run("gcc", "-shared", f"-Wl,-soname,{library.name}", *parts, "-o", library)


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout
