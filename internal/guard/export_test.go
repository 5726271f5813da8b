package guard

import "context"

// ProveForTest is the part of Admit that the cache of tokens is for.
func (g *Guard) ProveForTest(ctx context.Context, a Attempt) error {
	_, _, err := g.prove(ctx, g.view.Load(), &a)
	return err
}

// Networks returns how many networks refusals are counted for.
func (g *Guard) Networks() int {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	return len(g.crowd.networks)
}
