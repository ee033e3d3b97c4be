"""Checks a training file and reports what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llava.conversation import Conversation
from llava.errors import DataError, InvalidRequest
from llava.files.json_files import write_json
from llava.train.data.layouts import training_template
from llava.train.data.record_checks import RecordFinding, findings_of, missing_images
from llava.train.data.records import Record, RecordError, scan_records
from llava.train.data_check.printing import printable
from llava.train.data_check.settings import CheckSettings

if TYPE_CHECKING:
    from llava.train.data_check.lengths import LengthMeter

_LISTED = 3
"""Number of findings of a kind to list unless all are asked for."""


@dataclass(slots=True)
class _Scan:
    """What a file holds."""

    records: list[Record] = field(default_factory=list)
    """The records that are well-formed."""
    positions: list[int] = field(default_factory=list)
    """Their positions in the file, counted from 0."""
    total: int = 0
    """Number of records, well-formed or not."""
    findings: list[RecordFinding] = field(default_factory=list)


def check_file(settings: CheckSettings) -> int:
    """Checks a file and prints the report.

    Returns:
        1 if training would refuse the file or a record, else 0.

    Raises:
        DataError: the file cannot be read at all.
        InvalidRequest: the image folder does not exist, or the record to show.
        CheckpointError: the model's tokenizer or vision tower cannot be read.
    """
    template = training_template(settings.version, settings.model)
    scan = _scan(settings, template)
    if any(record.images for record in scan.records) and not settings.image_folder.is_dir():
        raise InvalidRequest(f"--image-folder {settings.image_folder}: there is no such folder.")
    # Before anything that takes long, because a model that cannot be read ends the check.
    meter = _meter(settings, scan)
    report: dict[str, Any] = {"file": str(settings.file), "template": template.name, **_counts(scan)}
    _print_counts(report)
    if meter is not None and settings.sample is not None:
        _show_sample(meter, scan, settings.sample)
    findings = scan.findings
    bad_images = set()
    for missing in missing_images(scan.records, settings.image_folder):
        bad_images.add(missing.image)
        findings.append(RecordFinding("missing images", missing.name, missing.reason, is_error=True))
    if settings.opens_images:
        from llava.train.data_check.images import check_images

        images = check_images(scan.records, settings.image_folder, skip=bad_images)
        findings += images.findings
        bad_images |= images.unreadable
        report["images"] = images.summary
        print(f"images: {images.describe()}", flush=True)
    if meter is not None:
        bad_records = {finding.name for finding in findings if finding.is_error}
        lengths = meter.measure(bad_images=bad_images, bad_records=bad_records)
        findings += lengths.findings
        report["lengths"] = lengths.summary
        print(lengths.describe(), flush=True)
        if settings.plot is not None:
            from llava.train.data_check.lengths import draw_lengths

            draw_lengths(lengths.lengths, settings.max_length, settings.plot)
    _print_findings(findings, lists_all=settings.lists_all)
    if settings.output is not None:
        report["findings"] = [
            {"kind": item.kind, "record": item.name, "text": item.text, "error": item.is_error} for item in findings
        ]
        write_json(settings.output, report)
        print(f"the report was written to {settings.output}")
    return int(any(finding.is_error for finding in findings))


def _scan(settings: CheckSettings, template: Conversation) -> _Scan:
    scan = _Scan()
    for item in scan_records(settings.file, allow_outside=settings.allows_outside_images):
        if isinstance(item, RecordError):
            scan.findings.append(RecordFinding("malformed records", item.name, item.reason, is_error=True))
        else:
            scan.records.append(item)
            scan.positions.append(scan.total)
            scan.findings += findings_of(item, template)
        scan.total += 1
    scan.findings += _duplicate_ids(scan.records)
    return scan


def _meter(settings: CheckSettings, scan: _Scan) -> LengthMeter | None:
    if settings.sample is not None and settings.sample >= scan.total:
        raise InvalidRequest(f"--sample {settings.sample}: the file has records 0 to {scan.total - 1}.")
    if settings.model is None:
        return None
    from llava.train.data_check.lengths import LengthMeter

    return LengthMeter(settings, scan.records)


def _show_sample(meter: LengthMeter, scan: _Scan, number: int) -> None:
    try:
        if number not in scan.positions:
            raise DataError("it is malformed.")
        meter.show(scan.positions.index(number))
    except DataError as error:
        print(f"record {number} cannot be shown: {printable(str(error))}", flush=True)


def _duplicate_ids(records: Sequence[Record]) -> Iterator[RecordFinding]:
    seen: dict[str, str] = {}
    for record in records:
        if record.id is not None and seen.setdefault(record.id, record.name) is not record.name:
            yield RecordFinding("ids that occur twice", record.name, f"has the id of {seen[record.id]}")


def _counts(scan: _Scan) -> dict[str, int]:
    records = scan.records
    return {
        "records": scan.total,
        "with_images": sum(bool(record.images) for record in records),
        "with_several_images": sum(len(record.images) > 1 for record in records),
        "text_only": sum(not record.images for record in records),
        "turns": sum(len(record.turns) for record in records),
        "distinct_images": len({image for record in records for image in record.images}),
    }


def _print_counts(report: dict[str, Any]) -> None:
    print(
        printable(report["file"]) + f": {_number(report['records'], 'record')}, {report['with_images']:,} with images "
        f"({report['with_several_images']:,} with several), {report['text_only']:,} text only; "
        f"{report['turns']:,} turns; {_number(report['distinct_images'], 'distinct image')}; "
        f"template: {report['template']}",
        flush=True,
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _print_findings(findings: Sequence[RecordFinding], *, lists_all: bool) -> None:
    by_kind: dict[tuple[bool, str], list[RecordFinding]] = defaultdict(list)
    for finding in findings:
        by_kind[not finding.is_error, finding.kind].append(finding)
    for (is_warning, kind), found in sorted(by_kind.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"{'warning' if is_warning else 'error'}: {kind}: {len(found):,}")
        for finding in found if lists_all else found[:_LISTED]:
            print(printable(f"    {finding.name}: {finding.text}"))
        if len(found) > _LISTED and not lists_all:
            print(f"    ... {len(found) - _LISTED:,} more (--all lists them)")
    if not findings:
        print("no findings: the file can be trained on")
        return
    errors = sum(finding.is_error for finding in findings)
    print(f"{_number(errors, 'error')}, {_number(len(findings) - errors, 'warning')}")
