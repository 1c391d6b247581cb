"""Other libraries' caches beside c4d's: what they leave behind (nothing), what they cost, and what of them fails."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager

import pytest
import torch

import c4d as package
import c4d.cli.compare as command
import c4d.pipelines.peers as peers
import c4d.pipelines.runs as making
from c4d.pipelines.flops import Flops
from c4d.pipelines.peers import PEERS, Peer, hooked, registered
from tests.cli.test_compare import BROWSER, by_name, counting, figures, opened, words
from tests.pipes import flux, text_to_video
from tests.tiny import rand

STEPS = 8
FIRST = "diffusers FirstBlock threshold=0.3"


def seeded():
    return dict(generator=torch.Generator().manual_seed(0), num_inference_steps=STEPS, output_type="latent")


def run_wan(pipe, **more):
    small = dict(height=32, width=32, num_frames=5, max_sequence_length=8)
    return pipe("a red circle", **small, **seeded(), **more).frames


def run_flux(pipe):
    words = dict(prompt_embeds=rand(1, 7, 16, seed=1), pooled_prompt_embeds=rand(1, 8, seed=2))
    return pipe(**words, height=64, width=64, **seeded()).images


def counted(pipe, run):
    with Flops(pipe) as flops:
        out = run(pipe)
    return out, flops.count


@pytest.fixture(scope="module", params=[(lambda: text_to_video()[0], run_wan), (flux, run_flux)], ids=["wan", "flux"])
def plain(request):
    """A tiny pipeline, how it is run, and its uncached result and FLOPs."""
    make, run = request.param
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe, run, *counted(pipe, run)


def hanging(pipe):
    """The call of the pipeline's class, its transformer's modules in their order, and what hangs on all of them."""
    modules = {f"{path}.{name}" for path, module in pipe.transformer.named_modules() for name in vars(module)}
    order = [path for path, _ in pipe.transformer.named_modules()]
    return type(pipe).__call__, order, modules.union(vars(type(pipe)))


def installed(peer):
    return pytest.param(peer, marks=pytest.mark.skipif(peer.version is None, reason=f"{peer.library} is not installed"))


@pytest.mark.parametrize("peer", map(installed, PEERS), ids=lambda peer: peer.name)
def test_a_peer_leaves_nothing_behind(plain, peer):
    pipe, run, before, whole = plain
    had = hanging(pipe)
    with peer.at_work(pipe):
        out, flops = counted(pipe, run)
    assert hanging(pipe) == had
    assert torch.equal(run(pipe), before)
    assert flops <= whole and (flops == whole) == torch.equal(out, before), "what computes everything changes nothing"
    if run is run_wan:
        assert flops < whole, "each has something to reuse on it"


@pytest.mark.parametrize("library", peers.libraries())
def test_nor_does_one_that_fails(library):
    pipe = text_to_video()[0]
    pipe.set_progress_bar_config(disable=True)
    before = run_wan(pipe)
    peer = next(peer for peer in PEERS if peer.library == library)
    if peer.version is None:
        pytest.skip(f"{library} is not installed")
    had = hanging(pipe)
    with pytest.raises(ZeroDivisionError), peer.at_work(pipe):
        run_wan(pipe, callback_on_step_end=lambda *_: 1 / 0)
    assert hanging(pipe) == had and torch.equal(run_wan(pipe), before)


def test_nor_does_one_that_fails_half_way_on(monkeypatch):
    """On blocks that have a registry of hooks already, as with offloading: a hook that stays in it is in the way."""
    from diffusers.hooks import HookRegistry

    pipe = text_to_video()[0]
    pipe.set_progress_bar_config(disable=True)
    for block in pipe.transformer.blocks:
        HookRegistry.check_if_exists_or_initialize(block)
    before, real, hooks = run_wan(pipe), HookRegistry.register_hook, []

    def register(self, *given):
        hooks.append(given)
        if len(hooks) == 3:
            raise MemoryError("no more hooks")
        return real(self, *given)

    peer = next(peer for peer in PEERS if peer.name == FIRST)
    with monkeypatch.context() as patch:
        patch.setattr(HookRegistry, "register_hook", register)
        with pytest.raises(MemoryError), peer.at_work(pipe):
            pass
    assert torch.equal(run_wan(pipe), before)
    with peer.at_work(pipe):
        assert not torch.equal(run_wan(pipe), before), "it can be switched on afterwards"


def test_two_caches_are_never_at_work_at_once():
    pytest.importorskip("cache_dit")
    pipe = text_to_video()[0]
    first, dbcache = (next(peer for peer in PEERS if peer.library == name) for name in ("diffusers", "cache-dit"))
    for peer, other, name in ((first, dbcache, "cache-dit"), (dbcache, first, "diffusers")):
        with (
            package.cached(pipe, "fora:interval=3"),
            pytest.raises(RuntimeError, match=r"c4d is at work.*disable"),
            peer.at_work(pipe),
        ):
            pass
        with other.at_work(pipe):
            with pytest.raises(RuntimeError, match=name), peer.at_work(pipe):
                pass
            with pytest.raises(RuntimeError, match=name), package.cached(pipe, "fora:interval=3"):
                pass


def test_cache_dit_counts_the_steps_of_an_unguided_run():
    """By itself it takes Wan's forwards in pairs, and an unguided run would compute twice as many steps."""
    pytest.importorskip("cache_dit")
    pipe, ran = text_to_video()[0], []
    pipe.set_progress_bar_config(disable=True)
    run_wan(pipe, guidance_scale=1.0)
    pipe.transformer.blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    with Peer("cache-dit", "", registered, {**peers.F1B0, "residual_diff_threshold": 1e9}).at_work(pipe):
        run_wan(pipe, guidance_scale=1.0)
    assert len(ran) == peers.F1B0["max_warmup_steps"]


# -- on the command line


@contextmanager
def refused(pipe):
    raise ValueError("no such <b>blocks</b>\nare known")
    yield


FEW = (
    Peer("diffusers", "FirstBlock threshold=0.3", hooked, {"config": "FirstBlockCacheConfig", "threshold": 0.3}),
    Peer("diffusers", "idle", hooked, {"config": "FirstBlockCacheConfig", "threshold": 0.0}),
    Peer("diffusers", "refused", refused, {}),
    Peer("not-there", "at all", refused, {}),
)


@pytest.fixture
def compare(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", FEW)

    def asked(*more):
        few = ("--samples", "2", "--plain", "3", "--peers", "diffusers,not-there")
        return words(saved, tmp_path, *few, *more, methods=("--cache", "fora:interval=3"))

    return asked


def test_peers_are_contenders(c4d, compare, tmp_path):
    outcome = c4d(*compare())
    assert outcome.code == 0, outcome.err
    told, found = figures(tmp_path), by_name(tmp_path)
    assert set(found) == {"uncached", "fora:interval=3", FIRST, "diffusers idle", "3 plain steps"}
    peer, idle, whole = found[FIRST], found["diffusers idle"], found["uncached"]["flops"]
    assert peer["kind"] == "another library's cache" and peer["peer"] == FIRST and peer["method"] is None
    assert 0 < peer["flops"] < whole and peer["share"] == peer["flops_share"] == round(peer["flops"] / whole, 4)
    assert peer["bytes"] is None and peer["block_rows"] is None and not peer["cached_nothing"]
    assert idle["cached_nothing"] and idle["share"] == 1 and idle["scores"]["PSNR"]["mean"] == 120.0
    assert not idle["front"], "it is the uncached clip"
    assert outcome.out.count("diffusers idle") == 1 and "cached nothing: diffusers idle" in outcome.out
    assert FIRST in outcome.out
    lines = [line for line in csv.DictReader((tmp_path / "out/compare.csv").open()) if line["contender"] == FIRST]
    assert [line["flops"] for line in lines] == [str(peer["flops"]), ""] and lines[0]["cache_bytes"] == ""
    for said in (
        "diffusers refused: ValueError: no such <b>blocks</b> are known",
        "not-there: not installed here (pip install not-there)",
    ):
        assert f"left out: {said}" in outcome.out and said in told["left_out"]
    page = (tmp_path / "out/index.html").read_text()
    assert "diffusers refused: ValueError: no such &lt;b&gt;blocks" in page and "pip install not-there" in page
    commands = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["commands"]
    assert FIRST not in commands and "fora:interval=3" in commands
    if BROWSER is not None:
        body = opened(tmp_path, tmp_path / "browser").partition("<tbody>")[2].partition("</tbody>")[0]
        said = "another library's cache, no command in c4d"
        assert body.count(said) == 2 and body.count("cached nothing: it computed every step whole") == 1


def test_what_a_peer_depends_on(c4d, compare, monkeypatch):
    runs, real = counting(monkeypatch), Peer.version
    assert c4d(*compare()).code == 0
    runs[:] = []
    assert c4d(*compare()).code == 0 and runs == [], "what failed is not tried again, either"
    monkeypatch.setattr(Peer, "version", property(lambda self: "9.9" if self.method == "idle" else real.fget(self)))
    assert c4d(*compare()).code == 0 and len(runs) == 2, "another version of the library: both prompts of that peer"
    runs[:] = []
    other = Peer("diffusers", "idle", hooked, {**FEW[1].settings, "threshold": -1.0})
    monkeypatch.setattr(peers, "PEERS", (FEW[0], other, *FEW[2:]))
    assert c4d(*compare()).code == 0 and len(runs) == 2, "another setting"


def test_a_peer_whose_flops_cannot_be_counted_is_left_out(c4d, compare, tmp_path, monkeypatch):
    real = making.Flops

    class Blind(real):
        def __exit__(self, *exc):
            super().__exit__(*exc)
            self.count = 0

    monkeypatch.setattr(making, "Flops", Blind)
    outcome = c4d(*compare())
    assert outcome.code == 0 and f"left out: {FIRST}: torch counts no FLOPs" in outcome.out
    assert set(by_name(tmp_path)) == {"uncached", "fora:interval=3", "3 plain steps"}


def test_unknown_peers(fails, saved, tmp_path):
    fails(words(saved, tmp_path, "--peers", "cache-dit,teacup"), 2, "--peers 'teacup'", "diffusers, cache-dit")
    assert command.libraries() == ("diffusers", "cache-dit")
