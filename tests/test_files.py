"""Files that are written whole."""

import json

import pytest

from swingkd.files import write_json, written_whole


def test_a_writer_that_dies_leaves_the_old_file(tmp_path):
    path = tmp_path / "folder" / "state.json"
    write_json(path, {"round": 1})
    with pytest.raises(UnicodeEncodeError), written_whole(path) as part:
        part.write_text('{"round": "\ud800', encoding="utf-8")
    assert json.loads(path.read_text()) == {"round": 1}
    # What it left behind is in nobody's way.
    write_json(path, {"round": 2})
    assert json.loads(path.read_text()) == {"round": 2}
    assert [file.name for file in path.parent.iterdir()] == ["state.json"]


def test_two_processes_write_one_file(tmp_path, monkeypatch):
    """As two that share a run do with its card: the last one wins, and neither takes the other's half away."""
    path = tmp_path / "state.json"
    with written_whole(path) as one:
        one.write_text("first")
        monkeypatch.setattr("os.getpid", lambda: 12345)
        with written_whole(path) as other:
            other.write_text("second")
        assert path.read_text() == "second"
        monkeypatch.undo()
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
