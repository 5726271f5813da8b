package policy

// Recorded returns the values of v that every record of an attempt may hold, by
// the names that conditions use; nil for a protocol without any.
func Recorded(v Vars) map[string]string {
	if v == nil {
		return nil
	}
	out := map[string]string{}
	for i := range families {
		for _, known := range families[i].vars {
			if text, ok := v.value(known.name); ok && known.record == known.name {
				out[known.name] = text
			}
		}
	}
	return out
}
