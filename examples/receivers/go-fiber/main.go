// Takes users from Postbound: POST /internal/users/sync, one user a request (backend-sync).
//
//	psql "$DATABASE_URL" -f schema.sql && go mod tidy
//	DATABASE_URL=postgres://... INTERNAL_API_KEY=... ADDRESS=127.0.0.1:8080 go run .
//
// Try it: postbound receiver check --contract backend-sync --url http://127.0.0.1:8080/internal/users/sync --api-key-file key.txt
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/lib/pq"
)

// Well below the 10 s after which Postbound gives a request up without knowing what became of it.
const patience = 5 * time.Second

type receiver struct {
	db  *sql.DB
	key string
}

func main() {
	key, address := os.Getenv("INTERNAL_API_KEY"), os.Getenv("ADDRESS")
	if key == "" {
		log.Fatal("INTERNAL_API_KEY is not set")
	}
	if address == "" {
		address = "127.0.0.1:8080"
	}
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	db.SetMaxOpenConns(16)
	r := &receiver{db: db, key: key}
	app := fiber.New(fiber.Config{BodyLimit: 1 << 20})
	app.Post("/internal/users/sync", r.requireKey, r.sync)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", listener.Addr())
	log.Fatal(app.Listener(listener))
}

// requireKey refuses everybody else before the body is looked at. Digests are of one length, and compared in constant time.
func (r *receiver) requireKey(c *fiber.Ctx) error {
	presented := strings.TrimPrefix(c.Get("Authorization"), "Bearer ")
	if presented == "" {
		presented = c.Get("X-Internal-API-Key")
	}
	given, wanted := sha256.Sum256([]byte(presented)), sha256.Sum256([]byte(r.key))
	if subtle.ConstantTimeCompare(given[:], wanted[:]) != 1 {
		return refuse(c, 401, "unauthorized", "the key is missing or wrong")
	}
	return c.Next()
}

func (r *receiver) sync(c *fiber.Ctx) error {
	version, err := strconv.ParseInt(c.Get("postbound-user-version"), 10, 64)
	if err != nil || version < 1 {
		return refuse(c, 400, "malformed-request", "header postbound-user-version must be a positive integer")
	}
	var change change
	if err := json.Unmarshal(c.Body(), &change); err != nil {
		return refuse(c, 400, "malformed-request", "the body is not of the contract's form")
	}
	if problem := change.problem(); problem != "" {
		return refuse(c, 422, "invalid-content", problem)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	held, err := take(ctx, r.db, c.Get("postbound-tenant", "default"), &change, version)
	if err != nil {
		return failed(c, err)
	}
	if held > version {
		return send(c, 409, fiber.Map{
			"type": "/problems/stale-version", "detail": "a newer state is held", "heldVersion": held,
		})
	}
	return send(c, 200, fiber.Map{"success": true, "id": change.ID, "version": held})
}

// failed tells apart what this user's content does (422), what is a bug of ours (500), and a database that is away: 503 with
// Retry-After, which holds everything back until then and counts against no user.
func failed(c *fiber.Ctx, err error) error {
	log.Printf("failed: %T", err)
	var refused *pq.Error
	if errors.As(err, &refused) {
		switch refused.Code.Class() {
		case "22", "23":
			return refuse(c, 422, "invalid-content", "it cannot be stored ("+string(refused.Code)+")")
		case "08", "40", "53", "55", "57":
		default:
			return refuse(c, 500, "internal", "the request failed")
		}
	}
	c.Set("Retry-After", "5")
	return refuse(c, 503, "unavailable", "the database is away")
}

// refuse answers as RFC 9457 has it.
func refuse(c *fiber.Ctx, status int, slug, detail string) error {
	return send(c, status, fiber.Map{"type": "/problems/" + slug, "detail": detail, "error": detail})
}

func send(c *fiber.Ctx, status int, body fiber.Map) error {
	return c.Status(status).JSON(body)
}
