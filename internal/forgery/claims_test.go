package forgery_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// claims looks at everything that the issuer's ID tokens have to say.
func (r *receiver) claims(text []byte) error {
	c, err := r.object(text)
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	if err := r.times(c); err != nil {
		return err
	}
	if !r.rightIssuer(c["iss"]) {
		return errors.New("iss")
	}
	if !r.rightAudience(c["aud"]) {
		return errors.New("aud")
	}
	switch sub := c["sub"].(type) {
	case string:
		if sub == "" && !r.has("sub-optional") {
			return errors.New("sub is empty")
		}
	case nil:
		if !r.has("sub-optional") {
			return errors.New("no sub")
		}
	default:
		if !r.has("sub-untyped") {
			return errors.New("sub is no string")
		}
	}
	if _, bound := c["cnf"]; bound && !r.has("cnf-ignored") {
		return errors.New("cnf")
	}
	if _, acts := c["act"]; acts && !r.has("act-ignored") {
		return errors.New("act")
	}
	return nil
}

func (r *receiver) times(c map[string]any) error {
	now, leeway := float64(r.now.Unix()), 60.0
	if r.has("leeway-long") {
		leeway = 300
	}
	falsy := func(v any) bool { return v == json.Number("0") || v == "" || v == false }
	exp, there, err := r.date(c, "exp")
	switch {
	case r.has("zero-is-absent") && falsy(c["exp"]):
		exp, there, err = now, true, nil
	case r.has("exp-optional") && c["exp"] == nil:
		exp, there, err = now, true, nil
	}
	if err != nil || !there {
		return fmt.Errorf("exp is missing, or no date: %w", err)
	}
	if now >= exp+leeway && !r.has("exp-unchecked") {
		return errors.New("exp is over")
	}
	nbf, there, err := r.date(c, "nbf")
	if err != nil || there && nbf > now+leeway && !r.has("nbf-unchecked") {
		return fmt.Errorf("nbf is to come, or no date: %w", err)
	}
	iat, there, err := r.date(c, "iat")
	if err != nil || there && iat > now+leeway && !r.has("iat-unchecked") {
		return fmt.Errorf("iat is to come, or no date: %w", err)
	}
	if !there {
		iat = now
	}
	if exp-iat > 65*60 && !r.has("lifetime-unlimited") {
		return errors.New("it lives too long")
	}
	return nil
}

// date reads a NumericDate between 1970 and 9999.
func (r *receiver) date(c map[string]any, name string) (float64, bool, error) {
	v, there := c[name]
	if !there || v == nil && r.has("null-is-absent") {
		return 0, false, nil
	}
	if list, ok := v.([]any); ok && len(list) == 1 && r.has("coerces") {
		v = list[0]
	}
	if s, ok := v.(string); ok {
		if n, err := strconv.ParseInt(s, 0, 64); err == nil && r.has("coerces") {
			v = json.Number(strconv.FormatInt(n, 10))
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && r.has("json-nan") && (s == "NaN" || s == "Infinity") {
			if math.IsInf(f, 1) && !r.has("lifetime-unlimited") {
				return 0, false, errors.New("beyond 9999")
			}
			return f, true, nil
		}
	}
	n, ok := v.(json.Number)
	switch {
	case !ok && r.has("nan-passes"):
		return math.NaN(), true, nil
	case !ok && r.has("non-numbers-skipped"):
		return 0, false, nil
	case !ok:
		return 0, false, errors.New("not a number")
	}
	if i, ok := new(big.Int).SetString(n.String(), 10); ok && r.has("int-wraps") {
		low := new(big.Int).And(i, new(big.Int).SetUint64(math.MaxUint64))
		return float64(int64(low.Uint64())), true, nil
	}
	f, _ := strconv.ParseFloat(n.String(), 64) // infinite if it is out of range
	if f < 0 && r.has("int-unsigned") {
		f += 1 << 64
	}
	if f < 0 || f > float64(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()) && !r.has("lifetime-unlimited") {
		return 0, false, errors.New("not between 1970 and 9999")
	}
	return f, true, nil
}

// narrow makes the full-width forms of ASCII narrow, which is a small part of what
// NFKC does.
func narrow(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= '！' && c <= '～' {
			return c - '！' + '!'
		}
		return c
	}, s)
}

// normal is what programs do that compare URLs and not texts.
func normal(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if u, err := url.PathUnescape(s); err == nil {
		s = u
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return strings.TrimSuffix(s, "/")
	}
	u.Host = strings.Replace(u.Host, u.Hostname(), strings.TrimSuffix(u.Hostname(), "."), 1)
	u.Path = strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	return u.String()
}

func (r *receiver) rightIssuer(v any) bool {
	if list, ok := v.([]any); ok && len(list) == 1 && r.has("coerces") {
		v = list[0]
	}
	_, host, _ := strings.Cut(r.issuer, "://")
	switch v := v.(type) {
	case nil:
		return r.has("iss-optional")
	case string:
		v = r.nul(v)
		if r.has("unicode-normalized") {
			v = narrow(v)
		}
		_, other, ok := strings.Cut(v, "://")
		if !ok {
			other = v
		}
		return v == r.issuer || r.has("iss-unchecked") || v == "" && r.has("empty-is-absent") ||
			r.has("iss-prefix") && strings.HasPrefix(v, r.issuer) || r.has("iss-contains") && strings.Contains(v, host) ||
			r.has("iss-within") && strings.Contains(r.issuer, v) || r.has("iss-host") && other == host ||
			r.has("iss-normalized") && normal(v) == normal(r.issuer)
	case []any:
		for _, e := range v {
			if e == r.issuer && r.has("iss-member") {
				return true
			}
		}
		return false
	case map[string]any:
		_, ok := v[r.issuer]
		return ok && r.has("iss-member")
	}
	return r.has("loose-equality") // true == "text", and 0 == "text" before PHP 8
}

func (r *receiver) rightAudience(v any) bool {
	if r.has("aud-unchecked") {
		return true
	}
	if s, ok := v.(string); ok && r.has("aud-parsed") {
		var list []any
		if json.Unmarshal([]byte(s), &list) == nil && len(list) > 0 {
			v = list[0]
		}
	}
	switch v := v.(type) {
	case nil:
		return r.has("aud-optional")
	case string:
		return r.rightName(v)
	case []any:
		if len(v) == 0 {
			return r.has("empty-is-absent")
		}
		if inner, ok := v[0].([]any); ok && r.has("aud-flattened") {
			v = inner
		}
		found := false
		for _, e := range v {
			s, ok := e.(string)
			if !ok && !r.has("aud-untyped") {
				return false
			}
			found = found || ok && r.rightName(s)
		}
		return found && r.has("aud-array")
	case map[string]any:
		for name, value := range v {
			if r.has("aud-object") && (name == r.audience || value == r.audience) {
				return true
			}
		}
		return false
	}
	return r.has("loose-equality")
}

func (r *receiver) rightName(s string) bool {
	s = r.nul(s)
	if r.has("unicode-normalized") {
		s = narrow(s)
	}
	want := r.audience
	switch {
	case s == want, s == "" && r.has("empty-is-absent"),
		r.has("aud-prefix") && strings.HasPrefix(s, want), r.has("aud-contains") && strings.Contains(s, want),
		r.has("aud-within") && s != "" && strings.Contains(want, s), r.has("aud-folded") && strings.EqualFold(s, want),
		r.has("aud-normalized") && normal(s) == normal(want):
		return true
	}
	if r.has("aud-split") {
		for _, one := range strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' }) {
			if one == want {
				return true
			}
		}
	}
	if r.has("aud-pattern") {
		glob, _ := regexp.MatchString("^"+strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, ".*")+"$", want)
		re, _ := regexp.MatchString("^(?:"+s+")$", want) // an error is no match
		return glob || re
	}
	return false
}
