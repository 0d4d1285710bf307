"""Changes one's own user row and tells Postbound, in one transaction.

DATABASE_URL=postgres://... python3 emit.py user-1 "Ada Lovelace"    (Debian: apt install python3-psycopg)
"""

import os
import sys

import psycopg
from psycopg.types.json import Jsonb

user_id, name = (sys.argv[1:] + ["user-1", "Ada Lovelace"][len(sys.argv) - 1 :])[:2]

# Leaving the block commits, an exception in it rolls back.
# prepare_threshold=None: PgBouncer in transaction mode does not keep prepared statements.
with psycopg.connect(os.environ["DATABASE_URL"], prepare_threshold=None) as connection:
    email, name, is_active = connection.execute(
        """insert into app_user as u (id, email, name) values (%(id)s, %(id)s || '@example.com', %(name)s)
           on conflict (id) do update set name = excluded.name
           returning u.email, u.name, u.is_active""",
        {"id": user_id, "name": name},
    ).fetchone()
    event_id, version = connection.execute(
        "insert into postbound.outbox (user_id, action, data) values (%s, %s, %s) returning event_id, version",
        (user_id, "updated", Jsonb({"email": email, "displayName": name, "isActive": is_active})),
    ).fetchone()

print(f"event_id={event_id} version={version}")
