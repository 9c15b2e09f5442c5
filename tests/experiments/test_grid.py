import json

import pytest

from swingkd.experiments.grid import Grid, training_settings, wanted, without_secrets
from swingkd.report import Row


def grid_of(folder, *rows, **others):
    config = {"run": "a-run", "output_dir": str(folder), "rows": list(rows), **others}
    return Grid(config, "federation")


def setting(plan, seed):
    return f"table={plan.get('table', 'main')} seed={seed}"


def test_what_is_measured_is_skipped_row_by_row_and_seed_by_seed(tmp_path):
    plans = [{"model": "local", "seeds": [0, 1]}, {"model": "fedmd", "table": "noisy"}]
    grid = grid_of(tmp_path, *plans)
    everything = [(cell.model, cell.setting, cell.seed) for cell in grid.cells(setting)]
    assert everything == [
        ("local", "table=main seed=0", 0),
        ("local", "table=main seed=1", 1),
        ("fedmd", "table=noisy seed=0", 0),
    ]
    grid.add([Row("local", "table=main seed=0", "accuracy", 0.5)], line="measured")
    # A process that was killed goes on with the same file.
    again = grid_of(tmp_path, *plans, {"model": "dsfl"})
    assert [(cell.model, cell.seed) for cell in again.cells(setting)] == [("local", 1), ("fedmd", 0), ("dsfl", 0)]
    assert [cell.model for cell in again.cells(setting, ["noisy"])] == ["fedmd"]
    assert [cell.seed for cell in again.cells(setting, plans=[{"model": "kd"}], seeds=[3, 4])] == [3, 4]
    assert json.loads((tmp_path / "metrics.json").read_text())["kind"] == "federation"


def test_a_setting_that_is_none_stops_before_anything_is_trained(tmp_path):
    grid = grid_of(tmp_path, {"model": "kd", "setting": "2nd try"})
    with pytest.raises(ValueError, match="'2nd' is not name=value"):
        next(grid.cells(lambda plan, seed: f"transfer=A {plan['setting']}"))


@pytest.mark.parametrize(("only", "expected"), [(None, True), ([], True), (["kd"], True), (["noisy"], False)])
def test_rows_are_asked_for_by_name(only, expected):
    assert wanted({"model": "kd", "table": "main"}, only) is expected


def test_whoever_has_the_seed_of_the_canaries_could_draw_them_again(tmp_path):
    config = {"canaries": {"seed": 7, "count": 2}, "rows": []}
    assert without_secrets(config)["canaries"] == {"count": 2}
    assert config["canaries"]["seed"] == 7
    grid_of(tmp_path, canaries={"seed": 7}).add([Row("kd", "seed=0", "accuracy", 1.0)])
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["config"]["canaries"] == {}


def test_settings_of_a_recipe_win():
    assert training_settings(save_strategy="steps")["save_strategy"] == "steps"
    assert training_settings()["report_to"] == []


def test_the_card_is_written_at_the_end(tmp_path):
    grid = grid_of(tmp_path, {"model": "local"})
    grid.add([Row("local", "table=main seed=0 client=a", "client_accuracy", 0.5)])
    grid.add([Row("local", "table=main seed=0", metric, 0.5) for metric in ("accuracy", "worst", "sent", "received")])
    assert grid.finish() == tmp_path
    assert (tmp_path / "README.md").exists()
