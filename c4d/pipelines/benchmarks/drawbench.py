"""DrawBench, arXiv 2205.11487: 200 prompts in eleven categories, published as a table of Prompts and Category.

Its authors had people compare pictures, and publish no layout of samples. Papers on caching score the pictures by
ImageReward and CLIP, prompt by prompt: ``prompts.jsonl`` says which prompt each picture is of.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from c4d.pipelines.benchmark import Benchmark, Item


def read(text: str, name: str) -> list[Item]:
    rows = csv.DictReader(io.StringIO(text))
    if not {"Prompts", "Category"} <= set(rows.fieldnames or ()):
        raise ValueError(f"its columns are {', '.join(rows.fieldnames or ()) or 'none'}, not Prompts and Category")
    found = [(row["Prompts"] or "", row["Category"] or "") for row in rows]
    return [
        Item(number, prompt.strip(), frozenset([category.strip()]), {"category": category.strip()})
        for number, (prompt, category) in enumerate(found)
        if prompt.strip()
    ]


def place(item: Item, sample: int) -> str:
    return f"images/{item.number:05d}-{sample:04d}"


def beside(items: Sequence[Item], samples: int) -> Mapping[str, str]:
    lines = [
        {"file": DRAWBENCH.sample(item, sample), "prompt": item.prompt, **item.entry}
        for item in items
        for sample in range(samples)
    ]
    return {"prompts.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)}


DRAWBENCH = Benchmark(
    "drawbench",
    about="200 prompts in eleven categories (arXiv 2205.11487)",
    file="its table with the columns Prompts and Category, as CSV",
    parts="category",
    pictures=True,
    samples=1,
    read=read,
    place=place,
    beside=beside,
    scored="ImageReward or CLIP on each line of DIR/prompts.jsonl, the mean over all",
)
