#!/usr/bin/env python3
"""One piece of work for the real SlateDB core, through its Python binding, timed inside of this process.

    CLOUD_PROVIDER=local LOCAL_PATH=FOLDER python core.py WORK ROOT N SEED [FLUSH_INTERVAL]

WORK is what ours_test.go calls it; both do the same with the same keys and sizes. Prints one JSON line for each thing that
was timed: name, n (operations), bytes, seconds, cpu (processor seconds of all threads of this process); rss (KiB, the
most this process ever had) is in the last."""
import asyncio, hashlib, json, os, random, sys, time

import slatedb.uniffi as u

work, root, n, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
interval = sys.argv[5] if len(sys.argv) > 5 else "100ms"
store = u.ObjectStore.from_env(None)
ALL = u.KeyRange(start=None, start_inclusive=True, end=None, end_inclusive=True)
rng = random.Random(seed)


def key(i):
    return hashlib.md5(b"%d" % i).digest()


def rss():
    """The most that was resident, in KiB. getrusage begins with what the parent had."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))


def value():
    return rng.randbytes(100)


def settings(compact=False):
    s = json.loads(u.Settings.default().to_json_string())
    s["garbage_collector_options"] = None
    s["flush_interval"] = interval
    if compact:
        s["l0_sst_size_bytes"] = 4 << 20
        c = s["compactor_options"]
        c["poll_interval"] = c["commit_compacted_interval"] = "100ms"
        c["worker"]["compactions_poll_interval"] = "100ms"
    else:
        s["compactor_options"] = None
    return u.Settings.from_json_string(json.dumps(s))


async def open_db(compact=False):
    b = u.DbBuilder(root, store)
    b.with_settings(settings(compact))
    return await b.build()


async def open_reader():
    b = u.DbReaderBuilder(root, store)
    b.with_reader_mode(u.ReaderMode.FOLLOW_LATEST())
    return await b.build()


class timed:
    def __init__(self, name, n, bytes_=0):
        self.name, self.n, self.bytes = name, n, bytes_

    def __enter__(self):
        self.cpu, self.t = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            t, cpu = time.perf_counter() - self.t, time.process_time() - self.cpu
            print(json.dumps({"name": self.name, "n": self.n, "bytes": self.bytes, "seconds": t, "cpu": cpu, "rss": rss()}), flush=True)


async def puts(clients):
    db = await open_db()
    rows = [(key(i), value()) for i in range(n)]
    await (await db.put(b"first", b"")).await_durable()

    async def client(c):
        for k, v in rows[c::clients]:
            await (await db.put(k, v)).await_durable()

    with timed(work, n, n * 116):
        await asyncio.gather(*(client(c) for c in range(clients)))
    await db.shutdown()


async def batches(timing, compact):
    db = await open_db(compact)
    size = 1000
    made = []
    for lo in range(0, n, size):
        b = u.WriteBatch()
        for i in range(lo, min(lo + size, n)):
            b.put(key(i), value())
        made.append(b)
    if not timing:
        for b in made:
            await db.write(b)
        await db.flush_with_options(u.FlushOptions(flush_type=u.FlushType.MEM_TABLE))
        await asyncio.sleep(3)  # the compactor finishes what it began
    else:
        await (await db.put(b"first", b"")).await_durable()
        with timed(work, n, n * 116):
            for b in made:
                await (await db.write(b)).await_durable()
    await db.shutdown()


async def wals():
    """n WAL objects, and no table."""
    db = await open_db()
    for i in range(n):
        await (await db.put(key(i), value())).await_durable()
    os._exit(0)  # a close would make a table of them


async def scan():
    best = None
    for ahead in (1, 256 << 10, 4 << 20):
        r = await open_reader()
        o = u.ScanOptions(durability_filter=u.DurabilityLevel.REMOTE, dirty=False, read_ahead_bytes=ahead, cache_blocks=False, max_fetch_tasks=4)
        t, cpu = time.perf_counter(), time.process_time()
        it = await r.scan_with_options(ALL, o)
        rows = total = 0
        while got := await it.next_batch(1000):
            rows += len(got)
            for x in got:
                total += len(x.key) + len(x.value)
        t, cpu = time.perf_counter() - t, time.process_time() - cpu
        if best is None or t < best[0]:
            best = t, cpu
        assert rows == n, rows
        await r.shutdown()
    print(json.dumps({"name": "scan", "n": n, "bytes": total, "seconds": best[0], "cpu": best[1], "rss": rss()}), flush=True)


async def gets():
    r = await open_reader()
    keys = [key(rng.randrange(n)) for _ in range(3000)]
    for name in ("get cold", "get warm"):
        with timed(name, len(keys)):
            for k in keys:
                assert await r.get(k) is not None
    with timed("get warm, 16 at once", len(keys)):
        for lo in range(0, len(keys), 16):
            for v in await asyncio.gather(*(r.get(k) for k in keys[lo:lo + 16])):
                assert v is not None
    await r.shutdown()


async def open1000():
    with timed("open", 1):
        db = await open_db()
        assert await db.get(key(n - 1)) is not None
    os._exit(0)  # what a close costs is not the question


async def main():
    if work == "put":
        await puts(1)
    elif work == "put, 64 at once":
        await puts(64)
    elif work == "batches of 1000":
        await batches(True, False)
    elif work == "load":
        await batches(False, True)
    elif work == "wals":
        await wals()
    elif work == "scan":
        await scan()
    elif work == "gets":
        await gets()
    elif work == "open":
        await open1000()
    elif work == "nothing":
        with timed("nothing", 1):
            pass
    else:
        sys.exit("unknown work " + work)


asyncio.run(main())
