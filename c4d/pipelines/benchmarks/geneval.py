"""GenEval, arXiv 2310.11513: do pictures show the objects, numbers, colours and places that their prompts name?

Prompts: ``prompts/evaluation_metadata.jsonl`` of github.com/djghosh13/geneval, in each line an object with tag, include
and prompt. Its detector reads ``00000/metadata.jsonl``, the prompt's own line, and every picture of ``00000/samples``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from c4d.pipelines.benchmark import Benchmark, Item


def read(text: str, name: str) -> list[Item]:
    items = list[Item]()
    for number, line in enumerate(line for line in text.splitlines() if line.strip()):
        entry = json.loads(line)  # raises ValueError
        prompt = entry.get("prompt") if isinstance(entry, dict) else None
        if not isinstance(prompt, str) or not isinstance(entry.get("tag"), str):
            raise ValueError(f"entry {number + 1} has no tag and prompt")
        items.append(Item(number, prompt, frozenset([entry["tag"]]), entry))
    return items


def beside(items: Sequence[Item], samples: int) -> Mapping[str, str]:
    return {f"{item.number:05d}/metadata.jsonl": json.dumps(item.entry) for item in items}


GENEVAL = Benchmark(
    "geneval",
    about="objects, numbers, colours and places in pictures (arXiv 2310.11513, github.com/djghosh13/geneval)",
    file="its evaluation_metadata.jsonl, an object with tag and prompt in each line",
    parts="tag",
    pictures=True,
    samples=4,
    read=read,
    place=lambda item, sample: f"{item.number:05d}/samples/{sample:04d}",
    beside=beside,
    scored="evaluation/evaluate_images.py DIR --outfile results.jsonl, then evaluation/summary_scores.py results.jsonl",
)
