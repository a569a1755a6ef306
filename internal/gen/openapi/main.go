// Command openapi writes the OpenAPI document of the host API, as the agent serves it at /openapi.json.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/weftnet/weft/agent/server"
)

func main() {
	out := flag.String("out", "docs/reference/openapi.json", "file to write")
	flag.Parse()
	b, err := server.Document()
	if err == nil {
		err = os.WriteFile(*out, b, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}
