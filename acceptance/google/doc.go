// Package google holds no code, only tests: that Google's Go client libraries,
// unmodified and pinned in go.mod, get identities from `sallyport serve` and
// reach a service behind its gateway, knowing nothing but an environment
// variable. What they force on us is in the contract google-clients.
//
// It is a module of its own, so that the product's dependency list stays the
// product's, and it does not import the product: it talks to a built program.
// That is $SALLYPORT_BIN, or else what `go build` makes of this repository:
//
//	go test -count=1 ./...
//
// -count=1 because Go's test cache does not see the program that a test runs.
// As root it also runs clients as another user; in CI ($CI) it must be root.
package google
