"""Files that are written whole."""

import json
import os
import time

import pytest

from swingkd.files import folder_written_whole, write_json, written_whole


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


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    path, old = tmp_path / "state[1].json", time.time() - 25 * 60 * 60
    dead, young, other = (tmp_path / name for name in ("state[1].7.part.json", "state[1].8.part.json", "state1.json"))
    for left in (dead, young, other):
        left.write_text("{")
    os.utime(dead, (old, old))
    os.utime(other, (old, old))
    write_json(path, {"round": 1})
    assert {file.name for file in tmp_path.iterdir()} == {"state[1].json", "state[1].8.part.json", "state1.json"}
    folder, half = tmp_path / "fold", tmp_path / "fold.9.part"
    (half / "deep").mkdir(parents=True)
    os.utime(half, (old, old))
    with folder_written_whole(folder) as part:
        (part / "weights").write_text("")
    assert folder.exists()
    assert not half.exists()
