"""What people say about a session, and how far the clock of an instrument's PC is ahead."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instruments", sa.Column("clock_offset_s", sa.Double(), server_default="0", nullable=False))
    op.create_table(
        "session_details",
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("session_identifier", name=op.f("pk_session_details")),
    )
