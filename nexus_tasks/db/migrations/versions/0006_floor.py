"""For destinations whose calls keep an interval: the one try that waits for its next turn with a worker in hand."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("destination", sa.Column("floor", sa.Uuid(), nullable=True))
    op.add_column("destination", sa.Column("floor_until", postgresql.TIMESTAMP(timezone=True), nullable=True))
