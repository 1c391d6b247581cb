"""A page of every command and its options: made of the parser that reads them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from c4d.cli.main import EPILOG, commands
from tools.site.markdown import code, page, table


def commands_page() -> str:
    return page(
        "# Every command and its options",
        "Options of commands that run a model may stand in a YAML file, too (`--config`), without their dashes.",
        *(part for name, parser in commands()[0].items() for part in _command(name, parser)),
        "## Exit codes",
        f"```text\n{EPILOG.strip()}\n```",
    )


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## c4d {name}"
    yield f"{(parser.description or '')[:1].upper()}{(parser.description or '')[1:]}."
    for group in sorted(parser._action_groups, key=lambda group: group.title == "options"):  # of every command, last
        rows = [_row(action) for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        yield f"*{group.title}*" if rows and group.title not in ("options", "positional arguments") else ""
        yield table(("option", "meaning"), rows)
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```"


def _row(action: argparse.Action) -> tuple[str, str]:
    value = f" {action.metavar}" if action.metavar and action.nargs != 0 and action.option_strings else ""
    shown = f"{', '.join(action.option_strings)}{value}" if action.option_strings else str(action.metavar)
    return code(shown), (action.help or "").replace("%%", "%")
