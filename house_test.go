// Package gridwire_test guards the house: which way imports run, and how much one type, file or function can touch.
package gridwire_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

const module = "github.com/gridwire/gridwire/"

// The budget for reach (docs/how-it-works.md): what separates code that lives long from code that does not is how much one type can touch.
const (
	maxFields    = 20
	maxMethods   = 30
	maxImports   = 12 // of this project, into one package
	maxFileLines = 500
	maxFuncLines = 80
)

// exempt says who may exceed what, and why.
var exempt = map[string]string{
	"imports agent":     "builds and connects all parts: that is its one task",
	"imports e2e":       "tests may use anything",
	"imports e2e/bench": "measures anything",
	"imports e2e/demo":  "shows anything",
}

// rooms are the top-level packages, and which of the others each may import. Everything else is a mistake in the direction: state goes
// down by plain call, news goes up as a value, nothing goes sideways. So that mesh can be read without nat, and replaced without agent.
var rooms = map[string][]string{
	"mesh":  {},
	"nat":   {},
	"dns":   {},
	"agent": {"mesh", "nat", "dns"},
	"cmd":   {"agent", "mesh"}, // mesh for names and tokens: the command line checks its input before it asks an agent
	"e2e":   {"mesh", "nat", "dns", "agent", "cmd"},
}

type pkg struct {
	dir     string
	imports map[string]bool
	methods map[string]int
}

func TestHouse(t *testing.T) {
	fset := token.NewFileSet()
	pkgs := map[string]*pkg{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, ".pb.go"):
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(p))
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{dir: dir, imports: map[string]bool{}, methods: map[string]int{}}
		}
		checkFile(t, fset, p, f, pkgs[dir])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 20 {
		t.Fatalf("found %d packages only: is this the root of the tree?", len(pkgs))
	}
	for _, p := range pkgs {
		checkPackage(t, p)
	}
}

func checkFile(t *testing.T, fset *token.FileSet, name string, f *ast.File, p *pkg) {
	if n := fset.File(f.Pos()).LineCount(); n > maxFileLines {
		t.Errorf("%s has %d lines, the budget is %d: split it by concern", name, n, maxFileLines)
	}
	test := strings.HasSuffix(name, "_test.go")
	if !test {
		for _, imp := range f.Imports {
			if rest, ok := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module); ok {
				p.imports[rest] = true
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1; lines > maxFuncLines && !test {
				t.Errorf("%s: %s has %d lines, the budget is %d", name, n.Name.Name, lines, maxFuncLines)
			}
			if n.Recv != nil && !test {
				p.methods[receiver(n.Recv.List[0].Type)]++
			}
		case *ast.TypeSpec:
			if s, ok := n.Type.(*ast.StructType); ok && !test {
				if c := s.Fields.NumFields(); c > maxFields && !value(name, n.Name.Name) {
					t.Errorf("%s: %s has %d fields, the budget is %d: split it by concern", name, n.Name.Name, c, maxFields)
				}
			}
		}
		return true
	})
}

// value reports whether a struct is a plain record of a contract, which nobody can make smaller.
func value(file, name string) bool {
	return strings.HasSuffix(file, "agent/api/types.go") || file == "mesh/mesh.go" && name == "Member"
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

func checkPackage(t *testing.T, p *pkg) {
	room, _, _ := strings.Cut(p.dir, "/")
	var names []string
	for imp := range p.imports {
		names = append(names, imp)
		other, _, _ := strings.Cut(imp, "/")
		if other == room || room == "." {
			continue
		}
		allowed := false
		for _, r := range rooms[room] {
			allowed = allowed || r == other
		}
		if !allowed {
			t.Errorf("%s imports %s: %s may import %v and itself. State goes down by plain call, news goes up as a value, nothing goes sideways",
				p.dir, imp, room, rooms[room])
		}
	}
	sort.Strings(names)
	if _, ok := exempt["imports "+p.dir]; !ok && len(names) > maxImports {
		t.Errorf("%s imports %d packages of this project, the budget is %d: %s", p.dir, len(names), maxImports, strings.Join(names, ", "))
	}
	for typ, n := range p.methods {
		if n > maxMethods {
			t.Errorf("%s.%s has %d methods, the budget is %d: split it by concern", p.dir, typ, n, maxMethods)
		}
	}
}
