"""One generation as data, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from c4d.bundled.models import Defaults
from c4d.pipelines.errors import InputError
from c4d.pipelines.film import picture
from c4d.pipelines.named import Named, read_all

PICTURES = ("image", "last_image")  # fields that name picture files; those in FILMS may be films, too
FILMS = ("video", "mask", "control")


@dataclass(frozen=True)
class Request:
    """What to generate. ``height``, ``width`` in pixels; None means the pipeline's own default.

    Files: ``image`` is a picture, or several; ``last_image`` is where a clip ends; ``video``, ``mask`` (white is made
    anew) and ``control`` are films or pictures, as the pipeline takes them. ``strength`` in (0, 1] is how far to depart
    from ``image`` or ``video``. ``argument``: others of the pipeline by their names, each ``NAME=VALUE`` or
    ``NAME=@FILE``. ``seed`` seeds a generator on the CPU, so that the noise is the same on every device.
    Raises :class:`InputError` for an empty prompt, a number out of range and a file that cannot be read.
    """

    prompt: str
    negative_prompt: str | None = None
    image: Path | tuple[Path, ...] | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    seed: int = 0
    last_image: Path | None = None
    video: Path | None = None
    mask: Path | None = None
    control: Path | None = None
    strength: float | None = None
    argument: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InputError("the prompt is empty; say what to generate")
        for name in ("height", "width", "num_frames", "steps", "max_sequence_length"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                said = name.replace("num_", "").replace("_", "-")
                raise InputError(f"{said} is {value!r}; allowed are whole numbers from 1")
        scale = self.guidance_scale
        if scale is not None and not (math.isfinite(scale) and scale >= 0):
            raise InputError(f"guidance scale is {scale!r}; allowed are finite numbers from 0 (up to 1: no guidance)")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength!r}; allowed are numbers above 0 up to 1 (1: nothing is kept)")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed!r}; allowed are whole numbers from 0 to 2^63 - 1")
        if isinstance(self.image, tuple) and len(self.image) < 2:  # one picture has one way to be said
            object.__setattr__(self, "image", self.image[0] if self.image else None)
        if not self.argument:
            object.__setattr__(self, "argument", None)
        self.named()
        self._check_files()

    def named(self) -> list[Named]:
        """What ``argument`` says. Raises :class:`InputError`."""
        return read_all(self.argument or ())

    def _check_files(self) -> None:
        for field, paths in self.files().items():
            for path in paths:
                if field in PICTURES:
                    picture(path, field.replace("_", " "))
                elif not path.is_file():
                    raise InputError(f"{field} {str(path)!r} is no file; give a film or a picture")

    def files(self) -> dict[str, tuple[Path, ...]]:
        """Field -> the files that it names, of those that name any."""
        named = {field: getattr(self, field) for field in (*PICTURES, *FILMS)}
        return {
            field: value if isinstance(value, tuple) else (value,)
            for field, value in named.items()
            if value is not None
        }

    def with_defaults(self, defaults: Defaults) -> Request:
        """The same request, with what it leaves open taken from ``defaults``."""
        missing = {f.name for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **{name: value for name, value in asdict(defaults).items() if name in missing})

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON; every file with a digest of its bytes."""
        values = asdict(self)
        for field, paths in self.files().items():
            names, digests = [str(path) for path in paths], [digest(path) for path in paths]
            several = len(paths) > 1
            values[field], values[f"{field}_sha256"] = (names, digests) if several else (names[0], digests[0])
        values["argument"] = None if self.argument is None else sorted(self.argument)
        for each in self.named():
            if isinstance(each.value, Path):
                values[f"argument_{each.name}_sha256"] = digest(each.value)
        return values


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names whose values differ; one that a mapping lacks has the value None."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()
