package api

import (
	"context"
	"net/http"
	"time"

	"github.com/gridwire/gridwire/agent/usage"
)

// UsageRequest is the body of POST /v1/usage.
type UsageRequest struct {
	Since time.Time `json:"since"`
}

// The shapes of a report and of what it proves are those of the package that makes and checks them.
type (
	UsageReport   = usage.Report
	UsageRow      = usage.ReportRow
	UsageFindings = usage.Findings
)

// The states of an hour that the command line tells apart.
const (
	UsageAgreed      = usage.Agreed
	UsageDiverging   = usage.Diverging
	UsageRefused     = usage.Refused
	UsageUnconfirmed = usage.Unconfirmed
)

// VerifyUsage checks a report, offline.
func VerifyUsage(report []byte) (*UsageFindings, error) { return usage.Verify(report) }

// UsageHandlers answer about usage.
type UsageHandlers struct {
	Report func(context.Context, UsageRequest) (*UsageReport, error)
}

func (h UsageHandlers) routes(m *http.ServeMux) { m.HandleFunc("POST /v1/usage", post(h.Report)) }
