"""What bad records do to a run."""

from __future__ import annotations

import json

import pytest

from llava.errors import DataError, InvalidRequest
from llava.train.data.dataset import BadSample
from llava.train.monitoring.bad_samples import BadSamples, check_policy, known_bad_samples


def bad(index: int) -> BadSample:
    return BadSample(index, f"t.json: record {index}", ("a.png",), "cannot read image a.png.")


def test_a_bad_record_stops_the_run_by_default_and_is_named(tmp_path):
    with pytest.raises(DataError, match=r"^t\.json: record 3: cannot read image a\.png\. .*--on_bad_sample skip"):
        BadSamples(tmp_path).add([bad(3)], step=1)


def test_skipped_records_are_listed_once_each_over_epochs_and_resumed_runs(tmp_path, capsys):
    samples = BadSamples(tmp_path, policy="skip")
    samples.add([bad(3), bad(5)], step=1)
    samples.add([bad(3)], step=7)
    again = BadSamples(tmp_path, policy="skip", known=known_bad_samples(tmp_path))
    again.add([bad(5), bad(8)], step=9)
    lines = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["index"], line["step"]) for line in lines] == [(3, 1), (5, 1), (8, 9)]
    assert lines[0]["name"] == "t.json: record 3"
    assert lines[0]["reason"] == "cannot read image a.png."
    assert capsys.readouterr().out.count("skipping t.json: record 3") == 1


def test_a_line_that_a_killed_run_was_writing_is_passed_over(tmp_path):
    (tmp_path / "bad_samples.jsonl").write_text('{"index": 3}\n{"ind')
    assert known_bad_samples(tmp_path) == {3}
    assert known_bad_samples(tmp_path / "none") == set()


def test_more_than_the_allowed_number_stops_every_process_but_one_writes(tmp_path):
    first = BadSamples(tmp_path, policy="skip", maximum=1)
    other = BadSamples(tmp_path, policy="skip", maximum=1, writes=False)
    for samples in (first, other):
        samples.add([bad(1)], step=1)
        with pytest.raises(DataError, match="2 records could not be used, more than --max_bad_samples 1"):
            samples.add([bad(2)], step=2)
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("policy", "maximum"), [("ignore", None), ("skip", -1), ("stop", 3)])
def test_settings_that_mean_nothing_are_refused(policy, maximum):
    with pytest.raises(InvalidRequest):
        check_policy(policy, maximum)
