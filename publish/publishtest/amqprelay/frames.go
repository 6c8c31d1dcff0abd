package amqprelay

import (
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"maps"
)

// The kinds of frame that are read.
const (
	frameMethod = 1
	frameHeader = 2
)

// The methods that are read: class and method.
// https://www.rabbitmq.com/amqp-0-9-1-reference
const (
	channelOpen   = 20<<16 | 10
	basicPublish  = 60<<16 | 40
	basicReturn   = 60<<16 | 50
	basicAck      = 60<<16 | 80
	basicNack     = 60<<16 | 120
	confirmSelect = 85<<16 | 10
)

// frame is a frame of AMQP 0-9-1.
type frame struct {
	kind    byte
	channel uint16
	payload []byte
	bytes   []byte // all of it
}

var errFrame = errors.New("no frame of AMQP")

func readFrame(in io.Reader) (frame, error) {
	const head, end = 7, 0xce
	bytes := make([]byte, head)
	if _, err := io.ReadFull(in, bytes); err != nil {
		return frame{}, err
	}
	size := int(binary.BigEndian.Uint32(bytes[3:]))
	bytes = append(bytes, make([]byte, size+1)...)
	if _, err := io.ReadFull(in, bytes[head:]); err != nil {
		return frame{}, err
	}
	if bytes[len(bytes)-1] != end {
		return frame{}, errFrame
	}
	return frame{kind: bytes[0], channel: binary.BigEndian.Uint16(bytes[1:]), payload: bytes[head : head+size],
		bytes: bytes}, nil
}

// method is class and method of a method's frame, or 0.
func (f frame) method() int {
	if f.kind != frameMethod || len(f.payload) < 4 {
		return 0
	}
	return int(binary.BigEndian.Uint32(f.payload))
}

func (f frame) arguments() *arguments { return &arguments{rest: f.payload[4:]} }

// messageID is the property message_id of a header's frame.
func (f frame) messageID() string {
	a := &arguments{rest: f.payload}
	a.skip(12) // class, weight, size of the body
	flags := a.short()
	for flag := uint16(1 << 15); flag > 1<<7; flag >>= 1 {
		if flags&flag == 0 {
			continue
		}
		switch flag {
		case 1 << 13: // headers
			a.skip(int(a.int()))
		case 1 << 12, 1 << 11: // delivery mode, priority
			a.skip(1)
		default:
			a.shortString()
		}
	}
	if flags&(1<<7) == 0 {
		return ""
	}
	return a.shortString()
}

// arguments reads one value after the other. Beyond the end all values are zero.
type arguments struct{ rest []byte }

func (a *arguments) skip(n int) []byte {
	n = min(n, len(a.rest))
	taken := a.rest[:n]
	a.rest = a.rest[n:]
	return taken
}

func (a *arguments) number(size int) (n uint64) {
	for _, b := range a.skip(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (a *arguments) octet() byte         { return byte(a.number(1)) }
func (a *arguments) short() uint16       { return uint16(a.number(2)) }
func (a *arguments) int() uint32         { return uint32(a.number(4)) }
func (a *arguments) long() uint64        { return a.number(8) }
func (a *arguments) shortString() string { return string(a.skip(int(a.octet()))) }

func tags(waiting map[uint64]*Copy) iter.Seq[uint64] { return maps.Keys(waiting) }
