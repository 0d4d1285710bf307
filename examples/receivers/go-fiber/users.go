package main

import (
	"context"
	"database/sql"
	"errors"
)

// The whole guard is the "where" of these two statements: it is judged under the row's lock, so that of two requests
// that arrive at once the newer state wins, whichever comes first.
const upsert = `-- upsert_user
insert into backend_user as held
       (tenant_id, user_id, email, username, display_name, avatar, role, is_active, version)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (tenant_id, user_id) do update
   set email = excluded.email, username = excluded.username, display_name = excluded.display_name,
       avatar = excluded.avatar, role = excluded.role, is_active = excluded.is_active,
       deleted_at = null, version = excluded.version
 where held.version <= excluded.version
returning version`

// A delete may be all that is ever heard of a user, and may bear nothing but the id.
const softDelete = `-- delete_user
insert into backend_user as held (tenant_id, user_id, is_active, deleted_at, version)
values ($1, $2, false, now(), $3)
on conflict (tenant_id, user_id) do update
   set is_active = false, deleted_at = coalesce(held.deleted_at, excluded.deleted_at), version = excluded.version
 where held.version <= excluded.version
returning version`

const heldVersion = `-- held_version
select version from backend_user where tenant_id = $1 and user_id = $2`

// change is the body of a request.
type change struct {
	ID          string `json:"id"`
	Email       string `json:"email"`
	Username    string `json:"username"`
	DisplayName string `json:"displayName"`
	Avatar      string `json:"avatar"`
	Role        string `json:"role"`
	IsActive    bool   `json:"isActive"`
	Action      string `json:"action"` // created, updated, deleted
}

// problem says what is wrong with the content, or nothing.
func (c *change) problem() string {
	switch {
	case c.ID == "":
		return "id is required"
	case c.Action != "created" && c.Action != "updated" && c.Action != "deleted":
		return "action must be created, updated or deleted"
	case c.Action != "deleted" && c.Email == "":
		return "email is required"
	}
	return ""
}

// take writes the state unless a newer one is held, and tells the version that is held then. Created and updated are the
// same to it: which of them comes depends on what the sender knows, and the version alone says which state is the newest.
func take(ctx context.Context, db *sql.DB, tenant string, c *change, version int64) (held int64, err error) {
	if c.Action == "deleted" {
		err = db.QueryRowContext(ctx, softDelete, tenant, c.ID, version).Scan(&held)
	} else {
		err = db.QueryRowContext(ctx, upsert, tenant, c.ID, c.Email, c.Username, c.DisplayName, c.Avatar, c.Role,
			c.IsActive, version).Scan(&held)
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = db.QueryRowContext(ctx, heldVersion, tenant, c.ID).Scan(&held)
	}
	return held, err
}
