// Package fiber stands in for github.com/gofiber/fiber/v2 where no module proxy can be reached: what the sample receiver
// uses of it, with the same signatures, over net/http.
package fiber

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
)

// Map is a body in the making.
type Map map[string]interface{}

// Handler is a step of a route.
type Handler = func(*Ctx) error

// Router is what routes are given back as.
type Router interface{}

// Config holds what the sample sets.
type Config struct{ BodyLimit int }

// App is the routes.
type App struct {
	config Config
	mux    *http.ServeMux
}

// Ctx is one request, and the answer to it.
type Ctx struct {
	request  *http.Request
	writer   http.ResponseWriter
	body     []byte
	status   int
	handlers []Handler
}

// New makes an app.
func New(config ...Config) *App {
	app := &App{mux: http.NewServeMux()}
	if len(config) > 0 {
		app.config = config[0]
	}
	return app
}

// Post adds a route.
func (app *App) Post(path string, handlers ...Handler) Router {
	app.mux.HandleFunc(path, func(writer http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodPost {
			writer.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		limited := http.MaxBytesReader(writer, request.Body, int64(app.config.BodyLimit))
		body, err := io.ReadAll(limited)
		if err != nil {
			writer.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		c := &Ctx{request: request, writer: writer, body: body, status: 200, handlers: handlers}
		if err := c.Next(); err != nil {
			writer.WriteHeader(http.StatusInternalServerError)
		}
	})
	return app
}

// Listener serves.
func (app *App) Listener(listener net.Listener) error { return http.Serve(listener, app.mux) }

// Next goes to the next handler.
func (c *Ctx) Next() error {
	next := c.handlers[0]
	c.handlers = c.handlers[1:]
	return next(c)
}

// Get gives a header of the request.
func (c *Ctx) Get(key string, defaultValue ...string) string {
	if value := c.request.Header.Get(key); value != "" || len(defaultValue) == 0 {
		return value
	}
	return defaultValue[0]
}

// Body is that of the request.
func (c *Ctx) Body() []byte { return c.body }

// Set sets a header of the answer.
func (c *Ctx) Set(key string, val string) { c.writer.Header().Set(key, val) }

// Status sets that of the answer.
func (c *Ctx) Status(status int) *Ctx {
	c.status = status
	return c
}

// JSON answers.
func (c *Ctx) JSON(data interface{}) error {
	encoded, err := json.Marshal(data)
	if err != nil {
		return err
	}
	c.Set("Content-Type", "application/json")
	c.writer.WriteHeader(c.status)
	_, err = c.writer.Write(encoded)
	return err
}
