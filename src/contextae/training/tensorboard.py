"""Curves for TensorBoard, an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contextae.errors import UserError


def require_tensorboard() -> None:
    """Refuses where it is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "TensorBoard is not installed, and its curves were asked for. "
            'Install it with: pip install "contextae[tensorboard]", or leave them out.'
        ) from None


class TensorBoard:
    """Scalars by step; those a killed run wrote after step `first` are marked as superseded."""

    def __init__(self, folder: Path, *, first: int = 0) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes the event file."""
        self.writer.close()
