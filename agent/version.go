package agent

// Version is set by the Makefile (-ldflags -X) from git.
var Version = "dev"
