"""Checks a training file and reports what was found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from llava.errors import DataError
from llava.files.json_files import write_json
from llava.train.data.layouts import training_template
from llava.train.data.record_checks import RecordFinding, findings_of, missing_images
from llava.train.data.records import Record, scan_records
from llava.train.data_check.settings import CheckSettings

_LISTED = 3
"""Number of findings of a kind to list unless all are asked for."""


def check_file(settings: CheckSettings) -> int:
    """Checks a file and prints the report.

    Returns:
        1 if training would refuse the file or a record, else 0.

    Raises:
        DataError: the file cannot be read at all.
    """
    template = training_template(settings.version)
    records: list[Record] = []
    findings: list[RecordFinding] = []
    for item in scan_records(settings.file, allow_outside=settings.allows_outside_images):
        if isinstance(item, DataError):
            findings.append(_malformed(item))
            continue
        records.append(item)
        findings += findings_of(item, template)
    findings += _duplicate_ids(records)
    missing = missing_images(records, settings.image_folder)
    findings += missing
    report: dict[str, Any] = {"file": str(settings.file), "template": template.name, **_counts(records, findings)}
    _print_counts(report)
    if settings.opens_images:
        from llava.train.data_check.images import check_images

        images = check_images(records, settings.image_folder, skip={finding.text for finding in missing})
        findings += images.findings
        report["images"] = images.summary
        print(f"images: {images.describe()}", flush=True)
    if settings.model is not None:
        from llava.train.data_check.lengths import measure_lengths

        lengths = measure_lengths(settings, records)
        findings += lengths.findings
        report["lengths"] = lengths.summary
        print(lengths.describe(), flush=True)
    _print_findings(findings, lists_all=settings.lists_all)
    failed = any(finding.is_error for finding in findings)
    if settings.output is not None:
        report["findings"] = [
            {"kind": item.kind, "record": item.name, "text": item.text, "error": item.is_error} for item in findings
        ]
        write_json(settings.output, report)
        print(f"the report was written to {settings.output}")
    return int(failed)


def _malformed(error: DataError) -> RecordFinding:
    # "FILE: record N (id X): what is wrong": the place ends where the text begins.
    text = str(error)
    name, separator, rest = text.partition("): ")
    if separator and "(id " in name:
        return RecordFinding("malformed records", f"{name})", rest, is_error=True)
    place = text.split(": ", 2)
    return RecordFinding("malformed records", ": ".join(place[:2]), place[-1], is_error=True)


def _duplicate_ids(records: Sequence[Record]) -> Iterable[RecordFinding]:
    seen: dict[str, str] = {}
    for record in records:
        identity = record.name.partition(" (id ")[2]
        if identity and identity in seen:
            yield RecordFinding("ids that occur twice", record.name, f"has the id of {seen[identity]}")
        elif identity:
            seen[identity] = record.name


def _counts(records: Sequence[Record], findings: Sequence[RecordFinding]) -> dict[str, int]:
    malformed = sum(finding.kind == "malformed records" for finding in findings)
    return {
        "records": len(records) + malformed,
        "with_images": sum(bool(record.images) for record in records),
        "with_several_images": sum(len(record.images) > 1 for record in records),
        "text_only": sum(not record.images for record in records),
        "turns": sum(len(record.turns) for record in records),
        "distinct_images": len({image for record in records for image in record.images}),
    }


def _print_counts(report: dict[str, Any]) -> None:
    print(
        f"{report['file']}: {report['records']:,} records, {report['with_images']:,} with images "
        f"({report['with_several_images']:,} with several), {report['text_only']:,} text only; "
        f"{report['turns']:,} turns; {report['distinct_images']:,} distinct images; template: {report['template']}",
        flush=True,
    )


def _print_findings(findings: Sequence[RecordFinding], *, lists_all: bool) -> None:
    by_kind: dict[tuple[bool, str], list[RecordFinding]] = defaultdict(list)
    for finding in findings:
        by_kind[not finding.is_error, finding.kind].append(finding)
    for (is_warning, kind), found in sorted(by_kind.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"{'warning' if is_warning else 'error'}: {kind}: {len(found):,}")
        for finding in found if lists_all else found[:_LISTED]:
            print(f"    {finding.name}: {finding.text}")
        if len(found) > _LISTED and not lists_all:
            print(f"    ... {len(found) - _LISTED:,} more (--all lists them)")
    kinds = Counter(finding.is_error for finding in findings)
    print(
        f"{kinds[True]:,} errors, {kinds[False]:,} warnings" if findings else "no findings: the file can be trained on"
    )
