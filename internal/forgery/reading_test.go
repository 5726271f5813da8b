package forgery_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// object reads one JSON object, with each name once.
func (r *receiver) object(text []byte) (map[string]any, error) {
	text = r.loosen(text)
	if !utf8.Valid(text) && !r.has("json-bad-utf8") {
		return nil, errors.New("not UTF-8")
	}
	if loneSurrogate(text) && !r.has("json-lone-surrogate") {
		return nil, errors.New("half of a pair of UTF-16")
	}
	if r.has("json-trailing") {
		var first json.RawMessage
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&first); err != nil {
			return nil, err
		}
		text = first
	}
	if !json.Valid(text) {
		return nil, errors.New("not JSON")
	}
	if r.has("json-folds") {
		return folded(text)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := r.value(d)
	if err != nil {
		return nil, err
	}
	if r.has("json-unwraps") {
		v = unwrap(v)
	}
	if list, ok := v.([]any); ok && r.has("json-pairs") {
		m := map[string]any{}
		for _, pair := range list {
			if p, ok := pair.([]any); ok && len(p) == 2 {
				m[fmt.Sprint(p[0])] = p[1]
			}
		}
		v = m
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return r.hoist(m), nil
}

// hoist puts members where some programs look for them too.
func (r *receiver) hoist(m map[string]any) map[string]any {
	for name, v := range m {
		inner, nested := v.(map[string]any)
		if nested && (r.has("json-prototype") && name == "__proto__" || r.has("json-nested")) {
			for n, v := range inner {
				if _, there := m[n]; !there {
					m[n] = v
				}
			}
		}
		if short, ok := strings.CutPrefix(name, "claims."); ok && r.has("json-dotted") {
			m[short] = v
		}
	}
	return m
}

// value reads the next value of text that is known to be valid.
func (r *receiver) value(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := r.value(d)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	case json.Delim('{'):
		m := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := r.value(d)
			if err != nil {
				return nil, err
			}
			_, twice := m[name.(string)]
			if twice && !r.has("json-last-wins") && !r.has("json-first-wins") {
				return nil, errors.New("a member twice")
			}
			if !twice || r.has("json-last-wins") {
				m[name.(string)] = v
			}
		}
		_, err = d.Token()
		return m, err
	}
	return t, nil
}

// folded is what encoding/json reads into a struct: names in any case, and the
// last wins.
func folded(text []byte) (map[string]any, error) {
	var s struct {
		Alg any `json:"alg,omitempty"`
		Kid any `json:"kid,omitempty"`
		Typ any `json:"typ,omitempty"`
		Iss any `json:"iss,omitempty"`
		Sub any `json:"sub,omitempty"`
		Aud any `json:"aud,omitempty"`
		Exp any `json:"exp,omitempty"`
		Nbf any `json:"nbf,omitempty"`
		Iat any `json:"iat,omitempty"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	again, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	d = json.NewDecoder(bytes.NewReader(again))
	d.UseNumber()
	return m, d.Decode(&m)
}

func unwrap(v any) any {
	if list, ok := v.([]any); ok && len(list) == 1 {
		return list[0]
	}
	if s, ok := v.(string); ok {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var inner any
		if d.Decode(&inner) == nil {
			return inner
		}
	}
	return v
}

// loosen does what readers of JSON do that take more than JSON.
func (r *receiver) loosen(text []byte) []byte {
	s := r.nul(string(text))
	if r.has("json-bom") {
		s = strings.TrimPrefix(s, "\ufeff")
	}
	if r.has("json-utf16") && len(s) > 1 && s[1] == 0 {
		var units []uint16
		for i := 0; i+1 < len(s); i += 2 {
			units = append(units, uint16(s[i])|uint16(s[i+1])<<8)
		}
		s = string(utf16.Decode(units))
	}
	if r.has("json-prefix") {
		s = strings.TrimPrefix(s, ")]}'\n")
	}
	// strings are matched first, so that nothing within one is taken for more
	outside := func(pattern, by string) {
		re := regexp.MustCompile(`"(?:[^"\\]|\\.)*"|(?:` + pattern + `)`)
		s = re.ReplaceAllStringFunc(s, func(m string) string {
			if strings.HasPrefix(m, `"`) {
				return m
			}
			return regexp.MustCompile(`^(?:`+pattern+`)$`).ReplaceAllString(m, by)
		})
	}
	if r.has("json-comments") {
		outside(`/\*.*?\*/|//[^\n]*\n|#[^\n]*\n`, "")
	}
	if r.has("json-commas") {
		outside(`,+(,|})`, "$1")
	}
	if r.has("json-quotes") {
		outside(`'?([a-z]+)'?:`, `"$1":`)
	}
	if r.has("json-control") {
		s = strings.Map(func(c rune) rune {
			if c < ' ' {
				return ' '
			}
			return c
		}, s)
	}
	if r.has("json-numbers") {
		outside(`\+?0*([0-9]+)\.?([,}])`, "$1$2")
	}
	if r.has("json-escapes") {
		s = regexp.MustCompile(`\\x([0-9a-f]{2})`).ReplaceAllString(s, `\u00$1`)
	}
	if r.has("json-nan") {
		outside(`(NaN|Infinity)`, `"$1"`)
	}
	if r.has("json-unclosed") && !strings.HasSuffix(strings.TrimSpace(s), "}") {
		s += "}"
	}
	return []byte(s)
}

// loneSurrogate looks for \uD800 to \uDFFF that make no pair.
func loneSurrogate(text []byte) bool {
	var units []uint64
	for _, m := range regexp.MustCompile(`\\(?:u([0-9a-fA-F]{4})|.)|[^\\]+`).FindAllSubmatch(text, -1) {
		u := uint64(0)
		if m[1] != nil {
			u, _ = strconv.ParseUint(string(m[1]), 16, 16)
		}
		units = append(units, u)
	}
	for i := 0; i < len(units); i++ {
		switch {
		case units[i] >= 0xd800 && units[i] < 0xdc00 && i+1 < len(units) && units[i+1] >= 0xdc00 && units[i+1] < 0xe000:
			i++
		case units[i] >= 0xd800 && units[i] < 0xe000:
			return true
		}
	}
	return false
}
