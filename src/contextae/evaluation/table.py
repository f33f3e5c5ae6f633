"""An evaluation as people read it: a table, the comparisons in words, Markdown, JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from contextae.evaluation.evaluate import RANDOM, TRAINING_FREE, Difference, Evaluation


def table(evaluation: Evaluation) -> Table:
    """Rows are representations, columns protocols; the best of a column is bold."""
    made = Table(title=f"accuracy on {evaluation.num_test:,} test images, %, with 95 % interval", title_justify="left")
    made.add_column("frozen")
    for protocol in protocols(evaluation):
        made.add_column(protocol, justify="right", no_wrap=True)
    for name, cells in rows(evaluation):
        made.add_row(name, *cells)
    return made


def rows(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """Of each representation its name and one cell per protocol."""
    names = list(dict.fromkeys(result.representation for result in evaluation.results))
    best = {
        protocol: max(result.accuracy for result in evaluation.results if result.protocol == protocol)
        for protocol in protocols(evaluation)
    }
    found = []
    for name in names:
        cells = []
        for protocol in protocols(evaluation):
            result = evaluation.result(name, protocol)
            if result is None:
                cells.append("-")
                continue
            low, high = result.interval
            cell = f"{100 * result.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            cells.append(f"[bold]{_escaped(cell)}[/bold]" if result.accuracy == best[protocol] else _escaped(cell))
        found.append((f"{name} ({evaluation.seeds} seeds)" if name == RANDOM else name, cells))
    return found


def _escaped(cell: str) -> str:
    return cell.replace("[", r"\[")


def protocols(evaluation: Evaluation) -> list[str]:
    """In the order they were asked for."""
    return list(dict.fromkeys(result.protocol for result in evaluation.results))


def words(evaluation: Evaluation) -> list[str]:
    """A line per protocol: whether the encoder learned, and whether it is more useful than what needs no training."""
    lines = []
    for protocol in protocols(evaluation):
        random = evaluation.difference(protocol, RANDOM)
        assert random  # every protocol applies to encoders
        line = f"{protocol}: {_signed(random)} to random initialisation, so it {_learned(random)}"
        results = [result for name in TRAINING_FREE if (result := evaluation.result(name, protocol))]
        if results:
            strongest = max(results, key=lambda result: result.accuracy).representation
            free = evaluation.difference(protocol, strongest)
            assert free
            line += f"; {_signed(free)} to {strongest}, the best without training, so it is {_useful(free)}"
        lines.append(line)
    return lines


def _signed(difference: Difference) -> str:
    low, high = difference.interval
    return f"{100 * difference.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _learned(difference: Difference) -> str:
    if not difference.outside:
        return "has not shown that it learned anything"
    return "learned" if difference.difference > 0 else "is worse than not training"


def _useful(difference: Difference) -> str:
    if not difference.outside:
        return "on a par"
    return "more useful" if difference.difference > 0 else "not yet as useful"


def markdown(evaluation: Evaluation) -> str:
    """The table for a document."""
    head = ["frozen", *protocols(evaluation)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, cells in rows(evaluation):
        plain = [cell.replace("[bold]", "**").replace("[/bold]", "**").replace(r"\[", "[") for cell in cells]
        lines.append(f"| {name} | {' | '.join(plain)} |")
    return "\n".join(lines)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the single predictions."""
    return {
        "num_train": evaluation.num_train,
        "num_test": evaluation.num_test,
        "classes": evaluation.classes,
        "seeds": evaluation.seeds,
        "results": [
            {
                "representation": result.representation,
                "protocol": result.protocol,
                "protocol_version": result.version,
                "accuracy": result.accuracy,
                "interval": list(result.interval),
                "chosen": result.chosen,
                "seconds": round(result.seconds, 2),
            }
            for result in evaluation.results
        ],
        "differences": [
            {
                "protocol": each.protocol,
                "baseline": each.baseline,
                "difference": each.difference,
                "interval": list(each.interval),
            }
            for each in evaluation.differences
        ],
    }
