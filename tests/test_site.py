"""The site has a page of everything that there is; what Sphinx makes of it, and its anchors, ``make site`` checks."""

from __future__ import annotations

import posixpath
import re
from collections import Counter

import pytest

import c4d
from c4d.cli.main import commands
from c4d.core.methods import METHODS
from c4d.core.text.grammar import FORECASTERS
from c4d.describe.methods import options, settings
from c4d.describe.models import families
from c4d.models import SPECS
from c4d.pipelines.tuning import OTHER
from tools.site import sources
from tools.site.measured import measured

MODELS = {spec.transformer: f"models/{family.name}.md" for family in families() for spec in family.specs}


@pytest.fixture(scope="module")
def made():
    return sources.made()


def part(text, title):
    """What stands under a heading."""
    return re.split(r"\n## (?=\w)", text.partition(f"\n## {title}\n")[2])[0]


def test_every_method_has_a_page_with_its_options_settings_models_and_measurements(made):
    entries = [entry for table in measured() for entry in table.entries if entry.kind == OTHER]
    counted = Counter(entry.name.partition(":")[0] for entry in entries)
    assert len(counted) > 20
    for name, make in METHODS.items():
        text = made[f"methods/{name}.md"]
        assert text.startswith(f"# {name}\n") and f"]({name}.md)" in made["methods/index.md"]
        assert re.findall(r"^\| `([\w-]+)` \|", part(text, "Options"), re.M) == [
            option.name for option in options(name)
        ]
        shown = re.findall(r"^\| `(\w+=[^`]+)` \|", part(text, "Published settings"), re.M)
        assert shown == [f"{each.option}={each.name}" for each in settings(name)]
        assert set(re.findall(r"\]\(\.\./(models/\w+\.md)\)", part(text, "Models"))) == set(MODELS.values())
        rows = re.findall(r"^\| `([\w-]+):[^`]*` \| \d+%", part(text, "Measured"), re.M)
        assert rows == [name] * counted[name]
        assert all(paper in text for paper in re.findall(r"arXiv (\d{4}\.\d+)", make.__doc__ or ""))
    assert re.findall(r"^## (.+)$", made["methods/forecasters.md"], re.M) == [*FORECASTERS, "Sites"]


def test_measurements_are_those_of_the_table(made):
    """A row of a page of measurements is on the page of its method, with the same figures."""
    page = (sources.ROOT / "docs/measurements/fidelity/README.md").read_text()
    row = (
        r"^\| `taylorseer:interval=3,order=1` \| (\d+%) .*?\| ([\d.]+ / [\d.]+) \|.*\| (\d+) \| (\+[\d.]+ \[[^]]+\]) \|"
    )
    shown = made["methods/taylorseer.md"].replace("\N{NO-BREAK SPACE}", " ")
    found = re.findall(row, page, re.M)
    assert found
    for share, psnr, steps, above in found:
        assert re.search(
            rf"^\| `taylorseer:interval=3,order=1` \| {share} \| {psnr} \| {steps}: .* \| \**{re.escape(above)}",
            shown,
            re.M,
        )


def test_every_model_is_on_the_page_of_its_family(made):
    assert set(MODELS) == set(SPECS)
    for transformer, path in MODELS.items():
        text = part(made[path], transformer)
        assert SPECS[transformer].about[1:] in text and f"`{transformer}`" in made["models/index.md"]
        assert set(re.findall(r"\(\.\./methods/([\w-]+)\.md\)", text)) == set(METHODS)
        assert all(f"`{site}`" in text for site in SPECS[transformer].kinds())
    assert "`WanPipeline`" in made["models/wan.md"] and "`FluxKontextPipeline`" in made["models/flux.md"]
    assert "`diffusers.modular_pipelines.flux3`" in made["models/flux3.md"]
    assert "- **Bundled**: `wan-tiny`, `wan-tiny-causal`" in made["models/wan.md"]


def test_every_public_name_is_in_the_reference(made):
    shown = re.findall(r"^(?:\.\. auto\w+:: c4d\.|`(?=\w+`: ))(\w+)", made["docs/api.md"], re.M)
    assert shown == c4d.__all__


def test_every_option_of_every_command_is_on_its_page(made):
    parsers, _, jobs = commands()
    assert set(jobs) < set(parsers)
    for name, parser in parsers.items():
        told = part(made["commands.md"], f"c4d {name}")
        assert all(f"`{option.option_strings[0]}" in told for option in parser._actions[1:] if option.option_strings)


def test_dark_pictures_and_links_to_readme_are_made_the_sites():
    pictures = '<source media="(prefers-color-scheme: dark)" srcset="a/dark.svg">\n  <img alt="A" src="a/light.svg">'
    adapted = sources.adapted("docs/x/y.md", f"<picture>\n  {pictures}\n</picture>\n[front](../../README.md#use-it)")
    dark, light, link = adapted.splitlines()
    assert dark == '<img class="only-dark" alt="A" src="a/dark.svg">'
    assert light == '<img class="only-light" alt="A" src="a/light.svg">'
    assert link == "[front](../../index.md#use-it)"
    assert "README.md" in sources.adapted("docs/measurements/x.md", "[its own](README.md)")


def test_links_of_made_pages_lead_to_pages(made):
    pages = {*made, *sources.written()}
    for path, text in made.items():
        for target in re.findall(r"\]\((?!https:)([^)#]+)", text):
            assert posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) in pages, (path, target)


def test_every_page_has_a_place_in_the_navigation(made):
    pages = sorted({*made, *sources.written()})
    assert sources.unplaced(pages) == set(), "SECTIONS in tools/site/sources.py"
    assert sources.unplaced([*pages, "docs/new.md"]) == {"docs/new.md"}
    assert sources.unplaced([page for page in pages if page != "docs/memory.md"]) == {"docs/memory.md"}
