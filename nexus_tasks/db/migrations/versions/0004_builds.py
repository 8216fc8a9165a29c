"""Builds that workers were asked for, so that a lost message or a dead worker loses none."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
