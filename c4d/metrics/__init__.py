"""How close two videos are, and sheets to look at them. A video is a tensor [n, 3, T, H, W] with values in [0, 1]."""

from c4d.metrics.fidelity import psnr, ssim
from c4d.metrics.sheet import contact_sheet
from c4d.metrics.video import check_video

__all__ = ["check_video", "contact_sheet", "psnr", "ssim"]
