"""The tables of the users' database."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 3
# What makes a database of that version one of the next.
UPGRADES = {2: "ALTER TABLE users ADD COLUMN may_open BOOLEAN DEFAULT 0 NOT NULL"}

metadata = sa.MetaData()
schema = sa.Table("securexfer_schema", metadata, sa.Column("version", sa.Integer, nullable=False))
users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("hash", sa.String(512)),  # null: may not log in with a password
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),  # both in seconds since 1970
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),  # see guessing.py
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("may_open", sa.Boolean, nullable=False, server_default=sa.false()),  # see Permission in users.py
)
sources = sa.Table(
    "known_sources",
    metadata,
    sa.Column("user", sa.String(32), primary_key=True),
    sa.Column("source", sa.String(64), primary_key=True),
    sa.Column("seen", sa.BigInteger, nullable=False),  # days since 1970
)
