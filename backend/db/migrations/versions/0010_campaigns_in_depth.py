"""contestants of other kinds, ballots with reasons, ratings of answers, frozen boards, aliases and promotions

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_decisions()
    _create_ratings()
    _alter_ballots()


def _create_decisions() -> None:
    op.create_table('aliases',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('name', sa.String(length=120), nullable=False),
    sa.Column('checkpoint_id', sa.String(length=12), nullable=True),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('updated_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['checkpoint_id'], ['checkpoints.id'], name=op.f('fk_aliases_checkpoint_id')),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_aliases_created_by')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_aliases')),
    sa.UniqueConstraint('name', name=op.f('uq_aliases_name'))
    )
    with op.batch_alter_table('aliases', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_aliases_checkpoint_id'), ['checkpoint_id'], unique=False)
    op.create_table('frozen_boards',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('campaign_id', sa.String(length=12), nullable=False),
    sa.Column('name', sa.String(length=120), nullable=False),
    sa.Column('digest', sa.String(length=64), nullable=False),
    sa.Column('document', sa.JSON(), nullable=False),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_frozen_boards_campaign_id')),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_frozen_boards_created_by')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_frozen_boards')),
    sa.UniqueConstraint('campaign_id', 'name', name=op.f('uq_frozen_boards_campaign_id_name'))
    )
    op.create_table('promotions',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('alias_id', sa.String(length=12), nullable=False),
    sa.Column('decision', sa.String(length=10), nullable=False),
    sa.Column('checkpoint_id', sa.String(length=12), nullable=False),
    sa.Column('previous_id', sa.String(length=12), nullable=True),
    sa.Column('campaign_id', sa.String(length=12), nullable=True),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('evidence', sa.JSON(), nullable=False),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['alias_id'], ['aliases.id'], name=op.f('fk_promotions_alias_id')),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_promotions_campaign_id')),
    sa.ForeignKeyConstraint(['checkpoint_id'], ['checkpoints.id'], name=op.f('fk_promotions_checkpoint_id')),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_promotions_created_by')),
    sa.ForeignKeyConstraint(['previous_id'], ['checkpoints.id'], name=op.f('fk_promotions_previous_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_promotions'))
    )
    with op.batch_alter_table('promotions', schema=None) as batch_op:
        batch_op.create_index('ix_promotions_alias_id_created_at', ['alias_id', 'created_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_promotions_campaign_id'), ['campaign_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_promotions_checkpoint_id'), ['checkpoint_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_promotions_previous_id'), ['previous_id'], unique=False)


def _create_ratings() -> None:
    op.create_table('rater_exclusions',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('campaign_id', sa.String(length=12), nullable=False),
    sa.Column('rater_id', sa.String(length=12), nullable=False),
    sa.Column('excluded', sa.Boolean(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_rater_exclusions_campaign_id')),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_rater_exclusions_created_by')),
    sa.ForeignKeyConstraint(['rater_id'], ['raters.id'], name=op.f('fk_rater_exclusions_rater_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_rater_exclusions'))
    )
    with op.batch_alter_table('rater_exclusions', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_rater_exclusions_campaign_id'), ['campaign_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_rater_exclusions_rater_id'), ['rater_id'], unique=False)
    op.create_table('answer_ratings',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('campaign_id', sa.String(length=12), nullable=False),
    sa.Column('completion_id', sa.String(length=12), nullable=False),
    sa.Column('rater_id', sa.String(length=12), nullable=False),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.Column('value', sa.Integer(), nullable=False),
    sa.Column('note', sa.Text(), nullable=False),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_answer_ratings_campaign_id')),
    sa.ForeignKeyConstraint(['completion_id'], ['completions.id'], name=op.f('fk_answer_ratings_completion_id')),
    sa.ForeignKeyConstraint(['rater_id'], ['raters.id'], name=op.f('fk_answer_ratings_rater_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_answer_ratings')),
    sa.UniqueConstraint('completion_id', 'rater_id', 'revision', name=op.f('uq_answer_ratings_completion_id_rater_id_revision'))
    )
    with op.batch_alter_table('answer_ratings', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_answer_ratings_campaign_id'), ['campaign_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_answer_ratings_rater_id'), ['rater_id'], unique=False)


def _alter_ballots() -> None:
    with op.batch_alter_table('battles', schema=None) as batch_op:
        batch_op.add_column(sa.Column('purpose', sa.String(length=10), server_default='vote', nullable=False))
        batch_op.add_column(sa.Column('repeat_of_id', sa.String(length=12), nullable=True))
        batch_op.drop_constraint(batch_op.f('uq_battles_rater_id_prompt_id_pair'), type_='unique')
        batch_op.create_unique_constraint(batch_op.f('uq_battles_rater_id_prompt_id_pair_purpose'), ['rater_id', 'prompt_id', 'pair', 'purpose'])
        batch_op.create_foreign_key(batch_op.f('fk_battles_repeat_of_id'), 'battles', ['repeat_of_id'], ['id'])

    with op.batch_alter_table('campaign_prompts', schema=None) as batch_op:
        batch_op.add_column(sa.Column('category', sa.String(length=80), server_default='', nullable=False))
        batch_op.add_column(sa.Column('purpose', sa.String(length=8), server_default='vote', nullable=False))

    with op.batch_alter_table('completions', schema=None) as batch_op:
        batch_op.add_column(sa.Column('sample', sa.Integer(), server_default='0', nullable=False))
        batch_op.drop_constraint(batch_op.f('uq_completions_prompt_id_contestant_id'), type_='unique')
        batch_op.create_unique_constraint(batch_op.f('uq_completions_prompt_id_contestant_id_sample'), ['prompt_id', 'contestant_id', 'sample'])

    with op.batch_alter_table('contestants', schema=None) as batch_op:
        batch_op.add_column(sa.Column('kind', sa.String(length=12), server_default='checkpoint', nullable=False))
        batch_op.add_column(sa.Column('label', sa.String(length=120), server_default='', nullable=False))
        batch_op.add_column(sa.Column('source', sa.JSON(), server_default='{}', nullable=False))
        batch_op.alter_column('checkpoint_id',
               existing_type=sa.VARCHAR(length=12),
               nullable=True)

    with op.batch_alter_table('raters', schema=None) as batch_op:
        batch_op.add_column(sa.Column('single_use', sa.Boolean(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column('browser_hash', sa.String(length=64), nullable=True))

    with op.batch_alter_table('votes', schema=None) as batch_op:
        batch_op.add_column(sa.Column('reasons', sa.JSON(), server_default='[]', nullable=False))
        batch_op.add_column(sa.Column('dimensions', sa.JSON(), server_default='{}', nullable=False))
        batch_op.add_column(sa.Column('rewrite', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('flag', sa.String(length=200), server_default='', nullable=False))


def downgrade() -> None:
    for table in ("promotions", "aliases", "frozen_boards", "answer_ratings", "rater_exclusions"):
        op.drop_table(table)
    op.execute("DELETE FROM votes WHERE battle_id IN (SELECT id FROM battles WHERE purpose <> 'vote')")
    op.execute("DELETE FROM battles WHERE purpose <> 'vote'")
    with op.batch_alter_table("battles", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_battles_repeat_of_id"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("uq_battles_rater_id_prompt_id_pair_purpose"), type_="unique")
        batch_op.create_unique_constraint(batch_op.f("uq_battles_rater_id_prompt_id_pair"), ["rater_id", "prompt_id", "pair"])
        batch_op.drop_column("repeat_of_id")
        batch_op.drop_column("purpose")
    with op.batch_alter_table("completions", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_completions_prompt_id_contestant_id_sample"), type_="unique")
        batch_op.create_unique_constraint(batch_op.f("uq_completions_prompt_id_contestant_id"), ["prompt_id", "contestant_id"])
        batch_op.drop_column("sample")
    columns = {
        "votes": ("flag", "rewrite", "dimensions", "reasons"),
        "raters": ("browser_hash", "single_use"),
        "campaign_prompts": ("purpose", "category"),
        "contestants": ("source", "label", "kind"),
    }
    for table, names in columns.items():
        for name in names:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")  # batch mode would copy the table and lose how 0005 wrote its columns
