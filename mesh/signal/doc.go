// Package signal carries a sealed envelope to a member, by way of others if need be.
//
//	sender ---- direct stream ---------------------------> receiver
//	   |------> forwarder ------------------------------>      (one forwarder)
//	   '------> forwarder -----> forwarder ------------->      (two, never more)
//
// A Signal (ICE offer, answer, a request to test reachability) is sealed to the receiver and signed by the sender; forwarders see who
// writes to whom and how much, and can drop or repeat it, but neither read nor alter it. The same envelope may arrive by several ways;
// the receiver takes the first. Replays beyond the memory of the deduplication are possible, so a Signal carries a session and a boot
// number, by which its reader drops old ones; a time limit would cut off members whose clocks are wrong.
//
// The package owns the tables of envelopes seen and of rates, both of fixed size. It never opens a connection itself and decides
// nothing about membership: the Carrier and the View do. It starts nothing; Send and Handle end all that they start.
package signal
