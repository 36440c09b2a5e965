package wire

import "fmt"

// MaxConnected bounds Record.devices: 8 KiB of a record.
const MaxConnected = 256

func checkConnected(keys [][]byte) error {
	if err := checkMax("connected devices", len(keys), MaxConnected); err != nil {
		return err
	}
	for i, key := range keys {
		if err := checkLen(fmt.Sprintf("connected device %d: WireGuard key", i), key, 32); err != nil {
			return err
		}
	}
	return nil
}
