package report

import (
	_ "embed"
	"html/template"
	"io"
	"time"
)

//go:embed soc2.html
var page string

// HTML writes the report as one page that needs nothing else.
func (s *SOC2) HTML(w io.Writer) error {
	t, err := template.New("soc2").Funcs(template.FuncMap{
		"time": func(t time.Time) string {
			if t.IsZero() {
				return "-"
			}
			return t.UTC().Format("2006-01-02 15:04:05 UTC")
		},
	}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, s)
}
