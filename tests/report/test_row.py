import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swingkd.report import MetricsFile, Row
from swingkd.report.row import rows_of, words_of

NAMES = st.text(st.characters(exclude_categories=("Z", "C"), exclude_characters="=<>|`\\"), min_size=1, max_size=8)
# A link of Markdown is refused.
NAMES = NAMES.filter(lambda name: "](" not in name)


@given(words=st.dictionaries(NAMES, NAMES, max_size=4), value=st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_written_is_read_back(words, value):
    setting = " ".join(f"{name}={word}" for name, word in words.items())
    row = Row("kd", setting, "exposure", value, n=3)
    assert row.words == words
    assert rows_of(json.loads(json.dumps({"rows": [row.to_dict()]}))) == [row]
    for name in words:
        assert words_of(row.bare([name])) == {key: word for key, word in words.items() if key != name}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("transfer=A 2nd try", "'2nd' is not name=value"),
        ("transfer", "'transfer' is not name=value"),
        ("=A", "'=A' is not name=value"),
        ("seed=0 seed=1", "'seed=1' comes twice"),
    ],
)
def test_a_setting_that_is_none_is_refused_before_anything_is_trained_for_it(tmp_path, setting, says):
    metrics = MetricsFile(tmp_path / "metrics.json", "a-run", {})
    with pytest.raises(ValueError, match=says):
        Row("kd", setting, "exposure", 1.0)
    with pytest.raises(ValueError, match=says):
        metrics.has("kd", setting)


def test_a_value_may_hold_the_sign():
    assert Row("kd", "name=a=b", "auc", 0.5).words == {"name": "a=b"}


@pytest.mark.parametrize("name", ["", "plain kd"])
def test_names_have_no_blanks(name):
    with pytest.raises(ValueError, match="is no name"):
        Row(name, "seed=0", "auc", 0.5)
    with pytest.raises(ValueError, match="is no name"):
        Row("kd", "seed=0", name, 0.5)


def test_an_interval_that_was_not_measured_is_not_made_up():
    with pytest.raises(ValueError, match=r"auc of kd \(seed=0\) has no interval"):
        _ = Row("kd", "seed=0", "auc", 0.5).interval


def test_a_file_of_many_rows_has_a_line_for_each_and_holds_what_was_added(tmp_path):
    """Thousands of rows have to fit a card's folder, and two versions are compared row by row."""
    rows = [Row("kd", f"seed={seed}", "accuracy", seed / 3, low=0.0, n=5) for seed in range(3)]
    config = {"rows": [], "about": "[]"}
    metrics = MetricsFile(tmp_path / "metrics.json", "a", config)
    metrics.add([])
    assert metrics.read()["rows"] == []
    # A file of an older version names what a row does not have.
    old = metrics.read() | {"rows": [asdict(rows[0])]}
    metrics.path.write_text(json.dumps(old), encoding="utf-8")
    metrics.add(rows[1:])
    assert metrics.rows == rows
    assert MetricsFile(tmp_path / "metrics.json").read()["config"] == config
    lines = (tmp_path / "metrics.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines if '"kd"' in line] == [row.to_dict() for row in rows]
