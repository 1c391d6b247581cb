"""Files, written whole or not at all, in a folder that one process at a time writes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import torch
from imageio_ffmpeg import count_frames_and_secs, get_ffmpeg_exe
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from c4d.metrics import contact_sheet
from c4d.pipelines.errors import InputError, OutputError

SHORTEST = 256  # pixels that the shorter side of a saved clip has at least, so that people can see it
MOST_SHEETS, LABEL_HEIGHT = 64, 20  # of a picture of many sheets
LOCK = ".lock"
TEMPORARY = re.compile(r"\.\w+\.\d+\.\w+")  # as atomic() names them
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP)  # of a directory, where the file system has no such


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses inside the block becomes an :class:`OutputError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` (same suffix) that takes its place when the block ends without an error.

    Raises :class:`OutputError` for what the system refuses.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with writing(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # the error that led here says more
            temporary.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Makes the names in ``folder`` survive a loss of power, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def clear(folder: Path, names: Sequence[str] = ()) -> None:
    """Removes ``names`` from ``folder`` in this order, and what killed processes left half written.

    Raises :class:`OutputError` for what cannot be removed.
    """
    with writing(folder):
        halves = sorted(name for name in os.listdir(folder) if TEMPORARY.fullmatch(name))
    for path in [folder / name for name in (*names, *halves)]:
        with writing(path):
            path.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[list[str]]:
    """Keeps other processes from writing ``folder``, and removes what killed ones left half written in it.

    The kernel lets go of the lock however this process ends. Yields remarks for the user.
    Raises :class:`InputError` if another process writes there.
    """
    path, held, notes = folder / LOCK, list[int](), list[str]()
    try:
        while not (held and _names(path, held[-1])):  # another may remove the file between our opening and locking it
            with writing(path):
                held.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
            try:
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is writing to --out {str(folder)!r}; wait for its end, or name another folder"
                ) from None
            except OSError as error:
                notes.append(
                    f"the file system of {str(folder)!r} has no locks ({error.strerror}): start no second job on this "
                    "folder while this one runs"
                )
        clear(folder)
        yield notes
    finally:
        for descriptor in held:
            os.close(descriptor)
        _remove_unlocked(path)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Processes of one job pass through the block one after the other."""
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself: nothing to clean up
    try:
        with suppress(OSError):  # a file system without locks, which exclusive_lock has told of
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _remove_unlocked(path: Path) -> None:
    """Takes the lock once more to remove its file: an interrupt may come before its first owner knows of it."""
    with suppress(OSError):  # another has it, or there is none, or no locks here
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def enlargement(frames: Tensor) -> int:
    """The whole factor by which frames [T, 3, H, W] are enlarged when saved."""
    return max(1, ceil(SHORTEST / min(frames.shape[-2:])))


def write_clip(folder: Path, name: str, frames: Tensor, fps: float) -> Path:
    """Saves [T, 3, H, W] in [0, 1] as ``name``.mp4 (H.264), or ``name``.png if it is one frame; returns the path.

    Raises :class:`OutputError`, also for a film that does not come back whole.
    """
    pixels = enlarged(frames)
    path = folder / f"{name}.{'png' if len(frames) == 1 else 'mp4'}"
    with atomic(path) as temporary:
        if len(frames) == 1:
            Image.fromarray(pixels[0]).save(temporary)
        else:
            _encode(temporary, pixels, fps)
    return path


def write_sheet(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Saves a contact sheet: a labelled row for each clip [T, 3, H, W], all of one shape."""
    videos = torch.stack(list(rows.values())).transpose(1, 2)
    with atomic(path) as temporary:
        contact_sheet(videos, list(rows), frames=7, frame_height=128).save(temporary)


def write_sheets(path: Path, sheets: Mapping[str, Path]) -> None:
    """Saves the contact sheets at ``sheets``, each under its label, as one picture; at most ``MOST_SHEETS`` of them."""
    parts, font = list(sheets.items())[:MOST_SHEETS], ImageFont.load_default()
    images = [Image.open(part).convert("RGB") for _, part in parts]
    width, height = max(image.width for image in images), sum(image.height + LABEL_HEIGHT for image in images)
    whole = Image.new("RGB", (width, height), "white")
    draw, y = ImageDraw.Draw(whole), 0
    for (label, _), image in zip(parts, images, strict=True):
        draw.text((4, y + 4), label, fill="black", font=font)
        whole.paste(image, (0, y + LABEL_HEIGHT))
        y += image.height + LABEL_HEIGHT
    with atomic(path) as temporary:
        whole.save(temporary)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class Lines:
    """A file of JSON objects, one a line, that grows by what was computed: a killed process loses its last at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._torn = path.exists() and not path.read_bytes().endswith(b"\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """What was added, here and by earlier processes."""
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            try:
                found = json.loads(line)
            except ValueError:  # the last line of a process that was killed
                continue
            yield found

    def add(self, values: Mapping[str, Any]) -> None:
        """Raises :class:`OutputError` for what the system refuses."""
        line = json.dumps(values, ensure_ascii=False, allow_nan=False)
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._torn else "") + line + "\n")
        self._torn = False


def to_bytes(frames: Tensor) -> Tensor:
    """[..., 3, H, W] in [0, 1] -> uint8 [..., H, W, 3]."""
    return (frames * 255).round().to(torch.uint8).movedim(-3, -1).contiguous()


def encoder(height: int, width: int, fps: float, file: int, *how: str) -> list[str]:
    """The command that makes H.264 of raw RGB on its standard input, into the open ``file``; ``how`` goes to the codec
    and the container."""
    rate = str(Fraction(fps).limit_denominator())
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"]
    codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "14", *how, "-f", "mp4"]
    return [get_ffmpeg_exe(), "-y", "-v", "error", *source, *codec, f"file:/proc/self/fd/{file}"]


def enlarged(frames: Tensor) -> Any:
    """[T, 3, H, W] in [0, 1] -> uint8 [T, H', W', 3] of numpy, as large as people can see it."""
    factor = enlargement(frames)
    return to_bytes(frames).repeat_interleave(factor, 1).repeat_interleave(factor, 2).numpy()


def _encode(path: Path, pixels: Any, fps: float) -> None:
    """uint8 [T, H, W, 3] -> H.264 at ``path``. Called directly: imageio does not look at how ffmpeg ended.

    ffmpeg gets the open file, not its name: an interrupt while it starts leaves it behind, and it would make the file
    again that was removed.
    """
    length, height, width, _ = pixels.shape
    with path.open("wb") as file:
        done = subprocess.run(
            encoder(height, width, fps, file.fileno(), "-movflags", "+faststart"),
            input=memoryview(pixels).cast("B"),
            capture_output=True,
            check=False,
            pass_fds=[file.fileno()],
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        end = signal.strsignal(-done.returncode) if done.returncode < 0 else f"exit status {done.returncode}"
        raise OSError(f"ffmpeg ended with {': '.join([str(end), *said[-1:]])}")
    try:
        written = count_frames_and_secs(f"file:{path}")[0]
    except RuntimeError as error:
        raise OSError(f"ffmpeg cannot read back what it wrote ({str(error).splitlines()[-1]})") from error
    if written != length:
        raise OSError(f"ffmpeg wrote {written} of {length} frames")


def numbered(root: Path, name: str, fits: Callable[[Path], bool]) -> Path:
    """The last folder ``NNN-name`` in ``root`` if it ``fits``, else a new one with the next number.

    Raises :class:`OutputError` where none can be made.
    """
    found = {int(match[1]): path for path in root.glob("*-*") if (match := re.fullmatch(r"(\d{3,})-.*", path.name))}
    mine = [number for number, path in found.items() if path.name.partition("-")[2] == name]
    if mine and fits(found[max(mine)]):
        return found[max(mine)]
    number = max(found, default=0) + 1
    while True:
        path = root / f"{number:03d}-{name}"
        with writing(path):
            try:
                path.mkdir(parents=True)
            except FileExistsError:  # by another process, meanwhile
                number += 1
                continue
        return path


def check_writable(folder: Path) -> None:
    """Makes ``folder``; :class:`InputError` if no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to --out {str(folder)!r}: {error.strerror}; name another folder") from error
