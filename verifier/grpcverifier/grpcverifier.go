// Package grpcverifier protects a gRPC server with a verifier.Gate: calls with
// exactly one good bearer token in the metadata `authorization` reach their
// handler, which finds the token by verifier.FromContext.
//
//	server := grpc.NewServer(
//		grpc.UnaryInterceptor(grpcverifier.Unary(gate)),
//		grpc.StreamInterceptor(grpcverifier.Stream(gate)),
//	)
//
// The action is `grpc.call`, the resource the full method. Other metadata reaches
// the handler as it came, and nobody vouched for it.
//
// A refusal is Unauthenticated without a credential or with a token that is not
// good, InvalidArgument with a malformed credential, and Unavailable when the
// issuer's keys cannot be had; its text is a safe class. What a token is good for
// beyond that is for the service to say.
package grpcverifier

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sallyport-dev/sallyport/verifier"
)

// Unary returns an interceptor that admits calls with one request and one answer.
func Unary(g *verifier.Gate) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		t, err := g.Admit(ctx, attempt(ctx, info.FullMethod))
		if err != nil {
			return nil, refusal(err)
		}
		return handler(verifier.NewContext(ctx, t), req)
	}
}

// Stream returns an interceptor that admits streams and asks again on each message
// in either direction: when the token has expired or its key was withdrawn, the
// message is not passed on, the handler's context ends, and so does the stream, as
// Unauthenticated, whatever the handler returns. A stream on which nothing moves is
// not looked at.
func Stream(g *verifier.Gate) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		a := attempt(ss.Context(), info.FullMethod)
		t, err := g.Admit(ss.Context(), a)
		if err != nil {
			return refusal(err)
		}
		ctx, cancel := context.WithCancelCause(verifier.NewContext(ss.Context(), t))
		defer cancel(nil)
		s := &stream{ServerStream: ss, ctx: ctx, cancel: cancel, gate: g, token: t, attempt: a}
		err = handler(srv, s)
		if end := s.ended(); end != nil {
			return end
		}
		return err
	}
}

// stream is a live stream.
type stream struct {
	grpc.ServerStream
	ctx     context.Context
	cancel  context.CancelCauseFunc
	gate    *verifier.Gate
	token   *verifier.Verified
	attempt verifier.Attempt

	mu  sync.Mutex // one question at a time: both directions get one answer
	end error      // why the stream ended; nil while it lives
}

// Context returns that of the admitted call.
func (s *stream) Context() context.Context { return s.ctx }

// RecvMsg receives a message and passes it on if the token is still good then.
func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.still()
}

// SendMsg sends a message if the token is still good.
func (s *stream) SendMsg(m any) error {
	if err := s.still(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// still asks the gate again. A stream that has ended stays ended.
func (s *stream) still() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		if err := s.gate.Still(s.ctx, s.token, s.attempt); err != nil {
			s.end = refusal(err)
			s.cancel(s.end)
		}
	}
	return s.end
}

func (s *stream) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

func attempt(ctx context.Context, method string) verifier.Attempt {
	md, _ := metadata.FromIncomingContext(ctx)
	a := verifier.Attempt{Authorization: md["authorization"], Traceparent: md["traceparent"], Action: "grpc.call", Resource: method}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		a.Peer = p.Addr.String()
	}
	return a
}

// refusal is the only place that answers one; the class is all that it tells.
func refusal(err error) error {
	if e, ok := errors.AsType[*verifier.Error](err); ok {
		code := codes.Unauthenticated
		if e.Reason == verifier.KeysUnavailable {
			code = codes.Unavailable
		}
		return status.Error(code, e.Class())
	}
	if errors.Is(err, verifier.ErrNoCredential) {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}
