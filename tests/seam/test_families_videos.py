"""The pipelines of videos, unmodified, around tiny random models: caching in their own loops, with guidance.

Each builder returns the pipeline and a function that makes a request, told apart by ``prompt``.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from PIL import Image

import c4d
from c4d.describe.check import check
from c4d.models import spec_for
from tests.denoisers import ENTRIES, rand
from tests.pipes import reader

STEPS = 6
ENTRY = {entry.name: entry for entry in ENTRIES}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def seeded(make, *args, **config):
    torch.manual_seed(0)
    return make(*args, **config).eval()


def words(prompt, *names, tokens=6, width=8):
    """Embeddings of ``prompt`` for each of ``names``, and of what is not wanted."""
    made = {}
    for k, name in enumerate(names):
        made[name] = rand(1, tokens, width, seed=ord(prompt) + k)
        made[f"negative_{name}"] = rand(1, tokens, width, seed=20 + k)
    return made


# -- pipelines


def hunyuan_video15():
    """Its guider says which branches there are."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
    )

    vae = seeded(
        AutoencoderKLHunyuanVideo15, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        spatial_compression_ratio=8, temporal_compression_ratio=4,
    )  # fmt: skip
    pipe = HunyuanVideo15Pipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=vae,
        transformer=ENTRY["HunyuanVideo15Transformer3DModel"].build(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )  # fmt: skip

    def request(prompt):
        masks = {f"{which}prompt_embeds_mask{n}": torch.ones(1, 6) for which in ("", "negative_") for n in ("", "_2")}
        masks["negative_prompt_embeds_mask"][:, 3:] = 0
        return dict(**words(prompt, "prompt_embeds", "prompt_embeds_2"), **masks, height=32, width=32, num_frames=5)

    return pipe, request


def ltx2():
    """A video and its sound; a step takes a guided pass, one with perturbed blocks, and one without cross-modality."""
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2Pipeline,
    )
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    vae = seeded(
        AutoencoderKLLTX2Video, latent_channels=8, block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        decoder_block_out_channels=(8, 16, 32), decoder_layers_per_block=(1, 1, 1, 1), spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )  # fmt: skip
    audio_vae = seeded(
        AutoencoderKLLTX2Audio, base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=16
    )
    heads = {f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in (
        ("num_attention_heads", 2), ("attention_head_dim", 4), ("num_layers", 1), ("num_learnable_registers", 4),
    )}  # fmt: skip
    pipe = LTX2Pipeline(
        text_encoder=None, tokenizer=None, vae=vae, audio_vae=audio_vae,
        connectors=seeded(LTX2TextConnectors, caption_channels=8, text_proj_in_factor=3, **heads),
        vocoder=seeded(
            LTX2Vocoder, in_channels=32, hidden_channels=8, upsample_kernel_sizes=[4], upsample_factors=[2],
            resnet_kernel_sizes=[3], resnet_dilations=[[1, 3]],
        ),
        transformer=ENTRY["LTX2VideoTransformer3DModel"].build(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip

    def request(prompt):
        masks = dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, 8))
        return dict(
            **words(prompt, "prompt_embeds", tokens=8, width=24), **masks, height=64, width=64, num_frames=9,
            spatio_temporal_guidance_blocks=[1], use_cross_timestep=False,
        )  # fmt: skip

    return pipe, request


def wan_vae():
    from diffusers import AutoencoderKLWan

    return seeded(
        AutoencoderKLWan, base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )  # fmt: skip


def flow():
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def skyreels_v2(kind="SkyReelsV2Pipeline", **more):
    import diffusers

    pipe = getattr(diffusers, kind)(
        text_encoder=None, tokenizer=None, vae=wan_vae(), transformer=ENTRY["SkyReelsV2Transformer3DModel"].build(),
        scheduler=flow(),
    )  # fmt: skip

    def request(prompt):
        return dict(**words(prompt, "prompt_embeds"), height=32, width=32, num_frames=5, guidance_scale=3.0, **more)

    return pipe, request


def skyreels_v2_diffusion_forcing():
    """A scheduler a frame, copied from the pipeline's, which itself stands still; a timestep a frame."""
    return skyreels_v2("SkyReelsV2DiffusionForcingPipeline", prompt=None)


def wan_animate(frames=5):
    """The motion is that of a video of poses and a video of a face."""
    from diffusers import WanAnimatePipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    eye = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    pipe = WanAnimatePipeline(
        text_encoder=None, tokenizer=None, vae=wan_vae(), image_encoder=seeded(CLIPVisionModel, eye),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
        transformer=ENTRY["WanAnimateTransformer3DModel"].build(), scheduler=flow(),
    )  # fmt: skip

    def request(prompt):
        return dict(
            **words(prompt, "prompt_embeds", tokens=512), image=Image.new("RGB", (32, 32), (200, 30, 30)),
            guidance_scale=3.0, height=32, width=32, segment_frame_length=5,
            pose_video=[Image.new("RGB", (32, 32), (30, 20 * k, 30)) for k in range(frames)],
            face_video=[Image.new("RGB", (16, 16), (20 * k, 30, 30)) for k in range(frames)],
        )  # fmt: skip

    return pipe, request


def wan_animate_in_segments():
    """Two segments of the video, each with its own loop; the last frames of one are given to the next."""
    return wan_animate(frames=9)


def ltx():
    from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline

    vae = seeded(
        AutoencoderKLLTXVideo, latent_channels=8, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    pipe = LTXPipeline(
        text_encoder=None, tokenizer=None, vae=vae, transformer=ENTRY["LTXVideoTransformer3DModel"].build(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip

    def request(prompt):
        masks = dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, 6))
        return dict(**words(prompt, "prompt_embeds"), **masks, height=64, width=64, num_frames=9)

    return pipe, request


def cogvideox():
    """A scheduler that does not tell its step."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline

    vae = seeded(
        AutoencoderKLCogVideoX, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        norm_num_groups=2,
    )  # fmt: skip
    pipe = CogVideoXPipeline(
        text_encoder=None, tokenizer=None, vae=vae, transformer=ENTRY["CogVideoXTransformer3DModel"].build(),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0,
            timestep_spacing="trailing",
        ),
    )  # fmt: skip
    return pipe, lambda prompt: dict(**words(prompt, "prompt_embeds"), height=32, width=32, num_frames=9)


def cogvideox_dpm():
    """The scheduler of its larger models, which takes what was predicted a step before."""
    from diffusers import CogVideoXDPMScheduler

    pipe, request = cogvideox()
    pipe.register_modules(scheduler=CogVideoXDPMScheduler.from_config(pipe.scheduler.config))
    return pipe, request


def mochi():
    """Its timesteps count upwards."""
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline

    vae = seeded(
        AutoencoderKLMochi, encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1), add_attention_block=(False,) * 5,
    )  # fmt: skip
    pipe = MochiPipeline(
        text_encoder=None, tokenizer=None, vae=vae, transformer=ENTRY["MochiTransformer3DModel"].build(in_channels=12),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )  # fmt: skip

    def request(prompt):
        masks = dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, 6).bool())
        return dict(**words(prompt, "prompt_embeds", width=16), **masks, height=32, width=32, num_frames=7)

    return pipe, request


def kandinsky5():
    """Latents with their channels last, which its loop changes in place; two calls a step, without names."""
    from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, Kandinsky5T2VPipeline

    vae = seeded(
        AutoencoderKLHunyuanVideo, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        norm_num_groups=2,
    )  # fmt: skip
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = Kandinsky5T2VPipeline(
        **none, vae=vae, transformer=ENTRY["Kandinsky5Transformer3DModel"].build(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )  # fmt: skip

    def request(prompt):
        lengths = dict.fromkeys(("prompt_cu_seqlens", "negative_prompt_cu_seqlens"), torch.tensor([0, 6]))
        pooled = {name: x[:, 0] for name, x in words(prompt, "prompt_embeds_clip").items()}
        return dict(**words(prompt, "prompt_embeds_qwen"), **pooled, **lengths, height=32, width=48, num_frames=5)

    return pipe, request


def latte():
    """Guidance in one batch, whose frames are samples of the spatial blocks; the variances are dropped."""
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline

    vae = seeded(
        AutoencoderKL, block_out_channels=(4,) * 4, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipe = LattePipeline(
        text_encoder=None, tokenizer=None, vae=vae, transformer=ENTRY["LatteTransformer3DModel"].build(),
        scheduler=DDIMScheduler(),
    )  # fmt: skip
    asked = dict(negative_prompt=None, clean_caption=False, height=32, width=48, video_length=3)
    return pipe, lambda prompt: words(prompt, "prompt_embeds") | asked


class Safe(torch.nn.Module):
    """In place of the safety checker of Cosmos, which is another package and large models."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt):
        return True

    def check_video_safety(self, frames):
        return frames


def cosmos():
    """Its scheduler is stepped back once a step; the pipeline names no branches."""
    from diffusers import AutoencoderKLCosmos, CosmosTextToWorldPipeline, EDMEulerScheduler

    vae = seeded(
        AutoencoderKLCosmos, latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8), attention_resolutions=(), resolution=32, num_layers=1,
        latents_mean=None, latents_std=None,
    )  # fmt: skip
    pipe = CosmosTextToWorldPipeline(
        text_encoder=None, tokenizer=None, vae=vae, safety_checker=Safe(),
        transformer=ENTRY["CosmosTransformer3DModel"].build(
            in_channels=4, use_crossattn_projection=False, extra_pos_embed_type="learnable"
        ),
        scheduler=EDMEulerScheduler(
            sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras", prediction_type="epsilon",
            final_sigmas_type="sigma_min",
        ),
    )  # fmt: skip
    return pipe, lambda prompt: dict(**words(prompt, "prompt_embeds"), height=32, width=32, num_frames=9)


def minimax_h3():
    """Modular only: a video and its sound, each with its scheduler; no guidance, and no names of branches.

    Of its blocks, the one that reads the prompt is left out; the shortest video has five seconds.
    """
    from diffusers import AutoencoderKLMiniMaxH3, AutoencoderKLMiniMaxH3Audio, MiniMaxH3Scheduler
    from diffusers.modular_pipelines.minimax_h3 import MiniMaxH3Blocks

    blocks = MiniMaxH3Blocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = blocks.init_pipeline()
    pipe.update_components(
        transformer=ENTRY["MiniMaxH3Transformer3DModel"].build(),
        vae=seeded(
            AutoencoderKLMiniMaxH3, latent_channels=4, block_out_channels=(8,) * 6, layers_per_block=1,
            norm_num_groups=2, decoder_num_layers=1, decoder_num_attention_heads=1, decoder_attention_head_dim=8,
            latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
        ),
        audio_vae=seeded(
            AutoencoderKLMiniMaxH3Audio, encoder_dim=2, latent_dim=16, latent_channels=4, num_attention_heads=1,
            decoder_dim=128, resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1,),), latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        scheduler=MiniMaxH3Scheduler(shift=12.0),
        audio_scheduler=MiniMaxH3Scheduler(shift=3.0),
    )  # fmt: skip

    def request(prompt):
        return dict(
            prompt_embeds=rand(1, 4, 8, seed=ord(prompt)), text_token_tags=torch.ones(4, dtype=torch.long), height=32,
            width=32, num_inference_steps=STEPS + 1, output=["videos", "audio"],
        )  # fmt: skip

    return pipe, request


def cosmos3_omni():
    """Text, video and sound in one sequence, in lists; what is read of the prompt are its tokens."""
    from diffusers import Cosmos3AVAEAudioTokenizer, Cosmos3OmniPipeline

    tokenizer = reader(8)["tokenizer"]
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.add_tokens(["<|vision_start|>"])
    pipe = Cosmos3OmniPipeline(
        text_tokenizer=tokenizer, vae=wan_vae(), scheduler=flow(), enable_safety_checker=False,
        transformer=ENTRY["Cosmos3OmniTransformer"].build(vocab_size=len(tokenizer)),
        sound_tokenizer=seeded(
            Cosmos3AVAEAudioTokenizer, vocoder_input_dim=4, dec_dim=4, dec_c_mults=(1, 1, 1, 1, 1),
            encoder_enabled=False,
        ),
        default_use_system_prompt=False,
    )  # fmt: skip

    def request(prompt):
        return dict(
            prompt=f"{prompt} horse", negative_prompt="bad", height=32, width=32, num_frames=9, enable_sound=True,
            guidance_scale=3.0, add_resolution_template=False, add_duration_template=False,
        )  # fmt: skip

    return pipe, request


# -- what they make

PIPELINES = {f.__name__: f for f in (
    hunyuan_video15, ltx2, skyreels_v2, wan_animate, wan_animate_in_segments, ltx,
    cogvideox, cogvideox_dpm, mochi, cosmos, minimax_h3,
    cosmos3_omni, kandinsky5, latte,
)}  # fmt: skip
BRANCHES = {
    "hunyuan_video15": {"pred_cond", "pred_uncond"},
    "ltx2": {"cond_uncond", "uncond_stg", "uncond_modality"},
    "skyreels_v2": {"cond", "uncond"},
    "wan_animate": {"cond", "uncond"},
    "wan_animate_in_segments": {"cond", "uncond"},
    "ltx": {"cond_uncond"},
    "cogvideox": {"cond_uncond"},
    "cogvideox_dpm": {"cond_uncond"},
    "mochi": {"cond_uncond"},
    "cosmos": {"0", "1"},
    "minimax_h3": {"0"},
    "cosmos3_omni": {"cond", "uncond"},
    "kandinsky5": {"0", "1"},
    "latte": {"0"},
}
_BUILT = {}  # name -> pipeline, request, what it makes without a cache


def generate(pipe, asked, seed):
    """What the pipeline returns (a video, and the sound where there is one)."""
    generator = torch.Generator().manual_seed(seed)
    if "output" in asked:  # of a modular pipeline
        made = pipe(**asked, generator=generator, output_type="pt").values()
    else:
        made = pipe(**asked, num_inference_steps=STEPS, generator=generator, output_type="pt", return_dict=False)
    return [torch.as_tensor(each) for each in made if each is not None]


@pytest.fixture(params=PIPELINES)
def family(request):
    """A name, its pipeline, what that makes for a prompt, and without a cache for "a"."""
    name = request.param
    if name not in _BUILT:
        pipe, ask = PIPELINES[name]()
        pipe.set_progress_bar_config(disable=True)

        def answer(prompt):
            return generate(pipe, ask(prompt), seed=ord(prompt))

        _BUILT[name] = pipe, answer, answer("a")
    return (name, *_BUILT[name])


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.whole
def test_never_skipping_is_exact(family):
    _, pipe, answer, plain = family
    with c4d.cached(pipe, "taylorseer-lite:interval=1") as session:
        assert equal(answer("a"), plain)
    report = session.report()
    assert report.reused == 0 and set(report.timelines.values()) == {"C" * STEPS}
    assert equal(answer("a"), plain)
    assert not equal(answer("b"), plain)


def test_a_whole_forward_method_reuses(family):
    name, pipe, answer, plain = family
    with c4d.cached(pipe, "taylorseer-lite:interval=2") as session:
        cached = answer("a")
        assert session.bytes() == 0
    assert session.report().timelines == dict.fromkeys(BRANCHES[name], "CrCrCr")
    for one, two in zip(cached, plain, strict=True):
        assert one.shape == two.shape and one.isfinite().all() and not torch.equal(one, two)
    assert equal(answer("a"), plain)


def test_segments_are_runs_of_their_own():
    pipe, ask = wan_animate_in_segments()
    pipe.set_progress_bar_config(disable=True)
    with c4d.cached(pipe, "taylorseer-lite:interval=2") as session:
        generate(pipe, ask("a"), seed=3)
    placed = [(e.run, e.step.branch, e.step.index, e.step.total, e.computed) for e in session.trace]
    assert placed == [
        (run, branch, step, STEPS, step % 2 == 0)
        for run in (0, 1)
        for step in range(STEPS)
        for branch in ("cond", "uncond")
    ]


@pytest.fixture
def forcing():
    """The pipeline whose scheduler stands still, and what makes a video with it."""
    pipe, ask = skyreels_v2_diffusion_forcing()
    pipe.set_progress_bar_config(disable=True)
    return pipe, lambda **more: generate(pipe, {**ask("a"), **more}, seed=3)


def test_a_pipeline_that_steps_copies_of_its_scheduler_is_refused(forcing):
    pipe, answer = forcing
    with (
        pytest.raises(
            RuntimeError, match=r"UniPCMultistepScheduler\) has not moved .*, so it does not drive this forward"
        ),
        c4d.cached(pipe, "taylorseer-lite:interval=2"),
    ):
        answer()


def test_it_is_refused_where_timesteps_are_not_on_the_host(forcing, monkeypatch):
    from c4d.core.runtime import steps

    pipe, answer = forcing
    monkeypatch.setattr(steps, "on_host", lambda timestep: None)
    words = "has not moved since the last one, so it does not drive"
    with pytest.raises(RuntimeError, match=words), c4d.cached(pipe, "taylorseer-lite:interval=2"):
        answer()


@pytest.mark.parametrize("asked", [{}, dict(ar_step=2, causal_block_size=1, num_frames=9)], ids=["at once", "in turns"])
def test_its_transformer_is_cached_by_the_timesteps_that_are_given(forcing, asked):
    """With frames in turns there are more forwards than steps."""
    pipe, answer = forcing
    plain = answer(**asked)
    forwards = pipe.num_timesteps
    for method, line in (("taylorseer-lite:interval=1", "C" * forwards), ("taylorseer-lite:interval=2", "Cr" * 5)):
        with c4d.cached(pipe.transformer, method) as session:
            session.begin(range(forwards))
            made = answer(**asked)
        assert session.report().timelines == dict.fromkeys(("cond", "uncond"), line[:forwards])
        assert equal(made, plain) == (method == "taylorseer-lite:interval=1")


def test_a_modular_pipeline_still_sees_what_the_transformer_takes():
    """It passes on only what is in the signature of ``forward``."""
    pipe, _ = minimax_h3()
    takes = inspect.signature(pipe.transformer.forward)
    with pytest.warns(RuntimeWarning, match="saw no forward"), c4d.cached(pipe, "taylorseer-lite:interval=2"):
        assert "forward" in vars(pipe.transformer) and inspect.signature(pipe.transformer.forward) == takes


def test_sparse_attention_of_kandinsky5_has_its_tokens_tile_by_tile():
    """Two rows of two tiles."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    whole = ENTRY["Kandinsky5Transformer3DModel"]

    def prepare(model):
        whole.prepare(model)
        for processor in model.attn_processors.values():  # set_attention_backend would be for every model to come
            processor._attention_backend = AttentionBackendName.FLEX

    sparse = dict(sta_mask=torch.eye(4, dtype=torch.bool)[None, None], to_fractal=True, P=0.5)
    places = [torch.arange(n) for n in (1, 16, 16)]
    example = replace(
        whole, latents=(1, 1, 32, 32, 4), prepare=prepare,
        arguments=lambda x, t: {**whole.arguments(x, t), "visual_rope_pos": places, "sparse_params": sparse},
    )  # fmt: skip
    findings = list(check(example.build, spec_for(example.build()), example.forward))
    assert len(findings) == 13 and [finding for finding in findings if finding.wrong] == []


def test_a_second_request_is_not_changed_by_the_first(family):
    _, pipe, answer, _ = family
    with c4d.cached(pipe, "taylorseer-lite:interval=2"):
        first, other, again = answer("a"), answer("b"), answer("a")
    assert equal(first, again) and not equal(first, other)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("taylorseer-lite:interval=2@blocks", "CrCrCr"),
        ("first-block:threshold=1e9,last=0", "Crrrrr"),
        ("fora:interval=2", "CrCrCr"),
    ],
)
def test_a_block_method(family, method, line):
    name, pipe, answer, plain = family
    if not spec_for(pipe.transformer).stacks:
        pytest.skip("its blocks are not described")
    with c4d.cached(pipe, method) as session:
        first, other, again = answer("a"), answer("b"), answer("a")
        assert session.bytes() == 0
    report = session.report()
    assert report.timelines == dict.fromkeys(BRANCHES[name], line)
    assert report.modules_reused if method.startswith("fora") else report.blocks_entered < report.blocks_total
    assert equal(first, again) and not equal(first, other) and not equal(first, plain)
    assert all(each.isfinite().all() for each in first)
    assert equal(answer("a"), plain)
