module postbound.example/receiver

go 1.19

require (
	github.com/gofiber/fiber/v2 v2.52.9
	github.com/lib/pq v1.10.9
)
