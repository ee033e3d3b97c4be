"""Parts of making the embedded model that run as processes of their own."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from scripts.pocket import fashion, make, patches, records, scenes
from tests.support.photographs import write_photographs


def _part(tmp_path, code: str) -> make.Part:
    result = tmp_path / "result"
    return make.Part("part", [sys.executable, "-c", code.replace("RESULT", repr(str(result)))], result)


def test_a_part_that_is_done_does_not_run_again(tmp_path):
    part = _part(tmp_path, "open(RESULT, 'a').write('x')")
    for _ in range(2):
        make.make(part, tmp_path / "times.json")
    assert part.result.read_text() == "x"
    assert "part" in json.loads((tmp_path / "times.json").read_text())


def test_a_part_that_fails_stops_the_making_and_is_named(tmp_path):
    with pytest.raises(make.PartFailed, match="exit code 3"):
        make.make(_part(tmp_path, "raise SystemExit(3)"), tmp_path / "times.json")


def test_pictures_of_records_are_written_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "WATCHED", 1)
    patches.build(tmp_path / "scenes.npz", 0, 2, workers=1)
    pictures = records.Pictures(tmp_path / "pictures", tmp_path / "scenes.npz", write_photographs(tmp_path))
    name, scene = pictures.scene(1)
    with Image.open(tmp_path / "pictures" / name) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(scenes.render(scene)))
    written = (tmp_path / "pictures" / name).stat().st_mtime_ns
    assert pictures.scene(1)[0] == name
    assert (tmp_path / "pictures" / name).stat().st_mtime_ns == written
    assert pictures.photograph(1)[1] == fashion.CLASSES[1]
    assert len(pictures.labels) == 2
