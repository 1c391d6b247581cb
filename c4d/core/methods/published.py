import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def published() -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> name of a model -> the options that its authors (or a library, where named) use, and their source.

    As text: ``taylorseer:published=flux.1-dev``; options beside it take the place of the published ones.
    """
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(files(__package__).joinpath("published.json").read_text())
    return table
