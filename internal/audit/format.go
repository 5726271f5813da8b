package audit

import (
	"hash/crc32"
	"time"
)

// The format. It cannot be migrated: a change here needs a new leaf version.
const (
	leafVersions = 2 // see versionOf

	// entries of one segment file: 64 bundles of 256 (c2sp.org/tlog-tiles)
	segmentEntries = 64 * bundleEntries
	bundleEntries  = 256

	frameHead = 4 + 2 + 4 // bytes before the leaf: two lengths and their checksum
	frameSum  = 4         // bytes between leaf and sealed payload
	maxLeaf   = 1<<16 - 1 // bytes; an entry of a C2SP bundle has a u16 length

	saltSize   = 32       // bytes
	keySize    = 32       // bytes, AES-256
	maxPayload = 64 << 10 // bytes of JSON
	periodHead = 4        // bytes of the period number before the nonce
	sealCost   = 12 + 16  // bytes of nonce and tag
	minSealed  = periodHead + sealCost
	maxSealed  = maxPayload + minSealed
	maxFrame   = frameHead + maxLeaf + frameSum + maxSealed
	period     = 24 * time.Hour

	keyContext = "sallyport audit period key\n" // before origin and period
)

// Limits on text, in bytes. Longer text is cut, never refused: nobody may dodge a
// record by sending odd bytes.
const (
	maxText       = 4 << 10 // a string of a payload
	maxUnverified = 256     // a key or value of Payload.Unverified

	// a string of a leaf: three of these, each byte escaped to six, fit maxLeaf,
	// so a leaf is never too long
	maxLeafText = 1 << 10
)

// Names in the log directory.
const (
	segmentsDir    = "segments"
	segmentSuffix  = ".seg"
	segmentDigits  = 12
	periodsDir     = "periods"
	tilesDir       = "tile"
	entriesName    = "entries"
	partialSuffix  = ".p"
	erasingFile    = "erasing"
	reservedFile   = "reserved"
	checkpointFile = "checkpoint"
	publicFile     = "checkpoint.pub"
	tornPrefix     = "torn-"
	tempSuffix     = ".tmp"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// periodOf returns the days between the Unix epoch and t, in UTC.
func periodOf(t time.Time) uint32 { return uint32(t.Unix() / int64(period/time.Second)) }
