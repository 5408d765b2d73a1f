package bucket

import "sync/atomic"

// Method is the kind of a call, as errors, counters and faults name it.
type Method string

// The methods. Get is [Bucket.GetVersion] too; Head is [Bucket.Stat]; List is one page of [Bucket.Walk] or
// [Bucket.List].
const (
	Get      Method = "get"
	GetRange Method = "get range of"
	Head     Method = "stat"
	List     Method = "list"
	PutNew   Method = "put new"
	Put      Method = "put"
	Replace  Method = "replace"
	Delete   Method = "delete"
	Sign     Method = "sign"
)

// Requests counts what was asked of a store since it was opened, by class.
// What SDKs repeat by themselves is not seen; reads that this package adds (to
// see whether an ambiguous write happened, whether a bucket is still there) are.
// On folders and in memory a list request is counted per thousand keys, so that
// the cost of the same work in a cloud can be read off.
type Requests struct {
	Get    int64 // whole objects and ranges
	Head   int64
	List   int64 // pages
	Put    int64 // PutNew, Put and Replace
	Delete int64
	// Errors are the calls that failed; "not there", "already there" and
	// "has changed" are answers and count in Misses.
	Errors int64
	Misses int64
	// BytesRead and BytesWritten are contents, without headers.
	BytesRead, BytesWritten int64
}

// ReadClass is the number of requests billed at the price of a read: class B of
// Google, GET of Amazon, read of Azure.
func (r Requests) ReadClass() int64 { return r.Get + r.Head }

// WriteClass is the number of requests billed at the price of a write or a list,
// about twelve times a read: class A of Google, PUT and LIST of Amazon.
// Deletions cost nothing.
func (r Requests) WriteClass() int64 { return r.Put + r.List }

// Cost is what these requests cost at prices for a thousand requests of each
// class, in the currency of the prices. Amazon's standard prices in 2026 were
// 0.0004 and 0.005 dollars.
func (r Requests) Cost(perThousandReads, perThousandWrites float64) float64 {
	return (float64(r.ReadClass())*perThousandReads + float64(r.WriteClass())*perThousandWrites) / 1000
}

// Since returns what was asked after the earlier count was taken.
func (r Requests) Since(earlier Requests) Requests {
	return Requests{
		Get:          r.Get - earlier.Get,
		Head:         r.Head - earlier.Head,
		List:         r.List - earlier.List,
		Put:          r.Put - earlier.Put,
		Delete:       r.Delete - earlier.Delete,
		Errors:       r.Errors - earlier.Errors,
		Misses:       r.Misses - earlier.Misses,
		BytesRead:    r.BytesRead - earlier.BytesRead,
		BytesWritten: r.BytesWritten - earlier.BytesWritten,
	}
}

// meter is the live form of Requests.
type meter struct {
	get, head, list, put, del, errors, misses, read, written atomic.Int64
}

func (m *meter) requests() Requests {
	return Requests{
		Get: m.get.Load(), Head: m.head.Load(), List: m.list.Load(), Put: m.put.Load(), Delete: m.del.Load(),
		Errors: m.errors.Load(), Misses: m.misses.Load(), BytesRead: m.read.Load(), BytesWritten: m.written.Load(),
	}
}

func (m *meter) count(method Method) {
	switch method {
	case Get, GetRange:
		m.get.Add(1)
	case Head:
		m.head.Add(1)
	case List:
		m.list.Add(1)
	case PutNew, Put, Replace:
		m.put.Add(1)
	case Delete:
		m.del.Add(1)
	}
}
