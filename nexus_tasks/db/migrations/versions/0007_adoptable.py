"""What NexusLIMS has made over there of sessions whose documents are gone, for the day when one is built again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
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
