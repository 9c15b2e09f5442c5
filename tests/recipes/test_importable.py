"""Every recipe is a short script of its own: importable from anywhere, without paths of its neighbours."""

import os
import subprocess
import sys

import pytest

from tests.recipes.conftest import RECIPES, script

NAMES = sorted(path.parent.name for path in RECIPES.glob("*/run.py"))


@pytest.mark.parametrize("name", NAMES)
def test_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert callable(script(name)["main"])
    assert sys.path == before


def test_from_its_own_folder():
    """`cd recipes/dp_clm && python -c "import run"` was circular."""
    done = subprocess.run(
        [sys.executable, "-c", "import run, swingkd.experiments; print(run.main.__module__)"],
        cwd=RECIPES / "dp_clm",
        env=os.environ | {"PYTHONPATH": str(RECIPES.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "run"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_and_composes(name):
    text = (RECIPES / name / "run.py").read_text()
    assert len(text.splitlines()) <= 100
    assert "sys.path" not in text


def test_a_recipe_is_three_files_and_its_data():
    for name in NAMES:
        scripts = [path.name for path in (RECIPES / name).glob("*.py")]
        assert scripts == ["run.py"]
        assert (RECIPES / name / "README.md").exists()
