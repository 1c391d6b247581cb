"""One generation as data, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from c4d.bundled.models import Defaults
from c4d.pipelines.errors import InputError


@dataclass(frozen=True)
class Request:
    """What to generate. ``height``, ``width`` in pixels; None means the pipeline's own default.

    ``seed`` seeds a generator on the CPU, so that the noise is the same on every device.
    Raises :class:`InputError` for an empty prompt, a number out of range and an image that cannot be read.
    """

    prompt: str
    negative_prompt: str | None = None
    image: Path | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    seed: int = 0

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
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed!r}; allowed are whole numbers from 0 to 2^63 - 1")
        if self.image is not None:
            self.picture()

    def picture(self) -> Image.Image:
        """The image as RGB. Raises :class:`InputError` if it cannot be read."""
        assert self.image is not None
        try:
            with Image.open(self.image) as image:
                return image.convert("RGB")
        except (OSError, ValueError) as error:
            raise InputError(
                f"image {str(self.image)!r} cannot be read ({error}); give a picture file, such as PNG or JPEG"
            ) from error

    def with_defaults(self, defaults: Defaults) -> Request:
        """The same request, with what it leaves open taken from ``defaults``."""
        missing = {f.name for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **{name: value for name, value in asdict(defaults).items() if name in missing})

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON; the image with a digest of its bytes."""
        values = asdict(self)
        if self.image is not None:
            values["image"] = str(self.image)
            values["image_sha256"] = hashlib.sha256(self.image.read_bytes()).hexdigest()
        return values
