import json
from pathlib import Path
from typing import Any


def learned(path: str, kind: str, *keys: str) -> dict[str, Any]:
    """What ``python -m bench.learn`` wrote about a model: its ``kind``, for how many ``steps``, and the numbers."""
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{kind} reads a profile, made by python -m bench.learn, from path={path}: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        said = found.get("kind") if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"path={path} holds {said!r}, not a profile of {kind} (python -m bench.learn {kind})")
    if lacking := [key for key in ("steps", *keys) if key not in found]:
        raise ValueError(f"path={path} lacks {', '.join(lacking)}: make it again with python -m bench.learn {kind}")
    return found
