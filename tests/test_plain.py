"""A CAE from plain keywords, masks for a batch, public names, and the README's own Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import contextae

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_a_cae_from_keywords_has_what_they_say() -> None:
    method = contextae.cae(
        image_size=(12, 20),
        patch_size=(4, 5),
        channels=2,
        width=24,
        depth=3,
        num_heads=2,
        regressor_depth=2,
        decoder_depth=1,
        alignment_weight=0.5,
    )
    assert method.encoder.grid.size == (3, 4) and method.encoder.grid.channels == 2
    assert (method.encoder.width, method.encoder.depth, len(method.regressor.blocks), len(method.decoder.blocks)) == (
        24,
        3,
        2,
        1,
    )
    assert method.alignment_weight == 0.5


def test_masks_are_drawn_by_seed_and_place() -> None:
    masker = contextae.RandomMasker(size=(3, 5), num_masked=4)
    images = torch.zeros(6, 3, 12, 20)
    first, again, other = (contextae.mask_images(images, masker, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.mask.masked, again.mask.masked) and torch.equal(first.key, again.key)
    assert not torch.equal(first.mask.masked, other.mask.masked) and not torch.equal(first.key, other.key)
    assert len({tuple(row.tolist()) for row in first.mask.masked}) > 1
    assert first.mask.masked.shape == (6, 4) and first.mask.visible.shape == (6, 11)


def test_every_public_name_is_there_and_an_unknown_one_is_not() -> None:
    for name in contextae.__all__:
        assert getattr(contextae, name) is not None
    assert set(contextae.__all__) == set(dir(contextae))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        contextae.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextae; print([m for m in ('torch', 'timm', 'torchvision', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_torch_loop_of_the_readme_trains(capsys: pytest.CaptureFixture[str]) -> None:
    (loop,) = [block for block in blocks("python") if "optimizer" in block]
    exec(compile(loop, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all("reconstruction" in line and "alignment" in line for line in lines)


def test_the_loop_of_the_readme_is_ten_lines_and_the_latents_five() -> None:
    loop, latents = (block.strip().splitlines() for block in blocks("python"))
    assert len([line for line in loop if line and not line.startswith(("import", "torch.manual_seed"))]) <= 10
    assert len([line for line in latents if line and not line.startswith("import")]) <= 5


def test_commands_of_the_readme_have_options_that_exist() -> None:
    from typer.testing import CliRunner

    from contextae.cli import app

    for line in "\n".join(blocks("bash")).splitlines():
        command = line.split("#")[0].split()
        if "contextae" not in command:
            continue
        verb, *rest = command[command.index("contextae") + 1 :]
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert shown.exit_code == 0, verb
        for option in (part for part in rest if part.startswith("--")):
            assert option in shown.output, (verb, option)
