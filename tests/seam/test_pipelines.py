"""Real pipelines, unmodified: the pipeline classes of diffusers around tiny random transformers."""

from __future__ import annotations

import pytest
import torch

import c4d
from tests.pipes import BRANCHES, PICTURES, PIPELINES, hunyuan_video, transformer, two_experts, wan_parts
from tests.sampled import sampled
from tests.tiny import hold_methods, rand


@pytest.fixture(scope="module")
def pipe_and_extra(request):
    pipe, extra = PIPELINES[request.param]()
    pipe.set_progress_bar_config(disable=True)
    return request.param, pipe, extra


def run(pipe, extra, steps=6, prompt="a red circle"):
    return pipe(
        prompt=prompt, height=32, width=32, num_frames=5, num_inference_steps=steps, guidance_scale=3.0,
        output_type="latent", max_sequence_length=512 if "image" in extra else 8,
        generator=torch.Generator().manual_seed(3), **extra,
    ).frames  # fmt: skip


@pytest.mark.parametrize(
    ("pipe_and_extra", "kind"),
    sampled(PIPELINES, hold_methods("wan-t2v"), nth=6),
    indirect=["pipe_and_extra"],
)
def test_a_pipeline_end_to_end(pipe_and_extra, kind):
    """Reused as traced, the second prompt like a first one, bit-exact before and after."""
    name, pipe, extra = pipe_and_extra
    method = hold_methods("wan-t2v")[kind]
    plain = run(pipe, extra)
    with c4d.cached(pipe, method) as session:
        run(pipe, extra, prompt="a blue square")
        cached = run(pipe, extra)
        report = session.report()
    with c4d.cached(pipe, method):
        fresh = run(pipe, extra)
    assert torch.equal(cached, fresh) and not torch.equal(cached, plain)
    assert torch.equal(run(pipe, extra), plain)
    assert report.runs == 2 and set(report.timelines) == {"cond", "uncond"} and report.reused > 0
    for line in report.timelines.values():
        assert len(line.replace("|", "")) == 6 and all(part.startswith("C") for part in line.split("|"))
    assert ("|" in report.timelines["cond"]) == (name == "two_experts")


def test_steps_of_two_experts_are_counted_over_the_whole_run():
    pipe, extra = two_experts()
    pipe.set_progress_bar_config(disable=True)
    with c4d.cached(pipe, "fora:interval=3") as session:
        run(pipe, extra, steps=8)
        assert session.bytes() == 0 < session.report().peak_bytes  # neither expert holds on to its own
    cond = [e.step for e in session.trace if e.step.branch == "cond"]
    assert [(s.index, s.total) for s in cond] == [(i, 8) for i in range(8)]
    assert sorted(s.expert for s in cond) == [s.expert for s in cond] and {s.expert for s in cond} == {0, 1}
    split = sum(s.expert == 0 for s in cond)
    assert 0 < split < 8 and {s.span for s in cond} == {(0, split), (split, 8)}
    first_of_second = next(e for e in session.trace if e.step.expert == 1)
    assert first_of_second.computed


def test_hunyuan_video_pipeline():
    pipe = hunyuan_video()
    pipe.set_progress_bar_config(disable=True)

    def generate():
        return pipe(
            prompt_embeds=rand(1, 12, 16, seed=1), pooled_prompt_embeds=rand(1, 8, seed=2),
            prompt_attention_mask=torch.ones(1, 12), height=32, width=32, num_frames=5, num_inference_steps=6,
            generator=torch.Generator().manual_seed(3), output_type="latent",
        ).frames  # fmt: skip

    plain = generate()
    for kind, method in hold_methods("hunyuan-t2v").items():
        with c4d.cached(pipe, method) as session:
            generate()
            assert not torch.equal(generate(), plain), kind
        assert set(session.report().timelines) == {"cond"} and session.report().reused > 0
    assert torch.equal(generate(), plain)


@pytest.fixture(scope="module")
def picture(request):
    """A pipeline of pictures: its name, itself, and what it answers for a prompt."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit

    pipe, ask = PICTURES[request.param]()
    pipe.set_progress_bar_config(disable=True)

    def answer(prompt="A", steps=6):
        made = torch.Generator().manual_seed(3)
        kind = "pt" if request.param == "dit" else "latent"  # which always decodes
        return pipe(**ask(prompt), num_inference_steps=steps, generator=made, output_type=kind, return_dict=False)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit, "VAE_IMAGE_SIZE", 64 * 64)
        yield request.param, pipe, answer


@pytest.mark.parametrize(("picture", "kind"), sampled(PICTURES, hold_methods("flux"), nth=5), indirect=["picture"])
def test_a_pipeline_of_pictures_end_to_end(picture, kind):
    """As above; branches of guidance apart, whose texts are of different lengths."""
    name, pipe, answer = picture
    method = hold_methods("flux")[kind]
    plain = answer()
    with c4d.cached(pipe, method) as session:
        answer("B")
        cached = answer()
        report = session.report()
    with c4d.cached(pipe, method):
        fresh = answer()
    assert torch.equal(cached, fresh) and not torch.equal(cached, plain)
    assert torch.equal(answer(), plain)
    branches = {branch.partition("#")[0] for branch in report.timelines}  # of each sample, where a batch has several
    assert report.runs == 2 and branches == BRANCHES.get(name, {"cond", "uncond"}) and report.reused > 0
    for line in report.timelines.values():
        assert len(line) == 6 and line.startswith("C")
    assert not any(entry.restarted for entry in session.trace)


@pytest.mark.parametrize("picture", PICTURES, indirect=True)
def test_attention_in_a_pipeline_of_pictures(picture):
    _, pipe, answer = picture
    plain = answer()
    with c4d.attention(pipe, "sdpa"):
        inside = answer()
    assert (inside - plain).norm() < 1e-5 * plain.norm()
    assert torch.equal(answer(), plain)


@pytest.mark.parametrize("picture", PICTURES, indirect=True)
def test_a_picture_whose_forecast_is_exact_is_the_plain_one(picture):
    """Every forward computed through the seam: what the pipeline gets is what it got without."""
    _, pipe, answer = picture
    plain = answer()
    with c4d.cached(pipe, "taylorseer-lite:interval=1") as session:
        assert torch.equal(answer(), plain)
    assert session.report().reused == 0


def test_what_is_no_denoiser_is_refused_with_the_known_ones():
    from diffusers import AutoencoderKL

    model = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    with pytest.raises(TypeError, match=r"AutoencoderKL, and its forward has no timestep.* c4d models lists them"):
        c4d.cached(model, "fora:interval=2")


def test_a_pipeline_without_a_transformer_is_refused():
    class Pipe:
        unet = scheduler = None

    with pytest.raises(TypeError, match="Pipe has no transformer"):
        c4d.cached(Pipe(), "fora:interval=2")


def test_a_method_that_fits_nothing_is_refused():
    _, config = wan_parts()
    model = transformer(**config)
    with pytest.raises(ValueError, match="caches at total, but WanTransformer3DModel offers blocks, output, attn"):
        c4d.cached(model, "fora:interval=2@total")
    with pytest.raises(ValueError, match="measures modulated_input, but WanTransformer3DModel offers time_embedding"):
        c4d.cached(model, "teacache:threshold=0.15,fit=hunyuanvideo-t2v")
    with pytest.raises(ValueError, match="unknown backend 'tpu': known are auto, cuda, ascend, cpu"):
        c4d.cached(model, "fora:interval=2", backend="tpu")


def test_a_spec_of_one_s_own():
    """docs/adding_a_model.md, in short."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Linear(8, 8)

        def forward(self, hidden_states, scale):
            return hidden_states + scale * self.mlp(hidden_states)

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.final = nn.ModuleList(Block() for _ in range(3)), nn.LayerNorm(8)

        def forward(self, hidden_states, timestep):
            for block in self.layers:
                hidden_states = block(hidden_states, scale=timestep)
            return self.final(hidden_states)

    stack = c4d.Stack("layers", sites={"mlp": (c4d.Site("mlp"),)})
    spec = c4d.ModelSpec("Mine", stacks=(stack,), exit="final")
    model, x = Mine(), rand(2, 5, 8)
    for method in ("fora:interval=2", "taylorseer-lite:interval=2", "first-block:threshold=1e9,last=0"):
        with c4d.cached(model, method, spec=spec) as session:
            session.begin([1.0, 1.0])
            a, b = model(x, torch.tensor(1.0)), model(x, torch.tensor(1.0))
        assert set(session.report().timelines.values()) == {"Cr"} and torch.allclose(a, b, atol=1e-6)
    wrong = c4d.ModelSpec("Mine", stacks=(stack,), exit="layers.0.mlp")
    with c4d.cached(model, "schedule:computed=0", spec=wrong) as session, pytest.raises(RuntimeError, match="spec"):
        session.begin([1.0, 1.0])
        model(x, torch.tensor(1.0)), model(x, torch.tensor(1.0))


def test_a_failed_attach_leaves_nothing_on_the_model():
    from torch import nn

    _, config = wan_parts()
    model = transformer(**config)
    before = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    spec = c4d.ModelSpec("WanTransformer3DModel", stacks=(c4d.Stack("blocks"),), exit="no_such_module")
    with pytest.raises(ValueError, match=r"names a module 'no_such_module' \(exit=\), which .* it has rope, patch_emb"):
        c4d.cached(model, "schedule:computed=0", spec=spec).__enter__()
    assert type(model.blocks) is nn.ModuleList and not model._forward_pre_hooks and not model._forward_hooks
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == before
    with c4d.cached(model, "schedule:computed=0"):
        pass


def test_blocks_in_a_list_of_another_class_are_refused():
    """Its own loop might be what the class is for."""
    from torch import nn

    class Backwards(nn.ModuleList):
        def __iter__(self):
            return reversed(list(super().__iter__()))

    _, config = wan_parts()
    model = transformer(**config)
    model.blocks = Backwards(model.blocks)
    with pytest.raises(TypeError, match=r"'blocks' is a Backwards; a stack must be a plain torch\.nn\.ModuleList"):
        c4d.cached(model, "schedule:computed=0").__enter__()
    assert type(model.blocks) is Backwards
