"""The revisions that are told without Alembic are Alembic's."""

from nexus_tasks.db import migrate, revisions


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    assert set(revisions.known()) == migrate.revisions()
    assert revisions.known()[-1] == migrate.head()
