package osconf

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// A block is lines of ours in a file of others, or the whole of a file of ours:
//
//	# >>> gridwire gw0 1a2b3c4d: these lines are gridwire's, which takes them out again; put your own outside
//	nameserver fd12:3456:789a::1
//	# <<< gridwire gw0
//
// The number is a checksum of the lines between, so that we know whether they are still as we wrote them. A line of others that must
// not take effect meanwhile stays where it is, behind a mark:
//
//	#gridwire gw0# options rotate
const (
	opener = "# >>> gridwire "
	closer = "# <<< gridwire "
	advice = ": these lines are gridwire's, which takes them out again; put your own outside"
)

func silencer(iface string) string { return "#gridwire " + iface + "# " }

// block returns the marked lines; body is whole lines.
func block(iface, body string) string {
	return opener + iface + " " + checksum(body) + advice + "\n" + body + closer + iface + "\n"
}

func checksum(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:4])
}

// mark is a block found in a text.
type mark struct {
	iface      string
	body       string
	start, end int  // offsets of the block
	intact     bool // as we wrote it; otherwise body and end mean nothing
}

// marks finds all blocks. One that is not closed, or was changed, is not intact.
func marks(text string) []mark {
	var found []mark
	at := 0
	for at < len(text) {
		end := lineEnd(text, at)
		iface, sum, ok := parseOpener(text[at:end])
		if !ok {
			at = end
			continue
		}
		m := mark{iface: iface, start: at, end: end}
		for i := end; i < len(text); {
			next := lineEnd(text, i)
			line := text[i:next]
			if line == closer+iface+"\n" {
				m.body, m.end = text[end:i], next
				m.intact = checksum(m.body) == sum && text[at:end] == opener+iface+" "+sum+advice+"\n"
				break
			}
			if strings.HasPrefix(line, opener) {
				break
			}
			i = next
		}
		found = append(found, m)
		at = m.end
	}
	return found
}

func parseOpener(line string) (iface, sum string, ok bool) {
	rest, ok := strings.CutPrefix(line, opener)
	if !ok {
		return "", "", false
	}
	rest, _, _ = strings.Cut(strings.TrimRight(rest, "\r\n"), ":")
	iface, sum, _ = strings.Cut(rest, " ")
	return iface, sum, checkInterface(iface) == nil
}

func lineEnd(text string, at int) int {
	if n := strings.IndexByte(text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(text)
}

// find returns an interface's block.
func find(text, iface string) (mark, bool) {
	for _, m := range marks(text) {
		if m.iface == iface {
			return m, true
		}
	}
	return mark{}, false
}

// strip takes a block out, and gives the lines it had silenced their meaning again.
func strip(text string, m mark) string {
	text = text[:m.start] + text[m.end:]
	var b strings.Builder
	for line := range strings.SplitAfterSeq(text, "\n") {
		b.WriteString(strings.TrimPrefix(line, silencer(m.iface)))
	}
	return b.String()
}

// foreign returns a text without any of our blocks, changed or not: what others want.
func foreign(text string) string {
	for {
		found := marks(text)
		if len(found) == 0 {
			return text
		}
		text = strip(text, found[len(found)-1])
	}
}
