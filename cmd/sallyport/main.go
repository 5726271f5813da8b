// Command sallyport issues identities, checks them in front of services, and
// proves afterwards who called what.
package main

import (
	"os"

	"github.com/sallyport-dev/sallyport/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
