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
