"""Images are opened in processes that may crash and hang without harm to the check."""

from __future__ import annotations

import os
import time

from llava.train.data.records import Record
from llava.train.data_check.image_processes import Outcome, open_all
from llava.train.data_check.images import check_images


def unreliable(path: str) -> Outcome:
    """Opens an image in the way that its name says."""
    if "crash" in path:
        os._exit(3)
    if "hang" in path:
        time.sleep(600)
    return (7, 5)


def test_a_crash_and_a_hang_are_blamed_on_their_image_and_all_others_are_opened():
    paths = [f"{number}.png" for number in range(40)]
    paths[3:3] = ["crash.png"]
    paths[20:20] = ["hang.png"]
    outcomes = dict(open_all(paths, unreliable, workers=2, timeout_s=3))
    assert outcomes.keys() == set(paths)
    assert "ended with exit code 3" in str(outcomes.pop("crash.png"))
    assert "takes more than 3 s" in str(outcomes.pop("hang.png"))
    assert set(outcomes.values()) == {(7, 5)}


def test_an_image_of_many_records_is_opened_once_and_reported_once(tmp_path):
    records = [Record(f"r{number}", (), ("hang.png", "./ok.png")) for number in range(3)]
    results = check_images(records, tmp_path, skip=set(), opener=unreliable, timeout_s=2)
    assert [finding.name for finding in results.findings] == ["r0"]
    assert "2 more records have it" in results.findings[0].text
    assert results.summary == {"opened": 1, "failed": 1, "larger_side": {256: 1}}
