"""Arguments of a pipeline that no option has a name for: ``NAME=VALUE``, or ``NAME=@FILE``."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from c4d.pipelines.errors import InputError
from c4d.pipelines.film import picture, pictures

# What c4d says itself, or reads from what a pipeline gives back.
OURS = ("generator", "output_type", "return_dict", "num_videos_per_prompt", "num_images_per_prompt")
SCHEDULE = ("sigmas", "timesteps")  # of which --steps is the number, as is that of the plain steps compared with
HOW = "--argument takes NAME=VALUE, such as true_cfg_scale=4, or NAME=@FILE"


@dataclass(frozen=True)
class Named:
    """An argument by its own name. ``value``: what JSON has, else the text; a ``Path`` of a picture or film."""

    name: str
    value: Any

    @classmethod
    def read(cls, text: str) -> Named:
        """Raises :class:`InputError` for text that is not ``NAME=VALUE``, and for a file that is not there."""
        name, equals, said = text.partition("=")
        if not equals or not name.isidentifier() or not said:
            raise InputError(f"{text!r}: {HOW}")
        if not said.startswith("@"):
            return cls(name, _value(said, text))
        path = Path(os.path.expanduser(said[1:]))
        if not path.is_file():
            raise InputError(f"--argument {name}: {said[1:]!r} is no file; give a picture or a film")
        return cls(name, path)

    def check(self, pipe: str, parameters: Mapping[str, inspect.Parameter], options: Mapping[str, str]) -> None:
        """Raises :class:`InputError` for what the pipeline called ``pipe`` cannot be given in this way.

        ``options``: the option of each argument that has one.
        """
        if self.name in options:
            raise InputError(f"--argument {self.name}: {options[self.name]} gives it; say it there")
        if self.name in SCHEDULE:
            raise InputError(
                f"--argument {self.name}: steps are counted, and compared, by --steps, which this would overrule; take "
                "--scheduler or --shift, or call the pipeline from Python inside c4d.cached(...)"
            )
        free = [name for name, each in parameters.items() if name not in options and _can_be_said(each)]
        if self.name not in free:
            raise InputError(
                f"{pipe} takes no --argument {self.name}; it takes {', '.join(free) or 'none beyond its options'}"
            )
        default = parameters[self.name].default
        if isinstance(default, bool):
            wanted = None if isinstance(self.value, bool) else "true or false"
        elif isinstance(default, (int, float)):
            fits = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
            wanted = None if fits else f"a number, such as {default:g}"
        else:
            wanted = None
        if wanted:
            raise InputError(f"--argument {self.name} is {self.value!r}; {pipe} takes {wanted}")

    def opened(self) -> Any:
        """The value; of a file its picture, or a list of pictures if the argument's name says ``video``."""
        if not isinstance(self.value, Path):
            return self.value
        return pictures(self.value, self.name) if "video" in self.name else picture(self.value, self.name)


def read_all(texts: Collection[str]) -> list[Named]:
    """Raises :class:`InputError` for text that is none, and for a name that is given twice."""
    found = {named.name: named for named in map(Named.read, texts)}
    if len(found) < len(texts):
        raise InputError(f"--argument gives {', '.join(found)}, and one of them twice; keep one")
    return list(found.values())


def _can_be_said(parameter: inspect.Parameter) -> bool:
    """Not what c4d says, no tensor or function, and not what takes whatever is left."""
    name, others = parameter.name, (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    if name in (*OURS, *SCHEDULE, "latents") or parameter.kind in others:
        return False
    return not name.startswith("callback") and "_embeds" not in name


def _value(said: str, text: str) -> Any:
    def refused(constant: str) -> NoReturn:
        raise InputError(f"{text!r}: {constant} is no value; give a finite number")

    def finite(digits: str) -> float:
        return float(digits) if math.isfinite(float(digits)) else refused(digits)

    try:
        return json.loads(said, parse_constant=refused, parse_float=finite)
    except json.JSONDecodeError:
        return said
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{text[:40]!r}… is too long or too deep a value ({error})") from error
