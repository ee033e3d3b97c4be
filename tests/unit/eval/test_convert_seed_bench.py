"""SEED-Bench's scorer under its earlier name."""

from __future__ import annotations

from tests.support.benchmarks import answers, evaluate


def test_the_earlier_name_scores_and_writes_the_submission_as_well(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [(10, "A"), (11, "B"), (12, "C")])
    printed, uploads = [], []
    for module in ("convert_seed_bench", "eval_seed_bench"):
        upload = tmp_path / "u.jsonl"
        words = {"annotation_file": seed_bench, "result_file": result, "result_upload_file": upload}
        assert evaluate(module, **words) == 0
        printed.append(capsys.readouterr().out)
        uploads.append(upload.read_text())
    assert printed[0] == printed[1]
    assert uploads[0] == uploads[1]
