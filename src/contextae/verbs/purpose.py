"""What a verb makes of a run: `pretrain` and `fit-tokenizer` share everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from contextae.data.index import Index
from contextae.data.transfer import Transfer
from contextae.experiment import Experiment
from contextae.training.loop import Checked
from contextae.verbs.request import Request

if TYPE_CHECKING:
    from contextae.verbs.run import Run

Check = Callable[[int, float], Checked]


class Purpose(NamedTuple):
    """The parts of a run that are the verb's own; `verb` and `options` say how to go on with it."""

    asked_for: Callable[[Request, Index, torch.device], tuple[Experiment, str]]
    "the experiment, and where it comes from"
    continued: Callable[[Request, Experiment, Callable[[], Index], torch.device], Experiment]
    "the recorded experiment, with what may change; the images are looked at only if they are asked for"
    prepare: Callable[[Run], Any]
    "on the main process, whatever else may have to be refused before anything is written; the run keeps it"
    check: Callable[[Run, Any, Transfer], Check]
    "what the loop calls while training"
    finished: Callable[[Run, Any], list[str]]
    "lines for the user, after the last step"
    verb: str
    options: list[str]
