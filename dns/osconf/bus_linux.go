package osconf

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"
)

const systemSocket = "/run/dbus/system_bus_socket"

// systemBus connects to the system's bus, until ctx ends. The address is $DBUS_SYSTEM_BUS_ADDRESS or the usual socket.
func systemBus(ctx context.Context) (Bus, error) {
	if os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") == "" && shared(systemSocket) {
		return nil, errors.New("the D-Bus is the whole machine's, and this program runs in a network namespace of its own")
	}
	c, err := dbus.ConnectSystemBus(dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, fmt.Errorf("connect to D-Bus: %w", err)
	}
	return &godbus{c}, nil
}

type godbus struct{ conn *dbus.Conn }

func (b *godbus) Call(ctx context.Context, dest, path, method string, args []any, results ...any) error {
	call := b.conn.Object(dest, dbus.ObjectPath(path)).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if call.Err != nil {
		return busError(call.Err)
	}
	return call.Store(results...)
}

func (b *godbus) Property(ctx context.Context, dest, path, iface, name string) (any, error) {
	var v dbus.Variant
	err := b.Call(ctx, dest, path, "org.freedesktop.DBus.Properties.Get", []any{iface, name}, &v)
	return v.Value(), err
}

func (b *godbus) Follow(ctx context.Context, path, iface, member, arg0 string) (<-chan struct{}, error) {
	options := []dbus.MatchOption{
		dbus.WithMatchObjectPath(dbus.ObjectPath(path)), dbus.WithMatchInterface(iface), dbus.WithMatchMember(member),
	}
	if arg0 != "" {
		options = append(options, dbus.WithMatchArg(0, arg0))
	}
	signals := make(chan *dbus.Signal, 16)
	b.conn.Signal(signals)
	if err := b.conn.AddMatchSignalContext(ctx, options...); err != nil {
		b.conn.RemoveSignal(signals)
		return nil, busError(err)
	}
	news := make(chan struct{}, 1)
	// Ends when the connection does, which closes signals; whoever called Follow closes the connection.
	go func() {
		defer close(news)
		for s := range signals {
			if string(s.Path) != path || s.Name != iface+"."+member || arg0 != "" && (len(s.Body) == 0 || s.Body[0] != arg0) {
				continue // the bus tells each connection of its own name, too
			}
			select {
			case news <- struct{}{}:
			default:
			}
		}
	}()
	return news, nil
}

func (b *godbus) Close() error { return b.conn.Close() }

func busError(err error) error {
	var e dbus.Error
	if errors.As(err, &e) {
		return &BusError{Name: e.Name, Message: e.Error()}
	}
	return err
}
