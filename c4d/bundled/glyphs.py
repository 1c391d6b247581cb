"""Drawn letters: capitals A to Z in the fonts that matplotlib ships, on plain paper.

There is no data set on disk: the shapes of the letters come from font files, everything else about a picture from the
`torch.Generator` that is passed in. Drawing needs matplotlib, for its fonts only (the extra `eval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PIXELS = 32  # height and width of a picture

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dejavu-sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        "dejavu-mono": (
            "DejaVuSansMono",
            "DejaVuSansMono-Bold",
            "DejaVuSansMono-Oblique",
            "DejaVuSansMono-BoldOblique",
        ),
        "dejavu-serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
        "stix": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
        "computer-modern": ("cmr10", "cmb10", "cmti10", "cmmi10"),
        "computer-modern-sans": ("cmss10",),
        "computer-modern-typewriter": ("cmtt10",),
    }
)


def _held_out(letter: int, family: int) -> bool:
    return (letter + 4 * family) % 9 == 0


_PAIRS = tuple((letter, family) for letter in range(len(LETTERS)) for family in range(len(FAMILIES)))
# (letter, family) as indices. One pair in nine is never drawn for training, of the judge or of the generator. A class
# model cannot be asked for a font, so this says something about the judge: it reads letters in fonts in which it has
# never seen them. No letter and no family is missing from training.
TRAIN_PAIRS = tuple(pair for pair in _PAIRS if not _held_out(*pair))
HELD_OUT_PAIRS = tuple(pair for pair in _PAIRS if _held_out(*pair))

_MASTER, _CAP, _WIDEST = 128, 64, 76  # pixels: a glyph's canvas, the height of a capital on it, its greatest width
_FINER = _MASTER // PIXELS  # a picture is drawn so many times finer, and averaged


class TypeCase:
    """Every letter in every face, rendered once, and what is drawn with them.

    Raises ImportError without matplotlib or PIL, FileNotFoundError where matplotlib lacks one of the fonts.
    """

    def __init__(self) -> None:
        folder = _font_folder()
        self._faces = [_face(folder / f"{face}.ttf") for family in FAMILIES.values() for face in family]
        counts = [len(faces) for faces in FAMILIES.values()]
        self._first = torch.tensor([sum(counts[:i]) for i in range(len(counts))])
        self._count = torch.tensor(counts)

    def draw(self, letters: Tensor, families: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures with random face, size, slant, turn, place, weight of the strokes, and colours of ink and paper.

        letters, families: indices into LETTERS and FAMILIES, int64 [n]; generator: a CPU generator, the only source of
        randomness. Returns float32 [n, 3, 32, 32] in [0, 1]. Raises ValueError for unequal counts and for an index out
        of range.
        """
        letters, families = as_letters(letters), _indices(families, "family", tuple(FAMILIES))
        n = len(letters)
        if len(families) != n:
            raise ValueError(f"{n} letters but {len(families)} families; allowed are equal counts")

        def uniform(low: float, high: float, *more: int) -> Tensor:
            return torch.rand(n, *more, generator=generator) * (high - low) + low

        # The order of the draws is part of the data: a seed means the same picture forever.
        within = (uniform(0, 1) * self._count[families]).long().minimum(self._count[families] - 1)
        masks = torch.stack([self._faces[f][i] for f, i in zip(self._first[families] + within, letters, strict=True)])
        height, stretch = uniform(0.48, 0.66), uniform(0.92, 1.08)
        slant, turn = uniform(-0.22, 0.22), uniform(-0.12, 0.12)
        shift = uniform(-0.1, 0.1, 2)
        weight = (uniform(0, 1) * 3).long().clamp(max=2)
        dark, light = uniform(0, 0.4, 3), uniform(0.6, 1, 3)
        dark_ink = (uniform(0, 1) < 0.5)[:, None]

        cover = _placed(masks.float()[:, None] / 255, height, stretch, slant, turn, shift)
        bolder = F.max_pool2d(cover, 3, 1, 1)
        boldest = F.max_pool2d(bolder, 3, 1, 1)
        cover = torch.stack([cover, bolder, boldest])[weight, torch.arange(n)]
        cover = F.avg_pool2d(cover, _FINER)
        ink, paper = (torch.where(dark_ink == first, dark, light)[:, :, None, None] for first in (True, False))
        return (cover * ink + (1 - cover) * paper).clamp(0, 1)

    def sample(
        self, n: int, generator: torch.Generator, pairs: Sequence[tuple[int, int]] = TRAIN_PAIRS
    ) -> tuple[Tensor, Tensor]:
        """n pictures of random pairs (letter, family) from `pairs`, every letter among them equally often.

        Returns (pictures as in `draw`, letters int64 [n]).
        """
        letters, families = sample_pairs(n, generator, pairs).unbind(1)
        return self.draw(letters, families, generator), letters


def as_letters(letters: Tensor | Sequence[int]) -> Tensor:
    """Indices into LETTERS -> int64 [n] on the CPU. Raises ValueError for another shape, dtype or index."""
    return _indices(letters, "letter", LETTERS)


def letter_index(label: str) -> int | None:
    """The index of a class label such as "A", blind to case and spacing; None for any other text."""
    label = label.strip().upper()
    return LETTERS.index(label) if len(label) == 1 and label in LETTERS else None


def sample_pairs(n: int, generator: torch.Generator, pairs: Sequence[tuple[int, int]] = TRAIN_PAIRS) -> Tensor:
    """Draws n pairs -> int64 [n, 2]: first a letter among those of `pairs`, then a family that it has there."""
    of: dict[int, list[int]] = {}
    for letter, family in pairs:
        of.setdefault(letter, []).append(family)
    known = sorted(of)
    chosen = [known[i] for i in torch.randint(0, len(known), (n,), generator=generator).tolist()]
    place = torch.rand(n, generator=generator).tolist()
    families = [
        of[letter][min(int(p * len(of[letter])), len(of[letter]) - 1)] for letter, p in zip(chosen, place, strict=True)
    ]
    return torch.tensor([chosen, families]).T


def _indices(values: Tensor | Sequence[int], what: str, names: Sequence[str]) -> Tensor:
    indices = torch.as_tensor(values).cpu()
    if indices.dim() != 1:
        raise ValueError(f"{what} indices have shape {tuple(indices.shape)}; allowed is [n]")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"{what} indices have dtype {indices.dtype}; allowed are integer types")
    wrong = indices[(indices < 0) | (indices >= len(names))]
    if len(wrong):
        allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
        raise ValueError(f"{what} index {int(wrong[0])} is unknown; allowed are {allowed}")
    return indices.long()


def _font_folder() -> Path:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "letters are drawn with the fonts of matplotlib, which is not installed; install c4d's extra 'eval' "
            "(pip install 'c4d[eval]') or matplotlib"
        ) from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _face(path: Path) -> Tensor:
    """All letters of one face, white on black, centred -> uint8 [26, 128, 128]."""
    from PIL import Image, ImageDraw, ImageFont

    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.ttf")))
        raise FileNotFoundError(
            f"matplotlib has no font {path.stem!r} (it has {known}); install matplotlib 3.8 or newer"
        )
    _, top, _, bottom = ImageFont.truetype(str(path), 200).getbbox("H")
    masks = []
    for letter in LETTERS:
        size = 200 * _CAP / (bottom - top)
        left, _, right, _ = ImageFont.truetype(str(path), size).getbbox(letter)
        font = ImageFont.truetype(str(path), size * min(1.0, _WIDEST / (right - left)))
        left, upper, right, lower = font.getbbox(letter)
        canvas = Image.new("L", (_MASTER, _MASTER))
        place = ((_MASTER - left - right) / 2, (_MASTER - upper - lower) / 2)
        ImageDraw.Draw(canvas).text(place, letter, fill=255, font=font)
        masks.append(torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(_MASTER, _MASTER))
    return torch.stack(masks)


def _placed(masks: Tensor, height: Tensor, stretch: Tensor, slant: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """masks [n, 1, 128, 128] -> the same, so that capitals have `height` of the picture; shift [n, 2] in half pictures.

    A point of the glyph is stretched and scaled, then slanted, then turned, then moved; sampling needs the inverse.
    """
    scale = height * _MASTER / _CAP
    cos, sin, zero = torch.cos(turn), torch.sin(turn), torch.zeros_like(turn)
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    slanted = torch.stack([torch.stack([scale * stretch, -slant * scale], 1), torch.stack([zero, scale], 1)], 1)
    inverse = torch.linalg.inv(turned @ slanted)
    grid = F.affine_grid(torch.cat([inverse, -inverse @ shift[:, :, None]], 2), list(masks.shape), align_corners=False)
    return F.grid_sample(masks, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
