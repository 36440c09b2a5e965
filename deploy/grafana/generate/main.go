// Command generate writes the Grafana dashboards in deploy/grafana/dashboards (`go generate ./deploy/...`).
//
// The JSON that it writes is what is shipped; nobody edits it. This program owns the definitions: one file for each dashboard, and what
// they share in panels.go. It uses Grafana's own typed definitions, so that a misspelt option does not compile. The agent never links it.
package main

//go:generate go run . ../dashboards

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func write(folder string) error {
	files, err := generate()
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns each dashboard's file name and content.
func generate() (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, define := range []func() (string, *builder){overview, link, node, capacity} {
		name, defined := define()
		built, err := defined.Build()
		if err != nil {
			return nil, fmt.Errorf("build the dashboard %s: %w", name, err)
		}
		finish(&built)
		text, err := encode(built)
		if err != nil {
			return nil, fmt.Errorf("build the dashboard %s: %w", name, err)
		}
		out[name+".json"] = text
	}
	return out, nil
}

// finish gives panels their IDs, by which a link to one of them finds it, and brings links and marks out of the menu where the definitions' own
// default hides them.
func finish(d *classic) {
	for i, p := range d.Panels {
		id := uint32(i + 1)
		if p.RowPanel != nil {
			p.RowPanel.Id = id
			continue
		}
		p.Panel.Id = &id
	}
	for i := range d.Links {
		d.Links[i].Placement = nil
	}
	for i := range d.Annotations.List {
		d.Annotations.List[i].Placement = nil
	}
}

func encode(d classic) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a query has to be readable in a diff
	e.SetIndent("", "  ")
	err := e.Encode(d)
	if !json.Valid(b.Bytes()) {
		err = errors.Join(err, errors.New("not JSON"))
	}
	return b.Bytes(), err
}
