"""What a request may ask for at most, looked at before anything is made of it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from c4d.pipelines import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
WITHIN = {  # field of a body -> the limit that it has
    "height": "side",
    "width": "side",
    "frames": "frames",
    "steps": "steps",
    "max_sequence_length": "tokens",
}
TEXTS = ("prompt", "negative_prompt")


@dataclass(frozen=True)
class Limits:
    """``side`` in pixels, of pictures that are made or sent; ``prompt`` in characters; ``upload`` in bytes of a body;
    ``images`` of one call."""

    side: int = 2048
    frames: int = 257
    steps: int = 100
    tokens: int = 1024
    prompt: int = 4000
    upload: int = 20 * 2**20
    images: int = 10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"the limit --max-{name} is {value!r}; allowed are whole numbers from 1")

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises :class:`InputError` for a field of a body that is beyond what this server makes."""
        for name, limit in WITHIN.items():
            value, most = values.get(name), getattr(self, limit)
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{name} is {value!r}; this server takes whole numbers from 1 to {most}")
        for name in TEXTS:
            text = values.get(name)
            if text is not None and len(text) > self.prompt:
                raise InputError(f"{name} has {len(text)} characters, this server reads {self.prompt}; shorten it")
            if text is not None and "\0" in text:
                raise InputError(f"{name} has a zero byte: it is no text; leave it out")

    def picture(self, data: bytes) -> bytes:
        """A picture that somebody sent, as a PNG of its pixels alone. Raises :class:`InputError` for anything else."""
        known = f"give a picture, one of {', '.join(FORMATS)}, of at most {self.side} pixels a side"
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if max(image.size) > self.side:
                    raise InputError(f"the image has {image.width}x{image.height} pixels; {known}")
                again = io.BytesIO()
                image.convert("RGB").save(again, "PNG", compress_level=1)
                return again.getvalue()
        except InputError:
            raise
        except Exception as error:  # of a broken file Pillow raises many kinds: OSError, SyntaxError, struct.error, …
            raise InputError(f"the image cannot be read ({type(error).__name__}); {known}") from error
