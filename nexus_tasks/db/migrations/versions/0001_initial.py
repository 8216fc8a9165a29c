"""The tables of NexusLIMS, and the rows of builder and delivery."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adoptable",
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("remote", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("session_identifier", "destination", name=op.f("pk_adoptable")),
    )
    op.create_table(
        "build_claim",
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("session_identifier", name=op.f("pk_build_claim")),
    )
    op.create_table(
        "build_request",
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("rebuild", sa.Boolean(), nullable=False),
        sa.Column("asked_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("not_before", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("begun_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("deaths", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("session_identifier", name=op.f("pk_build_request")),
    )
    op.create_index(
        "ix_build_request_open",
        "build_request",
        ["asked_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "destination",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_in_flight", sa.Integer(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("failing_records", postgresql.ARRAY(sa.Integer()), server_default="{}", nullable=False),
        sa.Column("opened_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("open_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("open_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("recovered_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_call_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("rate_limit_token", sa.Uuid(), nullable=True),
        sa.Column("rate_limit_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("remote", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destination")),
    )
    op.create_table(
        "instruments",
        sa.Column("instrument_pid", sa.Text(), nullable=False),
        sa.Column("api_url", sa.Text(), nullable=True),
        sa.Column("calendar_url", sa.Text(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("property_tag", sa.Text(), nullable=True),
        sa.Column("filestore_path", sa.Text(), nullable=True),
        sa.Column("harvester", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("clock_offset_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("instrument_pid", name=op.f("pk_instruments")),
    )
    op.create_table(
        "planner",
        sa.Column("id", sa.Integer(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("requested", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_planner_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_planner")),
    )
    op.create_table(
        "record",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("instrument_pid", sa.Text(), nullable=False),
        sa.Column("dt_from", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("dt_to", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("activities", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("archived_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("strategy IN ('all', 'first_success', 'best_effort')", name=op.f("ck_record_strategy")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record")),
        sa.UniqueConstraint("session_identifier", name=op.f("uq_record_session_identifier")),
    )
    op.create_index(
        "ix_record_not_archived", "record", ["id"], unique=False, postgresql_where=sa.text("archived_at IS NULL")
    )
    op.create_table(
        "restore",
        sa.Column("restored_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("restored_at", name=op.f("pk_restore")),
    )
    op.create_table(
        "session_details",
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("session_identifier", name=op.f("pk_session_details")),
    )
    op.create_table(
        "sign_of_life",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sign_of_life")),
    )
    op.create_table(
        "worker",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("process", sa.Uuid(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("clock_offset_s", sa.Double(), nullable=False),
        sa.Column("stores", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("seen_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker")),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("record_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("depends_on", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("requires", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("updates", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("waits_for", sa.Text(), server_default="", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deaths", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "next_attempt_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("input_fingerprint", sa.Text(), nullable=True),
        sa.Column("remote", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("look_up_first", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("remote_record_id", sa.Text(), nullable=True),
        sa.Column("remote_record_url", sa.Text(), nullable=True),
        sa.Column("remote_metadata", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("succeeded_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'retrying', 'succeeded', 'failed', 'skipped')", name=op.f("ck_delivery_state")
        ),
        sa.ForeignKeyConstraint(
            ["record_id"], ["record.id"], name=op.f("fk_delivery_record_id_record"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("record_id", "destination", name=op.f("uq_delivery_record_id_destination")),
    )
    op.create_index(
        "ix_delivery_due",
        "delivery",
        ["destination", "waits_for", "next_attempt_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('pending', 'retrying')"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("record_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="normal", nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expected_by", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('normal', 'probe', 'quarantine')", name=op.f("ck_run_kind")),
        sa.CheckConstraint("state IN ('open', 'closed', 'lost')", name=op.f("ck_run_state")),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name=op.f("fk_run_record_id_record"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index("ix_run_expected", "run", ["expected_by"], unique=False, postgresql_where=sa.text("state = 'open'"))
    op.create_index(op.f("ix_run_record_id"), "run", ["record_id"], unique=False)
    op.create_index("uq_run_open", "run", ["record_id"], unique=True, postgresql_where=sa.text("state = 'open'"))
    op.create_table(
        "session_log",
        sa.Column("id_session_log", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("timestamp", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("record_status", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "event_type IN ('START', 'END', 'RECORD_GENERATION')", name=op.f("ck_session_log_event_type")
        ),
        sa.CheckConstraint(
            "record_status IN ('WAITING_FOR_END', 'TO_BE_BUILT', 'NO_FILES_FOUND', 'NO_CONSENT', 'NO_RESERVATION', 'ERROR', 'BUILT_NOT_EXPORTED', 'COMPLETED')",
            name=op.f("ck_session_log_record_status"),
        ),
        sa.ForeignKeyConstraint(
            ["instrument"], ["instruments.instrument_pid"], name=op.f("fk_session_log_instrument_instruments")
        ),
        sa.PrimaryKeyConstraint("id_session_log", name=op.f("pk_session_log")),
    )
    op.create_index(op.f("ix_session_log_session_identifier"), "session_log", ["session_identifier"], unique=False)
    op.create_index(
        "ix_session_log_to_be_built",
        "session_log",
        ["session_identifier"],
        unique=False,
        postgresql_where=sa.text("record_status = 'TO_BE_BUILT'"),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="planned", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("input_fingerprint", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("try_started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "state IN ('planned', 'started', 'succeeded', 'transient', 'permanent', 'configuration', 'deferred', 'skipped', 'expired', 'cancelled', 'orphaned')",
            name=op.f("ck_attempt_state"),
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery.id"], name=op.f("fk_attempt_delivery_id_delivery"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_attempt_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("run_id", "delivery_id", name=op.f("uq_attempt_run_id_delivery_id")),
    )
    op.create_index(op.f("ix_attempt_delivery_id"), "attempt", ["delivery_id"], unique=False)
    op.create_index(
        "ix_attempt_in_flight",
        "attempt",
        ["destination", "state"],
        unique=False,
        postgresql_where=sa.text("state IN ('planned', 'started', 'orphaned')"),
    )
    op.create_table(
        "upload_log",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("destination_name", sa.Text(), nullable=False),
        sa.Column("success", sa.Integer(), nullable=False),
        sa.Column("timestamp", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=True),
        sa.Column("record_url", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("metadata_json", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("attempt_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("success IN (0, 1)", name=op.f("ck_upload_log_success")),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempt.id"], name=op.f("fk_upload_log_attempt_id_attempt"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_log")),
        sa.UniqueConstraint("attempt_id", name=op.f("uq_upload_log_attempt_id")),
    )
    op.create_index(
        "ix_upload_log_failures", "upload_log", ["timestamp"], unique=False, postgresql_where=sa.text("success = 0")
    )
    op.create_index(
        op.f("ix_upload_log_session_identifier_timestamp"),
        "upload_log",
        ["session_identifier", "timestamp"],
        unique=False,
    )
    op.execute("INSERT INTO planner DEFAULT VALUES")
