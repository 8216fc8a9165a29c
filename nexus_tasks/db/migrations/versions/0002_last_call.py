"""When a destination was last called, for those whose calls keep an interval."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("destination", sa.Column("last_call_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
