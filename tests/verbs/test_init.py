"""`pretrain --init`: whose weights a run starts from, what is written down of it, resumes and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from starts import DEEP, FAST, own, same, timm_folder

import contextae
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.interop.start import Source, encoder_settings
from contextae.training.weights import load_weights
from contextae.verbs import run as run_verb
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.init import SAFE, SET_BY_INIT, absolute_init, check_start, fingerprint, init_settings, read_source
from networks import shake

Run = Callable[..., int]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Encoder]:
    """Encoders as they were before their first step."""
    kept: list[Encoder] = []
    whole = run_verb.started

    def started(encoder: Encoder, *facts: Any) -> list[str]:
        lines = whole(encoder, *facts)
        copy = Encoder(
            grid=encoder.grid,
            width=encoder.width,
            depth=encoder.depth,
            num_heads=encoder.num_heads,
            mlp_ratio=encoder.blocks[0].mlp.fc1.out_features / encoder.width,
            layer_scale=0.5 if hasattr(encoder.blocks[0].ls1, "gamma") else None,
            learned_positions=encoder.learned_positions,
        )
        copy.load_state_dict(encoder.state_dict())
        kept.append(copy.eval())
        return lines

    monkeypatch.setattr(run_verb, "started", started)
    return kept


def recorded(run: Path) -> dict[str, Any]:
    return Experiment.read(run / "experiment.yaml").values()


@pytest.mark.parametrize("kind", ["run", "checkpoint", "file"])
def test_from_a_run_a_checkpoint_or_a_weights_file(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, starts: list[Encoder], kind: str, capsys: Any
) -> None:
    checkpoint = next(iter(sorted((source / "checkpoints").glob("step-*"))))
    given = {"run": source, "checkpoint": checkpoint, "file": tmp_path / "alone.safetensors"}[kind]
    if kind == "file":
        shutil.copy(checkpoint / "weights.safetensors", given)
    capsys.readouterr()
    assert pretrain(photographs, None, DEEP, *FAST, init=str(given)) == 0
    expected, transform = contextae.load(source)
    assert same(dict(starts[0].state_dict()), dict(expected.state_dict()))
    found, said = recorded(tmp_path / "run"), capsys.readouterr().out
    assert found["init.source"] == str(given) and found["init.sha256"] == fingerprint(read_source(str(given)))
    assert found["init.frozen_share"] == 0.1 and found["optimizer.layer_decay"] == 0.75
    assert f"The encoder starts from {given}." in said
    assert f"its images had mean {' '.join(f'{value:.3f}' for value in transform.mean)}" in said
    assert f"with --init init.source={given}, encoder.width=16" in said
    assert not same(own(dict(load_weights(tmp_path / "run")[0])), own(dict(load_weights(source)[0])))


def test_from_a_timm_folder_by_a_relative_path(
    pretrain: Run, photographs: Path, tmp_path: Path, starts: list[Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = timm_folder(tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    assert pretrain(photographs, None, DEEP, *FAST, init="timm:vit") == 0
    images = torch.randn(3, 3, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(starts[0].summary_and_latents(images)[0], vit.forward_features(images)[:, 0])
    found = recorded(tmp_path / "run")
    assert found["init.source"] == f"timm:{tmp_path / 'vit'}" and found["encoder.positions"] == "learned"
    assert found["encoder.layer_scale"] is None


def test_from_a_timm_name_and_file_for_other_patches_and_channels(
    pretrain: Run, photographs: Path, tmp_path: Path, starts: list[Encoder], capsys: pytest.CaptureFixture[str]
) -> None:
    vit = timm.create_model("test_vit", num_classes=3).eval()
    shake(vit, scale=0.1)
    save_file(vit.state_dict(), tmp_path / "test_vit.safetensors")
    init = f"timm:test_vit={tmp_path / 'test_vit.safetensors'}"
    read = encoder_settings(read_source(init)).items()
    network = [f"{name}={'null' if value is None else value}" for name, value in read]
    assert pretrain(photographs, None, *network, "data.channels=1", *FAST, init=init) == 0
    (encoder,) = starts
    assert torch.equal(encoder.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)
    assert torch.equal(encoder.class_token, vit.cls_token.flatten() + vit.pos_embed[0, 0])
    assert encoder.patch_embed.weight.shape == (64, 16) and encoder.positions.shape == (12, 64)
    gray = torch.ones(1, 1, 4, 4)
    colour = vit.patch_embed.proj(torch.ones(1, 3, 16, 16)).flatten()
    torch.testing.assert_close(encoder.patch_embed(gray.flatten(1))[0], colour, atol=1e-4, rtol=0)
    said = capsys.readouterr().out
    assert "patches of 16 x 16 pixels and 3 channel(s) became patches of 4 x 4 and 1" in said
    assert "the learned table was resized (bicubic): it was for 10 x 10 patches, now for 4 x 3" in said


def test_set_overrides_what_init_sets(pretrain: Run, photographs: Path, tmp_path: Path, source: Path) -> None:
    assert pretrain(photographs, None, DEEP, *FAST, *(f"{name}=0.5" for name in SAFE), init=str(source)) == 0
    found = recorded(tmp_path / "run")
    assert [found[name] for name in SAFE] == [0.5, 0.5]
    assert set(init_settings(str(source))) == set(SET_BY_INIT)


def test_a_start_by_settings_alone_is_written_down_alike(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any working folder, and with the hash of what it started from."""
    monkeypatch.chdir(tmp_path)
    assert pretrain(photographs, None, DEEP, "init.source=source", *FAST) == 0
    found = recorded(tmp_path / "run")
    assert found["init.source"] == str(source) and found["init.sha256"] == fingerprint(read_source(str(source)))
    monkeypatch.chdir(photographs)
    assert pretrain(None, tmp_path / "again", config=tmp_path / "run" / "experiment.yaml") == 0
    assert (
        pretrain(photographs, tmp_path / "run", DEEP, *FAST, f"init.source={source}", "init.sha256=null", resume=True)
        == 0
    )


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        ("nowhere", [], "There is nothing at .*nowhere"),
        ("pickled.pt", [], "safetensors"),
        (
            "timm:vit_tinny_patch16_224",
            [],
            r"names neither a network of timm nor a folder.*Did you mean 'vit_tiny_patch",
        ),
        ("timm:test_vit=", [], r"timm:test_vit= names neither a network of timm nor a folder"),
        ("timm:resnet18", [], r"is not a network that contextae's encoder can hold"),
        ("timm:test_vit=nowhere.safetensors", [], "There is no weights file at .*nowhere.safetensors"),
        ("timm:test_vit=pickled.pt", [], r"pickled\.pt is a pickle.*contextae convert"),
        ("timm:registers", [], r"it has 2 register token\(s\)"),
        ("vit", [], r"is of a folder as timm .* write it; give it as timm:\S+vit\.$"),
        ("vit/model.safetensors", [], r"give it as timm:\S+vit\.$"),
        ("other", [], "is no checkpoint that can be used: manifest.json is missing"),
        ("source", ["encoder.depth=1"], r"cannot start from .*depth is 2 there and 1 here.*Set encoder.width=16"),
        ("source", ["encoder.num_heads=4"], "num_heads is 2 there and 4 here"),
        ("timm:vit", ["encoder.positions=sine-cosine"], "its positions are a learned table and here they are a fixed"),
        ("source", ["init.sha256=abc"], r"are not those that this experiment started from: their sha256 is \w{64} and"),
        ("source", ["init.frozen_share=1"], "less than 1"),
    ],
)
def test_refusals_come_before_anything_is_written(
    pretrain: Run,
    photographs: Path,
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    settings: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({}, tmp_path / "pickled.pt")
    timm_folder(tmp_path / "vit")
    timm_folder(tmp_path / "registers", reg_tokens=2)
    timm_folder(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["ViTModel"]}')
    with pytest.raises(UserError, match=f"(?s){message}"):
        pretrain(photographs, None, DEEP, *FAST, *settings, init=given)
    left = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {"lock"}
    assert pretrain(photographs, None, DEEP, *FAST, init=str(source)) == 0


def test_a_resume_knows_its_source(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source, tmp_path / "other")
    assert pretrain(photographs, None, DEEP, *FAST, init=str(source)) == 0
    with pytest.raises(
        UserError, match=rf"--init was {source} at its start and is {tmp_path / 'other'} now\. Leave it"
    ):
        pretrain(None, resume=True, init=str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    assert pretrain(photographs, None, DEEP, *FAST, resume=True, init="source") == 0
    preset: dict[str, Any] = {"preset": "demo", "resume": True, "init": "source"}
    for _ in range(2):  # the same command once more, where a preset alone would give another network
        assert pretrain(photographs, tmp_path / "preset", DEEP, *FAST, "encoder.drop_path=0.1", **preset) == 0


def test_a_source_that_changed_since_is_refused(
    pretrain: Run, photographs: Path, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "start.safetensors"
    tensors, metadata = load_weights(source)
    save_file(dict(tensors), file, metadata=dict(metadata))
    assert pretrain(photographs, None, DEEP, *FAST, init=str(file)) == 0
    tensors["encoder.norm.bias"] = tensors["encoder.norm.bias"] + 1
    save_file(dict(tensors), file, metadata=dict(metadata))
    refused = r"start.safetensors are not those that this experiment started from: their sha256 is .* and was .*Put the"
    with pytest.raises(UserError, match=refused):
        pretrain(None, tmp_path / "again", config=tmp_path / "run" / "experiment.yaml")
    assert not (tmp_path / "again" / "experiment.yaml").exists()
    assert pretrain(None, resume=True) == 0  # it goes on from its own checkpoint
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # a start that was killed before its first one
    before = (tmp_path / "run" / "experiment.yaml").read_bytes()
    with pytest.raises(UserError, match=refused):
        pretrain(None, resume=True)
    assert (tmp_path / "run" / "experiment.yaml").read_bytes() == before
    config = {"config": tmp_path / "run" / "experiment.yaml"}
    assert pretrain(None, tmp_path / "again", "init.sha256=null", **config) == 0
    assert recorded(tmp_path / "again")["init.sha256"] == fingerprint(read_source(str(file)))


def test_learned_positions_survive_a_run(
    pretrain: Run, photographs: Path, tmp_path: Path, starts: list[Encoder], capsys: pytest.CaptureFixture[str]
) -> None:
    timm_folder(tmp_path / "vit")
    # at the tenfold rate, or one epoch moves them too little to see
    fast = ("init.frozen_share=0", "optimizer.lr_per_256_images=0.01")
    assert pretrain(photographs, None, DEEP, *FAST, *fast, init=f"timm:{tmp_path / 'vit'}") == 0
    run = tmp_path / "run"
    stored = load_weights(run)[0]["encoder.positions"]
    assert stored.shape == (12, 16) and not torch.equal(stored, starts[0].positions)
    encoder, _ = contextae.load(run)
    assert encoder.learned_positions and torch.equal(encoder.positions, stored)
    run_evaluate(weights=run, data=str(photographs), protocols="knn", checkpoint="last", seeds=1, out=None)
    assert "this encoder" in capsys.readouterr().out
    assert pretrain(photographs, tmp_path / "further", DEEP, *FAST, init=str(run)) == 0
    assert torch.equal(starts[1].positions, stored)


def test_the_same_weights_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    timm_folder(tmp_path / "vit")
    timm_folder(tmp_path / "a=b")
    for given, wanted in {
        "run": f"{tmp_path}/run",
        "timm:vit": f"timm:{tmp_path}/vit",
        "timm:local-dir:vit": f"timm:{tmp_path}/vit",
        "timm:a=b": f"timm:{tmp_path}/a=b",
        "timm:test_vit": "timm:test_vit",
        "timm:test_vit=w.safetensors": f"timm:test_vit={tmp_path}/w.safetensors",
        f"timm:{'x' * 300}": f"timm:{'x' * 300}",
    }.items():
        assert absolute_init(given) == wanted == absolute_init(wanted)
    assert isinstance(read_source("timm:a=b"), Source)


def test_a_tokenizer_is_not_told_to_change_its_encoder(source: Path, tmp_path: Path) -> None:
    """It has none: `fit-tokenizer` refuses the start itself, in other words."""
    values = {"data.source": str(tmp_path), "method.name": "dvae", "init.source": str(source)}
    check_start(Experiment.read(source / "experiment.yaml").with_values(values), 3)
