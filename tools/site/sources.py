"""The sources of the site: the repository's pages as they are, those that are made, and their order."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from c4d.core.methods import METHODS
from c4d.describe.models import families
from tools import api
from tools.site import commands, methods, models

ROOT = Path(__file__).resolve().parent.parent.parent
FRONT = "index.md"
PICTURE = re.compile(
    r'<picture>\s*<source [^>]*dark[^>]*srcset="(?P<dark>[^"]+)">\s*'
    r'<img (?P<rest>[^>]*src=)"(?P<light>[^"]+)">\s*</picture>'
)

# What a reader wants -> pages in their order: all of docs/, some that lie elsewhere, and those that are made; further
# pages stand under some of them (see `children`).
SECTIONS = {
    "Start": ("docs/choosing.md", "docs/faq.md", "docs/glossary.md", "docs/first_hour.md"),
    "Use": (
        "docs/python.md",
        "examples/README.md",
        "docs/tuning.md",
        "docs/comparing.md",
        "docs/inputs.md",
        "docs/memory.md",
        "docs/planning.md",
        "docs/rollout.md",
        "docs/attention_maps.md",
        "docs/migration.md",
    ),
    "Methods": (
        "methods/index.md",
        "methods/forecasters.md",
        "docs/methods.md",
        "docs/calibrating.md",
        "docs/calibrated.md",
        "docs/reproduce.md",
    ),
    "Models": ("models/index.md", "docs/support.md"),
    "Devices and clusters": ("docs/parallel.md", "docs/clusters.md", "docs/ascend.md"),
    "Interfaces": (
        "docs/command_line.md",
        "docs/studio.md",
        "docs/serving.md",
        "docs/comfyui.md",
        "integrations/comfyui/README.md",
        "docs/sglang.md",
    ),
    "Measurements": ("docs/measurements/README.md", "bench/accelerator/README.md", "docs/pictures/README.md"),
    "Extend": (
        "docs/adding_a_method.md",
        "docs/adding_a_model.md",
        "docs/adding_a_backend.md",
        "docs/structure.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ),
    "Reference": ("docs/api.md", "commands.md", "CHANGELOG.md"),
}


def made() -> dict[str, str]:
    """Path -> text of every page that is made of declarations."""
    return {
        "methods/index.md": methods.index(),
        "methods/forecasters.md": methods.forecasters(),
        **{f"methods/{name}.md": methods.method_page(name) for name in METHODS},
        "models/index.md": models.index(),
        **{f"models/{family.name}.md": models.family_page(family) for family in families()},
        "docs/api.md": api.reference(),
        "commands.md": commands.commands_page(),
    }


def written() -> list[str]:
    """The pages of the repository: all in docs/ (a stamp is a part of the page beside it), and what a section names."""
    docs = (path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
    named = (path for section in SECTIONS.values() for path in section if (ROOT / path).is_file())
    return list(dict.fromkeys([*(path for path in docs if not path.endswith(".stamp.md")), *named]))


def children(pages: Sequence[str]) -> dict[str, list[str]]:
    """Page -> those that stand under it in the navigation."""
    named = sorted(families(), key=lambda family: models.title(family).lower())
    return {
        "methods/index.md": [f"methods/{name}.md" for name in METHODS],
        "models/index.md": [f"models/{family.name}.md" for family in named],
        "docs/measurements/README.md": [
            path for path in pages if path.startswith("docs/measurements/") and path != "docs/measurements/README.md"
        ],
    }


def unplaced(pages: Sequence[str]) -> set[str]:
    """Pages that no section has; and those that a section has and that are not there."""
    placed = {path for section in SECTIONS.values() for path in section}
    placed |= {path for under in children(pages).values() for path in under}
    return placed ^ set(pages)


def stage(folder: Path) -> None:
    """Writes all sources to ``folder``, which is made anew. Raises ValueError for a page that no section has."""
    texts = {path: (ROOT / path).read_text() for path in written()} | made()
    if wrong := unplaced(list(texts)):
        raise ValueError(f"{', '.join(sorted(wrong))}: a page is there if and only if SECTIONS in {__name__} has it")
    under = children(list(texts))
    texts[FRONT] = front()
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in texts.items():
        for file in files_of(path, text):
            _copy(file, folder)
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(adapted(path, text) + (toctree(path, under[path]) if path in under else ""))


def front() -> str:
    """README, and the sections."""
    return (ROOT / "README.md").read_text() + "".join(
        toctree(FRONT, section, caption) for caption, section in SECTIONS.items()
    )


def toctree(path: str, pages: Sequence[str], caption: str = "") -> str:
    """Puts ``pages`` under the page at ``path``, unseen in its text."""
    start = os.path.dirname(path)
    lines = [f":caption: {caption}"] if caption else []
    lines += [":hidden:", "", *(os.path.relpath(page, start or ".").removesuffix(".md") for page in pages)]
    return "\n".join(["", "```{toctree}", *lines, "```", ""])


def adapted(path: str, text: str) -> str:
    """A page of GitHub's: README is the front page, and dark pictures follow the theme that a reader chose here."""
    home = os.path.relpath("README.md", os.path.dirname(path) or ".")
    text = re.sub(rf"(\]\(){re.escape(home)}(?=[)#])", rf"\g<1>{home.removesuffix('README.md')}{FRONT}", text)
    return PICTURE.sub(
        r'<img class="only-dark" \g<rest>"\g<dark>">\n<img class="only-light" \g<rest>"\g<light>">', text
    )


def files_of(path: str, text: str) -> Iterator[Path]:
    """What a page links besides pages: pictures, and files of the repository, which are then there for download."""
    for target in re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", text) + re.findall(
        r"(?:src|srcset)=\"(?![a-z]+:)([^\"\s]+)", text
    ):
        file = (ROOT / path).parent / target
        if file.is_file() and file.suffix != ".md":
            yield file.resolve()


def _copy(file: Path, folder: Path) -> None:
    place = folder / file.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)
