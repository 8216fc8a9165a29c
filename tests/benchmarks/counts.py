"""How often one record asks others for something: calls, connections, transactions, statements, messages.

Counted by the services, by PostgreSQL (`pg_stat_database`, `pg_stat_statements`) and by the broker (INFO), over all of
a run from the hand-over to COMPLETED, the hand-over with it. The workers run without beat, whose work is per second and
not per record. Counts hardly change from round to round: there are three all the same.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.figures import FLOOR, OURS, PEER, Collected, Figure, in_turns
from tests.benchmarks.floor import Floor
from tests.benchmarks.options import WARM_UP, Options
from tests.benchmarks.ours import Installation, not_paced
from tests.benchmarks.peer import Peer
from tests.benchmarks.servers import COUNTING
from tests.benchmarks.services import Seen, Services

PART = "counts"
PROCESSES = 4
RECORDS = 50
FLUSHED_S = 11  # an idle backend tells its transactions within ten seconds
PER_RECORD = "per record"


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    records = min(options.records, RECORDS)
    turns = []
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))

        def note(contender: Installation | Floor) -> None:
            contender.export(options.new_records(WARM_UP))  # every process has a fresh connection to each service
            time.sleep(FLUSHED_S)
            counts, seen = contender.servers.counts(), services.seen()
            contender.export(options.new_records(records))
            _note_calls(found, services.seen() - seen, records, contender.name)
            time.sleep(FLUSHED_S)
            done = contender.servers.counts() - counts
            for name, value in (
                ("transactions", done.transactions),
                ("of these without BEGIN (pings, autocommit)", done.without_begin),
                ("statements, without BEGIN and COMMIT", done.statements),
                ("messages", done.messages),
                ("events", done.events),
                ("commands of the broker", done.commands),
            ):
                found.add(name, contender.name, PER_RECORD, value / records)
            found.add("to and from the broker", contender.name, "kB/record", done.broker_kilobytes / records)

        if OURS in options.contenders:
            ours = parts.enter_context(
                Installation(folder / "ours", services, postgres_options=COUNTING, with_beat=False)
            )
            ours.start_workers(PROCESSES, not_paced(PROCESSES), options.pool)
            ours.export(options.new_records(WARM_UP))
            turns.append(lambda: note(ours))
        if FLOOR in options.contenders:
            floor = parts.enter_context(Floor(folder / "floor", services, COUNTING))
            floor.start_workers(PROCESSES, options.pool)
            floor.export(options.new_records(WARM_UP))
            turns.append(lambda: note(floor))
        if PEER in options.contenders:
            peer = parts.enter_context(Peer(folder / "peer", services))
            peer.export(options.new_records(1))

            def note_peer() -> None:
                seen = services.seen()
                peer.export(options.new_records(records))
                _note_calls(found, services.seen() - seen, records, PEER)

            turns.append(note_peer)
        in_turns(options.rounds, turns, options.say, "counts")
    return found.figures()


def _note_calls(found: Collected, seen: Seen, records: int, contender: str) -> None:
    found.add("HTTP calls", contender, PER_RECORD, seen.calls / records)
    found.add("new connections to services", contender, PER_RECORD, seen.connections / records)
    found.add("to and from the services", contender, "kB/record", seen.kilobytes / records)
