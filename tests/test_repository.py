"""What the repository promises about itself: words, layers, sizes, and what an import costs."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import contextae

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "contextae"
FILES = sorted(SOURCE.rglob("*.py"))
NAMED_BY_THE_GLOSSARY = (
    *(SOURCE / f"{name}.py" for name in ("grid", "masking", "encoder", "regressor", "decoder", "alignment")),
    *sorted((SOURCE / "methods").glob("*.py")),
)
FORBIDDEN = ["unmasked", "bool_masked_pos", "ids_keep", "latent_predict", "loss_main", "mlm", "neck", "input_ids"]
HEAVY = ("torch", "torchvision", "timm", "matplotlib", "pandas", "scipy", "sklearn", "transformers")
STARTS_WITHOUT_TORCH = (
    "errors",
    "randomness",
    "cli",
    "masking",
    "methods.views",
    "data.augment",
    "data.sampler",
    "audit.survey",
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def identifiers(tree: ast.AST) -> set[str]:
    """Every name that the code itself chooses or uses; words of docstrings and comments do not count."""
    found: set[str] = set()
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(value := getattr(node, field, None), str):
                found.add(value)
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("path", NAMED_BY_THE_GLOSSARY, ids=relative)
def test_one_word_for_one_thing(path: Path) -> None:
    words = {word for name in identifiers(tree_of(path)) for word in (name, *re.split(r"_|(?<=[a-z])(?=[A-Z])", name))}
    assert not {word.lower() for word in words} & set(FORBIDDEN)
    assert not any(phrase in name for name in identifiers(tree_of(path)) for phrase in FORBIDDEN if "_" in phrase)


def test_the_forbidden_words_would_be_found() -> None:
    tree = ast.parse("class Neck:\n    def mlm_head(self, bool_masked_pos): self.ids_keep = loss_main")
    assert {"Neck", "mlm_head", "bool_masked_pos", "ids_keep", "loss_main"} <= identifiers(tree)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_catches_everything(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("Exception", "BaseException", "everything"), f"line {node.lineno}: except {caught}"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: import *"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    assert path.stem not in ("utils", "util", "helpers", "helper", "misc", "common", "tools")


def test_every_file_says_what_it_is() -> None:
    silent = [relative(path) for path in FILES if path.stat().st_size and not ast.get_docstring(tree_of(path))]
    assert [path for path in silent if not path.endswith("__main__.py")] == []


def test_constructors_take_keywords_only_and_at_most_ten() -> None:
    core = ("grid", "masking", "blocks", "encoder", "regressor", "decoder", "targets", "methods/cae")
    for path in (SOURCE / f"{name}.py" for name in core):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                given = node.args
                assert len(given.args) == 1 and not given.vararg and not given.kwarg, f"{path.name}:{node.lineno}"
                assert len(given.kwonlyargs) <= 10, f"{path.name}:{node.lineno}"


def test_the_check_that_ci_runs_holds_the_import_layers() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = make[make.index("\ncheck:") : make.index("\nformat:")]
    for tool in ("ruff format --check", "ruff check", "mypy", "lint-imports"):
        assert tool in check
    assert "make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_part_has_its_layer_and_every_method_its_independence() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = {name.strip() for line in contracts[0]["layers"] for name in line.split("|")}
    core = ("grid", "positions", "masking", "blocks", "encoder", "regressor", "decoder", "alignment", "targets")
    folders = (
        "interop",
        "tokenizers",
        "data",
        "audit",
        "methods",
        "training",
        "evaluation",
        "report",
        "presets",
        "verbs",
        "commands",
    )
    for name in (*core, *folders, "experiment", "named_targets", "cli", "errors", "randomness"):
        assert f"contextae.{name}" in layers, name
    methods = {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__", "method", "masked", "views"}
    assert set(contracts[1]["modules"]) == {f"contextae.methods.{name}" for name in methods}


def loaded_after(statement: str) -> set[str]:
    done = run("-c", f"{statement}\nimport sys; print(' '.join(sys.modules))")
    assert done.returncode == 0, done.stderr
    return {name for name in done.stdout.split() if name in HEAVY}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import contextae; contextae.__version__; dir(contextae)") == set()


def test_what_loader_workers_and_the_command_import_loads_nothing_heavy() -> None:
    assert loaded_after("; ".join(f"import contextae.{name}" for name in STARTS_WITHOUT_TORCH)) == set()


def test_the_search_for_heavy_modules_finds_them() -> None:
    assert "matplotlib" in loaded_after("import matplotlib")


def test_help_answers_without_torch_and_names_the_verbs() -> None:
    code = (
        "import sys\nfrom contextae.cli import main\nsys.argv = ['contextae', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print('exit', end.code)\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "exit 0" in done.stdout and "False False" in done.stdout
    for verb in ("demo", "pretrain", "evaluate", "reconstruct"):
        assert verb in done.stdout


def test_the_package_runs_as_a_module_and_says_its_version() -> None:
    done = run("-m", "contextae", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"contextae {contextae.__version__}")


def needed_by(*names: str) -> set[str]:
    """Distributions that installing these brings, themselves included: what they require here, and so on."""
    found: set[tuple[str, str]] = set()
    waiting = [(name, "") for name in names]
    while waiting:
        name, extra = each = waiting.pop()
        if each in found:
            continue
        found.add(each)
        for line in importlib.metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(wanted.name), named) for named in ("", *wanted.extras)]
    return {name for name, _ in found}


def test_the_core_install_is_at_most_40_distributions_beside_torch_and_torchvision() -> None:
    core = needed_by("contextae") - needed_by("torch", "torchvision")
    assert {"timm", "pyarrow", "safetensors"} <= core, "the walk goes through the requirements"
    assert not core & {"ruff", "pytest", "tensorboard"}, "and leaves extras out"
    assert len(core) <= 40, sorted(core)


def test_public_names_are_there_and_no_others() -> None:
    assert set(contextae._WHERE) == set(contextae.__all__) - {"__version__"}
    for name in contextae.__all__:
        assert getattr(contextae, name) is not None, name
    assert dir(contextae) == sorted(contextae.__all__)
    with pytest.raises(AttributeError, match=r"module 'contextae' has no attribute 'Neck'"):
        _ = contextae.Neck


def test_what_type_checkers_see_is_what_is_loaded() -> None:
    seen = {}
    for node in ast.walk(tree_of(SOURCE / "__init__.py")):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("contextae"):
            seen.update({alias.name: node.module for alias in node.names})
    assert seen == contextae._WHERE
