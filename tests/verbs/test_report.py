"""`contextae report` on whole runs: one, several, stopped, bare ones, a tokenizer's, and with hostile names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deadly import deadly
from small_run import SMALL, interrupt, paint

from contextae.errors import UserError
from contextae.methods.cae import CAE
from contextae.verbs import report_pictures
from contextae.verbs.evaluate import run_evaluate
from contextae.verbs.fit_tokenizer import run_fit_tokenizer
from contextae.verbs.report import run_report
from contextae.verbs.report_settings import hidden
from report.test_audit_html import HOSTILE, Elements, check_harmless

Run = Callable[..., int]
NAMES = [name for name in HOSTILE if "\udcff" not in name]


def page_of(*runs: Path, out: Path, **options: object) -> Elements:
    run_report(runs=list(runs), out=out, **options)  # type: ignore[arg-type]
    return check_harmless(out.read_text(encoding="utf-8"))


def plain(elements: Elements) -> str:
    return " ".join(elements.text.split())


@pytest.fixture
def trained(pretrain: Run, photographs: Path, tmp_path: Path) -> Path:
    """A finished run."""
    assert pretrain(photographs, tmp_path / "run", labelled=str(photographs)) == 0
    return tmp_path / "run"


def test_one_page_says_everything_of_a_run_with_hostile_names(pretrain: Run, tmp_path: Path) -> None:
    images = tmp_path / "<b onclick=alert(1)>set"
    for i in range(30):
        paint(images / ("cats" if i % 2 else "dogs") / f"{i}{NAMES[i % len(NAMES)]}", i)
    (images / "cats" / "<img src=x onerror=alert(2)>.png").write_bytes(b"broken")
    run = tmp_path / "<img src=x onerror=alert(1)>"
    assert pretrain(images, run, labelled=str(images)) == 0
    run_evaluate(weights=run, data=str(images), protocols="knn", checkpoint="last", seeds=1, out=None)
    first = sorted((run / "checkpoints").iterdir())[0]
    run_evaluate(weights=first, data=str(images), protocols="linear", checkpoint="last", seeds=1, out=None)
    weights = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    elements = page_of(run, out=tmp_path / "report.html")
    text = plain(elements)
    for words in (
        "Report of <img src=x onerror=alert(1)>",
        "31 = used 30 + left out 1 + quarantined 0",
        "cats/<img src=x onerror=alert(2)>.png",
        "not an image, or its header is damaged",
        "width 16, depth 1, 2 heads; ",
        "6 of 12 patches",
        "8 of 8 steps",
        "healthy",
        "kNN accuracy on a held-out part of train",
        "Loss and its parts",
        "reconstruction, last",
        "Reconstructions",
        "one basis for all",
        "Attention of the class token",
        "head 2, ",
        "random initialisation",
        "Against random initialisation",
        "encoder's hash",
        f"onerror=alert(1)>, step {int(first.name[5:])}: this encoder",
        "contextae.load('",
        "--to huggingface --out for-huggingface",
        "data.mean *",
        "training.keep_checkpoints",
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'cores'}, contextae 0.",
        "This page holds pictures of images and names of files",
        "checkpoints weights, the settings with their paths",
    ):
        assert words in text, words
    assert len([tag for tag, _ in elements.found if tag == "img"]) == 1 + 6 * 2 + 3 * (2 + 2)
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == weights
    again = tmp_path / "again.html"
    page_of(run, out=again)
    assert again.read_bytes() == (tmp_path / "report.html").read_bytes(), "a page is a function of its runs"

    text = plain(page_of(run, out=tmp_path / "bare.html", pictures=False, paths=False))
    page = (tmp_path / "bare.html").read_text()
    assert "This page holds no pictures and no names of files" in text and "data:image" not in page
    for part in ("onerror", "onclick", "onload", "mouseover", "987654321", "31m", "gnp", str(tmp_path), "cats", "dogs"):
        assert part not in page, part
    assert "data set 1" in text and "contextae.load('RUN')" in text and "(not shown)" in text
    text = plain(page_of(run, out=tmp_path / "numbers.html", paths=False))
    assert "image 1" in text and "onerror" not in (tmp_path / "numbers.html").read_text()


def test_several_runs_are_compared(trained: Path, pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert pretrain(photographs, other, "encoder.depth=2", "method.target=hog", "training.batch_size=10") == 0
    run_evaluate(weights=other, data=str(photographs), protocols="knn", checkpoint="last", seeds=1, out=None)
    text = plain(page_of(trained, other, trained, out=tmp_path / "r.html"))
    assert "Report of 2 runs" in text and "What differs run other" in text
    assert "encoder.depth 1 2" in text and "method.target pixels hog" in text and "training.batch_size 8 10" in text
    assert "steps done 10 of 10 8 of 8" in text and "encoder.width 16 16" not in text
    assert "last kNN on held-out train" in text and "last ridge on held-out train" not in text
    assert "Curves together" in text and "run, last" in text and "other, last" in text
    assert "other: this encoder" in text and "kNN on" in text, "of one of two it is said which"
    assert "There are no figures of run yet. contextae evaluate writes them" in text
    assert text.count("Principal components of the latents") == 2

    shutil.move(tmp_path / "photographs", tmp_path / "elsewhere")
    text = plain(page_of(trained, other, out=tmp_path / "gone.html"))
    assert text.count("There are no pictures: ") == 2 and "Or name other images with --data." in text
    text = plain(page_of(trained, out=tmp_path / "others.html", data=str(tmp_path / "elsewhere")))
    assert "There are no pictures" not in text and "Attention of the class token" in text


def test_an_image_that_cannot_be_read_is_named_and_the_next_is_taken(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(photographs.rglob("*.png"))[:36]:
        path.write_bytes(b"broken")
    elements = page_of(trained, out=tmp_path / "r.html")
    assert len([tag for tag, _ in elements.found if tag == "img"]) == 1 + 4 * 2 + 3 * 4
    assert "cats/01.png is left out: " in plain(elements) and "cats/01.png is left out" in capsys.readouterr().err
    for path in photographs.rglob("*.png"):
        path.write_bytes(b"broken")
    assert "None of the images" in plain(page_of(trained, out=tmp_path / "none.html"))


def test_the_checkpoint_asked_for_is_shown_and_told_how_to_use(
    trained: Path, photographs: Path, tmp_path: Path
) -> None:
    steps = [int(path.name[5:]) for path in sorted((trained / "checkpoints").iterdir())]
    assert len(steps) > 1
    run_evaluate(weights=trained, data=str(photographs), protocols="knn", checkpoint="last", seeds=1, out=None)
    text = plain(page_of(trained, out=tmp_path / "r.html"))
    assert f"By the weights of step {steps[-1]}." in text and "--checkpoint" not in text
    assert "No figure is of the weights" not in text and "at that time" not in text
    last = (tmp_path / "r.html").read_text()
    text = plain(page_of(trained, out=tmp_path / "r.html", checkpoint=str(steps[0])))
    assert f"By the weights of step {steps[0]}." in text and f"--checkpoint {steps[0]} --data LABELLED" in text
    assert f"contextae.load('{trained}', checkpoint='{steps[0]}')" in text
    assert f"No figure is of the weights of run that this page shows, those of step {steps[0]}." in text
    assert "run, last at that time: this encoder" in text, "a table does not take figures for those of other weights"
    assert (tmp_path / "r.html").read_text() != last
    text = plain(page_of(trained, out=tmp_path / "r.html", checkpoint="best"))
    assert ", the best by the label-free score." in text and "checkpoint='best'" in text

    weights = trained / "checkpoints" / f"step-{steps[-1]:08d}" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    text = plain(page_of(trained, out=tmp_path / "r.html"))
    assert f"By the weights of step {steps[-2]}." in text, "the last that is whole, which is not the last that is there"


def test_an_image_that_ends_its_process_is_named_and_the_next_is_taken(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = re.findall(r'under">([^<]*)<', page_text(trained, tmp_path))[0]
    real = report_pictures.continued_index
    monkeypatch.setattr(report_pictures, "continued_index", lambda *a, **b: deadly(real(*a, **b), first))
    assert f"{first} is left out: the process that read it ended with signal 11." in plain(
        page_of(trained, out=tmp_path / "r.html")
    )
    assert len(re.findall(r'under">', page_text(trained, tmp_path))) == 6


def page_text(run: Path, folder: Path) -> str:
    page_of(run, out=folder / "r.html")
    return (folder / "r.html").read_text()


def test_figures_keep_their_weights_settings_and_baselines_apart(
    trained: Path, pretrain: Run, photographs: Path, tmp_path: Path
) -> None:
    assert pretrain(photographs, tmp_path / "other", "training.seed=1") == 0
    common = {"data": str(photographs), "checkpoint": "last", "seeds": 1, "out": None}
    beside = [f"{tmp_path}/other", f"{tmp_path}/copy"]
    shutil.copytree(tmp_path / "other", tmp_path / "copy")
    run_evaluate(weights=trained, protocols="knn", beside=beside, **common)  # type: ignore[arg-type]
    for draws in (2, 3):
        given = [f"draws={draws}", "per_class=1"]
        run_evaluate(weights=trained, protocols="fewshot", settings=given, **common)  # type: ignore[arg-type]
    results = trained / "results.jsonl"
    run_evaluate(weights=tmp_path / "other", protocols="linear", results=results, **common)  # type: ignore[arg-type]
    text = plain(page_of(trained, out=tmp_path / "r.html"))
    assert "weights of other: this encoder" in text, "figures that were sent into this run's file are not its own"
    assert "fewshot: draws=2, per_class=1, other than by default." in text
    assert "1 per class, draws=2 on " in text and "1 per class, draws=3 on " in text
    assert "fewshot set to" in text and "draws=3" in text
    text = plain(page_of(trained, out=tmp_path / "r.html", paths=False))
    assert "other weights 1" in text and "other weights 2" in text, "no two rows become one"
    assert str(tmp_path) not in (tmp_path / "r.html").read_text() and "weights of other:" not in text


def test_files_that_were_edited_end_in_no_traceback(trained: Path, photographs: Path, tmp_path: Path) -> None:
    run_evaluate(weights=trained, data=str(photographs), protocols="knn", checkpoint="last", seeds=1, out=None)
    line = json.loads((trained / "results.jsonl").read_text())
    line["about"] |= {"hardware": [1], "versions": "x"}
    (trained / "results.jsonl").write_text(json.dumps(line) + "\n")
    with (trained / "log.jsonl").open("a") as log:
        log.write('{"kind": "start", "hardware": "x", "versions": []}\n')
    (trained / "quarantine.jsonl").write_text('{"sample_id": 3}\n{}\n')
    assert "an unknown processor" in plain(page_of(trained, out=tmp_path / "r.html"))


def test_a_run_that_was_stopped_says_so(
    pretrain: Run, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, CAE, 3)
        assert pretrain(photographs, tmp_path / "run") == 130
    run = tmp_path / "run"
    text = plain(page_of(run, out=tmp_path / "r.html"))
    assert "Stopped by Ctrl-C after 3 of 10 steps; --resume goes on with it." in text and "after 3 steps" in text
    assert pretrain(None, run, resume=True) == 0
    assert "Stopped by" not in plain(page_of(run, out=tmp_path / "r.html"))
    (run / "log.jsonl").unlink()
    shutil.rmtree(run / "checkpoints")
    text = plain(page_of(run, out=tmp_path / "r.html"))
    assert "The log holds no lines yet" in text and "checkpoints none yet" in text and "no pictures: " in text


def test_a_tokenizer_that_is_gone_leaves_the_maps(pretrain: Run, photographs: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokens"
    fit = {"preset": None, "config": None, "resume": False, "codes": 8, "data": str(photographs), "out": tokenizer}
    few = [line for line in SMALL if line.startswith(("data.", "encoder.", "training.", "health."))]
    assert run_fit_tokenizer(kind="dvae", settings=[*few, "encoder.patch_size=[2, 2]"], **fit) == 0  # type: ignore[arg-type]
    elements = page_of(tokenizer, out=tmp_path / "t.html")
    text = plain(elements)
    assert "a tokenizer has none" in text and "Perplexity of the codes in use" in text
    assert "A tokenizer is evaluated by what is trained on it." in text and "method.target=codes:" in text
    assert len([tag for tag, _ in elements.found if tag == "img"]) == 1 and "contextae.load" not in text
    (tokenizer / "tokenizer.safetensors").rename(tmp_path / "aside")
    assert "has not come to its end" in plain(page_of(tokenizer, out=tmp_path / "t.html"))
    (tmp_path / "aside").rename(tokenizer / "tokenizer.safetensors")

    run = tmp_path / "on-codes"
    assert pretrain(photographs, run, f"method.target=codes:{tokenizer}") == 0
    assert "Reconstructions" in plain(page_of(run, out=tmp_path / "c.html"))
    shutil.rmtree(tokenizer)
    text = plain(page_of(run, out=tmp_path / "c.html"))
    assert "There are no reconstructions: " in text and "Attention of the class token" in text
    page_of(run, out=tmp_path / "c.html", paths=False)
    assert str(tmp_path) not in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("data.source", "builtin:fashion-mnist", "builtin:fashion-mnist"),
        ("data.source", ("photos", "builtin:fashion-mnist"), ["(not shown)", "builtin:fashion-mnist"]),
        ("data.manifest", "audit.json", "(not shown)"),
        ("data.manifest", None, None),
        ("method.target", "pixels", "pixels"),
        ("method.target", "codes:tokens", "codes:(not shown)"),
        ("method.target", "features:timm:vit_base.openai", "features:timm:vit_base.openai"),
        ("method.target", "features:timm:vit=teacher", "features:(not shown)"),
        ("init.source", "timm:vit_base", "timm:vit_base"),
        ("init.source", "timm:vit_base=mine", "(not shown)"),
        ("init.source", "run", "(not shown)"),
        ("encoder.width", 3, 3),
    ],
)
def test_settings_that_name_files_do_not_without_paths(name: str, value: object, shown: object) -> None:
    assert hidden(name, value, paths=False) == shown and hidden(name, value, paths=True) == value


def test_what_is_no_run_is_refused(trained: Path, tmp_path: Path) -> None:
    def refused(match: str, *runs: Path, out: str = "r.html") -> None:
        with pytest.raises(UserError, match=match):
            run_report(runs=list(runs), out=tmp_path / out)
        assert not (tmp_path / "r.html").exists()

    weights = next(trained.rglob("weights.safetensors"))
    refused(r"At .*absent there is nothing\. Give the run folder itself", tmp_path / "absent")
    refused(r"there is nothing", Path(300 * "x"))
    refused(r"weights\.safetensors there is a file\. Give the run folder", trained, weights)
    refused(r"there is a folder without an experiment\.yaml\. Give", weights.parent)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "tokenizer.safetensors").write_bytes(b"")
    refused(r"It holds a tokenizer of k-means patches, which no training is behind", tmp_path / "k")
    refused(r"--out is the HTML file to write, such as report\.html\. Got .*r\.pdf", trained, out="r.pdf")
    refused(r"The folder of --out must exist", trained, out="no/r.html")
    with pytest.raises(UserError, match=r"is last, best or the number of a step\. Got 'bset'\. Did you mean"):
        run_report(runs=[trained], out=tmp_path / "r.html", checkpoint="bset")
    with pytest.raises(UserError, match=r"There is no checkpoint of step 7 in .* Steps that are there: "):
        run_report(runs=[trained], out=tmp_path / "r.html", checkpoint="7")
    shutil.rmtree(trained / "checkpoints")
    with pytest.raises(UserError, match=r"no whole checkpoint with a score in .*Leave --checkpoint out"):
        run_report(runs=[trained], out=tmp_path / "r.html", checkpoint="best")
