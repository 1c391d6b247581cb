"""``c4d plan``: memory, bytes sent and predicted time on every division of some devices; no model is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from c4d.bundled import BUNDLED
from c4d.cli.options import PlanOptions
from c4d.core.example import Size
from c4d.core.integration.attach import check_fit
from c4d.core.runtime.history import HistoryConfig
from c4d.core.text.grammar import parse
from c4d.models import SPECS, spec_for
from c4d.parallel import SequenceParallel
from c4d.pipelines import InputError, parse_dtype, parse_history_dtype
from c4d.plan.model import Planned, planned
from c4d.plan.run import PlanError, Setup
from c4d.plan.speeds import measured
from c4d.plan.table import Planner, Row, Speeds, fewest_heads, order

GIB, MB = 2**30, 1e6


class Plan(NamedTuple):
    """What was found: rows for numbers of devices, why others have none, and what else is to be said of a number."""

    model: Planned
    planner: Planner
    rows: Sequence[Row]
    refused: Mapping[int, str]
    remarks: Mapping[int, str]
    speeds: Speeds | None


def run(options: PlanOptions) -> None:
    """Prints the plan. Raises :class:`InputError` for what cannot be planned."""
    try:
        how = SequenceParallel(options.ulysses, options.ring, options.cfg)
        speeds = speeds_of(options)
        model = planned(options.model, parse_dtype(options.dtype))
        setup = setup_of(options, model)
        others = sum(size or 0 for size in model.others.values())
        planner = Planner(setup, fewest_heads(setup), others=others)
        rows, refused = found(planner, options.devices, how, speeds)
    except ValueError as error:
        raise InputError(str(error)) from error
    remarks = {n: said for n in options.devices if (said := planner.remark(n)) and n not in refused}
    if not rows:
        raise InputError("; ".join(f"{n} devices: {why}" for n, why in refused.items()))
    plan = Plan(model, planner, rows, refused, remarks, speeds)
    print(json.dumps(data(plan), allow_nan=False) if options.json else "\n".join(lines(plan)))


def found(
    planner: Planner, devices: Sequence[int], how: SequenceParallel, speeds: Speeds | None
) -> tuple[list[Row], dict[int, str]]:
    """All legal divisions, the fastest first, and why some numbers of devices have none."""
    rows, refused = list[Row](), dict[int, str]()
    for world in dict.fromkeys(devices):
        try:
            rows += planner.rows(world, how, speeds)
        except PlanError as error:
            refused[world] = str(error)
    return sorted(rows, key=order), refused


def setup_of(options: PlanOptions, model: Planned) -> Setup:
    """What is to be planned."""
    spec = spec_for(model.transformer)
    if spec.request is None:
        able = ", ".join(name for name, each in SPECS.items() if each.request is not None)
        raise InputError(
            f"c4d does not know how pipelines of {spec.transformer} turn pixels into its arguments; it does for {able} "
            "(ModelSpec(request=…) adds another)"
        )
    known = BUNDLED[options.model].defaults if options.model in BUNDLED else None
    height = options.height if options.height is not None or known is None else known.height
    width = options.width if options.width is not None or known is None else known.width
    if height is None or width is None:
        raise InputError(f"no size: give --height and --width, in pixels, of what {spec.transformer} is to make")
    frames = options.frames if options.frames is not None else (known.num_frames if known else None) or 1
    text = options.text if options.text is not None else known.max_sequence_length if known else None
    for name, value in (("steps", options.steps), ("node", options.node), ("text", options.text or 1)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed are whole numbers from 1")
    learned = getattr(model.transformer.config, "guidance_embeds", False)
    branches = options.branches if options.branches is not None else 1 if learned else 2
    if branches not in (1, 2):
        raise InputError(f"branches is {branches}; allowed are 1 and 2, the calls of the model in a step")
    method = None if options.cache is None else parse(options.cache)
    if method is not None:
        check_fit(method, spec)
    kept = options.history_dtype and parse_history_dtype(options.history_dtype)
    size = Size(height, width, frames, text, parse_dtype(options.dtype), model.decoder)
    arguments = spec.request(model.transformer, size)
    storage = HistoryConfig(kept or None, options.history_on)
    return Setup(model.transformer, spec, arguments, method, options.steps, branches, storage)


def speeds_of(options: PlanOptions) -> Speeds | None:
    """Those given, or measured; None for neither. Raises :class:`InputError` for half of them."""
    given = {"tflops": options.tflops, "bandwidth": options.bandwidth, "across": options.across}
    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} is {value:g}; it has to be above 0")
    if options.measured is not None:
        if options.tflops is not None or options.bandwidth is not None:
            raise InputError("--measured and --tflops or --bandwidth are both given; keep one")
        return measured(options.measured, across=options.across, node=options.node)
    if options.tflops is None and options.bandwidth is None:
        return None
    if options.tflops is None or options.bandwidth is None:
        raise InputError("a time takes both --tflops and --bandwidth: give the other one, too")
    across = options.bandwidth / 8 if options.across is None else options.across
    return Speeds(options.tflops, options.bandwidth, across, options.node)


def lines(plan: Plan) -> Iterator[str]:
    model, planner, rows, refused, remarks, speeds = plan
    setup = planner.setup
    method = setup.method.name if setup.method else "no cache"
    yield f"{setup.spec.transformer} ({model.source}), {method}, {setup.steps} steps of {setup.branches} call(s)"
    yield f"{planner.tokens or 'its'} tokens, at least {planner.heads} heads; predicted, nothing of it is measured here"
    for name, size in model.others.items():
        yield f"{name}: {'size not known' if size is None else f'{size / GIB:.2f} GiB'}"
    head = ("devices", "divided", "GiB", "weights", "cache", "at work", "MB sent a step", "TFLOP a step", "seconds")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        pairs = enumerate(zip(row, widths, strict=True))
        yield "  ".join(cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in pairs)
    for world, why in refused.items():
        yield f"{world} devices: not possible: {why}"
    for world, said in remarks.items():
        yield f"{world} devices: {said}"
    if speeds is None:
        yield "no time is predicted: give --tflops and --bandwidth, or --measured"
    else:
        yield (
            f"time: {speeds.tflops:g} TFLOP/s, {speeds.bandwidth:g} GB/s in a machine of {speeds.node}, "
            f"{speeds.across:g} GB/s across ({speeds.source}); transformer alone, nothing overlaps"
        )
    if len(planner.changes) > 1:
        yield "seconds: from all that may be reused to nothing reused; the method decides by what it measures"


def _cells(row: Row) -> tuple[str, ...]:
    sent = " + ".join(f"{size / MB:.1f} {kind}" for kind, size in row.sent.items()) or "0"
    times = [] if row.seconds is None else sorted(dict.fromkeys(f"{x:.2f}" for x in row.seconds), key=float)
    gib = [f"{x / GIB:.2f}" for x in (row.memory, row.weights + row.others, row.cache, row.activations)]
    gib[2] += " (host)" if row.place == "host" else ""
    return (str(row.degrees.world), str(row.degrees), *gib, sent, f"{row.flops / 1e12:.2f}", "-".join(times))


def data(plan: Plan) -> dict[str, Any]:
    """Plain types, ready for JSON."""
    model, planner, rows, refused, remarks, speeds = plan
    setup = planner.setup
    return {
        "transformer": setup.spec.transformer,
        "source": model.source,
        "method": setup.method.name if setup.method else None,
        "steps": setup.steps,
        "branches": setup.branches,
        "tokens": planner.tokens,
        "heads": planner.heads,
        "others": dict(model.others),
        "speeds": None if speeds is None else vars(speeds),
        "rows": [row.to_dict() for row in rows],
        "not_possible": {str(n): why for n, why in refused.items()},
        "remarks": {str(n): said for n, said in remarks.items()},
    }
