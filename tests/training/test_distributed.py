"""Two gloo processes are one process with the double batch; one that `torchrun` starts is one that it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import steps

from contextae.errors import UserError
from contextae.training.distributed import Distributed, start

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_alone_nothing_is_exchanged() -> None:
    alone = start("cpu")
    method = torch.nn.Linear(2, 2)
    assert alone == Distributed(0, 1, torch.device("cpu")) and alone.is_main
    assert alone.wrap(method) is method
    assert alone.mean(torch.tensor(3.0)).item() == 3 and alone.any(True) and not alone.any(False)
    assert alone.gather({"a": 1}) == [{"a": 1}]
    alone.barrier()
    alone.close()


def test_every_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UserError,
        match=r"^Every process needs a GPU of its own\. Process 2 of this machine found 2; start fewer processes with",
    ):
        start(None)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path, accumulate: int) -> None:
    under_torchrun(2, tmp_path, accumulate, "cpu")
    expected = steps(0, 1, 1)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_one_process_of_torchrun_has_a_group_and_equals_one_without(tmp_path: Path, device: str) -> None:
    under_torchrun(1, tmp_path, 1, device)
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    expected, found = steps(0, 1, 1, device), load_file(tmp_path / "rank0.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


def under_torchrun(processes: int, out: Path, accumulate: int, device: str) -> None:
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"),
            "--standalone",
            *(str(here / "two_processes.py"), str(out), str(accumulate), device),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
