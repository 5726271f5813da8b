//go:build !linux

package attest

import "context"

type kernel struct{}

func newKernel() kernel { return kernel{} }

func (kernel) lookup(context.Context, Conn) (Facts, error) { return Facts{}, ErrUnsupported }
