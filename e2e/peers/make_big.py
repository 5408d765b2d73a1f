#!/usr/bin/env python3
"""Write a big database with the real SlateDB core and time the core's own reads of it.

    python3 -m venv v && v/bin/pip install slatedb==0.17.0
    v/bin/python make_big.py FOLDER [--rows 1000000] [--value 100] [--l0-mib 16] [--gets 10000] [--codec Zstd] [--only-time]

FOLDER/live     N rows under random keys of 16 bytes, values of about 100 bytes, compacted by the core as it sees fit
FOLDER/deleted  the same rows, then a tombstone for each, nothing compacted: a scan of it reads 2 N rows and returns none, so
                what it costs is the core alone, without what it takes to hand a row to Python
Prints one JSON object: rows and bytes, and seconds of the best of three
  scan           of live, by next_batch with its largest useful batch
  scan_one       of live, by next (one call into the core for each row), over at most 100 000 rows, scaled to all
  scan_deleted   of deleted, to its (empty) end; _cpu: the processor seconds of one, all threads, for busy machines
  crossing       one call of next that finds nothing to do
  gets, gets16   point reads of keys that are there, one after the other and 16 at a time, per second, blocks cached by default
Then run: QUARRY_BENCH_DB=FOLDER go test -run '^$' -bench Big ./pkg/slatedb
"""
import argparse, asyncio, hashlib, json, os, random, time

import slatedb.uniffi as u

p = argparse.ArgumentParser()
p.add_argument("folder")
p.add_argument("--rows", type=int, default=1_000_000)
p.add_argument("--value", type=int, default=100)
p.add_argument("--l0-mib", type=int, default=16)
p.add_argument("--gets", type=int, default=10_000)
p.add_argument("--codec")
p.add_argument("--only-time", action="store_true")
a = p.parse_args()
os.makedirs(a.folder, exist_ok=True)
os.environ["CLOUD_PROVIDER"], os.environ["LOCAL_PATH"] = "local", a.folder
store = u.ObjectStore.from_env(None)
ALL = u.KeyRange(start=None, start_inclusive=True, end=None, end_inclusive=True)


def key(i):
    return hashlib.md5(b"%d" % i).digest()


def settings(compact):
    s = json.loads(u.Settings.default().to_json_string())
    s["garbage_collector_options"] = None
    s["l0_sst_size_bytes"] = a.l0_mib << 20
    s["l0_max_ssts"] = 1000
    s["l0_max_ssts_per_key"] = 1000
    s["compression_codec"] = a.codec
    if compact:
        c = s["compactor_options"]
        c["poll_interval"] = c["commit_compacted_interval"] = "100ms"
        c["worker"]["compactions_poll_interval"] = "100ms"
        c["worker"]["compression_codec"] = a.codec
    else:
        s["compactor_options"] = None
    return u.Settings.from_json_string(json.dumps(s))


async def flush(db):
    await db.flush_with_options(u.FlushOptions(flush_type=u.FlushType.MEM_TABLE))


async def write(root, delete):
    b = u.DbBuilder(root, store)
    b.with_settings(settings(not delete))
    db = await b.build()
    rng = random.Random(1)
    for erase in ([False, True] if delete else [False]):
        handle = None
        for lo in range(0, a.rows, 1000):
            batch = u.WriteBatch()
            for i in range(lo, min(lo + 1000, a.rows)):
                if erase:
                    batch.delete(key(i))
                else:
                    batch.put(key(i), rng.randbytes(a.value - 20 + rng.randrange(41)))
            handle = await db.write_with_options(batch, u.WriteOptions())
        if hasattr(handle, "await_durable"):
            await handle.await_durable()  # from 0.16 a write returns before that
        await flush(db)
    if not delete:
        await asyncio.sleep(3)  # let the compactor finish what it began
    await db.shutdown()


async def best(times, f):
    seconds = []
    for _ in range(times):
        seconds.append(await f())
    return min(seconds)


async def main():
    if not a.only_time:
        await write("live", False)
        await write("deleted", True)
    reader = {}
    for root in ("live", "deleted"):
        b = u.DbReaderBuilder(root, store)
        if hasattr(u.ReaderMode, "FOLLOW_LATEST"):
            b.with_reader_mode(u.ReaderMode.FOLLOW_LATEST())
        reader[root] = await b.build()
    options = [u.ScanOptions(durability_filter=u.DurabilityLevel.REMOTE, dirty=False, read_ahead_bytes=n, cache_blocks=False, max_fetch_tasks=4)
               for n in (1, 256 << 10, 4 << 20)]
    out = {"slatedb": "", "rows": 0, "bytes": 0, "codec": a.codec}

    async def scan(o, size):
        it = await reader["live"].scan_with_options(ALL, o)
        t, n, bytes_ = time.perf_counter(), 0, 0
        while rows := await it.next_batch(size):
            n += len(rows)
            for r in rows:
                bytes_ += len(r.key) + len(r.value)
        out["rows"], out["bytes"] = n, bytes_
        return time.perf_counter() - t

    async def scan_one():
        it = await reader["live"].scan_with_options(ALL, options[1])
        t, n = time.perf_counter(), 0
        while n < 100_000 and (await it.next()) is not None:
            n += 1
        return (time.perf_counter() - t) * a.rows / n

    async def scan_deleted(o):
        it = await reader["deleted"].scan_with_options(ALL, o)
        t, cpu = time.perf_counter(), time.process_time()
        assert await it.next() is None
        out["scan_deleted_cpu"] = min(out.get("scan_deleted_cpu", 1e9), time.process_time() - cpu)
        return time.perf_counter() - t

    async def gets(at_once):
        rng = random.Random(2)
        keys = [key(rng.randrange(a.rows)) for _ in range(a.gets)]
        t = time.perf_counter()
        for lo in range(0, len(keys), at_once):
            for v in await asyncio.gather(*(reader["live"].get(k) for k in keys[lo:lo + at_once])):
                assert v is not None
        return len(keys) / (time.perf_counter() - t)

    out["gets"] = await gets(1)
    out["gets16"] = await gets(16)
    out["scan"] = min([await best(3, lambda o=o: scan(o, 1000)) for o in options])
    out["scan_one"] = await scan_one()
    out["scan_deleted"] = min([await best(3, lambda o=o: scan_deleted(o)) for o in options])
    it = await reader["live"].scan(u.KeyRange(start=b"\xff" * 17, start_inclusive=True, end=None, end_inclusive=True))
    await it.next()
    t = time.perf_counter()
    for _ in range(10_000):
        await it.next()
    out["crossing"] = (time.perf_counter() - t) / 10_000
    import importlib.metadata
    out["slatedb"] = importlib.metadata.version("slatedb")
    for r in reader.values():
        await r.shutdown()
    print(json.dumps({k: round(v, 7) if isinstance(v, float) else v for k, v in out.items()}))


asyncio.run(main())
