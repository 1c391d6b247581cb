"""Widgets of a command's options, made of their declarations, and options made of what the widgets hold."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr

from c4d.backends import known, select
from c4d.backends.kernels import OWN
from c4d.bundled.models import BUNDLED, ROLLING, Defaults
from c4d.cli.options import CLUSTER, HOW, RANKS, WHAT, WHERE, flag, number, path_to, whole
from c4d.core.caching.profiles import QUALITIES
from c4d.core.methods import METHODS
from c4d.core.methods.teacache import SIGNALS
from c4d.memory_modes import MODES
from c4d.pipelines import InputError
from c4d.pipelines.arguments import options_of, parameters_of
from c4d.pipelines.load import DTYPES

O = TypeVar("O")  # noqa: E741  # a class of options
# Of several devices, a cluster and files; and what is about a whole job, or for who started the studio to decide.
GROUPS = (RANKS, CLUSTER, WHERE)
NOT_HERE = {"prompt_file", "allow_pickle", "encode_first"}
PICTURES = {"image", "last_image"}
SEVERAL = "append"  # the action of options that may be given several times: here one a line, or one file
INFO = 160  # letters of a help text that are shown


def words(kind: type[Any]) -> Mapping[str, Callable[[], list[str]]]:
    """Option -> the words that it takes, where these are few or are known here; others may be written."""
    methods = [method.example.format(signal=SIGNALS[0]) for method in METHODS.values()]
    return {
        "model": lambda: [*(ROLLING if hasattr(kind, "seconds") else ()), *BUNDLED],
        "quality": lambda: [*QUALITIES],
        "cache": lambda: ["none", *methods],
        "attention": lambda: ["auto", OWN, *select().attention_kernels],
        "backend": lambda: ["auto", *known()],
        "dtype": lambda: [*DTYPES],
        "history_dtype": lambda: [*DTYPES, "int8"],
        "history_on": lambda: ["device", "host"],
        "kv_on": lambda: ["device", "host"],
        "memory": lambda: [*MODES],
    }


class Form(Generic[O]):
    """The widgets of ``kind``, but for ``without`` and what no page is about.

    ``values`` stand in them at first. Widgets are made by :meth:`add`, inside a block of gradio; an option that was
    not given a place is in the last.
    """

    def __init__(self, kind: type[O], without: Collection[str] = (), values: Mapping[str, Any] | None = None) -> None:
        self.kind, self._values = kind, values or {}
        self.fields: dict[str, Field[Any]] = {
            each.name: each
            for each in fields(kind)  # type: ignore[arg-type]
            if each.name not in NOT_HERE | set(without) and each.metadata["group"] not in GROUPS
        }
        self.widgets: dict[str, Any] = {}
        self._words = words(kind)

    def add(self, *names: str, **how: Any) -> None:
        """Widgets of these options, here."""
        for name in names:
            self.widgets[name] = self._widget(self.fields[name], **how)

    def rest(self, *groups: str) -> list[str]:
        """Those of ``groups`` that have no widget yet."""
        return [
            name for name, each in self.fields.items() if name not in self.widgets and each.metadata["group"] in groups
        ]

    @property
    def inputs(self) -> list[Any]:
        return list(self.widgets.values())

    def read(self, held: Sequence[Any], **more: Any) -> O:
        """The options of what the widgets hold, in the order of ``inputs``, and ``more``.

        Raises :class:`InputError` for a value that is none, as the command line does.
        """
        given = {
            name: self._value(self.fields[name], value)
            for name, value in zip(self.widgets, held, strict=True)
            if value is not None and value != ""
        }
        return self.kind(**{**given, **more})

    def filled(self, told: Mapping[str, Any]) -> list[Any]:
        """An update for each of ``inputs``: what ``told`` says of an option, else its default."""
        defaults = {name: each.default for name, each in self.fields.items()}
        return [gr.update(value=_shown(told.get(name, defaults[name]))) for name in self.widgets]

    def fitted(self, pipe: Any, defaults: Defaults | None) -> list[Any]:
        """An update for each of ``inputs``: only what ``pipe`` takes is shown, with what it does without it."""
        taken = parameters_of(pipe) if callable(pipe) else None
        of = {} if taken is None else {option[0]: name for name, option in options_of(taken).items()}
        found = []
        for name, widget in self.widgets.items():
            argument = of.get({"frames": "num_frames"}.get(name, name))
            if argument is None or taken is None:
                found.append(gr.update())
                continue
            own = getattr(defaults, {"frames": "num_frames"}.get(name, name), None)
            if own is None and argument in taken:
                own = taken[argument].default
            hint = {"placeholder": f"{own}"} if isinstance(widget, gr.Textbox) and isinstance(own, (int, float)) else {}
            found.append(gr.update(visible=argument in taken, **hint))
        return found

    def _value(self, each: Field[Any], value: Any) -> Any:
        if isinstance(value, bool):
            return value
        convert = each.metadata["type"]
        try:
            if each.metadata.get("action") == SEVERAL:
                return tuple(convert(line) for line in str(value).splitlines() if line.strip())
            return convert(str(value))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{flag(each.name)}: {error}") from error

    def _widget(self, each: Field[Any], **how: Any) -> Any:
        about = dict(each.metadata)
        label, default = each.name.replace("_", " "), _shown(self._values.get(each.name, each.default))
        common: dict[str, Any] = {"label": label, "elem_id": f"{self.kind.__name__}-{each.name}", **how}
        if about.get("action") is argparse.BooleanOptionalAction:
            return gr.Checkbox(value=default, info=about["help"], **common)
        if about["type"] is path_to and about["group"] == WHAT:
            picture = each.name in PICTURES
            make = gr.Image if picture else gr.File
            return make(value=default, type="filepath", height=180, **common)
        common["info"] = about["help"] if len(about["help"]) <= INFO else f"{about['help'][:INFO]}…"
        if each.name in self._words:
            found = self._words[each.name]()
            return gr.Dropdown(found, value=default, allow_custom_value=True, **common)
        if about["type"] in (whole, number) and default is not None:  # gradio shows a number that is not there as 0
            return gr.Number(value=default, precision=0 if about["type"] is whole else None, **common)
        return gr.Textbox(value=default, **common)


def _shown(value: Any) -> Any:
    """A value of an option as a widget holds it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return ("/" if all(isinstance(each, int) for each in value) else "\n").join(map(str, value)) or None
    return value


def sections(form: Form[Any], titles: Iterable[tuple[str, str]]) -> None:
    """What is left of ``form`` in boxes that can be opened, one for each group and its title."""
    for group, title in titles:
        if left := form.rest(group):
            with gr.Accordion(title, open=False):
                for name in left:
                    form.add(name)


MORE = ((WHAT, "Picture and sampling"), (HOW, "How to run"))
