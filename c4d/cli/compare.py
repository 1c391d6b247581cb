"""``c4d compare``: one page of what methods do to a model, beside plain steps of the same cost."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from c4d.bundled import BUNDLED
from c4d.calibrate.errors import CalibrationError
from c4d.cli.command import Plan, load, prepare, show, skeleton_of
from c4d.cli.options import CompareOptions, Options
from c4d.cli.signals import Stops
from c4d.cli.tune import teller
from c4d.core.caching.profiles import QUALITIES
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.choice import AUTO, choose_method
from c4d.core.text.grammar import parse
from c4d.metrics.scores import asked_for, loaded
from c4d.pipelines import InputError, Request, check_method, effective, exclusive_lock, memory_explained
from c4d.pipelines.comparison import Comparison, Kept, Run, as_csv
from c4d.pipelines.output import write_json, write_text
from c4d.pipelines.peers import Peer, libraries, peers_of
from c4d.pipelines.quiet import quiet
from c4d.pipelines.report import about_here, render_comparison
from c4d.pipelines.runs import Runner
from c4d.pipelines.strips import embedded
from c4d.pipelines.tuning import LEVELS, OTHER, PEER, UNCACHED, Contender, others, table

BUDGET = 15_000_000  # bytes of all pictures of the page


def run(options: CompareOptions, stops: Stops, more: Sequence[Peer] = ()) -> None:
    """Measures what is not kept yet, then writes the page and its figures, and says the front.

    ``more`` are compared besides the peers that ``options`` names.
    """
    check(options)
    plan = prepare(options.parts_of(Options, cache=None, out=options.out, repeats=1), stops)
    if plan.job.world > 1 and (options.peers or more):
        raise InputError(f"--peers are compared on one rank, and there are {plan.job.world}: leave out one of both")
    requests = plan.requests[: options.samples]
    asked = checked(options, plan)
    stops.check()
    with ExitStack() as until_done, memory_explained(plan.backend, plan.settings):
        plan.job.first(lambda: until_done.enter_context(exclusive_lock(options.out)))
        pipe, _, ranks = load(options, plan, requests, [], until_done)
        stops.check()
        steps = effective(pipe, requests[0])["num_inference_steps"]
        if options.plain is not None and not all(1 <= count < steps for count in options.plain):
            said = "/".join(map(str, options.plain))
            raise InputError(f"--plain is {said}; allowed are numbers from 1 to {steps - 1}, of {steps} steps")
        peers = [*peers_of(options.peers), *more]
        here = [Contender(PEER, None, steps, peer=peer.name) for peer in peers if peer.version is not None]
        methods = [*contenders(pipe, asked, steps), *here]

        def lead(together: Run) -> None:
            comparison = begun(options, plan, pipe, requests, methods, peers, together)
            comparison.measure()
            finish(options, plan, comparison)

        try:
            plan.job.led(Runner(pipe, backend=plan.backend, ranks=ranks, peers=peers), lead)
        except CalibrationError as error:
            raise InputError(f"{error}: leave chosen noise levels out with --minutes 0") from error
    plan.job.end()


def begun(
    options: CompareOptions,
    plan: Plan,
    pipe: Any,
    requests: Sequence[Request],
    methods: Sequence[Contender],
    peers: Sequence[Peer],
    together: Run,
) -> Comparison:
    """What is kept in --out, and is to go on."""
    model, tell = BUNDLED.get(options.model), teller(options, plan, "compare")
    with quiet(bars=False):
        metrics, lacking = loaded(asked_for(options.metrics))
    for metric, why in lacking.items():
        if metric.asked:  # somebody wants it, and may not want to wait for hours without
            tell(f"left out: {metric.name}: {why}")
    return Comparison(
        pipe,
        requests,
        methods,
        Kept(options.out),
        together,
        backend=plan.backend,
        about={
            "model": options.model,
            "pipeline": type(pipe).__name__,
            "dtype": plan.settings.dtype,
            "attention": plan.settings.attention,
            "backend": plan.backend.name,
            **plan.settings.of_model(),
            **({"ranks": spread(plan)} if plan.job.world > 1 else {}),
        },
        metrics=metrics,
        lacking=lacking,
        peers=peers,
        plain=options.plain,
        minutes=options.minutes,
        repeats=options.repeats,
        fps=plan.settings.fps,
        judge=model.judge if model is not None else None,
        told=tell,
    )


def spread(plan: Plan) -> str:
    """How a forward is divided among ranks, and who decides."""
    return f"{plan.degrees}{', both branches deciding jointly' if plan.how.jointly else ''}"


def check(options: CompareOptions) -> None:
    """Raises :class:`InputError` for what is out of range."""
    if not (math.isfinite(options.minutes) and options.minutes >= 0):
        raise InputError(f"--minutes is {options.minutes!r}; allowed are numbers from 0")
    for name, value in (("--samples", options.samples), ("--repeats", options.repeats)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value!r}; allowed are whole numbers from 1")
    for name in options.peers:
        if name not in libraries():
            raise InputError(f"--peers {name!r} is not known; known are {', '.join(libraries())}")
    try:
        asked_for(options.metrics)
    except ValueError as error:
        raise InputError(f"--metrics: {error}") from error
    if "none" in options.cache:
        raise InputError("--cache none is always compared: the uncached clip; give the methods alone")


def checked(options: CompareOptions, plan: Plan) -> list[str]:
    """The methods that were asked for, each once; all are checked before weights are loaded."""
    pipe, found = skeleton_of(options), dict[str, None]()
    for text in options.cache:
        if text == AUTO:
            found[AUTO] = None
            continue
        method = parse(text)
        check_method(pipe, method, backend=plan.backend, steps=plan.requests[0].steps)
        found[method.name] = None
    return list(found)


def contenders(pipe: Any, asked: Sequence[str], steps: int) -> list[Contender]:
    """Those that were asked for; or what ``auto`` takes, and what needs nothing but a text, at the same costs.

    Raises :class:`InputError` where there is none.
    """
    texts = dict.fromkeys(text for text in asked if text != AUTO)
    for quality in ["balanced"] if AUTO in asked else [] if asked else QUALITIES:
        choice = choose_method(list(transformers_of(pipe).values()), pipe.scheduler, quality, steps)
        if choice.method is not None:
            texts[choice.method.name] = None
        elif asked:
            raise InputError(f"--cache auto: {choice.why}")
    found = [Contender(OTHER, text, steps) for text in texts]
    if not asked:
        counts = {max(2, round(share * steps)) for share, _ in QUALITIES.values()}
        found += others(pipe, sorted(counts, reverse=True), steps)
    if not found:
        raise InputError(f"no method goes with this {type(pipe).__name__}: give --cache TEXT (c4d methods lists them)")
    return found


def finish(options: CompareOptions, plan: Plan, comparison: Comparison) -> None:
    """Writes compare.json, compare.csv and index.html, and says what is on the front."""
    figures = {**comparison.figures(), "machine": about_here()["machine"]}
    pictures, rung = embedded(comparison.strips(), BUDGET)
    commands = {each["name"]: line for each in figures["contenders"] if (line := command(options, each)) is not None}
    write_json(options.out / "compare.json", figures)
    write_text(options.out / "compare.csv", as_csv(figures))
    write_text(options.out / "index.html", render_comparison(figures, pictures, rung, commands))
    found = [each for each in comparison.contenders() if not comparison.failed(each)]
    rows = [comparison.row(each) for each in found if each.kind != UNCACHED and not comparison.cached_nothing(each)]
    for line in () if options.quiet else table(rows):
        print(line)
    for each in () if options.quiet else filter(comparison.cached_nothing, found):
        print(f"cached nothing: {each.name}")
    for line in () if options.quiet else figures["left_out"]:
        print(f"left out: {line}")
    print(f"files in {options.out}: index.html, compare.json, compare.csv, clips")
    if options.open_:
        show(options.out / "index.html")


def command(options: CompareOptions, contender: dict[str, Any]) -> str | None:
    """The command line that makes a clip as a contender does; None where no option does it."""
    if contender["kind"] in (LEVELS, PEER):
        return None
    words = ["c4d", "generate", "--model", options.model, "--cache", contender["method"] or "none"]
    given = {
        "steps": contender["steps"],
        "height": options.height,
        "width": options.width,
        "frames": options.frames,
        "guidance-scale": options.guidance_scale,
        "max-sequence-length": options.max_sequence_length,
        "negative-prompt": options.negative_prompt,
        "negative-prompt-file": options.negative_prompt_file,
        "last-image": options.last_image,
        "video": options.video,
        "mask": options.mask,
        "control": options.control,
        "strength": options.strength,
        "revision": options.revision,
        "variant": options.variant,
        "scheduler": options.scheduler,
        "shift": options.shift,
        "dtype": options.dtype,
        "ranks": options.ranks,
        "ulysses": options.ulysses,
        "ring": options.ring,
        "cfg": options.cfg,
    }
    words += ["--jointly"] if options.jointly else []
    for name, several in (("image", options.image), ("lora", options.lora), ("argument", options.argument)):
        words += [word for each in several for word in (f"--{name}", str(each))]
    for name, value in given.items():
        words += [f"--{name}", str(value)] if value is not None else []
    return f"{shlex.join(words)} --prompt …"
