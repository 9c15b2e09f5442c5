"""Files that are written whole."""

import json
import os
import shutil
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
    kept = ["state[1].8.part.json", "state1.json", "state[1].final.part.json"]
    for name in ("state[1].7.part.json", *kept):
        (tmp_path / name).write_text("{")
        if "8" not in name:
            os.utime(tmp_path / name, (old, old))
    write_json(path, {"round": 1})
    assert {file.name for file in tmp_path.iterdir()} == {"state[1].json", *kept}
    folder, half, own = tmp_path / "fold", tmp_path / "fold.9.part", tmp_path / "fold.of.part"
    for each in (half, own):
        (each / "deep").mkdir(parents=True)
    (half / "deep" / "weights").write_text("written now")

    def write():
        shutil.rmtree(folder, ignore_errors=True)
        for each in (half, own):
            os.utime(each, (old, old))
        with folder_written_whole(folder) as part:
            (part / "weights").write_text("")

    write()
    assert half.exists()
    os.utime(half / "deep" / "weights", (old, old))
    os.utime(half / "deep", (old, old))
    write()
    assert not half.exists()
    assert own.exists()
