package issuer

// MintedFor returns how many tokens are held for an account.
func (i *Issuer) MintedFor(account string) int {
	i.minted.mu.RLock()
	defer i.minted.mu.RUnlock()
	return len(i.minted.held[account])
}
