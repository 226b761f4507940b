"""Alembic's entry: online migrations only, batch mode so that SQLite can alter tables."""

from alembic import context

from backend.db.engine import Database
from backend.db.tables import Table

config = context.config


def run() -> None:
    """Run the migrations in one transaction."""
    database = Database(config.attributes["url"])
    with database.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    database.engine.dispose()


run()
