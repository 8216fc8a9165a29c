"""The tables: `instruments`, `session_log`, `upload_log` with NexusLIMS's columns, and the rows of the delivery."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState, SessionStatus, Strategy

TIMESTAMP_WITH_ZONE = TIMESTAMP(timezone=True)
_TO_BE_BUILT = text("record_status = 'TO_BE_BUILT'")
_UNFINISHED = text("state IN ('pending', 'retrying')")


class Word(TypeDecorator[StrEnum]):
    """A text column that holds one of the words of an enum, and gives it back as that."""

    impl = Text
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """The word as it is stored."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002
        """The stored word as the enum's."""
        return None if value is None else self.words(value)


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can refer to it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: TIMESTAMP_WITH_ZONE,
        dict[str, Any]: JSONB(),
        list[dict[str, Any]]: JSONB(),
        list[str]: ARRAY(Text()),
        list[int]: ARRAY(Integer()),
        **{words: Word(words) for words in (SessionStatus, Strategy, DeliveryState, RunKind, RunState, AttemptState)},
    }


def _one_of(column: str, states: type[Any]) -> CheckConstraint:
    values = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({values})", name=column)


class Instrument(Base):
    """A microscope and where it stores its files."""

    __tablename__ = "instruments"

    instrument_pid: Mapped[str] = mapped_column(primary_key=True)
    api_url: Mapped[str | None]
    calendar_url: Mapped[str | None]
    location: Mapped[str | None]
    display_name: Mapped[str | None]
    property_tag: Mapped[str | None]
    filestore_path: Mapped[str | None]  # relative to NX_INSTRUMENT_DATA_PATH; none when others build its records
    harvester: Mapped[str | None]
    timezone: Mapped[str] = mapped_column(server_default="UTC")  # an IANA name
    clock_offset_s: Mapped[float] = mapped_column(server_default="0")  # seconds that the clock of its PC is ahead


class SessionLog(Base):
    """The events of a session: one row for its start, one for its end, one for every record generated from it."""

    __tablename__ = "session_log"
    __table_args__ = (
        CheckConstraint("event_type IN ('START', 'END', 'RECORD_GENERATION')", name="event_type"),
        _one_of("record_status", SessionStatus),
        Index(None, "session_identifier"),
        Index("ix_session_log_to_be_built", "session_identifier", postgresql_where=_TO_BE_BUILT),
    )

    id_session_log: Mapped[int] = mapped_column(Identity(), primary_key=True)
    session_identifier: Mapped[str]
    instrument: Mapped[str] = mapped_column(ForeignKey("instruments.instrument_pid"))
    timestamp: Mapped[datetime]
    event_type: Mapped[str]
    record_status: Mapped[SessionStatus]
    user: Mapped[str | None]


class SessionDetail(Base):
    """What people say about a session, beside the events: title, project, samples, and so on."""

    __tablename__ = "session_details"

    session_identifier: Mapped[str] = mapped_column(primary_key=True)
    details: Mapped[dict[str, Any]]  # as `builder.session_details` stores them


class BuildClaim(Base):
    """Which builder works on a session until when; a build holds a lease, not a status."""

    __tablename__ = "build_claim"

    session_identifier: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[UUID]
    expires_at: Mapped[datetime]


class BuildRequest(Base):
    """A build: open from when workers are asked for it until a builder has come to an end with the session."""

    __tablename__ = "build_request"
    __table_args__ = (Index("ix_build_request_open", "asked_at", postgresql_where=text("ended_at IS NULL")),)

    session_identifier: Mapped[str] = mapped_column(primary_key=True)
    rebuild: Mapped[bool]
    asked_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    published_at: Mapped[datetime | None]  # when its message last went out
    not_before: Mapped[datetime | None]  # when files are looked for again that were not there or not whole
    begun_at: Mapped[datetime | None]  # when a worker took it; none again when that one was found dead
    deaths: Mapped[int] = mapped_column(server_default="0")  # of builders, since it was asked for
    ended_at: Mapped[datetime | None]
    problem: Mapped[str | None]  # what is wrong with the build that has ended, or what it waits for


class Record(Base):
    """One row per session, pointing to its current XML document."""

    __tablename__ = "record"
    __table_args__ = (
        _one_of("strategy", Strategy),
        # the sweep's question; nearly every record is archived
        Index("ix_record_not_archived", "id", postgresql_where=text("archived_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    session_identifier: Mapped[str] = mapped_column(unique=True)
    instrument_pid: Mapped[str]
    dt_from: Mapped[datetime]
    dt_to: Mapped[datetime]
    timezone: Mapped[str]
    user: Mapped[str | None]
    document: Mapped[str]  # file name, under NX_RECORDS_PATH or its `uploaded` folder
    sha256: Mapped[str]
    # [{"files": [...], "previews": [... or null]}], pairwise, relative paths; "quoted" where one is no text
    activities: Mapped[list[dict[str, Any]]]
    strategy: Mapped[Strategy]  # of the snapshot taken at hand-over
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    archived_at: Mapped[datetime | None]


class Delivery(Base):
    """One record × one destination: what is still to do, and what the remote side holds."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("record_id", "destination"),
        _one_of("state", DeliveryState),
        # the planner's question: what is due for this destination and waits for nothing, longest due first
        Index("ix_delivery_due", "destination", "waits_for", "next_attempt_at", "id", postgresql_where=_UNFINISHED),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    record_id: Mapped[int] = mapped_column(ForeignKey("record.id", ondelete="CASCADE"))
    destination: Mapped[str]
    priority: Mapped[int]  # these four are the snapshot taken at hand-over
    depends_on: Mapped[list[str]]
    requires: Mapped[list[str]]
    updates: Mapped[bool]
    state: Mapped[DeliveryState] = mapped_column(server_default=DeliveryState.PENDING)
    waits_for: Mapped[str] = mapped_column(server_default="")  # as `delivery.plan.waits_for` writes it; "" for nothing
    failures: Mapped[int] = mapped_column(server_default="0")  # attempts that ended transient
    deaths: Mapped[int] = mapped_column(server_default="0")  # attempts whose lease expired
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=text("now()"))  # due from then on
    error_message: Mapped[str | None]  # why it is retrying, failed or was skipped
    input_fingerprint: Mapped[str | None]  # of the inputs of the attempt that made it final
    remote: Mapped[dict[str, Any]] = mapped_column(server_default="{}")  # step → what is known of its remote object
    look_up_first: Mapped[bool] = mapped_column(server_default=false())  # after a restore: it may exist already
    remote_record_id: Mapped[str | None]
    remote_record_url: Mapped[str | None]
    remote_metadata: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    succeeded_at: Mapped[datetime | None]


class Run(Base):
    """One Celery canvas over deliveries of one record that were due together."""

    __tablename__ = "run"
    __table_args__ = (
        _one_of("state", RunState),
        _one_of("kind", RunKind),
        Index("uq_run_open", "record_id", unique=True, postgresql_where=text("state = 'open'")),
        Index("ix_run_expected", "expected_by", postgresql_where=text("state = 'open'")),
        Index(None, "record_id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    record_id: Mapped[int] = mapped_column(ForeignKey("record.id", ondelete="CASCADE"))
    token: Mapped[UUID]  # its messages carry it: one that outlived a restored backup finds no run
    kind: Mapped[RunKind] = mapped_column(server_default=RunKind.NORMAL)
    state: Mapped[RunState] = mapped_column(server_default=RunState.OPEN)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    expected_by: Mapped[datetime]  # the rescuer looks at it after this time
    closed_at: Mapped[datetime | None]


class Attempt(Base):
    """One delivery inside one run; it holds the lease."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("run_id", "delivery_id"),
        _one_of("state", AttemptState),
        # how many attempts a destination has in flight, and how many of them no worker has started
        Index(
            "ix_attempt_in_flight",
            "destination",
            "state",
            postgresql_where=text("state IN ('planned', 'started', 'orphaned')"),
        ),
        Index(None, "delivery_id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id", ondelete="CASCADE"))
    destination: Mapped[str]  # its delivery's
    state: Mapped[AttemptState] = mapped_column(server_default=AttemptState.PLANNED)
    tries: Mapped[int] = mapped_column(server_default="0")
    input_fingerprint: Mapped[str | None]
    lease_token: Mapped[UUID | None]  # of the worker that has it now
    lease_expires_at: Mapped[datetime | None]
    try_started_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    error_message: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]  # what the task returned: identifiers and links


class Adoptable(Base):
    """What another program has made of a session over there, which has no record here: its delivery begins with it."""

    __tablename__ = "adoptable"

    session_identifier: Mapped[str] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(primary_key=True)
    remote: Mapped[dict[str, Any]]  # as a delivery's


class Destination(Base):
    """A destination: how many attempts it may have in flight, its circuit breaker, its rate limit, shared objects."""

    __tablename__ = "destination"

    name: Mapped[str] = mapped_column(primary_key=True)
    max_in_flight: Mapped[int]  # open attempts over all workers
    paused: Mapped[bool] = mapped_column(server_default=false())  # by an operator, until one resumes it
    failing_records: Mapped[list[int]] = mapped_column(server_default="{}")  # distinct, since its last answer
    opened_at: Mapped[datetime | None]  # set while the circuit is open, and until a probe has succeeded
    open_until: Mapped[datetime | None]  # from then on it is half-open: one probe may go out
    open_seconds: Mapped[float] = mapped_column(server_default="0")  # how long it opened for; doubles the next time
    reason: Mapped[str | None]
    recovered_at: Mapped[datetime | None]  # when the probe began that last closed the circuit
    last_call_at: Mapped[datetime | None]  # of a destination with a rate limit
    rate_limit_token: Mapped[UUID | None]  # of who may call it now, where it has a rate limit
    rate_limit_until: Mapped[datetime | None]  # when that token expires
    remote: Mapped[dict[str, Any]] = mapped_column(server_default="{}")  # as a delivery's: what records share


class Planner(Base):
    """One row: how many plannings were requested while another one was at work."""

    __tablename__ = "planner"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="1")
    requested: Mapped[int] = mapped_column(server_default="0")


class Restore(Base):
    """When the database was restored from a backup: sessions from before may be over there already."""

    __tablename__ = "restore"

    restored_at: Mapped[datetime] = mapped_column(primary_key=True)


class Worker(Base):
    """What a running worker says of itself every half minute (`monitoring.presence`); one that ends takes it away."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)  # Celery's node name
    process: Mapped[UUID]  # of its start: one that ends leaves the row of the next of that name alone
    queues: Mapped[list[str]]
    version: Mapped[str]
    clock_offset_s: Mapped[float]  # seconds that its clock is ahead of PostgreSQL's
    stores: Mapped[dict[str, Any]]  # setting → id of the folder that it sees there, "" for none
    seen_at: Mapped[datetime]


class SignOfLife(Base):
    """When something that is no worker was last heard of: beat, by the dispatches that it asks for."""

    __tablename__ = "sign_of_life"

    name: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]


class UploadLog(Base):
    """What people read: one row for each attempt that the destination, or its settings, answered."""

    __tablename__ = "upload_log"
    __table_args__ = (
        CheckConstraint("success IN (0, 1)", name="success"),
        Index(None, "session_identifier", "timestamp"),
        Index("ix_upload_log_failures", "timestamp", postgresql_where=text("success = 0")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    session_identifier: Mapped[str]
    destination_name: Mapped[str]
    success: Mapped[int]
    timestamp: Mapped[datetime]
    record_id: Mapped[str | None]
    record_url: Mapped[str | None]
    error_message: Mapped[str | None]
    metadata_json: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempt.id", ondelete="SET NULL"), unique=True)
