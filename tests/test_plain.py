"""A CAE from plain keywords, masks for a batch, public names, and the README's own Python."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import contextae
from verbs.small_run import SMALL, paint

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


def test_the_latents_of_the_readme_are_those_of_two_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (latents,) = [block for block in blocks("python") if "contextae.load" in block]
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        paint(Path("PHOTOS", f"{i}.png"), i)
    paint(Path("cat.jpg"), 20)
    paint(Path("dog.png"), 21, size=(14, 30))
    run("contextae pretrain PHOTOS --out RUN", monkeypatch)
    names: dict[str, Any] = {}
    exec(compile(latents, "README.md", "exec"), names)
    assert names["images"].shape == (2, 3, 16, 12)
    assert names["summary"].shape == (2, 16) and names["latents"].shape == (2, 12, 16)
    (layer,) = names["layers"]
    assert torch.equal(layer[:, 1:], names["latents"])


def test_the_figures_of_the_readme_are_those_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (figures,) = [block for block in blocks("python") if "contextae.evaluate" in block]
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        paint(Path("LABELLED", "cats" if i % 2 else "dogs", f"{i}.png"), i)
    run("contextae pretrain LABELLED --out RUN", monkeypatch)
    run("contextae evaluate RUN --data LABELLED --protocol knn,linear --seeds 3 --out figures.json", monkeypatch)
    capsys.readouterr()
    exec(compile(figures, "README.md", "exec"), names := {})
    told = json.loads(Path("figures.json").read_text())["results"]
    assert [(each.row, each.value) for each in names["found"].results] == [
        (each["row"], each["value"]) for each in told
    ]
    assert len(capsys.readouterr().out.splitlines()) == len(told) == 10


def test_the_loop_of_the_readme_is_ten_lines_and_the_latents_five() -> None:
    loop, latents, _ = (block.strip().splitlines() for block in blocks("python"))
    assert len([line for line in loop if line and not line.startswith(("import", "torch.manual_seed"))]) <= 10
    assert len([line for line in latents if line and not line.startswith("import")]) <= 5


def commands(block: str) -> list[str]:
    """Those of contextae itself, without what is said beside them; torchrun starts processes of its own."""
    lines = [line.split(" #")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line.startswith("contextae ")]


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed, with settings of a very small network appended where it says what to train on, within this process."""
    from contextae.cli import main

    _, verb, *rest = shlex.split(command)
    if verb == "pretrain" and not rest[0].startswith("--"):
        rest += [part for setting in SMALL for part in ("--set", setting)]
    if verb == "fit-tokenizer":
        rest += [
            "--codes",
            "16",
            *(part for setting in SMALL if setting[:7] != "method." for part in ("--set", setting)),
        ]
    if verb == "evaluate":
        rest += [] if "--seeds" in rest else ["--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["contextae", verb, *rest])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, command


COMMANDS = [found for block in blocks("bash") if (found := commands(block))]


@pytest.mark.slow
@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block[0])
def test_commands_of_the_readme_run(block: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        paint(Path("PHOTOS", f"{i}.png"), i)
        paint(Path("LABELLED", "cats" if i % 2 else "dogs", f"{i}.png"), i)
    if not any(re.search(r"--out RUN( |$)", command) for command in block):
        run("contextae pretrain PHOTOS --out RUN", monkeypatch)
    for command in block:
        run(command, monkeypatch)
    made = [command.split("--out ")[1].split()[0] for command in block if "--out " in command]
    assert made and all(Path(name).exists() for name in made)


def test_every_verb_of_the_readme_is_among_the_commands_that_are_run() -> None:
    run_here = [command.split()[1] for block in COMMANDS for command in block]
    assert run_here == [
        *("pretrain", "evaluate", "reconstruct"),
        *("audit", "pretrain", "pack"),
        *("pretrain", "pretrain", "pretrain"),
        *("fit-tokenizer", "pretrain", "pretrain", "pretrain", "show"),
        *("export", "export", "export", "export"),
    ]


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
