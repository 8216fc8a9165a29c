"""For the archiving sweep: the records whose documents are not archived yet, however many are."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_record_not_archived", "record", ["id"], postgresql_where=sa.text("archived_at IS NULL"))
