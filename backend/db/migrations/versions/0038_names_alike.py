"""Names of accounts are unique in whatever case or Unicode form. Where names of before are alike, the oldest account
has the form that others are refused by; the others sign in by their name as it is written.

Revision ID: 0038
Revises: 0037
"""

import logging
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("users") as users_table:
        users_table.add_column(sa.Column("name_key", sa.Text(), nullable=True))
        users_table.create_unique_constraint("uq_users_name_key", ["name_key"])
    users = sa.table("users", sa.column("id"), sa.column("name"), sa.column("name_key"), sa.column("created_at"))
    connection = op.get_bind()
    owners: dict[str, str] = {}
    for id_, name in connection.execute(sa.select(users.c.id, users.c.name).order_by(users.c.created_at)).all():
        key = _name_key(name)
        if key in owners:
            logging.getLogger(__name__).warning(
                "The accounts %r and %r have names alike. Both work, under their names as they are written; "
                "to end it, make an account of another name and disable one of them.",
                owners[key],
                name,
            )
            continue
        owners[key] = name
        connection.execute(sa.update(users).where(users.c.id == id_).values(name_key=key))


def _name_key(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", " ".join(name.split())).casefold())
