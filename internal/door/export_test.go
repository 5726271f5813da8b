package door

// Kept returns for how many uids something is kept.
func (p *Places) Kept() int { return len(p.held) }

// Kept returns for how many uids something is kept.
func (t *Turns) Kept() int { return len(t.held) }
