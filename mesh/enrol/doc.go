// Package enrol admits machines to a network and renews their certificates: invitations, the enrolment protocol, both its ends
// and the member in between.
//
//	joiner                        member (forwarder)                     issuer
//	  | EnrolFrame{network, issuer, HPKE(issuer, EnrolRequest)}             |
//	  |------------------------------>|  hops+1, same bytes                 |
//	  |                               |------------------------------------>|  counts the use on disk,
//	  |                               |   EnrolResponse{HPKE(reply key,     |  then signs and answers
//	  |<------------------------------|<--------------- EnrolResult)}-------|
//
// EnrolRequest carries the CSR, a nonce and HMAC(secret, CSR, nonce): the secret itself is never sent. A renewal carries the current
// certificate chain and a signature by its key instead. The reply key travels inside the sealed request, so only the issuer can make
// an answer that opens, and the answer is bound to the CSR. What a forwarder says in clear is therefore hearsay, and Join and Renew
// go on to the next member when they hear it.
//
// The package owns the issuer's invitation state (who was invited, which uses are taken, which names and IPv4 addresses its
// certificates hold) and the files of a membership. It never opens a socket, never decides who is a member (mesh/directory does) and
// never holds the root key.
//
// An invitation's secret is not stored: it is derived from the issuer's key and the invitation's number. So the issuer can tell an
// invitation that it made and no longer knows (its state was lost or restored) from one that somebody made up.
package enrol
