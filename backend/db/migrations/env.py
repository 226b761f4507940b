"""Alembic's entry: online migrations only, batch mode so that SQLite can alter tables."""

from alembic import context

from backend.db.engine import Database
from backend.db.tables import Job

config = context.config


def run() -> None:
    """Run the migrations in one transaction."""
    database = Database(config.attributes["url"])
    with database.engine.connect() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        # batch mode drops and renames tables that others refer to; the keys are checked at the end instead
        if is_sqlite:
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")  # has no effect inside a transaction
        context.configure(connection=connection, target_metadata=Job.metadata, render_as_batch=True, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()
            if is_sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchone()):
                raise RuntimeError(
                    f"the migration left a row of {broken[0]} that refers to a missing row of {broken[2]}"
                )
        connection.commit()
    database.engine.dispose()


run()
