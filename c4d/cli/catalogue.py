"""What this installation has, as text: ``c4d methods``, ``c4d models`` and ``c4d doctor``."""

from __future__ import annotations

import inspect
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from c4d.backends import Backend, BackendUnavailableError, known, load, missing, select, taken
from c4d.backends.kernels import MASKS, NONE, names
from c4d.bundled.models import EVERY, ROLLING
from c4d.calibrate.published import CALIBRATIONS
from c4d.cli.start import AUTOLOAD, TORCH_FAILED
from c4d.cli.table import table_text
from c4d.core.importing import CannotImportError
from c4d.core.methods import METHODS, published
from c4d.core.registry import Registry
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import FORECASTERS, choices, describe, names_of
from c4d.describe.methods import TABLES, WRITTEN, Option, equations, example, options, reads_file, refusal, settings
from c4d.describe.models import attention_kinds, fits, short
from c4d.models import SPECS
from c4d.pipelines import InputError, base_pipeline
from c4d.pipelines.versions import versions

WIDTH = 100


def methods_text(name: str | None = None) -> str:
    """The page of all methods, or of one with everything that its module says of it.

    Raises :class:`InputError` for an unknown ``name``.
    """
    if name is not None:
        return _method_text(_known(name, METHODS, "method"))
    sites = list(dict.fromkeys(kind for spec in SPECS.values() for kind in spec.kinds()))
    parts = [
        *(line for sentence in WRITTEN.values() for line in textwrap.wrap(sentence, WIDTH + 10)),
        "",
        "METHODS",
        *(_entry(name, make, names_of(name) if name in published() else "") for name, make in METHODS.items()),
        "FORECASTERS",
        *(_entry(name, make) for name, make in FORECASTERS.items()),
        "SITES  (which a model has: c4d models)",
        f"  {', '.join(sites)}",
        "",
        *_ignored(METHODS),
        table_text(WIDTH),
    ]
    return "\n".join(parts)


def _known(name: str, known: Iterable[str], what: str) -> str:
    """``name`` as it stands in ``known``, whose long names may be given as the tables shorten them."""
    for each in known:
        if name.replace("_", "-") == each or name in (each, short(each)):
            return each
    raise InputError(f"unknown {what} {name!r}: known are {', '.join(known)}")


def _method_text(name: str) -> str:
    make, text = METHODS[name], _typed(name)
    lines = [text, "", inspect.getdoc(make) or ""]
    if said := equations(name):
        lines += ["", said]
    lines += ["", "OPTIONS", *(line for option in options(name) for line in _option(option))]
    lines += ["", "PUBLISHED VALUES  (of the models that c4d caches)"]
    for each in settings(name):
        more = f"; thresholds {', '.join(map(str, each.thresholds))}" if each.thresholds else ""
        lines.append(f"  {each.option}={each.name:<28} {each.transformer or 'no model that c4d caches'}{more}")
    if lines[-1].startswith("PUBLISHED"):
        lines[-1] = "PUBLISHED VALUES  none: choose its options"
    lines += ["", "MODELS"]
    for transformer, spec in SPECS.items():
        lines.append(f"  {transformer:<32} {refusal(name, spec) or 'yes'}")
    if name in CALIBRATIONS:
        lines += ["", f"It can be calibrated on your model: c4d calibrate {name} (c4d calibrate --help)"]
    if reads_file(name):
        end = f"It reads a file that was made for your model: --cache {text}"
    else:
        end = f"such as  --cache {example(name)}"
    return "\n".join([*lines, "", end])


def _typed(name: str) -> str:
    """The method with all of its options, as one types it."""
    return f"{name}:{taken}" if (taken := describe(METHODS[name])) else name


def _option(option: Option) -> list[str]:
    """Its name and default, what it means, and the words that it takes (published ones stand below by themselves)."""
    default = option.default if option.default is not None else "…"
    words = f" One of {', '.join(option.words)}." if option.words and option.name not in TABLES else ""
    text = f"{f'{option.name}={default}':<22} {option.meaning or option.takes}{words}"
    return textwrap.wrap(f"  {text}", WIDTH, subsequent_indent=" " * 25, break_on_hyphens=False)


def _runs(spec: ModelSpec) -> str:
    """What computes its attention, and whether several ranks share its tokens."""
    kinds = attention_kinds(spec)
    kernels = f"kernels for {', '.join(kinds)}" if kinds else "with its own attention"
    return f"{kernels}; tokens {'spread' if spec.sharding else 'not spread'} over ranks"


def _model_lines(spec: ModelSpec) -> list[str]:
    return [
        f"  {spec.transformer}",
        *_wrapped(spec.about),
        f"      sites    {', '.join(spec.kinds())}",
        f"      signals  {', '.join(signal.value for signal in spec.measurable())}",
        f"      runs     {_runs(spec)}",
        "",
    ]


def _model_text(spec: ModelSpec) -> str:
    lines = [*_model_lines(spec), "METHODS  (and the names of published values, as published=, fit= or curve=)"]
    for fit in fits(spec):
        said = fit.refused or ", ".join(fit.published) or "any options"
        lines += textwrap.wrap(f"  {fit.method:<16} {said}", WIDTH, subsequent_indent=" " * 19, break_on_hyphens=False)
    return "\n".join(lines)


def models_text(name: str | None = None) -> str:
    """The page of all models, or of one transformer. Raises :class:`InputError` for an unknown ``name``."""
    if name is not None:
        return _model_text(SPECS[_known(name, SPECS, "transformer")])
    lines = ["TRANSFORMERS  (any diffusers pipeline with one of these)"]
    for spec in SPECS.values():
        lines += _model_lines(spec)
    lines += _ignored(SPECS)
    lines.append("BUNDLED MODELS  (--model NAME; nothing is downloaded)")
    for name, model in EVERY.items():
        d = model.defaults
        lines += [
            f"  {name}{'  (c4d rollout)' if name in ROLLING else ''}",
            *_wrapped(model.about),
            f"      such as   {model.example!r}",
            f"      defaults  {d.said()}",
        ]
    return "\n".join([*lines, "", table_text(WIDTH)])


def _ignored(registry: Registry[Any]) -> list[str]:
    """What other packages register and cannot be here, with the reason."""
    if not registry.ignored:
        return []
    title = f"IGNORED  (entry points of {registry.group})"
    return [title, *(f"  {entry:<27} {_line(why)}" for entry, why in registry.ignored.items()), ""]


def doctor_text(only: str | None = None) -> str:
    """The page of this machine; of the backends ``only`` one, if it is named, without asking the others anything.

    A backend that cannot even be imported is a line like the others. Raises :class:`InputError` for an unknown one.
    """
    if only is not None:
        _known(only, known(), "backend")
    lines = [*_failed(), "VERSIONS", *(f"  {name:<13} {found}" for name, found in versions().items())]
    lines += ["", "BACKENDS  (--backend NAME)"]
    for name in known() if only is None else [only]:
        try:
            backend = load(name)
        except (ImportError, BackendUnavailableError) as error:
            lines.append(f"  {name:<13} missing: {_line(error)}")
            continue
        reason = missing(backend)
        lines.append(f"  {name:<13} {'usable' if reason is None else f'cannot run here: {_line(reason)}'}")
        lines.append(f"  {'':<13} verified: {backend.verified}")
        if reason is not None:
            lines.append(f"  {'':<13} attention kernels: {', '.join(backend.attention_kernels)}")
            continue
        try:
            lines += _abilities(backend)
        except Exception as error:  # of a backend of another package
            lines.append(f"  {'':<13} cannot tell what it can do: {type(error).__name__}: {_line(error)}")
    if only is not None:
        return "\n".join(lines)
    for name, place in taken().items():
        lines.append(f"  {name:<13} ignored: {place} registers a name that is taken")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            automatic = select().name
        except (ImportError, BackendUnavailableError) as error:
            automatic = f"none ({error})"
    return "\n".join([*lines, f"  {'auto':<13} takes {automatic}", *(f"  {'':<13} {w.message}" for w in said)])


def _failed() -> list[str]:
    """Of the packages that every model needs, those that cannot be imported here."""
    failed = {}
    if TORCH_FAILED in os.environ:
        failed["torch"] = f"{os.environ[TORCH_FAILED]} (imported for this page with {AUTOLOAD}=0)"
    try:
        base_pipeline()
    except CannotImportError as error:
        failed["diffusers"] = error.reason
    if not failed:
        return []
    title = f"{' AND '.join(failed)} CANNOT BE IMPORTED AS THINGS STAND, SO NOTHING ELSE RUNS".upper()
    return [
        f"{title}  (what to do about an extension: see BACKENDS)",
        *(f"  {name:<13} {why}" for name, why in failed.items()),
        "",
    ]


def _abilities(backend: Backend) -> list[str]:
    memory, gib = backend.memory(), 2**30
    lines = [
        f"device: {backend.hardware()}, {memory.free / gib:.1f} of {memory.total / gib:.1f} GiB free",
        f"dtypes: {names(backend.dtypes)}; collectives: {backend.collectives}",
        "attention (--attention NAME; auto: the first exact one that can run; own: the model's code):",
    ]
    for name, kernel in backend.attention_kernels.items():
        limits = kernel.limits
        lines.append(f"  {name:<12} {kernel.about}")
        if reason := kernel.missing():
            lines.append(f"  {'':<12} {reason}")
            continue
        masks = [kind for kind in MASKS if kind in limits.masks and kind != NONE]
        sizes = "heads of any size" if limits.head_sizes is None else f"head sizes {limits.sizes()}"
        takes = [names(limits.dtypes), sizes, f"masks: {', '.join(masks) or 'none'}"]
        takes += ["gives no log-sum-exp (Ring attention needs it)"] * (not limits.lse)
        takes += ["lossy: runs only by name"] * kernel.lossy
        indent = " " * 15
        lines += textwrap.wrap("; ".join(takes), WIDTH - 16, initial_indent=indent, subsequent_indent=indent)
    for advice in backend.advice():
        lines += textwrap.wrap(f"advice: {advice}", WIDTH - 16, subsequent_indent=" " * 8)
    return [f"  {'':<13} {line}" for line in lines]


def _entry(name: str, make: Callable[..., Any], models: str = "") -> str:
    doc = inspect.getdoc(make) or ""
    first, _, rest = doc.partition("\n\n")
    paper = re.search(r"arXiv \d{4}\.\d{4,5}", rest)
    about = f"{' '.join(first.split())}{f' ({paper[0]})' if paper and paper[0] not in first else ''}"
    options = describe(make)
    words = [line for name, known in choices(make).items() for line in _wrapped(f"{name}: {', '.join(known)}")]
    return "\n".join(
        [
            f"  {name}{f':{options}' if options else ''}",
            *_wrapped(about.replace("``", "")),
            *words,
            *_wrapped(models and f"published: {models}"),
            "",
        ]
    )


def _line(what: object) -> str:
    return " ".join(str(what).split())


def _wrapped(text: str) -> list[str]:
    indent = " " * 6
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
