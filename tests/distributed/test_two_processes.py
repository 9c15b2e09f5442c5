import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.harness import assert_same

# Sums in another order.
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
ROOT = Path(__file__).parents[2]


def launch(folder: Path, launcher: list[str], script: str, *words: str) -> dict[str, torch.Tensor]:
    folder.mkdir()
    # The same secret draws for both runs.
    (folder / "_private").mkdir()
    (folder / "_private" / "noise_key").write_text("00112233445566778899aabbccddeeff")
    command = [sys.executable, "-m", *launcher, str(ROOT / "tests" / "distributed" / script), str(folder), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "result.safetensors")


def accelerate(config: str) -> list[str]:
    # In full precision, so that the results can be compared.
    path = ROOT / "recipes" / "accelerate_configs" / f"{config}.yaml"
    return ["accelerate.commands.launch", "--config_file", str(path), "--mixed_precision", "no"]


# On a CPU Accelerate ignores the sharding that fsdp2.yaml asks for; the test below shards by torch itself.
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("protection", "single", "several"),
    [("noise", "cpu", "ddp"), pytest.param("population", "single_gpu", "fsdp2", marks=pytest.mark.slow)],
)
def test_two_processes_equal_one(tmp_path, protection, single, several):
    one = launch(tmp_path / "one", accelerate(single), "train_once.py", "4", protection)
    two = launch(tmp_path / "two", accelerate(several), "train_once.py", "2", protection)
    assert_same(one, two, **CLOSE)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("protection", "secrets"),
    [
        ("surrogate", ["surrogate_key", "value_table.safetensors"]),
        ("noise", ["noise_key"]),
        ("population", ["population.safetensors"]),
    ],
)
def test_processes_with_disks_of_their_own_share_one_draw(tmp_path, protection, secrets):
    """On two machines each would draw for itself: other rows on each, a noised table released twice."""
    launch(tmp_path / "run", accelerate("ddp"), "apart_once.py", protection)
    one, other = tmp_path / "run" / "0", tmp_path / "run" / "1"
    assert (one / "rows.json").read_text() == (other / "rows.json").read_text()
    for name in secrets:
        assert (one / "_private" / name).read_bytes() == (other / "_private" / name).read_bytes()
        assert (other / "_private" / name).stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_ask_teachers_out_of_fold_as_one_does(tmp_path):
    one = launch(tmp_path / "one", accelerate("cpu"), "train_once.py", "4", "noise", "folds")
    two = launch(tmp_path / "two", accelerate("ddp"), "train_once.py", "2", "noise", "folds")
    assert_same(one, two, **CLOSE)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_the_same_teachers_out_of_fold(tmp_path):
    launch(tmp_path / "run", accelerate("ddp"), "crossfit_once.py", "4")
    first, second = (load_file(tmp_path / "run" / f"{i}.safetensors") for i in range(2))
    assert_same(first, second, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_read_a_stream_as_one_does(tmp_path):
    """Each reads it itself and takes its own rows: the same steps, in float64."""
    one = launch(tmp_path / "one", accelerate("cpu"), "train_once.py", "4", "noise", "stream")
    two = launch(tmp_path / "two", accelerate("ddp"), "train_once.py", "2", "noise", "stream")
    assert_same(one, two, **CLOSE)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_two_processes_train_a_classifier_as_one_does(tmp_path, task):
    """Examples and words are counted over processes; predictions are gathered before they are judged."""
    one = launch(tmp_path / "one", accelerate("cpu"), "train_task_once.py", "4", task)
    two = launch(tmp_path / "two", accelerate("ddp"), "train_task_once.py", "2", task)
    assert_same(one, two, **CLOSE)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_loop_of_ones_own_learns_as_much_in_two_processes(tmp_path):
    one = launch(tmp_path / "one", accelerate("cpu"), "plug_in_once.py", "4")
    two = launch(tmp_path / "two", accelerate("ddp"), "plug_in_once.py", "2")
    assert_same(one, two, **CLOSE)


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["full", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ghost", "lora"))])
def test_two_private_processes_equal_one(tmp_path, kind):
    """Noise is added once, each record is clipped where it is, and sums are added up over processes."""
    one = launch(tmp_path / "one", accelerate("cpu"), "train_privately_once.py", "60", kind)
    two = launch(tmp_path / "two", accelerate("ddp"), "train_privately_once.py", "30", kind)
    assert_same(one, two, **CLOSE)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_somebody_elses_trainer_privately_as_one_does(tmp_path):
    one = launch(tmp_path / "one", accelerate("cpu"), "train_any_privately_once.py", "30")
    two = launch(tmp_path / "two", accelerate("ddp"), "train_any_privately_once.py", "15")
    assert_same(one, two, rtol=1e-6, atol=1e-7)
    # Where a few are drawn, each process has another number of pairs, and nobody waits for the other.
    launch(tmp_path / "some", accelerate("ddp"), "train_any_privately_once.py", "2")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["dp", "published", "gradient", "data_free", "learnt_noise", "shards", "zeroth"])
def test_two_processes_distil_images_as_one_does(tmp_path, kind):
    """Batches are split, sums are added up, noise is drawn once, an image is asked about once."""
    one = launch(tmp_path / "one", accelerate("cpu"), "distil_images_once.py", kind)
    two = launch(tmp_path / "two", accelerate("ddp"), "distil_images_once.py", kind)
    assert_same(one, two, **CLOSE)


@pytest.mark.distributed
@pytest.mark.slow
def test_sharded_weights_give_the_same_gradients(tmp_path):
    def torchrun(processes):
        return ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]

    one = launch(tmp_path / "one", torchrun(1), "shard_once.py", "layers")
    for parts in ("layers", "head", "reshard"):
        assert_same(one, launch(tmp_path / parts, torchrun(2), "shard_once.py", parts), **CLOSE)
