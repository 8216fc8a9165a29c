"""For destinations whose calls keep an interval: the moment of the last call, and how far its turns are given away."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("destination", sa.Column("last_call_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("destination", sa.Column("last_turn_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
