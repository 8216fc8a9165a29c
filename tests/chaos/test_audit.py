from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from nexus_tasks.builder.schema import validate
from tests.chaos.audit import audit
from tests.chaos.audit_objects import Objects
from tests.chaos.findings import Finding, Kind, count
from tests.chaos.records import Expected, expected, records
from tests.chaos.rows import AttemptFacts, DeliveryFacts, LogFacts, Rows
from tests.chaos.watch import recovery

DOCUMENTS = list(records(12))
WANTED = [expected(document) for document in DOCUMENTS[8:10]]  # the second one's session is a web address
NOTHING_WRONG: dict[str, int] = {kind.value: 0 for kind in Kind}


def cdcs_record(position: int, record_id: int) -> dict[str, Any]:
    document = DOCUMENTS[8 + position]
    return {
        "id": record_id,
        "title": WANTED[position].title,
        "workspace": 2,
        "xml_content": document.xml.decode(),
    }


def upload(record: Expected, **values: Any) -> dict[str, Any]:
    return {"real_name": record.attachment, "filesize": 900, "sha256": record.sha256, "state": 1, **values}


def experiment(record: Expected, experiment_id: int, record_id: int, **values: Any) -> dict[str, Any]:
    return {
        "id": experiment_id,
        "title": f"NexusLIMS Experiment - {record.session}",
        "state": 1,
        "metadata": {"extra_fields": {"Session ID": {"value": record.session}}},
        "body": f'<a href="http://cdcs.example.org/data?id={record_id}">record</a>',
        "uploads": [upload(record)],
        **values,
    }


def page(record: Expected, page_id: str) -> dict[str, Any]:
    name = record.page_path.split("/", 2)[2]
    return {"kind": "page", "id": page_id, "parent": "folder", "name": name, "path": record.page_path}


def summary(page_id: str, record_id: int) -> dict[str, Any]:
    text = f'<a href="http://cdcs.example.org/data?id={record_id}">record</a>'
    return {"kind": "entry", "id": f"s{page_id}", "page": page_id, "filename": None, "entry_data": text}


def attachment(record: Expected, page_id: str, **values: Any) -> dict[str, Any]:
    entry = {"kind": "entry", "id": f"a{page_id}", "page": page_id, "filename": record.attachment}
    return {**entry, "size": 900, "sha256": record.sha256, **values}


def good_objects() -> Objects:
    first, second = WANTED
    return Objects(
        cdcs=[cdcs_record(0, 1), cdcs_record(1, 12)],
        elabftw=[experiment(first, 57, 1), experiment(second, 58, 12)],
        labarchives=[
            {"kind": "folder", "id": "folder", "parent": "0", "name": "NexusLIMS Records", "path": "…"},
            *(page(first, "p1"), summary("p1", 1), attachment(first, "p1")),
            *(page(second, "p2"), summary("p2", 12), attachment(second, "p2")),
        ],
    )


def good_rows() -> Rows:
    deliveries: list[DeliveryFacts] = []
    attempts: list[AttemptFacts] = []
    log: list[LogFacts] = []
    for record in WANTED:
        for name in sorted(record.destinations):
            number = len(deliveries) + 1
            deliveries.append(DeliveryFacts(number, record.session, name, "succeeded"))
            attempts.append(AttemptFacts(number, number, record.session, name, "succeeded", "fingerprint"))
            log.append(LogFacts(number, record.session, name, 1, number))
    statuses = {record.session: "COMPLETED" for record in WANTED}
    return Rows(statuses, tuple(deliveries), tuple(attempts), tuple(log), ())


def counts(*, objects: Objects | None = None, rows: Rows | None = None) -> Mapping[str, int]:
    found = count(audit(WANTED, objects or good_objects(), rows or good_rows()))
    return {kind: number for kind, number in found.items() if number}


def with_elabftw(*experiments: dict[str, Any]) -> Objects:
    return replace(good_objects(), elabftw=experiments)


def with_labarchives(*more: dict[str, Any]) -> Objects:
    return replace(good_objects(), labarchives=[*good_objects().labarchives, *more])


def test_records_are_valid_and_distinct() -> None:
    for document in DOCUMENTS:
        validate(document.xml)
    assert len({expected(document).title for document in DOCUMENTS}) == len(DOCUMENTS)
    assert len({sha256(document.xml).hexdigest() for document in DOCUMENTS}) == len(DOCUMENTS)


def test_nothing_is_wrong_when_nothing_is_wrong() -> None:
    assert audit(WANTED, good_objects(), good_rows()) == []


class TestLost:
    @pytest.mark.parametrize("service", ["cdcs", "elabftw", "labarchives"])
    def test_is_every_record_of_a_service_that_holds_nothing(self, service: str) -> None:
        good = good_objects()
        held = {name: getattr(good, name) for name in ("cdcs", "elabftw", "labarchives")}
        found = audit(WANTED, Objects(**{**held, service: []}), good_rows())
        lost = {(each.session, each.destination) for each in found if each.kind is Kind.LOST}
        assert {(record.session, service) for record in WANTED} <= lost

    def test_is_a_delivery_that_has_not_succeeded_although_the_object_is_there(self) -> None:
        rows = good_rows()
        failed = replace(rows.deliveries[0], state="failed", error_message="why")
        assert counts(rows=replace(rows, deliveries=(failed, *rows.deliveries[1:]))) == {"lost": 1}

    def test_is_a_link_to_cdcs_that_never_came(self) -> None:
        first, second = WANTED
        without = experiment(second, 58, 12, body="no link")
        assert counts(objects=with_elabftw(experiment(first, 57, 1), without)) == {"lost": 1}

    def test_is_a_link_to_another_record(self) -> None:
        first, second = WANTED
        other = experiment(first, 57, 12)  # 12 begins like 1, and is not 1
        assert counts(objects=with_elabftw(other, experiment(second, 58, 12))) == {"lost": 1}

    def test_is_a_record_that_nobody_can_see(self) -> None:
        hidden = {**cdcs_record(0, 1), "workspace": None}
        assert counts(objects=replace(good_objects(), cdcs=[hidden, cdcs_record(1, 12)])) == {"lost": 1}

    def test_counts_a_record_once_for_each_destination(self) -> None:
        found = [Finding(Kind.LOST, "a", "cdcs", "one"), Finding(Kind.LOST, "a", "cdcs", "two")]
        assert count(found) == NOTHING_WRONG | {"lost": 1}


class TestDoubled:
    def test_is_a_second_record_of_one_session(self) -> None:
        cdcs = [cdcs_record(0, 1), cdcs_record(0, 2), cdcs_record(0, 3), cdcs_record(1, 12)]
        assert counts(objects=replace(good_objects(), cdcs=cdcs)) == {"doubled": 2}

    def test_is_a_second_experiment_unless_it_is_deleted(self) -> None:
        first, second = WANTED
        same = experiment(first, 57, 1), experiment(second, 58, 12)
        assert counts(objects=with_elabftw(*same, experiment(first, 59, 1))) == {"doubled": 1}
        assert counts(objects=with_elabftw(*same, experiment(first, 59, 1, state=3))) == {}

    def test_is_a_second_page_and_a_second_folder_and_a_second_summary(self) -> None:
        folder = {"kind": "folder", "id": "again", "parent": "0", "name": "NexusLIMS Records", "path": "…"}
        assert counts(objects=with_labarchives(folder)) == {"doubled": 1}
        assert counts(objects=with_labarchives(page(WANTED[0], "p9"))) == {"doubled": 1}
        assert counts(objects=with_labarchives(summary("p1", 1))) == {"doubled": 1}

    def test_is_an_object_of_no_record(self) -> None:
        stray = experiment(replace(WANTED[0], session="nobody's"), 99, 1)
        objects = replace(good_objects(), elabftw=[*good_objects().elabftw, stray])
        assert counts(objects=objects) == {"doubled": 1}

    def test_looks_at_the_object_that_the_delivery_names(self) -> None:
        first, second = WANTED
        empty = experiment(first, 50, 1, uploads=[], body="")
        rows = good_rows()
        named = tuple(
            replace(row, remote_record_id="57") if (row.session, row.destination) == (first.session, "elabftw") else row
            for row in rows.deliveries
        )
        objects = with_elabftw(empty, experiment(first, 57, 1), experiment(second, 58, 12))
        assert counts(objects=objects, rows=replace(rows, deliveries=named)) == {"doubled": 1}


class TestWrongAttachments:
    @pytest.mark.parametrize(
        ("uploads", "wrong"),
        [
            ([], 1),
            ([{"filesize": 0, "sha256": sha256(b"").hexdigest()}], 1),
            ([{"sha256": "another"}], 1),
            ([{}, {}], 1),
            ([{"state": 2, "sha256": "the one before"}, {}], 0),
            ([{}, {"real_name": "picture.png", "sha256": "another"}], 0),
        ],
        ids=["missing", "empty", "different", "superfluous", "replaced", "not XML"],
    )
    def test_in_elabftw(self, uploads: list[dict[str, Any]], wrong: int) -> None:
        first, second = WANTED
        attached = [upload(first, **values) for values in uploads]
        objects = with_elabftw(experiment(first, 57, 1, uploads=attached), experiment(second, 58, 12))
        assert counts(objects=objects) == ({"wrong_attachments": wrong} if wrong else {})

    def test_in_labarchives(self) -> None:
        again = attachment(WANTED[0], "p1")
        assert counts(objects=with_labarchives(again)) == {"doubled": 1, "wrong_attachments": 1}

    def test_in_cdcs(self) -> None:
        other = cdcs_record(0, 1)
        other["xml_content"] = other["xml_content"].replace("Record 9", "Record nine")
        objects = replace(good_objects(), cdcs=[other, cdcs_record(1, 12)])
        assert counts(objects=objects) == {"wrong_attachments": 1}


class TestLogRows:
    def test_must_have_an_attempt(self) -> None:
        rows = good_rows()
        stray = LogFacts(99, WANTED[0].session, "cdcs", 0, None)
        assert counts(rows=replace(rows, log=(*rows.log, stray))) == {"extra_log_rows": 1}

    def test_must_not_be_missing(self) -> None:
        rows = good_rows()
        assert counts(rows=replace(rows, log=rows.log[1:])) == {"extra_log_rows": 1}

    def test_must_not_be_about_an_attempt_that_was_not_answered(self) -> None:
        rows = good_rows()
        lost = AttemptFacts(90, 1, WANTED[0].session, "cdcs", "expired")
        row = LogFacts(99, WANTED[0].session, "cdcs", 0, 90)
        assert counts(rows=replace(rows, attempts=(*rows.attempts, lost))) == {}
        both = replace(rows, attempts=(*rows.attempts, lost), log=(*rows.log, row))
        assert counts(rows=both) == {"extra_log_rows": 1}

    @pytest.mark.parametrize(("second", "extra"), [("fingerprint", 1), ("another", 0), (None, 0)])
    def test_one_success_for_the_same_inputs(self, second: str | None, extra: int) -> None:
        rows = good_rows()
        again = AttemptFacts(90, 1, WANTED[0].session, "cdcs", "succeeded", second)
        row = LogFacts(99, WANTED[0].session, "cdcs", 1, 90)
        both = replace(rows, attempts=(*rows.attempts, again), log=(*rows.log, row))
        assert counts(rows=both).get("extra_log_rows", 0) == extra

    def test_must_say_what_the_attempt_says(self) -> None:
        rows = good_rows()
        assert counts(rows=replace(rows, log=(replace(rows.log[0], success=0), *rows.log[1:]))) == {"extra_log_rows": 1}


class TestDoomed:
    wanted = replace(WANTED[0], destinations=WANTED[0].destinations | {"copies"}, doomed=frozenset({"copies"}))

    reason = "The worker died 5 times"
    kinds = ("normal", "normal", "quarantine", "quarantine", "quarantine")

    def findings(self, state: str, reason: str | None, kinds: tuple[str, ...] = kinds) -> list[Finding]:
        rows, status = good_rows(), "BUILT_NOT_EXPORTED"
        delivery = DeliveryFacts(50, self.wanted.session, "copies", state, reason)
        deaths = [
            AttemptFacts(50 + number, 50, self.wanted.session, "copies", "expired", run_kind=kind)
            for number, kind in enumerate(kinds)
        ]
        row = LogFacts(50, self.wanted.session, "copies", 0, deaths[-1].id)
        rows = replace(
            rows,
            statuses={**rows.statuses, self.wanted.session: status},
            deliveries=(*rows.deliveries, delivery),
            attempts=(*rows.attempts, *deaths),
            log=(*rows.log, row),
        )
        return audit([self.wanted, WANTED[1]], good_objects(), rows)

    def test_is_right_when_it_failed_with_its_reason_in_the_log(self) -> None:
        assert self.findings("failed", self.reason) == []

    @pytest.mark.parametrize("reason", [None, "Given up after 75 failed attempts"])
    def test_is_wrong_without_its_deaths_as_the_reason(self, reason: str | None) -> None:
        assert [finding.kind for finding in self.findings("failed", reason)] == [Kind.LOST]

    @pytest.mark.parametrize("kinds", [kinds[1:], ("normal", "quarantine", "quarantine", "normal", "quarantine")])
    def test_is_wrong_when_it_failed_by_other_deaths_than_its_own_alone(self, kinds: tuple[str, ...]) -> None:
        assert [finding.kind for finding in self.findings("failed", self.reason, kinds)] == [Kind.LOST]

    def test_is_stuck_while_it_is_tried_for_ever(self) -> None:
        assert {finding.kind for finding in self.findings("retrying", "again")} >= {Kind.STUCK, Kind.LOST}


class TestStuck:
    def test_is_a_session_that_is_not_completed(self) -> None:
        rows = good_rows()
        open_again = {**rows.statuses, WANTED[0].session: "BUILT_NOT_EXPORTED"}
        assert counts(rows=replace(rows, statuses=open_again)) == {"stuck": 1}

    def test_is_a_session_with_an_open_run(self) -> None:
        assert counts(rows=replace(good_rows(), open_runs=(WANTED[0].session,))) == {"stuck": 1}

    def test_is_a_session_that_was_never_taken_over(self) -> None:
        rows = Rows({}, (), (), (), ())
        assert counts(rows=rows) == {"stuck": 2, "lost": 6}


class TestRecovery:
    def test_is_zero_when_nothing_was_left_to_do(self) -> None:
        assert recovery({"a": 10.0}, 11.0) == (0.0, 0.0)
        assert recovery({"a": 10.0}, None) == (0.0, 0.0)

    def test_counts_what_was_completed_after_the_last_fault(self) -> None:
        completed = {str(number): 100.0 + number for number in range(-5, 101)}
        assert recovery(completed, 100.0) == (50.0, 99.0)
