package config

// KindForTest returns the description of a leaf's type.
func KindForTest(typ string) string { return kinds[typ] }
