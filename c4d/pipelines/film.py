"""Films: one that can be watched while it is made, and one read back."""

from __future__ import annotations

import subprocess
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from torch import Tensor

from c4d.pipelines.errors import InputError, OutputError
from c4d.pipelines.output import atomic, encoder, enlarged, writing


class GrowingClip:
    """An H.264 film at ``path``, in fragments: whatever has been added can be played, also if the process is killed.

    At the end it is written once more as an ordinary file.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self._fps = path, fps
        self._encoder: subprocess.Popen[bytes] | None = None
        self.frames = 0

    def __enter__(self) -> GrowingClip:
        return self

    def add(self, frames: Tensor) -> None:
        """Frames [T, 3, H, W] in [0, 1], of the same size each time. Raises :class:`OutputError`."""
        pixels = enlarged(frames.cpu())
        if self._encoder is None:
            self._encoder = self._begun(pixels.shape[2], pixels.shape[1], len(pixels))
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(memoryview(pixels).cast("B"))
            self._encoder.stdin.flush()
        except BrokenPipeError:
            raise OutputError(f"{str(self.path)!r} cannot be written: {self._said()}") from None
        self.frames += len(frames)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._encoder is None:
            return
        said = self._said()
        if kind is None and self._encoder.returncode:
            raise OutputError(f"{str(self.path)!r} cannot be written: {said}")
        if not self._encoder.returncode:
            with suppress(OutputError) if kind is not None else nullcontext():  # the error that led here says more
                self._finish()

    def _begun(self, width: int, height: int, group: int) -> subprocess.Popen[bytes]:
        """A fragment for each key frame, of which every block has one."""
        grows = ["-movflags", "frag_keyframe+empty_moov+default_base_moof", "-flush_packets", "1"]
        grows += ["-tune", "zerolatency", "-g", str(max(1, group))]
        with writing(self.path), self.path.open("wb") as file:
            return subprocess.Popen(
                encoder(height, width, self._fps, file.fileno(), *grows),
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[file.fileno()],
                start_new_session=True,  # an interrupt is for us: what was added has to be finished
            )

    def _said(self) -> str:
        """How the encoder ended, after it was told that nothing more comes."""
        assert self._encoder is not None
        with suppress(BrokenPipeError):
            _, said = self._encoder.communicate()
            return " ".join(said.decode(errors="replace").split()) or f"ffmpeg: exit status {self._encoder.returncode}"
        return "ffmpeg ended"

    def _finish(self) -> None:
        with atomic(self.path) as temporary:
            command = [get_ffmpeg_exe(), "-y", "-v", "error", "-i", str(self.path), "-c", "copy"]
            done = subprocess.run(
                [*command, "-movflags", "+faststart", str(temporary)], capture_output=True, check=False
            )
            if done.returncode:
                raise OSError(f"ffmpeg ended with {done.stderr.decode(errors='replace').strip()[-200:]}")


def picture(path: Path, what: str = "picture", mode: str = "RGB") -> Image.Image:
    """A picture file in ``mode`` of PIL. Raises :class:`InputError`, which calls it ``what``, if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what} {str(path)!r} cannot be read ({error}); give a picture file, such as PNG or JPEG"
        ) from error


def pictures(path: Path, what: str = "film", mode: str = "RGB") -> list[Image.Image]:
    """All frames of a film or picture, in its own size. Raises :class:`InputError`, which calls it ``what``."""
    return [Image.fromarray(frame).convert(mode) for frame in _frames(path, what)]


def read_film(path: Path, height: int, width: int) -> Tensor:
    """Frames [T, 3, H, W] in [0, 1] of a film or picture, scaled to that size. Raises :class:`InputError`."""
    frames = _frames(path, "film", "-vf", f"scale={width}:{height}:flags=area")
    return torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 255


def _frames(path: Path, what: str, *how: str) -> Any:
    """Bytes [T, H, W, 3] of a film or picture; ``how`` ffmpeg changes the frames."""
    ways = "give a film or a picture"
    if not path.is_file():
        raise InputError(f"{what} {str(path)!r} is no file; {ways}")
    as_ppm = ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]  # which says the size before each frame
    done = subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", *how, *as_ppm], capture_output=True, check=False
    )
    if done.returncode or not done.stdout:
        said = " ".join(done.stderr.decode(errors="replace").split())[-200:] or "no frames"
        raise InputError(f"{what} {str(path)!r} cannot be read ({said}); {ways}")
    head = done.stdout.split(b"\n", 3)[:3]  # P6, the size, the largest value
    (width, height), start = map(int, head[1].split()), len(b"\n".join(head)) + 1
    pixels = np.frombuffer(done.stdout, np.uint8).reshape(-1, start + height * width * 3)
    return pixels[:, start:].reshape(-1, height, width, 3)
