"""docs/paper_to_code.md and docs/decisions/: one table, and every file, name, test and page they speak of exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "contextae"
MAP = ROOT / "docs" / "paper_to_code.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PLACE = re.compile(
    r"`((?:tests|presets|methods|training|interop|evaluation|tokenizers)/[\w/.]*|\w+\.py|\w+(?:\.\w+)+)`"
)
QUESTIONS = {  # that the published sources leave open, in the fact sheet's order, and the page that decides each
    1: "0011", 2: "0012", 3: "0013", 4: "0014", 5: "0015", 6: "0016", 7: "0017", 8: "0018", 9: "0019", 10: "0020",
}  # fmt: skip


def rows() -> list[list[str]]:
    lines = MAP.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")][2:]


def there(place: str) -> bool:
    """A file or folder of the package or the repository, or a name in one of the package's modules."""
    if place.endswith((".py", "/")) or "/" in place:
        return (ROOT / place).exists() or (SOURCE / place).exists()
    module, _, name = place.rpartition(".")
    return (SOURCE / f"{module.replace('.', '/')}.py").is_file() and hasattr(
        importlib.import_module(f"contextae.{module}"), name
    )


def test_the_map_is_one_table_of_symbol_sentence_file_and_test() -> None:
    lines = MAP.read_text(encoding="utf-8").splitlines()
    numbers = [i for i, line in enumerate(lines) if line.startswith("|")]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "a blank line ends a table"
    for row in rows():
        assert len(row) == 4 and all(row), row
        assert PLACE.search(row[2]) and "tests/" in row[3], row


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:30])
def test_what_a_row_of_the_map_names_exists(row: list[str]) -> None:
    for place in PLACE.findall(" ".join(row[2:])):
        assert there(place), place


def test_the_search_would_find_what_is_not_there() -> None:
    assert there("masking.BlockMasker") and there("tests/tokenizers/") and there("grid.py")
    assert not there("masking.BlokMasker") and not there("tests/test_gird.py") and not there("gird.Grid")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem[:30])
def test_a_decision_names_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for place in re.findall(r"`((?:tests|presets|methods)/[\w/.]+)`", text):
        assert there(place), place


def test_every_open_question_and_every_defect_has_its_page() -> None:
    numbers = [page.name[:4] for page in DECISIONS]
    assert len(set(numbers)) == len(numbers) and set(QUESTIONS.values()) <= set(numbers)
    defects = next(page for page in DECISIONS if page.name.startswith("0021")).read_text(encoding="utf-8")
    sections = defects.split("\n## ")[1:]
    assert len(sections) == 12
    for section in sections[:-1]:
        assert "`tests/" in section, section[:40]
