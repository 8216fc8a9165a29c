"""Records a second, from the hand-over until every destination holds them, at several latencies of the services.

Nothing is paced on either side first; then both sides as they ship, with LabArchives's calls one after the other (this
project) or a second apart (the peer).
"""

from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.contender import Run
from tests.benchmarks.figures import AS_SHIPPED, FLOOR, OURS, PEER, Collected, Figure, in_turns
from tests.benchmarks.floor import Floor
from tests.benchmarks.options import PEER_S, WARM_UP, Options
from tests.benchmarks.ours import Installation, not_paced
from tests.benchmarks.peer import Peer
from tests.benchmarks.services import Services

PART = "throughput"
PROCESSES = {0: 4, 50: 16, 200: 32}  # by milliseconds: enough to fill two cores, were there no floor to the cost
MOST_PROCESSES = 32
PEER_CALLS = 11  # of a record, one after the other
PEER_OWN_S = 0.06  # a record without latency
PEER_PAUSED_S = 4.0  # a record as shipped: four pauses between five calls
LABARCHIVES_CALLS = 3  # of a record; by its terms no two at once
SHIPPED_S = 20  # a run of this project as shipped
PER_SECOND = "records/s"


def processes_for(latency: int) -> int:
    """Of the workers, at that many milliseconds a call."""
    return PROCESSES.get(latency, MOST_PROCESSES)


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        ours = parts.enter_context(Installation(folder / "ours", services)) if OURS in options.contenders else None
        floor = parts.enter_context(Floor(folder / "floor", services)) if FLOOR in options.contenders else None
        peer = parts.enter_context(Peer(folder / "peer", services)) if PEER in options.contenders else None
        for latency in options.latencies:
            services.set_latency(latency)
            _not_paced(found, options, latency, ours, floor, peer)
        for latency in filter(None, options.latencies):
            services.set_latency(latency)
            _as_shipped(found, options, latency, ours, peer)
    return found.figures()


def peer_records(latency: int, seconds_of_one: float = PEER_OWN_S) -> int:
    """As many as the peer exports in a run, which is serial: its rate does not depend on their number."""
    return max(3, round(PEER_S / (seconds_of_one + PEER_CALLS * latency / 1000)))


def _not_paced(
    found: Collected, options: Options, latency: int, ours: Installation | None, floor: Floor | None, peer: Peer | None
) -> None:
    processes = processes_for(latency)
    turns = []
    what = f"{latency} ms"

    def note(run: Run, contender: str) -> None:
        found.add(what, contender, PER_SECOND, run.per_second)

    if ours is not None:
        ours.start_workers(processes, not_paced(processes), options.pool)
        ours.export(options.new_records(WARM_UP))
        turns.append(lambda: note(ours.export(options.new_records(options.records)), OURS))
    if floor is not None:
        floor.start_workers(processes, options.pool)
        floor.export(options.new_records(WARM_UP))
        turns.append(lambda: note(floor.export(options.new_records(options.records)), FLOOR))
    if peer is not None:
        count = min(options.records, peer_records(latency))
        peer.export(options.new_records(1))
        turns.append(lambda: note(peer.export(options.new_records(count)), PEER))
    in_turns(options.rounds, turns, options.say, f"throughput at {what}")
    found.ratio(what, (what, OURS), (what, PEER))
    found.ratio(what, (what, FLOOR), (what, PEER))
    found.ratio(what, (what, OURS), (what, FLOOR))


def _as_shipped(found: Collected, options: Options, latency: int, ours: Installation | None, peer: Peer | None) -> None:
    processes = processes_for(latency)
    turns = []
    what = f"{latency} ms, {AS_SHIPPED}"
    serial_s = LABARCHIVES_CALLS * latency / 1000

    def note_ours() -> None:
        assert ours is not None
        run = ours.export(options.new_records(min(options.records, round(SHIPPED_S / serial_s))))
        found.add(what, OURS, PER_SECOND, run.per_second)
        found.add(f"{what}: of the serial ceiling", OURS, "%", 100 * run.per_second * serial_s)

    def note_peer() -> None:
        assert peer is not None
        count = peer_records(latency, PEER_PAUSED_S)
        found.add(what, PEER, PER_SECOND, peer.export(options.new_records(count), pause=True).per_second)

    if ours is not None:
        ours.start_workers(processes, {}, options.pool)
        ours.export(options.new_records(3))
        turns.append(note_ours)
    if peer is not None:
        turns.append(note_peer)
    in_turns(options.rounds, turns, options.say, f"throughput at {what}")
    found.ratio(what, (what, OURS), (what, PEER))
