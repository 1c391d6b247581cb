"""VBench, arXiv 2311.17982: sixteen dimensions of the quality of videos.

Prompts: ``vbench/VBench_full_info.json`` of github.com/Vchitect/VBench, or one of ``prompts/prompts_per_dimension``: a
text with a prompt a line, whose name is the dimension. Its tools look for ``PROMPT-0.mp4`` to ``PROMPT-4.mp4`` in a
folder with nothing else in it: they take the ending from the first file that they find.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from c4d.pipelines.benchmark import Benchmark, Item


def read(text: str, name: str) -> list[Item]:
    """A prompt that several dimensions have is one item: its videos have one name."""
    dimensions = dict[str, set[str]]()
    for prompt, of in entries(text, name):
        dimensions.setdefault(prompt, set()).update(of)
    return [Item(number, prompt, frozenset(of)) for number, (prompt, of) in enumerate(dimensions.items())]


def entries(text: str, name: str) -> Iterator[tuple[str, Iterable[str]]]:
    if not text.lstrip().startswith(("[", "{")):
        yield from ((line.strip(), [PurePath(name).stem]) for line in text.splitlines() if line.strip())
        return
    found = json.loads(text)  # raises ValueError
    if not isinstance(found, list):
        raise ValueError("it is no list of prompts")
    for number, entry in enumerate(found):
        prompt, of = (entry.get("prompt_en"), entry.get("dimension")) if isinstance(entry, dict) else (None, None)
        if not isinstance(prompt, str) or not isinstance(of, list):
            raise ValueError(f"entry {number + 1} has no prompt_en and dimension")
        yield prompt, map(str, of)


VBENCH = Benchmark(
    "vbench",
    about="sixteen dimensions of videos (arXiv 2311.17982, github.com/Vchitect/VBench)",
    file="its VBench_full_info.json, or a text of prompts_per_dimension",
    parts="dimension",
    pictures=False,
    samples=5,
    read=read,
    place=lambda item, sample: f"videos/{item.prompt}-{sample}",
    scored="vbench evaluate --videos_path DIR/videos --dimension NAME (its standard mode), for each dimension",
)
