"""The rules of the house: who may import whom, where hardware may be named, and how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "c4d").rglob("*.py")) + sorted((ROOT / "launch").rglob("*.py"))
STANDARD = set(sys.stdlib_module_names)

# Package -> what its files may import at module level, besides the standard library and themselves.
ANYWHERE = {
    "core": {"torch"},
    "models": {"torch", "c4d.core"},
    "backends": {"torch", "c4d.core"},
    "parallel": {"torch", "c4d.core", "c4d.backends"},
    "memory_modes": {"torch", "c4d.core", "c4d.backends", "c4d.parallel"},
    "calibrate": {"torch", "c4d.core", "c4d.models", "c4d.parallel"},
    "metrics": {"torch", "numpy", "PIL"},
    "bundled": {"torch", "safetensors", "PIL", "c4d.metrics"},
    "inspection": {"torch", "c4d.api", "c4d.core", "c4d.backends", "c4d.models"},
    "comfyui": {"torch", "c4d.core", "c4d.backends", "c4d.models"},  # in ComfyUI's environment, without diffusers
    "sglang": {"torch", "c4d.core", "c4d.backends", "c4d.models"},  # in SGLang's, with an older diffusers
}
# The same for imports inside functions, which only run when asked for.
INSIDE = {
    "core": set(),
    "models": {"diffusers"},
    "backends": {"psutil", "flash_attn", "flash_attn_interface", "sageattention", "torch_npu"},
    "parallel": {"xfuser"},
    "memory_modes": {"diffusers", "torchao"},
    "metrics": {"flip_evaluator", "lpips", "torchmetrics", "transformers"},
    "bundled": {"matplotlib"},
    "inspection": {"matplotlib", "numpy"},
    "comfyui": {"comfy"},
    "sglang": {"sglang"},
}
# What the files of a backend's own folder import, all but its ``__init__``, which imports them when they are asked for.
VENDOR = {"cuda": {"triton"}}


def package(path):
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "c4d" and len(parts) > 2 else ""


def imports(tree):
    """(module, True if at module level outside TYPE_CHECKING) of every import."""
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(node)
    }
    inside = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name, id(node) not in inside | typing_only) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module, id(node) not in inside | typing_only


def allowed(module, names):
    return any(module == name or module.startswith(name + ".") for name in names)


def test_imports():
    wrong = []
    for path in FILES:
        here = package(path)
        for module, top in imports(ast.parse(path.read_text())) if here in ANYWHERE else ():
            if module.split(".")[0] in STANDARD or allowed(module, {f"c4d.{here}", *ANYWHERE[here]}):
                continue
            vendor = set() if path.name == "__init__.py" else VENDOR.get(path.parent.name, set())
            inside = not top and allowed(module, INSIDE.get(here, set()))
            wrong += [] if inside or allowed(module, vendor) else [f"{path.relative_to(ROOT)} imports {module}"]
    assert not wrong


def room(module):
    """The package that a module of c4d stands in; a loose one is its own."""
    parts = module.split(".")
    depth = len(parts) if (ROOT / Path(*parts)).is_dir() else len(parts) - 1
    return ".".join(parts[: max(2, depth)])


def test_no_circle_among_rooms():
    """Packages, and the rooms in them, import each other in one direction; what is imported when called, too."""
    arrows = {}
    for path in FILES:
        if path.name != "infer.py" and package(path):
            here = room(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
            there = {room(module) for module, _ in imports(ast.parse(path.read_text())) if module.startswith("c4d.")}
            arrows.setdefault(here, set()).update(there - {here})
    left = dict(arrows)
    while free := [here for here, there in left.items() if not there & set(left)]:
        for here in free:
            del left[here]
    assert not left, {here: sorted(there & set(left)) for here, there in left.items()}
    loose = {path.name for path in (ROOT / "c4d").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py", "api.py"}


def test_methods_see_only_types_policies_and_forecasters():
    for path in (ROOT / "c4d/core/methods").glob("*.py"):
        for module, _ in imports(ast.parse(path.read_text())):
            rooms = ("types", "caching", "methods", "registry")
            house = {f"c4d.core.{room}" for room in rooms}
            assert module.split(".")[0] in STANDARD or allowed(module, house), f"{path.name} imports {module}"


def test_a_backend_never_imports_another():
    for path in (ROOT / "c4d/backends").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT).parent.parts)
        for module, _ in imports(ast.parse(path.read_text())):
            if module.startswith("c4d.backends."):
                shared = {
                    *(f"c4d.backends.{name}" for name in ("base", "checks", "kernels", "reference", "accelerator")),
                    own,
                }
                assert allowed(module, shared), f"{path} imports {module}"


HARDWARE = re.compile(r"\b(cuda|npu|torch_npu|hccl|nccl|is_npu|is_cuda)\b", re.IGNORECASE)


def test_hardware_is_named_in_backends_alone():
    assert not [p for p in FILES if package(p) != "backends" and HARDWARE.findall(p.read_text())]


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_of_an_example(node):
    """A small model is as long as its configuration: ``Example(…)``, and the functions that give its arguments."""
    made = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func)
    return made == "Example" or (isinstance(node, ast.FunctionDef) and node.name in ("arguments", "request"))


def code_lines(path):
    """Lines that are neither blank, nor a comment, nor of a docstring or an example, nor closing brackets alone."""
    text = path.read_text()
    aside = {
        line
        for node in ast.walk(ast.parse(text))
        if is_docstring(node) or is_of_an_example(node)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    said = (line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in aside)
    return sum(bool(line.strip("()[]{},")) and line[0] != "#" for line in said)


def test_methods_and_models_are_small():
    """A longer one means that the core lacks a concept; attention processors are shared by several families."""
    assert not [p.name for p in (ROOT / "c4d/core/methods").glob("*.py") if code_lines(p) >= 80]
    models = (ROOT / "c4d/models").glob("*.py")
    assert not [p.name for p in models if code_lines(p) >= 70 and "processors" not in p.name]


def test_no_module_global_state_in_the_core():
    """Module level holds constants, functions and classes; nothing is rebound from inside a function."""
    for path in (ROOT / "c4d").rglob("*.py"):
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Global)], path


def test_the_core_stands_alone():
    """In a process of its own, with every library but torch blocked."""
    code = """
import sys
for name in ("torch_npu", "triton", "xfuser", "yunchang", "diffusers", "transformers", "accelerate", "PIL", "imageio"):
    sys.modules[name] = None
import c4d.core.runtime.session, c4d.core.text.grammar, c4d.core.methods, c4d.models, c4d.backends.reference, c4d.api
assert not any(m.startswith(("c4d.pipelines", "c4d.cli", "c4d.backends.cuda")) for m in sys.modules)
assert c4d.core.text.grammar.parse("fora:interval=3").name
assert all(getattr(c4d, name) for name in c4d.__all__ if name != "bundled_model")  # its judge and its sheets need more
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_page_the_messages_point_to_exists():
    texts = [p.read_text() for p in FILES] + [(ROOT / "README.md").read_text()]
    for page in {m for text in texts for m in re.findall(r"docs/[\w./-]+\.md", text)}:
        assert (ROOT / page).is_file(), page


def test_the_checkout_stays_small():
    asset = sum(p.stat().st_size for p in (ROOT / "c4d/bundled/wan_tiny").rglob("*") if p.is_file())
    assert asset <= 15e6
