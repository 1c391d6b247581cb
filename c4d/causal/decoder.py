"""A causal video VAE that decodes and encodes a clip as it comes, with the very result of doing it at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check(vae: Any) -> None:
    """Raises ValueError for a VAE whose decoder keeps no state from one frame to the next, or one that tiles."""
    if type(vae).__name__ != "AutoencoderKLWan":
        raise ValueError(f"{type(vae).__name__} does not decode a clip as it comes; AutoencoderKLWan does")
    if vae.use_tiling:
        raise ValueError("a rollout decodes whole frames as they come: vae.disable_tiling()")


class StreamingDecoder:
    """Of one clip: latents as the transformer has them, a few frames at a time, become pixels in [-1, 1].

    The first frame of latents becomes one frame, each later one as many as the VAE puts into one. What the causal
    convolutions need of the frames before is kept here, until :meth:`clear`.
    """

    def __init__(self, vae: Any) -> None:
        check(vae)
        self._vae = vae
        self.clear()

    def clear(self) -> None:
        self._kept: list[Any] | None = None

    def bytes(self) -> int:
        """That are kept of the frames before."""
        return sum(x.nbytes for x in self._kept or () if isinstance(x, Tensor))

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """[B, C, F, H, W] -> [B, 3, T, H', W']."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        vae, first = self._vae, self._kept is None
        if self._kept is None:
            vae.clear_cache()  # which counts the convolutions
            self._kept = [None] * vae._conv_num
        mean, std = _statistics(vae, latents)
        x = vae.post_quant_conv((latents * std + mean).to(vae.dtype))
        parts = []
        for i in range(x.shape[2]):
            given = {"feat_cache": self._kept, "feat_idx": [0]} | ({"first_chunk": True} if first and i == 0 else {})
            parts.append(vae.decoder(x[:, :, i : i + 1], **given))
        out = torch.cat(parts, 2)
        if vae.config.patch_size is not None:
            out = unpatchify(out, patch_size=vae.config.patch_size)
        return out.clamp(-1.0, 1.0)


def encoded(vae: Any, video: Tensor) -> Tensor:
    """Latents as the transformer has them, [B, C, F, H, W], of pixels [B, 3, T, H', W'] in [-1, 1].

    Raises ValueError for a number of frames that is not one more than a multiple of what the VAE puts into one.
    """
    factor = vae.config.scale_factor_temporal
    if (video.shape[2] - 1) % factor:
        raise ValueError(f"the clip to go on from has {video.shape[2]} frames; allowed are 1 + multiples of {factor}")
    with torch.no_grad():
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents' channels, [1, C, 1, 1, 1]."""
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    return mean.to(like), std.to(like)
