package api

// Route is a network behind a member, in `status --json`.
type Route struct {
	Prefix  string   `json:"prefix"`
	State   string   `json:"state"`         // own, active, unreachable, local, off
	Via     string   `json:"via,omitempty"` // the member that packets to it go to
	Routers []string `json:"routers"`       // all members that may route it, the better first
	Reason  string   `json:"reason,omitempty"`
}
