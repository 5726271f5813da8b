package policy

import "github.com/sallyport-dev/sallyport/internal/identity"

// fallBack decides what no written rule has: by a built-in rule, or not at all.
func (s *Snapshot) fallBack(w *walk) {
	if w.admitPublic() {
		return
	}
	if familyOf(w.q.Action) == adminFamily {
		p := &w.q.Principal
		if _, ok := s.admins[p.Name]; ok && p.Kind == identity.User && p.Provider == identity.Local {
			w.decide(adminUIDs, Allowed)
			return
		}
		w.d.Reason, w.d.Near, w.d.NearWhy = NoMatch, adminUIDs, p.ID()+" is neither the server's own uid nor among admin.uids, or the rule is off"
		return
	}
	if s.mintOwn && w.q.Principal.Kind == identity.ServiceAccount {
		why := s.ownsRefusal(w.q)
		if why == "" {
			w.decide(mintOwn, Allowed)
			return
		}
		if w.d.Near == "" && why != unrelated {
			w.d.Near, w.d.NearWhy = mintOwn, why
		}
	}
	w.d.Reason = NoMatch
	switch {
	case w.d.NearWhy != "" || w.d.Near == "":
	case w.nearErr != nil:
		w.d.NearWhy = whyFailed(w.nearErr)
	case w.failed:
		w.d.NearWhy = "its condition is false"
	default:
		w.d.NearWhy = "action " + w.q.Action + " is not in it"
	}
}

// adminFamily is the family of what administers the server, such as
// admin.keys.rotate. Only the built-in rule is about it, until there is somebody
// besides local users whom a written one could name.
const adminFamily = "admin"

// unrelated says that mint-own is not about such a query at all.
const unrelated = "it is about tokens of one's own"

// ownsRefusal returns why mint-own does not allow q, of a service account; "" if it does.
func (s *Snapshot) ownsRefusal(q *Query) string {
	mint := q.Action == "token.mint"
	switch q.Resource.Kind {
	case AccountResource:
		switch {
		case !mint && q.Action != "metadata.get":
		case q.Resource.Name == q.Principal.Name:
			return ""
		default:
			return "it is for oneself, and this is another account"
		}
	case AudienceResource:
		if !mint {
			return unrelated
		}
		if _, ok := s.audiences[q.Resource.Name]; ok {
			return ""
		}
		for _, p := range s.mintPatterns {
			if Glob(p, q.Resource.Name) {
				return ""
			}
		}
		return "the audience is of no declared service and matches none of issuer.audiences"
	}
	return unrelated
}
