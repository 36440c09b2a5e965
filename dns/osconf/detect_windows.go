package osconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// System is the machine this program runs on.
func System(log *slog.Logger) Env {
	return Env{Root: `\`, Run: run, Exists: interfaceExists, Registry: openRegistry, Refresh: flushResolver, Log: log}
}

// Detect returns the one mechanism that Windows has for single domains.
func Detect(e Env) (Manager, error) { return newKeeper(&nrpt{e}), nil }

// Restore deletes the rules of agents that were killed: those with the mark of an interface that exists no more.
func Restore(ctx context.Context, e Env) (done []string, err error) { return restoreNRPT(ctx, e) }

// flushResolver makes the resolver forget its answers, and group policies be read again in case our rule is among them.
func flushResolver(ctx context.Context) error {
	if ok, _, err := windows.NewLazySystemDLL("dnsapi.dll").NewProc("DnsFlushResolverCache").Call(); ok == 0 {
		return fmt.Errorf("flush the resolver's cache: %w", err)
	}
	const force = 1
	if ok, _, err := windows.NewLazySystemDLL("userenv.dll").NewProc("RefreshPolicyEx").Call(1, force); ok == 0 {
		return fmt.Errorf("refresh the policies: %w", err)
	}
	return ctx.Err()
}

func openRegistry(path string) (Registry, error) { return regFolder(path), nil }

// regFolder is a path below HKEY_LOCAL_MACHINE. Keys are opened per operation: there are few, and none is held while others change it.
type regFolder string

func (f regFolder) Folders() ([]string, error) {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, string(f), registry.READ)
	if errors.Is(err, registry.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return k.ReadSubKeyNames(-1)
}

func (f regFolder) Read(folder string) (map[string]any, error) {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, string(f)+`\`+folder, registry.READ)
	if errors.Is(err, registry.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer k.Close()
	names, err := k.ReadValueNames(-1)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	for _, name := range names {
		_, kind, err := k.GetValue(name, nil)
		if err != nil {
			return nil, err
		}
		switch kind {
		case registry.DWORD:
			n, _, err := k.GetIntegerValue(name)
			if err != nil {
				return nil, err
			}
			values[name] = uint32(n)
		case registry.SZ:
			if values[name], _, err = k.GetStringValue(name); err != nil {
				return nil, err
			}
		case registry.MULTI_SZ:
			if values[name], _, err = k.GetStringsValue(name); err != nil {
				return nil, err
			}
		}
	}
	return values, nil
}

func (f regFolder) Write(folder string, values map[string]any) error {
	k, _, err := registry.CreateKey(registry.LOCAL_MACHINE, string(f)+`\`+folder, registry.WRITE)
	if err != nil {
		return err
	}
	defer k.Close()
	for name, value := range values {
		switch v := value.(type) {
		case uint32:
			err = k.SetDWordValue(name, v)
		case string:
			err = k.SetStringValue(name, v)
		case []string:
			err = k.SetStringsValue(name, v)
		default:
			err = fmt.Errorf("a value of type %T", value)
		}
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func (f regFolder) Delete(folder string) error {
	err := registry.DeleteKey(registry.LOCAL_MACHINE, string(f)+`\`+folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f regFolder) Close() error { return nil }

// Left says nothing here: a rule is only looked for in order to be deleted.
func Left(Env) []string { return nil }
