"""``c4d check-model``: whether a description fits its model, and a description where there is none yet."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from c4d.core.example import Example
from c4d.core.spec import ModelSpec
from c4d.describe.check import Finding, check, proven
from c4d.describe.derive import DerivationError, derive, text_of
from c4d.models import SPECS, UnsupportedModelError
from c4d.pipelines import InputError

PAGE = "docs/adding_a_model.md shows one"


def run(target: str) -> int:
    """Checks what ``target`` names (a class that c4d knows, FILE.py or a module); 1 if anything is wrong."""
    wrong = 0
    for spec, example in described(target):
        findings: Iterable[Finding]
        if spec is None or not spec.stacks:
            spec, findings = derived(example, spec)
        else:
            findings = check(example.build, spec, example.forward)
        print(f"{spec.transformer}: {len(spec.stacks)} list(s) of blocks, exit {spec.exit!r}")
        for finding in findings:
            print(f"  {'ok ' if finding.wrong is None else 'NO '} {finding.what}")
            if finding.wrong is not None:
                print(f"       {finding.wrong}")
                wrong += 1
    print("the description fits" if not wrong else f"{wrong} finding(s): the description does not fit")
    return 1 if wrong else 0


def described(target: str) -> list[tuple[ModelSpec | None, Example]]:
    """Descriptions with their examples, and examples that nothing describes yet. Raises :class:`InputError`."""
    if target in SPECS:
        spec = SPECS[target]
        if spec.example is None:
            raise InputError(
                f"the description of {target} brings no example= to check it with; give a FILE.py with a c4d.Example "
                f"of that name ({PAGE})"
            )
        return [(spec, spec.example)]
    values = [each for value in vars(loaded(target)).values() for each in _each(value)]
    specs = {spec.transformer: spec for spec in values if isinstance(spec, ModelSpec)}
    examples = {each.name: each for each in values if isinstance(each, Example)}
    examples |= {spec.transformer: spec.example for spec in specs.values() if spec.example is not None}
    if lacking := [name for name in specs if name not in examples]:
        raise InputError(f"{target}: the description of {lacking[0]} has no example= to check it with; {PAGE}")
    if not examples:
        raise InputError(f"{target} has neither a c4d.ModelSpec with an example= nor a c4d.Example; {PAGE}")
    return [(specs.get(name, SPECS.get(name)), example) for name, example in examples.items()]


def derived(example: Example, known: ModelSpec | None) -> tuple[ModelSpec, list[Finding]]:
    """A description of blocks that have none, printed, and what was found of it. Raises :class:`InputError` where none
    can be told."""
    model = example.build()
    try:
        found = derive(model, lambda: example.forward(model), known)
    except UnsupportedModelError as error:
        raise InputError(f"{error} (a SPEC in that file, with example=)") from error
    except DerivationError as error:
        raise InputError(f"{error}. Describe its blocks by hand ({PAGE}); its output can be cached without") from error
    spec, findings = proven(example.build, found, example.forward)
    print(f"no description yet; one forward shows this:\n\n{text_of(spec)}\n")
    return spec, findings


def loaded(target: str) -> ModuleType:
    path = Path(target)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{target!r} is no file; give a class that c4d models lists, a file, or a module")
        where = importlib.util.spec_from_file_location(path.stem, path)
        assert where is not None and where.loader is not None
        module = importlib.util.module_from_spec(where)
        where.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{target!r} is neither a class that c4d describes (c4d models lists them) nor a module; for any other "
            f"class give a FILE.py with a c4d.Example ({PAGE})"
        ) from error


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
