"""Run by Alembic: migrate on the connection that it was given."""

from alembic import context

from ml4ad.store.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
