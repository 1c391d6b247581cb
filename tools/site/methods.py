"""A page of each method, one of all, and one of the forecasters: made of what ``c4d methods`` says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from c4d.calibrate.published import CALIBRATIONS
from c4d.core.caching.rules import BlocksRule, GuidanceRule, ModuleRule, OutputRule, Rule, TokenRule
from c4d.core.methods import METHODS
from c4d.core.text.grammar import FORECASTERS, describe, parse
from c4d.describe.methods import (
    TABLES,
    WRITTEN,
    Option,
    Setting,
    equations,
    example,
    options,
    papers,
    reads_file,
    settings,
)
from c4d.describe.models import families, short
from tools.api import markdown
from tools.site.markdown import code, facts, link, page, sorted_out, table
from tools.site.measured import section
from tools.site.models import fitting

ACTS: dict[type[Rule], str] = {
    BlocksRule: "what the stack of blocks makes",
    OutputRule: "what the transformer returns",
    ModuleRule: "what modules inside the blocks make",
    TokenRule: "what modules inside the blocks make, of some tokens",
    GuidanceRule: "the call without condition",
}


def paper(name: str) -> str:
    return ", ".join(link(f"arXiv {number}", f"https://arxiv.org/abs/{number}") for number in papers(name))


def method_page(name: str) -> str:
    """All that is known of one method."""
    make = METHODS[name]
    first, _, rest = (inspect.getdoc(make) or "").partition("\n\n")
    text = f"{name}:{given}" if (given := describe(make)) else name
    file = f", {link('made for your model', '../docs/calibrating.md')}" if name in CALIBRATIONS else ""
    return page(
        f"# {name}",
        markdown(first),
        facts(
            ("Paper", paper(name)),
            ("As text", code(text)),
            ("In Python", code(f"c4d.methods.{name.replace('-', '_')}({_call(options(name))})")),
            ("Such as", "" if reads_file(name) else f"{code(example(name))}, which {_does(name)}"),
            ("Rules", f"It {_does(name)}" if reads_file(name) else ""),
            (
                "What it reads",
                f"{code(f'c4d calibrate {name}')} measures it on a model{file}" if name in CALIBRATIONS else "",
            ),
        ),
        markdown(rest),
        "## Options",
        option_table(options(name)) or "It has none.",
        f"{WRITTEN['forecaster']} {WRITTEN['site']} {link('Forecasters and sites', 'forecasters.md')} lists them.",
        "## Definition",
        markdown(equations(name)),
        "## Published settings",
        published_table(settings(name)) or "None are published, or taken over: choose its options.",
        "## Measured",
        section(name),
        "## Models",
        models(name),
    )


def _does(name: str) -> str:
    """Where the rules of its example act, and what they decide by."""
    rules = parse(example(name)).rules
    where = dict.fromkeys(f"{ACTS[type(rule)]} ({', '.join(map(code, rule.sites))})" for rule in rules)
    signals = dict.fromkeys(signal.value for rule in rules for signal in sorted(rule.policy.signals, key=str))
    return (
        f"caches {'; '.join(where)}, and decides by {', '.join(map(code, signals)) or 'the place of a step in the run'}"
    )


def _call(found: Iterable[Option]) -> str:
    return ", ".join(f"{option.name}=…" for option in found if option.required)


def option_table(found: Iterable[Option]) -> str:
    rows = []
    for option in found:
        default = (
            "must be given" if option.required else code(option.default) if option.default is not None else "unset"
        )
        words = f" One of {', '.join(map(code, option.words))}." if option.words and option.name not in TABLES else ""
        rows.append((code(option.name), option.takes, default, f"{option.meaning}{words}"))
    return table(("option", "takes", "default", "meaning"), rows)


def published_table(found: Iterable[Setting]) -> str:
    rows = []
    for each in found:
        values = ", ".join(f"{key}={_value(value)}" for key, value in each.values.items())
        thresholds = f"thresholds {', '.join(map(str, each.thresholds))}" if each.thresholds else ""
        model = (
            link(code(short(each.transformer)), f"../models/{homes()[each.transformer]}.md")
            if each.transformer
            else "none that c4d caches"
        )
        rows.append((code(f"{each.option}={each.name}"), code(values) or thresholds, model, _source(each.source)))
    return table(("text", "stands for", "model", "source"), rows)


def _source(text: str) -> str:
    """With a link to the commit of a repository; the path of a file in it may be broken at its parts."""
    where, comma, path = text.partition(", ")
    where = re.sub(r"github\.com/([\w.-]+/[\w.-]+) @ (\w+)", r"[\1 @ \2](https://github.com/\1/tree/\2)", where)
    return where + comma + re.sub("(?<=[/_])", "\N{ZERO WIDTH SPACE}", path)


def _value(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def models(name: str) -> str:
    """Those that it goes with, and those that it does not, by reason."""
    taken, refused = sorted_out(
        (link(code(short(transformer)), f"../models/{homes()[transformer]}.md"), why and why.replace(transformer, "it"))
        for transformer, why in beside(name).items()
    )
    file = ", with a file that was made for the model" if reads_file(name) else ""
    return page(
        f"It goes with {len(taken)} of the described transformers{file}: {', '.join(taken)}." if taken else "",
        "Not with:" if refused else "",
        refused,
    )


def beside(name: str) -> dict[str, str | None]:
    """Class of a transformer -> why the method does not go with it; None if it does."""
    return {
        transformer: next(fit.refused for fit in found if fit.method == name)
        for transformer, found in fitting().items()
    }


@cache
def homes() -> dict[str, str]:
    """Class of a transformer -> the family whose page it is on."""
    return {spec.transformer: family.name for family in families() for spec in family.specs}


def index() -> str:
    """All methods in one table."""
    rows = []
    for name, make in METHODS.items():
        first = markdown((inspect.getdoc(make) or "").partition("\n\n")[0])
        sites = dict.fromkeys(site for rule in parse(example(name)).rules for site in rule.sites)
        count = sum(why is None for why in beside(name).values())
        rows.append(
            (
                link(code(name), f"{name}.md"),
                first,
                paper(name),
                ", ".join(map(code, sites)) or "guidance",
                f"{count} of {len(fitting())}",
            )
        )
    return page(
        "# All methods",
        "Each has a page: options, definition, published settings with their source, what was measured beside plain "
        "steps of the same cost, and the models that it goes with. "
        f"{link('Which method, and when none', '../docs/choosing.md')} says which to try first.",
        table(("method", "what it does", "paper", "caches at", "models"), rows),
        "## A method as text",
        "\n".join(f"- {sentence}" for sentence in WRITTEN.values()),
    )


def forecasters() -> str:
    """What may stand behind + and @."""
    parts = ["# Forecasters and sites", WRITTEN["forecaster"]]
    for name, make in FORECASTERS.items():
        parts += [f"## {name}", _told(make), option_table(options(name))]
    kinds = dict.fromkeys(kind for family in families() for spec in family.specs for kind in spec.kinds())
    return page(
        *parts, "## Sites", WRITTEN["site"], f"Sites are {', '.join(map(code, kinds))}; each model's page has its own."
    )


def _told(make: Callable[..., Any]) -> str:
    return markdown(inspect.getdoc(make) or "")
