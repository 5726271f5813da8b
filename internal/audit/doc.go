// Package audit is the tamper-evident, append-only log of decisions: it writes
// records, signs checkpoints over them, reads them back and verifies them.
//
// It decides nothing and knows no policy: internal/guard is its only writer.
// It seals payloads through a Sealer and signs through a note.Signer that others
// implement, and it does not lock its directory: the owner of data_dir does.
// It never cleans text for a terminal; whoever prints a record must.
//
// # The directory
//
//	segments/<first seq, 12 digits>.seg   the truth: frames and nothing else, of at most 16,384 entries
//	tile/<L>/<N>[.p/<W>]                  derived: the Merkle tree, as c2sp.org/tlog-tiles has it
//	tile/entries/<N>[.p/<W>]              derived: the leaves, 256 in each entry bundle
//	checkpoint                            the signed head, a C2SP note
//	checkpoint.pub                        the note verifier key of its signer, and a newline
//	cosigned                              a checkpoint that witnesses have signed, too (internal/audit/witness)
//	periods/<days since 1970-01-01 UTC>   that day's payload key, sealed by the Sealer
//	reserved                              u64: numbers below it may have been given to Buffered records; u32: CRC-32C of it
//	erasing                               while payloads are being erased: which entries, "7" or "9-12" a line
//	torn-<seq>-<unix nanoseconds>         what a crash left behind entry seq-1, kept, not part of the log
//
// A segment begins with an entry whose number is a multiple of 256. It ends after 16,384
// entries, or at a multiple of 256 when another day has begun. The first segments may be
// gone, by Prune: then their tiles of hashes are still there, their entry bundles not.
//
// # A frame
//
// One entry is one frame; numbers are big endian:
//
//	u32    length of the sealed payload, 32 to 65,568
//	u16    length of the leaf, at least 1
//	u32    CRC-32C over the six bytes above and the leaf
//	       the leaf
//	u32    CRC-32C over the sealed payload
//	       the sealed payload
//
// There are two checksums because a payload can be erased in place: its checksum
// and all its bytes are overwritten with zeros, its length stays. The leaf and
// every proof over it stay whole. Only an entry that a checkpoint covers may be
// erased; beyond it zeros are what a power cut leaves.
//
// # A leaf
//
// The leaf is the record's header as compact JSON, in this order, empty members
// (decision, rule, service, policy) left out:
//
//	{"v":1,"seq":0,"time":"2026-08-01T00:00:00.5Z","kind":"admit","decision":"allow",
//	 "rule":"…","service":"…","policy":"<revision>","payload":"<commitment>"}
//
// with time in UTC as RFC 3339 without trailing zeros, kind one of admit, refuse,
// check, close and note, decision allow or deny, and strings quoted as in RFC 8785
// section 3.2.2.2. Version 2 is the same for the kind gap, and for nothing else: an
// entry whose number a killed process had given out. A reader accepts no other spelling, so that a leaf means one
// thing. Its bytes are the truth: tree hashes are taken over them as they lie.
//
// # A payload
//
// The payload is JSON whose first member is "salt": 32 random bytes, new for each
// record, in unpadded base64url. The commitment in the leaf is the SHA-256 of the
// payload's JSON text as it stands, in unpadded base64url. So whoever is shown one
// payload checks it with a hash tool and nothing else, and a payload that is gone
// cannot be guessed from its commitment, because the salt is gone with it.
//
// Sealed it is
//
//	u32    period: the days since 1970-01-01 UTC of the leaf's time
//	12     nonce, random
//	       AES-256-GCM ciphertext
//	16     tag
//
// with the origin's bytes and the period as u32 for additional data. The key is 32
// random bytes that periods/<period> holds, sealed by the Sealer with the context
// "sallyport audit period key\n<origin>\n<period>\n". Deleting that file makes the
// period unreadable and leaves proofs whole; delete none of the current period.
//
// # The tree and the checkpoint
//
// The Merkle tree is that of RFC 6962 section 2.1 over the leaves. Its tiles are made
// from the segments before each checkpoint, and made anew when they are missing; of
// partial tiles those of the last two checkpoints are kept.
//
// The checkpoint is a signed note (c2sp.org/tlog-checkpoint) of three lines: origin,
// number of entries, root hash in base64. The signing key is named after the origin.
// It is replaced by rename, and only after fdatasync of every entry it covers, so no
// crash leaves a checkpoint over entries that are not there.
//
// # An export
//
// Line and Export say what a line of an export is. One that is verified needs the hashes
// of what comes before and after it: the roots of the complete subtrees that these
// entries consist of, from left to right, largest where they can be.
//
// # What it promises
//
// An Append that returned nil is in the log after the process is killed, and with
// Synced after a power cut; one that was Buffered is there or a gap is. An Append that failed may still be found in the log
// after a restart (a disk can do a thing and report that it did not); a reader
// beside the writer may see such an entry before it is withdrawn. Entries below the
// checkpoint never change. Who holds the signing key can rewrite everything, unless
// someone else kept a checkpoint.
package audit
