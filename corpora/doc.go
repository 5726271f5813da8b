// Package corpora judges the program, as it is built and run, by corpora of
// attack and conformance cases that others wrote. It holds tests only.
//
// The corpora are not part of this repository. They are looked for in the folder
// that the environment variable SALLYPORT_SHARED names, else in "shared" beside
// the checkout; of them corpora/security is used, whose README says what its
// cases are. Where they are missing the tests are skipped with a sentence that
// says what was left out; where the variable CI is set, they fail with it. Go's
// test cache does not see the corpora change: run with -count=1 after that.
package corpora
