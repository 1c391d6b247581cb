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
from c4d.pipelines.inputs import FRAMES, frame_by_frame
from c4d.pipelines.load import DTYPES
from c4d.pipelines.request import FILMS, PICTURES
from c4d.pipelines.scheduling import fitting
from c4d.studio.history import NAMES

O = TypeVar("O")  # noqa: E741  # a class of options
# Of several devices, a cluster and files; and what is about a whole job, or for who started the studio to decide.
GROUPS = (RANKS, CLUSTER, WHERE)
NOT_HERE = {"prompt_file", "negative_prompt_file", "allow_pickle", "encode_first"}
SEVERAL = "append"  # the action of options that may be given several times: here one a line, or several pictures

HEIGHT = 150  # pixels, of a place for files
_PICTURES: dict[str, Any] = {
    "type": "filepath", "file_types": ["image"], "interactive": True, "columns": 3, "object_fit": "contain",
    "buttons": [],
}  # fmt: skip


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
        "scheduler": list,
    }


class Form(Generic[O]):
    """The widgets of ``kind``, but for ``without`` and what no page is about.

    ``values`` stand in them at first, and they are as ``pipe`` takes them (see :meth:`fitted`; None: all are there).
    Widgets are made by :meth:`add`, inside a block of gradio; an option that was not given a place is in the last.
    """

    def __init__(
        self,
        kind: type[O],
        without: Collection[str] = (),
        values: Mapping[str, Any] | None = None,
        pipe: Any = None,
        defaults: Defaults | None = None,
    ) -> None:
        self.kind, self._values, self._fit = kind, values or {}, _Fit(pipe, defaults)
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

    def fitted(self, pipe: Any, defaults: Defaults | None) -> dict[str, dict[str, Any]]:
        """What changes of the widget of each option, in the order of ``inputs``: only those that ``pipe`` takes are
        shown, with what it does without them. What stands in them is left alone: somebody may be writing."""
        fit = _Fit(pipe, defaults)
        return {name: fit.of(name, type(widget)) for name, widget in self.widgets.items()}

    def filled(self, told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The same, of what stands in them: what ``told`` says of an option, else its default."""
        return {name: {"value": _shown(told.get(name, self.fields[name].default))} for name in self.widgets}

    def _value(self, each: Field[Any], value: Any) -> Any:
        if isinstance(value, bool):
            return value
        convert = each.metadata["type"]
        try:
            if each.metadata.get("action") != SEVERAL:
                return convert(str(value))
            # Of a gallery, pictures with their captions.
            several = value.splitlines() if isinstance(value, str) else [picture for picture, _ in value]
            return tuple(convert(one) for one in several if one.strip())
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{flag(each.name)}: {error}") from error

    def _widget(self, each: Field[Any], **how: Any) -> Any:
        about = dict(each.metadata)
        label, default = each.name.replace("_", " "), _shown(self._values.get(each.name, each.default))
        said = about["help"].partition(";")[0]  # what follows is of the command line, or the default, which stands here
        common: dict[str, Any] = {"label": label, "elem_id": f"{self.kind.__name__}-{each.name}"}
        several = about.get("action") == SEVERAL
        if about.get("type") is path_to and about["group"] == WHAT:
            make, told = (gr.Gallery, _PICTURES) if several else (gr.File, {"file_types": _suffixes(each.name)})
            told = {**told, "label": f"{label}: {said}", "value": default, "height": HEIGHT}
        else:
            common["info"] = said
            make, told = self._of_text(each, default)
        return make(**{**common, **told, **self._fit.of(each.name, make), **how})

    def _of_text(self, each: Field[Any], default: Any) -> tuple[Any, dict[str, Any]]:
        """The class of a widget whose value is no file, and what is its own."""
        about = each.metadata
        if about.get("action") is argparse.BooleanOptionalAction:
            return gr.Checkbox, {"value": default}
        if each.name in self._words:
            return gr.Dropdown, {"choices": self._words[each.name](), "value": default, "allow_custom_value": True}
        if about["type"] in (whole, number) and default is not None:  # gradio shows a number that is not there as 0
            return gr.Number, {"value": default, "precision": 0 if about["type"] is whole else None}
        if about.get("action") == SEVERAL:
            return gr.Textbox, {"value": default, "lines": 2, "placeholder": f"{about['metavar']}, one a line"}
        return gr.Textbox, {"value": default}


class _Fit:
    """What a widget has to be like for ``pipe``, which may be a skeleton, or None: nothing is known of it."""

    def __init__(self, pipe: Any, defaults: Defaults | None) -> None:
        self._pipe, self._defaults = pipe, defaults
        self._taken = parameters_of(pipe) if callable(pipe) else {}
        self._arguments = {option[0]: name for name, option in options_of(self._taken).items()} if self._taken else {}

    def of(self, name: str, widget: type[Any]) -> dict[str, Any]:
        """Arguments of the widget of the option called ``name``."""
        if name == "scheduler" and getattr(self._pipe, "scheduler", None) is not None:
            return {"choices": [each.__name__ for each in fitting(self._pipe)]}
        field = NAMES.get(name, name)
        argument = self._arguments.get(field)
        if argument is None:
            return {}
        own = getattr(self._defaults, field, None)
        if own is None and argument in self._taken:
            own = self._taken[argument].default
        # A film that is changed frame by frame may be cut, also where the pipeline has no word for its length.
        shown = argument in self._taken or (argument in FRAMES and frame_by_frame(self._taken))
        numeric = widget is gr.Textbox and isinstance(own, (int, float))
        return {"visible": shown, **({"placeholder": f"{own}"} if numeric else {})}


def _suffixes(name: str) -> list[str]:
    """What may be uploaded: pictures, films, or files without a kind of their own."""
    return ["image"] if name in PICTURES else ["video", "image"] if name in FILMS else []


def _shown(value: Any) -> Any:
    """A value of an option as a widget holds it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
        return [str(each) for each in value]
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
