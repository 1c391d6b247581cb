"""Where profiles are found: a file, the user's folder, and those that come with c4d."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from c4d.core.caching.profile import Profile, ProfileError, mismatch

OWN = "c4d.core.methods"  # the package whose folder ``profiles`` has those that come with c4d
UNIVERSAL = "universal"


def folder() -> Path:
    """The user's: ``$XDG_CACHE_HOME/c4d/profiles``, else ``~/.cache/c4d/profiles``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "c4d" / "profiles"


def named() -> dict[str, Path]:
    """Name -> file; the user's come before those of the package."""
    shipped = Path(str(files(OWN) / "profiles"))
    return {path.stem: path for place in (shipped, folder()) for path in sorted(place.glob("*.json"))}


def found(path: str) -> Profile:
    """The profile in a file, or of a name. Raises :class:`ProfileError` if there is none."""
    known = named()
    if not Path(path).is_file() and path in known:
        return Profile.load(known[path])
    if not Path(path).is_file() and "/" not in path and not path.endswith(".json"):
        listed = ", ".join(known) or "none"
        raise ProfileError(f"no profile is named {path!r}: known are {listed} (in {folder()}, and c4d's own)")
    return Profile.load(path)


def for_model(signature: Mapping[str, Any]) -> tuple[str, Profile] | None:
    """The name of a profile that was made for such a transformer, and it; None if there is none."""
    for name, path in reversed(named().items()):
        try:
            profile = Profile.load(path)
        except ProfileError:  # a broken file in the user's folder is no reason to fail where nobody asked for it
            continue
        if profile.made_for is not None and mismatch(profile.made_for, signature) is None:
            return name, profile
    return None
