"""PostgreSQL announces changes of keys and accounts, so that gateways need not ask at every request

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "CREATE FUNCTION roundhouse_announce_keys() RETURNS trigger AS "
        "$$ BEGIN PERFORM pg_notify('roundhouse_keys', ''); RETURN NULL; END $$ LANGUAGE plpgsql"
    )
    op.execute(
        "CREATE TRIGGER roundhouse_keys AFTER INSERT OR DELETE OR "
        "UPDATE OF name, key_hash, user_id, scopes, limits, expires_at, revoked_at ON api_keys "
        "FOR EACH STATEMENT EXECUTE FUNCTION roundhouse_announce_keys()"
    )
    op.execute(
        "CREATE TRIGGER roundhouse_accounts AFTER DELETE OR UPDATE OF role, disabled_at ON users "
        "FOR EACH STATEMENT EXECUTE FUNCTION roundhouse_announce_keys()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP TRIGGER roundhouse_accounts ON users")
    op.execute("DROP TRIGGER roundhouse_keys ON api_keys")
    op.execute("DROP FUNCTION roundhouse_announce_keys")
