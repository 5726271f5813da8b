// Package google holds no code, only tests: that client libraries as they are
// released, unmodified and pinned, get identities from `sallyport serve`, reach a
// service behind its gateway and verify our tokens, knowing nothing but environment
// variables. Google's for Go are pinned in go.mod; those for Node, jose and
// @actions/core in node/package-lock.json; Python's and Java's are Debian's. What they
// force on us is in the contract google-clients.
//
// It is a module of its own, so that the product's dependency list stays the
// product's, and it does not import the product: it talks to a built program.
// That is $SALLYPORT_BIN, or else what `go build` makes of this repository:
//
//	go test -count=1 ./...
//
// -count=1 because Go's test cache does not see the program that a test runs.
// As root it also runs clients as another user. `scripts/setup clients` installs the
// other languages; what is missing is skipped, with what to install, but in CI ($CI) it
// fails.
package google
