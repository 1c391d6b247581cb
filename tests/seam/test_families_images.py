"""Families of image models in their own pipelines of diffusers, around tiny random parts."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import c4d
from c4d.core.spec import ModelSpec, Stack
from c4d.describe.check import check
from c4d.models import spec_for
from tests.denoisers import ENTRIES, rand
from tests.pipes import reader

STEPS = 6
SMALL = dict(height=64, width=80)


def denoiser(name, **config):
    """The tiny model of a class that tests/denoisers has."""
    return next(entry for entry in ENTRIES if entry.name == name).build(**config)


def image_vae(kind="AutoencoderKL", channels=4, **config):
    """8 pixels along a side to a latent."""
    import diffusers

    torch.manual_seed(0)
    return getattr(diffusers, kind)(
        block_out_channels=(4,) * 4, norm_num_groups=4, latent_channels=channels, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **config,
    ).eval()  # fmt: skip


def flow(shift=3.0, **config):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift, **config)


def texts(seed, width, mask=None):
    """Embeddings of a prompt and of what is not wanted, of other lengths; masks say that two tokens are padding."""
    made = {}
    for prefix, length, at in (("", 7, 100 + seed), ("negative_", 7 if mask else 4, 20)):
        made[f"{prefix}prompt_embeds"] = rand(1, length, width, seed=at)
        if mask:
            made[f"{prefix}{mask}"] = torch.tensor([[1] * (length - 2 - (prefix != "")) + [0] * (2 + (prefix != ""))])
    return made


# -- each builds a pipeline and what makes a request of it, told apart by a seed


def flux2(**asked):
    """Guidance is an input of the model."""
    from diffusers import Flux2Pipeline

    pipe = Flux2Pipeline(
        text_encoder=None, tokenizer=None, vae=image_vae("AutoencoderKLFlux2", 2),
        scheduler=flow(use_dynamic_shifting=True), transformer=denoiser("Flux2Transformer2DModel"),
    )  # fmt: skip
    return pipe, lambda seed: dict(prompt_embeds=rand(1, 7, 16, seed=100 + seed), **SMALL, **asked)


def flux2_edit():
    """The tokens of a given image go behind those of the one that is made."""
    return flux2(image=Image.new("RGB", (64, 64), (200, 30, 30)))


def flux2_klein():
    from diffusers import Flux2KleinPipeline

    pipe = Flux2KleinPipeline(
        text_encoder=None, tokenizer=None, vae=image_vae("AutoencoderKLFlux2", 2),
        scheduler=flow(use_dynamic_shifting=True),
        transformer=denoiser("Flux2Transformer2DModel", guidance_embeds=False),
    )  # fmt: skip
    return pipe, lambda seed: dict(**texts(seed, 16), **SMALL)


def flux2_klein_kv():
    """The first step makes keys and values of a given image's tokens, and returns them for the others."""
    from diffusers import Flux2KleinKVPipeline

    pipe = Flux2KleinKVPipeline(
        text_encoder=None, tokenizer=None, vae=image_vae("AutoencoderKLFlux2", 2),
        scheduler=flow(use_dynamic_shifting=True),
        transformer=denoiser("Flux2Transformer2DModel", guidance_embeds=False),
    )  # fmt: skip
    given = Image.new("RGB", (64, 64), (200, 30, 30))
    return pipe, lambda seed: dict(prompt_embeds=rand(1, 7, 16, seed=100 + seed), image=given, **SMALL)


def z_image(**asked):
    """Lists of samples, with and without the prompt in one call."""
    from diffusers import ZImagePipeline

    pipe = ZImagePipeline(
        text_encoder=None, tokenizer=None, vae=image_vae(shift_factor=0.1), scheduler=flow(),
        transformer=denoiser("ZImageTransformer2DModel"),
    )  # fmt: skip
    return pipe, lambda seed: {name: [*words] for name, words in texts(seed, 12).items()} | SMALL | asked


class Words:
    """What the pipeline asks of its processor when it is made; all the rest is for prompts."""

    tokenizer = SimpleNamespace(encode=lambda text: [1])

    def apply_chat_template(self, messages, **_):
        return [[0] * len(messages)]


def qwen21(**asked):
    """What the blocks keep of the text lies in an object that the pipeline gives: made by a run's first step, and read
    by the others, whose outputs are those of the picture's tokens alone."""
    from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline

    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=4, z_dim=8, dim_mult=[1] * 5, num_res_blocks=1, latents_mean=[0.0] * 8,
        latents_std=[1.0] * 8,
    ).eval()  # fmt: skip
    pipe = QwenImage21Pipeline(
        scheduler=flow(use_dynamic_shifting=True), vae=vae, text_encoder=None, processor=Words(),
        transformer=denoiser("QwenImage21Transformer2DModel"),
    )  # fmt: skip
    return (
        pipe,
        lambda seed: texts(seed, 12, "prompt_embeds_mask") | dict(true_cfg_scale=3.0, height=64, width=96) | asked,
    )


def qwen21_without_kv_cache():
    return qwen21(use_kv_cache=False)


def sd3(**asked):
    """With and without the prompt in one batch."""
    from diffusers import StableDiffusion3Pipeline

    none = {f"{part}{i}": None for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")}
    pipe = StableDiffusion3Pipeline(
        **none, vae=image_vae(shift_factor=0.1), scheduler=flow(), transformer=denoiser("SD3Transformer2DModel")
    )

    def request(seed):
        words = dict(prompt_embeds=rand(1, 7, 12, seed=100 + seed), negative_prompt_embeds=rand(1, 7, 12, seed=20))
        pooled = dict(
            pooled_prompt_embeds=rand(1, 6, seed=200 + seed), negative_pooled_prompt_embeds=rand(1, 6, seed=21)
        )
        return words | pooled | SMALL | asked

    return pipe, request


def chroma():
    """Two calls a step, without names."""
    from diffusers import ChromaPipeline

    pipe = ChromaPipeline(
        text_encoder=None, tokenizer=None, vae=image_vae(channels=2, shift_factor=0.1), scheduler=flow(1.0),
        transformer=denoiser("ChromaTransformer2DModel"),
    )  # fmt: skip

    def request(seed):
        words = texts(seed, 16, "prompt_attention_mask")
        return {name: x.bool() if "mask" in name else x for name, x in words.items()} | SMALL

    return pipe, request


def sana():
    """A solver of the second order; guidance in one batch."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline

    torch.manual_seed(0)
    levels = {}
    for part in ("encoder", "decoder"):
        levels |= {f"{part}_block_out_channels": (8,) * 4, f"{part}_layers_per_block": (1,) * 4}
        levels |= {f"{part}_qkv_multiscales": ((),) * 4}
    pipe = SanaPipeline(
        tokenizer=None, text_encoder=None, vae=AutoencoderDC(latent_channels=8, **levels).eval(),
        transformer=denoiser("SanaTransformer2DModel"),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )  # fmt: skip
    asked = dict(negative_prompt=None, use_resolution_binning=False, height=32, width=64)
    return pipe, lambda seed: texts(seed, 12, "prompt_attention_mask") | asked


def lumina2(**asked):
    """Two calls a step, without names; time runs from noise at 0."""
    from diffusers import Lumina2Pipeline

    pipe = Lumina2Pipeline(
        tokenizer=None, text_encoder=None, vae=image_vae(shift_factor=0.1), scheduler=flow(6.0),
        transformer=denoiser("Lumina2Transformer2DModel"),
    )  # fmt: skip
    return pipe, lambda seed: texts(seed, 12, "prompt_attention_mask") | SMALL | asked


def pixart_sigma():
    """The model returns the variances of the noise, too."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    pipe = PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=image_vae(), transformer=denoiser("PixArtTransformer2DModel"),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )  # fmt: skip
    asked = dict(negative_prompt=None, use_resolution_binning=False, **SMALL)
    return pipe, lambda seed: texts(seed, 12, "prompt_attention_mask") | asked


def longcat():
    """It takes no embeddings alone, so it reads its prompt."""
    from diffusers import LongCatImagePipeline

    # of 16 channels of latents, whatever its VAE, four go to a token
    model = denoiser("LongCatImageTransformer2DModel", in_channels=64)
    pipe = LongCatImagePipeline(
        **reader(16), text_processor=None, vae=image_vae(channels=16, shift_factor=0.1), scheduler=flow(),
        transformer=model,
    )  # fmt: skip
    pipe.tokenizer_max_length = 16
    return pipe, lambda seed: dict(prompt=("a red dot", "two lines")[seed], enable_prompt_rewrite=False, **SMALL)


def hidream():
    """Guidance in one batch; behind the tokens of a picture that is not square stand some that are none."""
    from diffusers import HiDreamImagePipeline

    none = {f"{part}{i}": None for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3", "_4")}
    pipe = HiDreamImagePipeline(
        **none, vae=image_vae(shift_factor=0.1), scheduler=flow(),
        transformer=denoiser("HiDreamImageTransformer2DModel"),
    )  # fmt: skip
    pipe.default_sample_size = 8  # every request is brought to as many pixels

    def request(seed):
        asked = dict(height=48, width=80)
        for prefix, at in (("", 100 + seed), ("negative_", 20)):
            asked[f"{prefix}prompt_embeds_t5"] = rand(1, 7, 12, seed=at)
            asked[f"{prefix}prompt_embeds_llama3"] = rand(2, 1, 7, 10, seed=at + 1)
            asked[f"{prefix}pooled_prompt_embeds"] = rand(1, 6, seed=at + 2)
        return asked

    return pipe, request


def sdxl():
    """A U-Net; guidance in one batch, and latents that are scaled for the model."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    noise = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    pipe = StableDiffusionXLPipeline(
        text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, vae=image_vae(),
        unet=denoiser("UNet2DConditionModel"), scheduler=EulerDiscreteScheduler(**noise, timestep_spacing="leading"),
        add_watermarker=False,
    )  # fmt: skip

    def request(seed):
        words = dict(prompt_embeds=rand(1, 7, 16, seed=100 + seed), negative_prompt_embeds=rand(1, 7, 16, seed=20))
        pooled = dict(
            pooled_prompt_embeds=rand(1, 16, seed=200 + seed), negative_pooled_prompt_embeds=rand(1, 16, seed=21)
        )
        return words | pooled | dict(height=64, width=64)

    return pipe, request


FAMILIES = {
    flux2: {"0"},
    flux2_edit: {"0"},
    flux2_klein: {"cond", "uncond"},
    flux2_klein_kv: {"0"},
    z_image: {"0"},
    qwen21: {"cond", "uncond"},
    qwen21_without_kv_cache: {"cond", "uncond"},
    sd3: {"0"},
    chroma: {"0", "1"},
    sana: {"0"},
    lumina2: {"0", "1"},
    pixart_sigma: {"0"},
    longcat: {"cond", "uncond"},
    hidream: {"0"},
    sdxl: {"0"},
}
FIRST_APART = {flux2_klein_kv, qwen21}  # the first step fills what the others read, and nothing of it is reused


def asking(pipe, make):
    """What asks the pipeline, for latents unless it is told otherwise."""
    pipe.set_progress_bar_config(disable=True)

    def answer(seed=0, **more):
        asked = {**make(seed), "output_type": "latent", **more}
        made = torch.Generator().manual_seed(seed)
        return pipe(**asked, num_inference_steps=STEPS, generator=made, return_dict=False)[0]

    return answer


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def model(request):
    """A pipeline, what asks it, and what turns a line into those of its branches."""
    pipe, make = request.param()

    def lines(line):
        return dict.fromkeys(FAMILIES[request.param], "C" + line[:-1] if request.param in FIRST_APART else line)

    return pipe, asking(pipe, make), lines


def described(pipe):
    """The lists of blocks that c4d knows of its model."""
    return spec_for(getattr(pipe, "transformer", None) or pipe.unet).stacks


@pytest.fixture(scope="module")
def plain(model):
    """The first request without a cache."""
    return model[1]()


@pytest.mark.whole
def test_never_skipping_is_exact(model, plain):
    pipe, answer, lines = model
    with c4d.cached(pipe, "taylorseer-lite:interval=1") as session:
        assert torch.equal(answer(), plain)
    assert session.report().timelines == lines("C" * STEPS)
    assert torch.equal(answer(), plain)


def test_a_whole_forward_method_reuses(model, plain):
    pipe, answer, lines = model
    with c4d.cached(pipe, "taylorseer-lite:interval=2") as session:
        made = answer()
        assert session.bytes() == 0 and session.report().peak_bytes > 0
        assert session.report().timelines == lines("CrCrCr")
        picture = answer(output_type="pt")
    assert made.isfinite().all() and not torch.equal(made, plain)
    assert picture.isfinite().all() and picture.ndim == 4 and not torch.equal(picture, answer(output_type="pt"))


def test_a_second_request_is_not_changed_by_the_first(model):
    pipe, answer, _ = model
    with c4d.cached(pipe, "taylorseer-lite:interval=2"):
        first, other, again = answer(0), answer(1), answer(0)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("taylorseer-lite:interval=2@blocks", "CrCrCr"),
        ("first-block:threshold=1e9,last=0", "Crrrrr"),
        ("fora:interval=2", "CrCrCr"),
    ],
)
def test_a_block_method(model, plain, method, line):
    pipe, answer, lines = model
    if not described(pipe):
        pytest.skip("its blocks are not described")
    with c4d.cached(pipe, method) as session:
        first, other, again = answer(0), answer(1), answer(0)
        assert session.bytes() == 0
        assert session.report().timelines == lines(line)
    assert first.isfinite().all() and not torch.equal(first, plain)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(answer(), plain)


@pytest.mark.parametrize(
    ("family", "asked", "lines"),
    [
        (lumina2, {"cfg_trunc_ratio": 0.5}, {"0": "CrCrCr", "1": "CrC"}),
        (z_image, {"cfg_truncation": 0.5}, {"0": "CrCrCC"}),  # half the batch in the last step
        (sd3, {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.6}, {"0": "CrCrCr", "1": "CrC"}),
    ],
    ids=["lumina2", "z_image", "sd3"],
)
def test_guidance_that_begins_or_ends_within_a_run(family, asked, lines):
    """SD3 calls its model once more in some steps, without some layers: that is a branch of its own."""
    pipe, make = family(**asked)
    answer = asking(pipe, make)
    want = answer()
    with c4d.cached(pipe, "taylorseer-lite:interval=1"):
        assert torch.equal(answer(), want)
    methods = ["taylorseer-lite:interval=2", *["taylorseer-lite:interval=2@blocks"] * bool(described(pipe))]
    for method in methods:
        with c4d.cached(pipe, method) as session:
            first, _, again = answer(0), answer(1), answer(0)
            assert session.report().timelines == lines and session.bytes() == 0
        assert torch.equal(first, again) and not torch.equal(first, want)
    assert torch.equal(answer(), want)


MODULAR = {  # the blocks that denoise, and the names of the branches
    z_image: ("z_image.modular_blocks_z_image.ZImageCoreDenoiseStep", {"0", "1"}),
    flux2_klein: ("flux2.modular_blocks_flux2_klein_base.Flux2KleinBaseCoreDenoiseStep", {"0", "1"}),
    qwen21: ("qwenimage21.modular_blocks_qwenimage21.QwenImage21CoreDenoiseStep", {"pred_cond", "pred_uncond"}),
    sd3: ("stable_diffusion_3.modular_blocks_stable_diffusion_3.StableDiffusion3T2ICoreDenoiseStep", {"0", "1"}),
}


@pytest.mark.parametrize("family", MODULAR, ids=lambda family: family.__name__)
def test_a_modular_pipeline(family):
    """It gives a model those of its arguments that it finds in the signature of its forward."""
    from diffusers import ClassifierFreeGuidance

    pipe, make = family()
    (where, _, kind), branches = MODULAR[family][0].rpartition("."), MODULAR[family][1]
    modular = getattr(import_module(f"diffusers.modular_pipelines.{where}"), kind)().init_pipeline()
    parts = {name: pipe.components[name] for name in ("transformer", "scheduler")}
    modular.update_components(**parts, guider=ClassifierFreeGuidance(guidance_scale=3.0))

    def answer(seed=0):
        asked = {name: x for name, x in make(seed).items() if name != "true_cfg_scale"}
        if family is qwen21:
            pads = torch.zeros(1, 7, dtype=torch.bool)  # no token of the text stands for a given image
            asked |= dict(image_pad_mask=pads, negative_image_pad_mask=pads)
        made = torch.Generator().manual_seed(seed)
        return modular(**asked, num_inference_steps=STEPS, generator=made, output="latents")

    want, line = answer(), "CCrCrC" if family in FIRST_APART else "CrCrCr"
    with c4d.cached(modular, "taylorseer-lite:interval=1") as session:
        assert torch.equal(answer(), want)
    assert session.report().timelines == dict.fromkeys(branches, "C" * STEPS)
    with c4d.cached(modular, "taylorseer-lite:interval=2") as session:
        first, other, again = answer(0), answer(1), answer(0)
        assert session.bytes() == 0 and session.report().timelines == dict.fromkeys(branches, line)
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, want)
    assert torch.equal(answer(), want)


def test_the_signature_of_a_forward_stays():
    model = denoiser("QwenImage21Transformer2DModel")
    before = inspect.signature(model.forward)
    with pytest.warns(RuntimeWarning, match="saw no forward"), c4d.cached(model, "taylorseer-lite:interval=2"):
        assert inspect.signature(model.forward) == before


class Looks(torch.nn.Module):
    """Its forward goes over its blocks once to see what they are, and then again to call them."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.out = torch.nn.Linear(8, 8)

    def forward(self, hidden_states, timestep):
        biased = all(block.bias is not None for block in self.blocks)
        for block in self.blocks:
            hidden_states = block(hidden_states) + biased * timestep
        return self.out(hidden_states)


def test_a_loop_that_calls_no_block_does_not_count():
    def build():
        torch.manual_seed(0)
        return Looks()

    spec = ModelSpec("Looks", stacks=(Stack("blocks", takes=("hidden_states",)),), exit="out")
    x = rand(2, 6, 8)
    findings = list(check(build, spec, lambda model: [model(x, torch.tensor(0.5))]))
    assert len(findings) == 5 and not [finding for finding in findings if finding.wrong]


def test_what_can_never_be_stored_is_an_error():
    class Odd(torch.nn.Module):
        def forward(self, hidden_states, timestep):
            return hidden_states, "a cache"

    model, x = Odd(), rand(2, 6, 8)
    with c4d.cached(model, "taylorseer-lite:interval=2") as session:
        session.begin([1.0, 0.5])
        model(x, torch.tensor(1.0))
        with pytest.raises(TypeError, match="returned str among its tensors"):
            model(x, torch.tensor(0.5))
