from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.delivery.fingerprint import input_fingerprint, outdated
from nexus_tasks.states import DeliveryState, Strategy

MOMENT = datetime(2025, 1, 27, tzinfo=UTC)
CDCS = DeliveryRow(1, 1, "cdcs", 100, (), (), DeliveryState.PENDING, updates=True)
NOTEBOOK = DeliveryRow(2, 1, "elabftw", 85, ("cdcs",), (), DeliveryState.PENDING, updates=True)
MIRROR = DeliveryRow(3, 1, "mirror", 50, (), ("cdcs",), DeliveryState.PENDING, updates=True)


def holding(row: DeliveryRow, record_id: str | None = "7", record_url: str | None = "https://x/7") -> DeliveryRow:
    return replace(
        row,
        state=DeliveryState.SUCCEEDED,
        remote_record_id=record_id,
        remote_record_url=record_url,
        succeeded_at=MOMENT,
    )


def record(*rows: DeliveryRow, sha256: str = "a" * 64) -> RecordDeliveries:
    return RecordDeliveries(1, Strategy.ALL, rows, sha256)


def of(row: DeliveryRow, *others: DeliveryRow, sha256: str = "a" * 64) -> str:
    return input_fingerprint(record(row, *others, sha256=sha256), row)


def test_the_same_inputs_have_the_same_fingerprint_in_any_order() -> None:
    both = replace(NOTEBOOK, depends_on=("cdcs", "mirror"))
    assert of(both, holding(CDCS), MIRROR) == input_fingerprint(record(MIRROR, holding(CDCS), both), both)
    assert len(of(CDCS)) == 64


def test_another_document_is_another_fingerprint() -> None:
    assert of(CDCS, sha256="a" * 64) != of(CDCS, sha256="b" * 64)


@pytest.mark.parametrize("row", [NOTEBOOK, MIRROR])
def test_what_is_depended_on_or_required_counts_with_identifier_link_and_absence(row: DeliveryRow) -> None:
    different = {
        of(row, CDCS),
        of(row, holding(CDCS)),
        of(row, holding(CDCS, record_id="8")),
        of(row, holding(CDCS, record_url="https://x/8")),
        of(row, holding(CDCS, record_id=None, record_url=None)),
    }
    assert len(different) == 5


def test_what_is_not_depended_on_does_not_count() -> None:
    assert of(CDCS, NOTEBOOK) == of(CDCS, holding(NOTEBOOK))
    assert of(NOTEBOOK, CDCS, MIRROR) == of(NOTEBOOK, CDCS, holding(MIRROR))


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.RETRYING, DeliveryState.FAILED])
def test_a_dependency_that_was_tried_in_vain_is_as_absent_as_one_that_was_not_tried(state: DeliveryState) -> None:
    tried = replace(CDCS, state=state, failures=3, error_message="away")
    assert of(NOTEBOOK, tried) == of(NOTEBOOK, CDCS)


def test_a_dependency_that_held_the_record_once_counts_with_what_it_held() -> None:
    assert of(NOTEBOOK, replace(holding(CDCS), state=DeliveryState.RETRYING)) == of(NOTEBOOK, holding(CDCS))


def found(row: DeliveryRow, *others: DeliveryRow) -> bool:
    return row in outdated(record(row, *others))


@pytest.mark.parametrize("state", [DeliveryState.SUCCEEDED, DeliveryState.FAILED])
def test_what_was_brought_to_an_end_with_other_inputs_is_outdated(state: DeliveryState) -> None:
    row = replace(NOTEBOOK, state=state, succeeded_at=MOMENT if state is DeliveryState.SUCCEEDED else None)
    assert found(replace(row, input_fingerprint="of other inputs"), CDCS)
    assert not found(replace(row, input_fingerprint=of(NOTEBOOK, CDCS)), CDCS)
    assert found(replace(row, input_fingerprint=of(NOTEBOOK, CDCS)), holding(CDCS))


@pytest.mark.parametrize(
    ("updates", "succeeded", "state", "is_outdated"),
    [
        (True, True, DeliveryState.SUCCEEDED, True),
        (False, True, DeliveryState.SUCCEEDED, False),
        (True, False, DeliveryState.FAILED, True),
        (False, False, DeliveryState.FAILED, True),
        (True, True, DeliveryState.FAILED, True),
        (False, True, DeliveryState.FAILED, False),
    ],
)
def test_after_a_success_only_a_plugin_that_updates_is_asked_again(
    *, updates: bool, succeeded: bool, state: DeliveryState, is_outdated: bool
) -> None:
    at = MOMENT if succeeded else None
    row = replace(CDCS, updates=updates, state=state, succeeded_at=at, input_fingerprint="of other inputs")
    assert found(row) is is_outdated


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.RETRYING])
def test_what_is_due_anyway_is_not_outdated(state: DeliveryState) -> None:
    assert not found(replace(CDCS, state=state, input_fingerprint="of other inputs"))


@pytest.mark.parametrize("last", [None, "of other inputs"])
def test_what_was_skipped_is_never_outdated(last: str | None) -> None:
    """It may have failed, and been retried, before it was skipped: then it has a fingerprint."""
    assert not found(replace(CDCS, state=DeliveryState.SKIPPED, input_fingerprint=last))


def test_what_was_never_tried_is_not_outdated() -> None:
    assert not found(replace(CDCS, state=DeliveryState.FAILED, input_fingerprint=None))
