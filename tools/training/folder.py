"""Writing the folder of a pipeline, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOKENIZER_CLASS = "PreTrainedTokenizerFast"


def save(pipe: Any, folder: Path, *, tokenizers: Sequence[str] = (), more: dict[str, Any] | None = None) -> None:
    """Writes ``pipe``; what was in the folder is replaced.

    ``tokenizers``: transformers 5 writes a new name of their class, which 4.x does not know; 5.x reads the old one too.
    ``more``: entries of model_index.json that the pipeline reads and does not write.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial)
    index = json.loads((partial / "model_index.json").read_text()) | (more or {})
    for name in tokenizers:
        index[name] = ["transformers", TOKENIZER_CLASS]
        path = partial / name / "tokenizer_config.json"
        config = json.loads(path.read_text()) | {"tokenizer_class": TOKENIZER_CLASS}
        path.write_text(json.dumps(config, indent=2) + "\n")
    (partial / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for path in partial.rglob("*.json"):  # which say where on this machine a part was loaded from
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"export: {folder}, {size / 1e6:.2f} MB", flush=True)
