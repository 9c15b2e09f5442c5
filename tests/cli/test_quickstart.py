import json

import pytest
from typer.testing import CliRunner

from swingkd.cli import app
from swingkd.files import recipes_dir

runner = CliRunner()


@pytest.mark.parametrize("recipe", ["quickstart", "swing_clm"])
def test_recipes_are_where_the_command_looks(recipe):
    assert (recipes_dir() / recipe / "run.py").exists()


def test_env_tells_the_versions():
    found = json.loads(runner.invoke(app, ["env", "--json"]).output)
    assert {"swingkd", "python", "torch", "transformers"} <= found.keys()
    assert found["torch"] in runner.invoke(app, ["env"]).output
