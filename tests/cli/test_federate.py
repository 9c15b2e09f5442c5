import pytest
import yaml
from typer.testing import CliRunner

from swingkd.cli import app
from swingkd.report import MetricsFile
from tests.decentralized.conftest import config_of

runner = CliRunner()


def test_federate_runs_a_configuration_and_writes_its_card(tmp_path):
    config = config_of(tmp_path, run="people", rows=[{"model": "local"}])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["federate", "--config", str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "out")]
    for _ in range(2):
        result = runner.invoke(app, [*command, "--method", "fedmd"])
        assert result.exit_code == 0, result.output
        assert "mean" in result.output
        assert "not covered" in result.output
    assert "| fedmd | 1 |" in (tmp_path / "out" / "README.md").read_text()
    accuracies = [r for r in MetricsFile(tmp_path / "out" / "metrics.json").rows if r.metric == "client_accuracy"]
    assert MetricsFile(tmp_path / "out" / "metrics.json").read()["kind"] == "federation"
    assert len(accuracies) == 4
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert "holds a federation of other settings" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--method", "sgd"], "--method sgd is none of"), (["--engine", "spark"], "--engine spark is none of")],
)
def test_federate_says_what_is_wrong(tmp_path, options, says):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_of(tmp_path)))
    result = runner.invoke(
        app, ["federate", "--config", str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "out"), *options]
    )
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
