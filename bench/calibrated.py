"""TeaCache with its published polynomial and with one that ``c4d calibrate`` made, at equal cost on held-out clips.

    python -m bench.calibrated [--learning 8] [--clips 8] [--computed 15/20/25]

On the bundled Wan. Thresholds are chosen on the calibration prompts, so that each contender computes as many steps of
50. The page is written to docs/measurements/calibrated/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import c4d
from bench.stamp import ROOT, stamp
from bench.yardsticks import HELD, SEED, Yardstick
from c4d.backends import load
from c4d.bundled import BUNDLED
from c4d.calibrate.calibration import Record
from c4d.calibrate.collect import collected, file_of
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.published import CALIBRATIONS
from c4d.calibrate.published.teacache import TARGETS, threshold_for
from c4d.core.integration.transformers import signature
from c4d.core.text.grammar import parse
from c4d.metrics.paired import paired
from c4d.pipelines.output import write_json
from c4d.pipelines.request import Request
from c4d.pipelines.tuning import OTHER, PLAIN, Contender, Measured, Row, measure

MODEL, PUBLISHED, STEPS = "wan-tiny", "wan2.1-t2v-1.3b", 50
PAGE = ROOT / "docs/measurements/calibrated/README.md"
HEAD = """# TeaCache, calibrated and as published

On wan-tiny, 50 UniPC steps. A calibration (`c4d calibrate teacache`) fits the polynomial to the model at hand; the
published one for `wan2.1-t2v-1.3b` was fitted to another model, and the raw change is no fit at all. All of them decide
by the time embedding. Each threshold was chosen on the calibration prompts, so that as many steps are computed.
"""


def texts(folder: Path, records: Sequence[Record], made_for: Mapping[str, Any]) -> dict[str, str]:
    """Name of a contender -> its text with a place for the threshold."""
    found = {
        f"published, `fit={PUBLISHED}`": f"fit={PUBLISHED}",
        "the raw change, `coefficients=1/0`": "coefficients=1/0,signal=time_embedding",
    }
    for target in TARGETS:
        made = CALIBRATIONS["teacache"](signal="time_embedding", target=target, least=-1e9)
        path = folder / f"{target}.json"
        write_json(path, file_of("teacache", made.fit(records), made_for, {}).to_dict())
        found[f"calibrated, of the {target}"] = f"path={path}"
    return {name: f"teacache:threshold={{}},{text}" for name, text in found.items()}


def predicted(records: Sequence[Record]) -> Iterator[str]:
    """The table of every signal's R^2."""
    yield "| what is to be predicted | signal | monotone | least squares |"
    yield "|---|---|---|---|"
    for target in TARGETS:
        candidates = CALIBRATIONS["teacache"](target=target, least=-1e9).fit(records).figures["candidates"]
        for name, each in candidates.items():
            scores = [f"{each[shape]['held_out_r2']:.2f}" for shape in ("monotone", "least-squares")]
            yield f"| change of the {target} | {name} | {' | '.join(scores)} |"


def refused(records: Sequence[Record]) -> str:
    """What the command says without options."""
    try:
        made = CALIBRATIONS["teacache"]().fit(records)
    except CalibrationError as error:
        return f"Without options the command refuses: {error}."
    return f"Without options the command takes {made.data['signal']}."


def compared(rows: Mapping[int, Mapping[str, Row]]) -> Iterator[str]:
    """The table of closeness."""
    yield "| steps computed | | computed | PSNR, mean / worst | above the published fit (95 %) |"
    yield "|---|---|---|---|---|"
    for count, here in rows.items():
        base = next(iter(here.values()))
        for name, row in here.items():
            above = paired(row.psnr, base.psnr)
            said = "" if row is base else f"{above.mean:+.1f} dB ({above.low:+.1f} to {above.high:+.1f})"
            yield f"| {count} | {name} | {row.share:.0%} | {row.mean:.1f} / {row.worst:.1f} dB | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning", type=int, default=8, help="calibration prompts")
    parser.add_argument("--clips", type=int, default=8, help="held-out clips")
    parser.add_argument("--computed", default="15/20/25", help="numbers of computed steps of 50")
    options = parser.parse_args()
    torch.set_num_threads(1)
    yardstick, cpu = Yardstick(MODEL), load("cpu")
    pipe, call = yardstick.pipe, yardstick.call(num_inference_steps=STEPS)
    prompts, seeds = HELD[MODEL](options.clips)
    requests = [Request(p, seed=s).with_defaults(BUNDLED[MODEL].defaults) for p, s in zip(prompts, seeds, strict=True)]
    rows: dict[int, dict[str, Row]] = {}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        records, _ = collected(
            pipe,
            CALIBRATIONS["teacache"](),
            partial(c4d.cached, pipe, backend=cpu),
            prompts=yardstick.learning(options.learning),
            seed=SEED,
            told=print,
            **call,
        )
        found, measured = texts(Path(folder), records, signature(pipe.transformer)), Measured()
        references: dict[int, torch.Tensor] = {}
        for count in map(int, options.computed.split("/")):
            contenders = {}
            for name, text in found.items():
                policy = partial(_policy, text)
                contenders[name] = Contender(
                    OTHER, text.format(threshold_for(count / STEPS, policy, records)[0]), STEPS
                )
            contenders["plain steps"] = Contender(PLAIN, None, count)
            made = measure(
                pipe, requests, list(contenders.values()), measured, backend=cpu, references=references, told=print
            )
            rows[count] = dict(zip(contenders, made, strict=True))
    lines = [
        HEAD,
        f"## On {options.clips} held-out clips",
        "",
        *compared(rows),
        "",
        "## What predicts how far things change",
        "",
        f"R^2 on a quarter of {options.learning} calibration prompts, of polynomials of degree 4 that were fitted to "
        "the others. `first_blocks` is measured beside the others; TeaCache's rule cannot decide by it.",
        "",
        *predicted(records),
        "",
        refused(records),
        "",
        "## How it was measured",
        "",
        *stamp("python -m bench.calibrated", 1),
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")
    print(f"written: {PAGE}")


def _policy(text: str, threshold: float) -> Any:
    return parse(text.format(threshold)).rules[0].policy


if __name__ == "__main__":
    main()
