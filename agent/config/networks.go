package config

// Networks configures access to the networks behind this node. It has no flags: it is the table [networks] of the configuration file.
type Networks struct {
	// KeepSources leaves members' addresses in packets to them as they are. Then the hosts there need a route back.
	KeepSources bool `toml:"keep-sources"`
}
