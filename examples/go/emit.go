// Changes one's own user row and tells Postbound, in one transaction:
//
//	go mod tidy && DATABASE_URL=postgres://... go run . user-1 "Ada Lovelace"
//
// Without access to a module proxy, Debian's golang-github-lib-pq-dev will do:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run emit.go
package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"

	_ "github.com/lib/pq"
)

func main() {
	userID, name := "user-1", "Ada Lovelace"
	if len(os.Args) > 2 {
		userID, name = os.Args[1], os.Args[2]
	}
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	eventID, version, err := rename(db, userID, name)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("event_id=%s version=%d\n", eventID, version)
}

func rename(db *sql.DB, userID, name string) (eventID string, version int64, err error) {
	tx, err := db.Begin()
	if err != nil {
		return "", 0, err
	}
	defer tx.Rollback() // does nothing after the commit

	var state struct {
		Email       string `json:"email"`
		DisplayName string `json:"displayName"`
		IsActive    bool   `json:"isActive"`
	}
	err = tx.QueryRow(`
		insert into app_user as u (id, email, name) values ($1, $1 || '@example.com', $2)
		on conflict (id) do update set name = excluded.name
		returning u.email, u.name, u.is_active`, userID, name,
	).Scan(&state.Email, &state.DisplayName, &state.IsActive)
	if err != nil {
		return "", 0, err
	}
	data, err := json.Marshal(state)
	if err != nil {
		return "", 0, err
	}
	err = tx.QueryRow(`
		insert into postbound.outbox (user_id, action, data) values ($1, $2, $3)
		returning event_id, version`, userID, "updated", string(data),
	).Scan(&eventID, &version)
	if err != nil {
		return "", 0, err
	}
	return eventID, version, tx.Commit()
}
