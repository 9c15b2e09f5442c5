import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def run(folder: Path, processes: int, script: str, *words: str) -> dict[str, torch.Tensor]:
    folder.mkdir()
    # The same secret draws for both runs.
    (folder / "_private").mkdir()
    (folder / "_private" / "noise_key").write_text("00112233445566778899aabbccddeeff")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        str(ROOT / "tests" / "distributed" / script), str(folder), *words,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "result.safetensors")


@pytest.mark.distributed
@pytest.mark.parametrize("protection", ["noise", "population"])
def test_two_processes_equal_one(tmp_path, protection):
    one = run(tmp_path / "one", 1, "train_once.py", "4", protection)
    two = run(tmp_path / "two", 2, "train_once.py", "2", protection)
    assert_same(one, two)


@pytest.mark.distributed
def test_sharded_weights_give_the_same_gradients(tmp_path):
    one = run(tmp_path / "one", 1, "shard_once.py", "layers")
    for parts in ("layers", "head", "reshard"):
        assert_same(one, run(tmp_path / parts, 2, "shard_once.py", parts))


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-9)
