package cli

import (
	"context"
	"errors"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

func (e *env) exportOCSF(context.Context, audit.Export, *audit.Reader) error {
	return misuse(errors.New("todo"))
}
