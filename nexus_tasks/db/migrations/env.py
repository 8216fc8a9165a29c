"""Alembic's entry: runs the migrations on the connection that `nexus_tasks.db.migrate` hands over."""

from alembic import context

from nexus_tasks.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
