"""A page of each family of models, and one of all: made of what ``c4d models`` says, and of what diffusers has."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import diffusers

from c4d.bundled.models import EVERY, bundled_model
from c4d.core.methods import METHODS
from c4d.core.spec import ModelSpec, Stack
from c4d.describe.methods import settings
from c4d.describe.models import Family, Fit, attention_kinds, families, fits, short
from tools.api import markdown
from tools.site.markdown import code, facts, link, page, sorted_out, table


@cache
def pipelines() -> Mapping[str, list[str]]:
    """Class of a transformer -> the pipelines of the installed diffusers that are made with one, by their source."""
    found = defaultdict[str, list[str]](list)
    root = Path(diffusers.__file__).parent
    for file in sorted((root / "pipelines").rglob("pipeline_*.py")):
        for name, body in re.findall(r"^class (\w+Pipeline)\b(.*?)(?=^class |\Z)", file.read_text(), re.M | re.S):
            made = re.search(r"def __init__\((.*?)\n    \)", body, re.S)
            for word in fitting().keys() & set(re.findall(r"\w+", made[1] if made else "")):
                found[word].append(name)
    return found


@cache
def modular() -> Mapping[str, list[str]]:
    """Class of a transformer -> the packages of diffusers' modular pipelines that have it for a component."""
    found = defaultdict[str, list[str]](list)
    for folder in sorted((Path(diffusers.__file__).parent / "modular_pipelines").glob("*/")):
        text = "\n".join(file.read_text() for file in sorted(folder.glob("*.py")))
        for word in fitting().keys() & set(re.findall(r"ComponentSpec\(\s*\"\w+\",\s*(\w+)", text)):
            found[word].append(f"diffusers.modular_pipelines.{folder.name}")
    return found


@cache
def fitting() -> Mapping[str, list[Fit]]:
    """Class of a transformer -> every method beside it."""
    return {spec.transformer: fits(spec) for family in families() for spec in family.specs}


def title(family: Family) -> str:
    """What its file begins with."""
    return " ".join(re.split(r":\s", family.about, maxsplit=1)[0].splitlines()[0].split(", ")[0].rstrip(".").split())


def family_page(family: Family) -> str:
    return page(
        f"# {title(family)}",
        markdown(family.about),
        *(part for spec in family.specs for part in model(spec)),
    )


def model(spec: ModelSpec) -> Iterator[str]:
    """The part of one transformer."""
    yield f"## {spec.transformer}"
    yield f"{spec.about[:1].upper()}{spec.about[1:]}."
    yield facts(*_facts(spec))
    if spec.stacks:
        yield table(
            ("blocks", "take and return", "sites in them", "attention that a kernel computes"), map(_stack, spec.stacks)
        )
    yield f"### Methods on {short(spec.transformer)}"
    yield _methods(spec)
    yield f"### Published settings for {short(spec.transformer)}"
    yield _published(spec) or "None of a method that c4d has."
    yield f"### What was run of {short(spec.transformer)}"
    yield _run(spec)


def _facts(spec: ModelSpec) -> list[tuple[str, str]]:
    kinds = attention_kinds(spec)
    return [
        (
            f"Pipelines of diffusers {diffusers.__version__}",
            ", ".join(map(code, pipelines().get(spec.transformer, []))),
        ),
        ("Modular pipelines", ", ".join(map(code, modular().get(spec.transformer, [])))),
        ("Sites", ", ".join(map(code, spec.kinds()))),
        ("Signals", ", ".join(code(signal.value) for signal in spec.measurable())),
        ("Attention", f"a backend's kernels compute {', '.join(kinds)}" if kinds else "its own"),
        ("Several devices", f"its tokens are {'spread' if spec.sharding else 'not spread'} over ranks"),
        ("Padded text", "is sliced away before a kernel" if spec.padding else ""),
        ("Rollout", "block by block, with the weights of a causal student" if spec.causal else ""),
        ("Bundled", ", ".join(map(code, bundled().get(spec.transformer, [])))),
    ]


@cache
def bundled() -> Mapping[str, list[str]]:
    """Class of a transformer -> the bundled models that have one."""
    found = defaultdict[str, list[str]](list)
    for name in EVERY:
        index = json.loads((Path(bundled_model(name)) / "model_index.json").read_text())
        found[index["transformer"][1]].append(name)
    return found


def _stack(stack: Stack) -> tuple[str, ...]:
    streams = ", ".join(map(code, dict.fromkeys((*stack.takes, *stack.returns))))
    sites = "; ".join(
        f"{kind}: {', '.join(code(site.output or 'the block') for site in found)}"
        for kind, found in stack.sites.items()
    )
    role = " (feeds the others)" if stack.side else " (between the others)" if stack.interleaved else ""
    return f"{code(stack.path)}{role}", streams, sites, ", ".join(map(code, stack.attention))


def _methods(spec: ModelSpec) -> str:
    found = fitting()[spec.transformer]
    taken, refused = sorted_out(
        (
            link(code(fit.method), f"../methods/{fit.method}.md"),
            fit.refused and fit.refused.replace(spec.transformer, "it"),
        )
        for fit in found
    )
    return page(
        f"{len(taken)} of {len(found)}: {', '.join(taken)}." if taken else "",
        "Not:" if refused else "",
        refused,
        f"`c4d models {short(spec.transformer)}` prints the same.",
    )


def _published(spec: ModelSpec) -> str:
    rows = []
    for fit in fitting()[spec.transformer]:
        if fit.published:
            mine = [each for each in settings(fit.method) if each.transformer == spec.transformer]
            texts = ", ".join(code(f"{each.option}={each.name}") for each in mine)
            rows.append((link(code(fit.method), f"../methods/{fit.method}.md#published-settings"), texts))
    return table(("method", "as text"), rows)


def _run(spec: ModelSpec) -> str:
    """By its declarations; what no declaration tells stands on the page of all runs."""
    done = []
    if spec.example is not None:
        check = ", by the check of `c4d check-model`" if spec.stacks else ", cached at its output"
        done.append(f"the class with tiny random weights on the CPU{check}")
    if attention_kinds(spec):
        done.append("its attention through the kernels, by a forward against the model alone")
    if spec.sharding is not None:
        done.append("its tokens spread over ranks of one machine, over gloo on the CPU")
    if names := bundled().get(spec.transformer):
        done.append(f"with trained weights, as the bundled {', '.join(map(code, names))}")
    more = link("What was run where", "../docs/support.md")
    return page("\n".join(f"- {line}" for line in done), f"{more} says which pipelines, devices and weights were run.")


def index() -> str:
    """All families in one table."""
    rows = []
    for family in families():
        for spec in family.specs:
            count = sum(fit.refused is None for fit in fitting()[spec.transformer])
            rows.append(
                (
                    link(title(family), f"{family.name}.md"),
                    code(spec.transformer),
                    ", ".join(attention_kinds(spec)) or "its own",
                    "tokens" if spec.sharding else "",
                    f"{count} of {len(METHODS)}",
                )
            )
    rows_of = [(code(name), model.about, model.defaults.said()) for name, model in EVERY.items()]
    return page(
        "# All models",
        "Transformers that c4d describes; any pipeline of diffusers with one of them is cached. Every other denoiser, "
        "and any module that is called once a step, is cached at its output "
        f"({link('how to describe one', '../docs/adding_a_model.md')}).",
        table(("family", "transformer", "attention kernels", "spread over ranks", "methods"), rows),
        "## Bundled models",
        "They come with c4d and are really trained: `--model NAME`, nothing is downloaded.",
        table(("model", "what it is", "defaults"), rows_of),
    )
