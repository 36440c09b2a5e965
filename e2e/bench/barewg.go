//go:build linux

package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// bareCommand makes this program a bare WireGuard: wireguard-go as gridwire links it, with its own socket and nothing beside it.
const bareCommand = "bare-wireguard"

// bare runs until it is told to end: INTERFACE MTU PORT PRIVATE-KEY PEER-KEY PEER-ENDPOINT, keys in hexadecimal. It says "ready" when
// packets may come; addresses are given by whoever started it.
func bare(args []string) error {
	if len(args) != 6 {
		return errors.New("want INTERFACE MTU PORT PRIVATE-KEY PEER-KEY PEER-ENDPOINT")
	}
	mtu, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	t, err := tun.CreateTUN(args[0], mtu)
	if err != nil {
		return err
	}
	dev := device.NewDevice(t, conn.NewStdNetBind(), device.NewLogger(device.LogLevelError, "bare: "))
	defer dev.Close()
	err = dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=::/0\n", args[3], args[2], args[4], args[5]))
	if err != nil {
		return err
	}
	if err := dev.Up(); err != nil {
		return err
	}
	fmt.Println("ready")
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	<-end
	return nil
}

// keys is an X25519 key pair in hexadecimal.
type keys struct{ private, public string }

func newKeys() (keys, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return keys{}, err
	}
	return keys{hex.EncodeToString(k.Bytes()), hex.EncodeToString(k.PublicKey().Bytes())}, nil
}

const (
	bareInterface = "bare0"
	barePort      = 51820
)

// bareAddr is the inner address of each end: IPv6, as gridwire's is.
var bareAddr = [2]netip.Addr{netip.MustParseAddr("fd00:ba3e::1"), netip.MustParseAddr("fd00:ba3e::2")}
