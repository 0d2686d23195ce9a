"""Run by Alembic: migrate on the connection that it was given."""

from alembic import context

from ml4ad.store.migrations import VERSION_TABLE

# Alembic lends its context while it runs this; a plain import, as a test runner's, does nothing.
if hasattr(context, "config"):
    context.configure(
        connection=context.config.attributes["connection"],
        version_table=VERSION_TABLE,
        transactional_ddl=True,
    )
    context.run_migrations()
