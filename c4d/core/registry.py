"""Names to what they mean: what this package has, and what other packages register by entry points."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What modules of ``package`` hold of the class ``kind``, by name, and what entry points of ``group`` name.

    An entry point gives a ``kind``, several, or a module that holds some. Nobody's may take a name that is taken here.
    """

    def __init__(self, group: str, package: str, kind: type[T], name_of: Callable[[T], str]) -> None:
        self.group, self._package, self._kind, self._name_of = group, package, kind, name_of

    def __getitem__(self, name: str) -> T:
        return self._found[name]

    def __getattr__(self, name: str) -> T:
        """By its name in Python: ``methods.first_block`` is ``methods["first-block"]``."""
        found = None if name.startswith("_") else self._found.get(name.replace("_", "-"))
        if found is None:
            raise AttributeError(f"{self.group} has no {name!r}: known are {', '.join(self._found)}")
        return found

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name.replace("-", "_") for name in self)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @cached_property
    def own(self) -> dict[str, T]:
        """What this package has."""
        return self._named(self._modules())

    @property
    def homes(self) -> dict[ModuleType, list[str]]:
        """The modules of this package that hold some -> the names of these."""
        found = {module: list(self._named([module])) for module in self._modules()}
        return {module: names for module, names in found.items() if names}

    def _modules(self) -> list[ModuleType]:
        package = import_module(self._package)
        names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
        return [import_module(f"{self._package}.{name}") for name in names]

    @property
    def ignored(self) -> dict[str, str]:
        """Entry point -> why what it names is not here."""
        return self._theirs[1]

    def why_not(self, name: str) -> str | None:
        """Why what an entry point of this name brings is not here; None if there is no such entry point."""
        return next((why for entry, why in self.ignored.items() if entry.startswith(f"{name} (")), None)

    @cached_property
    def _found(self) -> dict[str, T]:
        return {**self.own, **self._theirs[0]}

    @cached_property
    def _theirs(self) -> tuple[dict[str, T], dict[str, str]]:
        found, ignored = dict[str, T](), dict[str, str]()
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            try:
                given = self._named([entry.load()])
                if not given:
                    raise TypeError(f"it is no c4d.{self._kind.__name__} and holds none")
            except (Exception, SystemExit) as error:  # whatever a package of others raises
                ignored[_said(entry)] = f"{type(error).__name__}: {error}"
                continue
            if taken := [name for name in given if name in self.own or name in found]:
                ignored[_said(entry)] = f"the name {', '.join(taken)} is taken"
                continue
            found |= given
        return found, ignored

    def _named(self, holders: Iterable[object]) -> dict[str, T]:
        """What is of the kind among ``holders``, in them where they are modules, and in tuples of either."""
        found = dict[str, T]()
        for holder in holders:
            for part in vars(holder).values() if isinstance(holder, ModuleType) else [holder]:
                several = part if isinstance(part, tuple | list) else (part,)
                found |= {self._name_of(each): each for each in several if isinstance(each, self._kind)}
        return found


def _said(entry: EntryPoint) -> str:
    return f"{entry.name} ({entry.value})"
