"""A card names what was planned and is not there."""

from swingkd.report.render import not_run


def test_rows_and_seeds_that_did_not_run_are_named():
    rows = [
        {"model": "kd", "transfer": "A", "seeds": [0, 1, 2]},
        {"model": "kd", "transfer": "B"},
        {"model": "dp", "transfer": "A", "setting": "epsilon=8"},
        {"model": "dp", "transfer": "A", "setting": "epsilon=2"},
        {"model": "drop", "transfer": "A"},
        {"model": "kd", "transfer": "A", "setting": "value_epsilon=1"},
    ]
    measured = [
        ("kd", "transfer=A seed=0"),
        ("kd", "transfer=A seed=2 split=test"),
        ("dp", "transfer=A epsilon=8 seed=0"),
    ]
    content = {
        "config": {"rows": rows},
        "rows": [
            {"model": model, "setting": setting, "metric": "perplexity", "value": 1.0} for model, setting in measured
        ],
    }
    assert not_run(content) == [
        "`kd (A)` seed 1",
        "`kd (B)`",
        "`dp (epsilon=2, A)`",
        "`drop (A)`",
        "`kd (value_epsilon=1, A)`",
    ]
    content["config"] = {"rows": rows[:1]} | {"seeds": [0]}
    assert not_run(content) == ["`kd (A)` seed 1"]
    assert not_run({"config": {}, "rows": []}) == []


def test_seeds_of_the_whole_run_and_words():
    rows = [{"model": "local", "table": "scarce", "words": {"data": 0.2}}, {"model": "local", "table": "main"}]
    measured = [{"model": "local", "setting": "table=scarce data=0.2 seed=0", "metric": "accuracy", "value": 1.0}]
    content = {"config": {"rows": rows, "seeds": [0, 1]}, "rows": measured}
    assert not_run(content) == ["`local (data=0.2, scarce)` seed 1", "`local (main)` seed 0, 1"]


def test_what_another_row_measured_is_not_taken_for_a_rows_own():
    """Two rows of one model, of which one says more: with and without made-up values."""
    rows = [
        {"model": "sd_dist", "table": "leak", "words": {"copies": 4}, "seeds": [0, 1]},
        {"model": "sd_dist", "table": "leak", "words": {"copies": 4, "surrogates": True}, "seeds": [0, 1]},
    ]
    settings = ["copies=4 seed=0", "copies=4 surrogates=True seed=0", "copies=4 surrogates=True seed=1"]
    measured = [{"model": "sd_dist", "setting": f"table=leak {s}", "metric": "auc", "value": 1.0} for s in settings]
    assert not_run({"config": {"rows": rows}, "rows": measured}) == ["`sd_dist (copies=4, leak)` seed 1"]
