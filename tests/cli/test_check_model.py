"""``c4d check-model``: descriptions that fit, and each way in which one can be wrong."""

from __future__ import annotations

import pytest

MODEL = """
import torch
from torch import nn
import c4d

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)
    def forward(self, x, text):
        x = x + self.attn(x)
        return text + 1.0, x + self.mlp(x) * text.mean()

class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.dual, self.single = (nn.ModuleList(Block() for _ in range(2)) for _ in range(2))
        self.embed, self.final, self.out = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)
    def forward(self, hidden_states, timestep, text):
        x = self.embed(hidden_states) * timestep
        for block in self.dual:
            text, x = block(x, text)
        for block in self.single:
            text, x = block(x, text)
        return self.out(self.final(x))

EXAMPLE = c4d.Example("Theirs", {}, (1, 4, 8), lambda x, t: dict(
    hidden_states=x, timestep=torch.tensor(t / 1000), text=torch.ones(1, 3, 8)), make=Theirs)
BOTH = dict(takes=("hidden_states", "text"), returns=("text", "hidden_states"))
"""
GOOD = "c4d.Stack('dual', **BOTH), c4d.Stack('single', **BOTH)"


@pytest.fixture
def theirs(tmp_path, c4d):
    """Checks the model with a description, or with none."""

    def run(stacks=None, end="final", example="EXAMPLE"):
        spec = f"SPEC = c4d.ModelSpec('Theirs', stacks=({stacks},), exit={end!r}, example={example})" if stacks else ""
        (tmp_path / "theirs.py").write_text(f"{MODEL}\n{spec}\n")
        return c4d("check-model", tmp_path / "theirs.py")

    return run


def test_what_is_derived_fits(theirs):
    outcome = theirs()
    assert outcome.code == 0, outcome.out
    for part in ("Stack('dual'", "Stack('single'", "returns=('text', 'hidden_states')", "exit='final'", "Site('attn')"):
        assert part in outcome.out
    assert outcome.out.count("  ok  ") == 10 and outcome.out.endswith("the description fits\n")


def test_what_is_derived_is_checked_once_and_leaves_out_the_sites_that_do_not_fit(c4d, tmp_path):
    text = MODEL.replace("x = x + self.attn(x)", "x = x + self.attn.weight[0]").replace("make=Theirs", "make=made")
    text = text.replace("EXAMPLE =", "def made():\n    print('built')\n    return Theirs()\n\nEXAMPLE =")
    (tmp_path / "once.py").write_text(text)
    outcome = c4d("check-model", tmp_path / "once.py")
    assert outcome.code == 0 and "Site('mlp')" in outcome.out and "Site('attn')" not in outcome.out
    assert outcome.out.count("  ok  ") == 9 and " attn in the blocks" not in outcome.out
    # one to watch, two uncached, two to look at, one for the tokens, one for each method
    assert outcome.out.count("built") == 6 + 7


def test_what_is_right_passes(theirs):
    outcome = theirs(GOOD)
    assert outcome.code == 0 and "NO" not in outcome.out and "no description yet" not in outcome.out


@pytest.mark.parametrize(
    ("stacks", "end", "said"),
    [
        ("c4d.Stack('dual', **BOTH)", "final", "away from the uncached one"),  # the other list ran again
        (GOOD.replace("'single'", "'single', side=True"), "final", ""),  # it is one of the chain
        (f"{GOOD[:-1]}, sites=dict(cross_attn=(c4d.Site('nowhere'),)))", "final", "nowhere"),
        ("c4d.Stack('dual'), c4d.Stack('single')", "final", "returned 2 streams"),
        ("c4d.Stack('dual', takes=('text', 'hidden_states')), c4d.Stack('single')", "final", ""),
    ],
)
def test_what_is_wrong_is_found(theirs, stacks, end, said):
    outcome = theirs(stacks, end)
    assert outcome.code == 1 and "NO" in outcome.out and "does not fit" in outcome.out
    assert said in outcome.out


def test_a_class_that_c4d_describes_is_named_or_brought_with_an_example(c4d, tmp_path):
    """By its name with the example of its family's file; by an example of one's own, which brings no description."""
    named = c4d("check-model", "DiTTransformer2DModel")
    (tmp_path / "mine.py").write_text("from c4d.models.dit import EXAMPLE\n")
    for outcome in (named, c4d("check-model", tmp_path / "mine.py")):
        assert outcome.code == 0 and outcome.out.startswith("DiTTransformer2DModel: 1 list(s)"), outcome.out
    assert outcome.out == named.out and named.out.count("  ok  ") == 12


def test_what_cannot_be_checked_is_said(fails, theirs, tmp_path):
    fails(["check-model", "NoSuchModel"], 2, "NoSuchModel", "c4d models", "FILE.py", "docs/adding_a_model.md")
    fails(["check-model", tmp_path / "none.py"], 2, "none.py", "is no file")
    fails(["check-model", "T5FilmDecoder"], 2, "T5FilmDecoder", "no example=", "FILE.py", "docs/adding_a_model.md")
    (tmp_path / "empty.py").write_text("import c4d\n")
    fails(["check-model", tmp_path / "empty.py"], 2, "empty.py", "c4d.Example", "docs/adding_a_model.md")
    (tmp_path / "lone.py").write_text("import c4d\nSPEC = c4d.ModelSpec('Lone')\n")
    fails(["check-model", tmp_path / "lone.py"], 2, "Lone", "no example=")


def test_a_model_without_lists_of_blocks_is_said(fails, tmp_path):
    text = MODEL.replace("for block in self.dual:", "for block in ():")
    (tmp_path / "flat.py").write_text(text.replace("for block in self.single:", "for block in ():"))
    fails(["check-model", tmp_path / "flat.py"], 2, "loops over no nn.ModuleList", "its output can be cached without")


def test_a_list_of_the_parts_of_an_mlp_is_none_of_blocks(c4d, tmp_path):
    text = MODEL.replace(
        "class Theirs",
        """class Bend(nn.Module):
    def forward(self, bent):
        return bent.tanh()

class Theirs""",
    ).replace(
        "self.embed, self",
        "self.parts = nn.ModuleList([Bend(), nn.Dropout(0.0), nn.Linear(8, 8)])\n        self.embed, self",
    )
    embed = "x = self.embed(hidden_states) * timestep"
    assert embed in text
    text = text.replace(embed, f"{embed}\n        for part in self.parts:\n            x = part(x)")
    (tmp_path / "parts.py").write_text(text)
    outcome = c4d("check-model", tmp_path / "parts.py")
    assert outcome.code == 0 and "Stack('dual'" in outcome.out and "parts" not in outcome.out


def test_a_list_that_is_looped_over_twice_is_told_by_the_blocks_that_it_enters(c4d, tmp_path):
    once = "        for block in self.dual:\n            text, x = block(x, text)\n"
    assert once in MODEL
    text = MODEL.replace(once, once + once)
    (tmp_path / "twice.py").write_text(
        f"{text}\nSPEC = c4d.ModelSpec('Theirs', stacks=({GOOD},), exit='final', example=EXAMPLE)\n"
    )
    outcome = c4d("check-model", tmp_path / "twice.py")
    assert outcome.code == 1 and "the forwards entered 6 and 0 blocks, and should have entered 4 and 0" in outcome.out


@pytest.mark.parametrize(
    ("inside", "behind", "said"),
    [
        ("kept = text", "x = x * kept.mean()", "local variable 'kept'"),  # what the body leaves is read
        ("pass", "x = x + began", "away from the uncached one"),  # a long skip around the blocks
    ],
)
def test_what_stands_behind_a_loop_may_need_its_body(c4d, tmp_path, inside, behind, said):
    loop = "        for block in self.dual:\n"
    text = MODEL.replace(loop, f"        began = x\n{loop}            {inside}\n")
    text = text.replace("        return self.out", f"        {behind}\n        return self.out")
    for filled, code in (("", 1), (", filled=True", 0)):
        spec = f"SPEC = c4d.ModelSpec('Theirs', stacks=({GOOD}), exit='final', example=EXAMPLE)"
        (tmp_path / "theirs.py").write_text(f"{text}\n{spec.replace('**BOTH', f'**BOTH{filled}', 1)}\n")
        outcome = c4d("check-model", tmp_path / "theirs.py")
        assert outcome.code == code, outcome.out
        assert (said in outcome.out) == bool(code)


@pytest.mark.parametrize(
    ("loop", "call"),
    [
        ("for block, turn in zip(self.dual, self.turns)", "turn(x, text)"),
        ("for i, block in enumerate(self.dual)", "self.turns[i](x, text)"),
    ],
)
def test_lists_that_take_turns_are_told(c4d, tmp_path, loop, call):
    """Described as such, their blocks are passed over with those of the chain."""
    text = MODEL.replace("self.dual, self.single =", "self.dual, self.single, self.turns =")
    text = text.replace("range(2)) for _ in range(2))", "range(2)) for _ in range(3))")
    once = "for block in self.dual:\n            text, x = block(x, text)\n"
    assert once in text
    text = text.replace(once, f"{loop}:\n            text, x = block(x, text)\n            text, x = {call}\n")
    for turns, said, code in (
        ("", "blocks of 'turns' run between those of 'dual'", 1),
        (", c4d.Stack('turns', **BOTH, side=True)", "should have entered", 1),
        (", c4d.Stack('turns', **BOTH, interleaved=True)", "the description fits", 0),
    ):
        spec = f"SPEC = c4d.ModelSpec('Theirs', stacks=({GOOD}{turns}), exit='final', example=EXAMPLE)"
        (tmp_path / "turns.py").write_text(f"{text}\n{spec}\n")
        outcome = c4d("check-model", tmp_path / "turns.py")
        assert outcome.code == code and said in outcome.out, outcome.out


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("return x - x.mean(1, keepdim=True)", "away from what it is among all"),  # each token needs the others
        (
            "return x + torch.arange(4.0)[:, None]",
            "of every second token alone it raises The size of tensor",
        ),  # its place
        ("return torch.roll(x, 1, 1)", "away from what it is among all"),
    ],
)
def test_a_module_that_needs_all_tokens_and_is_not_marked_is_told_by_its_site(c4d, tmp_path, module, said):
    """By a description that is given; one that is derived gets the mark."""
    text = MODEL.replace(
        "class Block", f"class Mixing(nn.Linear):\n    def forward(self, x):\n        {module}\n\nclass Block"
    )
    text = text.replace(
        "self.attn, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)", "self.attn, self.mlp = nn.Linear(8, 8), Mixing(8, 8)"
    )
    sites = "sites=dict(attn=(c4d.Site('attn'),), mlp=(c4d.Site('mlp'),))"
    stacks = GOOD.replace("**BOTH)", f"**BOTH, {sites})")
    for marked in (False, True):
        given = stacks.replace("c4d.Site('mlp')", "c4d.Site('mlp', by_token=False)") if marked else stacks
        spec = f"SPEC = c4d.ModelSpec('Theirs', stacks=({given}), exit='final', example=EXAMPLE)"
        (tmp_path / "mixing.py").write_text(f"{text}\n{spec}\n")
        outcome = c4d("check-model", tmp_path / "mixing.py")
        assert outcome.code == (not marked), outcome.out
        for path in ("dual.mlp", "single.mlp"):
            assert (f"NO  each token by itself: {path}\n" in outcome.out) == (not marked)
        assert (said in outcome.out and "Site is one with by_token=False" in outcome.out) == (not marked)
    (tmp_path / "mixing.py").write_text(text)
    outcome = c4d("check-model", tmp_path / "mixing.py")
    assert outcome.code == 0 and "Site('mlp', by_token=False)" in outcome.out and "each token" not in outcome.out


def test_long_skips_are_told(c4d, tmp_path):
    """The third block reads what the second returned: with fillers in its place it would read what the first did."""
    once = "        for block in self.dual:\n            text, x = block(x, text)\n"
    text = MODEL.replace(once, f"{once}            skip = x\n").replace(
        "            text, x = block(x, text)\n        return",
        "            text, x = block(x + skip, text)\n        return",
    )
    for skips, said, code in (
        ("", "the second of the blocks alone, reused\n       the reused output is", 1),
        (", long_skips=True", "the description fits", 0),
    ):
        spec = f"SPEC = c4d.ModelSpec('Theirs', stacks=({GOOD}), exit='final', example=EXAMPLE{skips})"
        (tmp_path / "skips.py").write_text(f"{text}\n{spec}\n")
        outcome = c4d("check-model", tmp_path / "skips.py")
        assert outcome.code == code and said in outcome.out, outcome.out
        assert ("between the first and the last" in outcome.out) == bool(code)


def test_names_alone_are_enough_to_write_a_description(c4d, fails, tmp_path):
    """Of a forward whose arguments have other names; without them the error says how they are told."""
    text = MODEL.replace("hidden_states, timestep, text", "soup, hour, text").replace("hidden_states=x", "soup=x")
    text = text.replace("timestep=torch", "hour=torch").replace("(hidden_states) * timestep", "(soup) * hour")
    file, names = tmp_path / "odd.py", "'Theirs', latents='soup', timestep='hour', example=EXAMPLE"
    file.write_text(text)
    fails(["check-model", file], 2, "no timestep", "latents=…, timestep=…")
    file.write_text(f"{text}\nSPEC = c4d.ModelSpec({names})\n")
    outcome = c4d("check-model", file)
    assert outcome.code == 0, outcome.out
    assert "latents='soup'" in outcome.out and "timestep='hour'" in outcome.out and "Stack('single'" in outcome.out
