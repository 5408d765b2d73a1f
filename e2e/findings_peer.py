"""What a real SlateDB process does to a database, step by step, and then dies as a crash does.

    python findings_peer.py FOLDER < steps.json       (an environment with slatedb==X)

Steps are a JSON list of lists, "what" first; the answer is a JSON list with one value a step, {"error": text} where
the core refused and {"error": "timeout"} where it did not answer within ten seconds (a core that spins never does).
Keys and values are text. What is opened is one database, "db" unless `root` is given in the options of the process.

  open {segments wal compact gc filter}   a writer; wal: the WAL in the folder walstore; segments: by the first two bytes
  put {key: value}   l0   wal   close     fill FROM N   n rows, key-FROM and so on, ten a batch
  read {wal}         a managed reader opens, scans and closes: the number of rows it shows
  scan {wal}         of the writer when one is open, else of a new reader: [[key, value]]
  lost FROM N        of the rows of fill, how many a point read of a new managed reader or the open writer does not find
  checkpoint NAME    from 0.14.1 on: its id        churn N   N checkpoints made and removed: two manifests each
  clone TO           from 0.14.1 on                compactions N   N fills and flushes with the compactor waiting
  gc                 one pass with no minimum age, from 0.15.0 on
"""
import asyncio, json, os, sys
import slatedb.uniffi as u


def folder(path):
    os.environ["CLOUD_PROVIDER"], os.environ["LOCAL_PATH"] = "local", path
    return u.ObjectStore.from_env(None)


OUT = sys.argv[1]
ROOT = sys.argv[2] if len(sys.argv) > 2 else "db"
store = folder(OUT)
db = None


def prefix_extractor():
    class Two(u.PrefixExtractor):
        def name(self):
            return "two"

        def prefix_len(self, target):
            b = target.key if target.is_point() else target.prefix
            return 2 if len(b) >= 2 else None

    return Two()


def settings(o):
    s = json.loads(u.Settings.default().to_json_string())
    fast = {"poll_interval": "50ms", "commit_compacted_interval": "50ms", "checkpoint_lifetime": "1s"}
    if o.get("compact"):
        s["compactor_options"].update({k: v for k, v in fast.items() if k in s["compactor_options"]})
    else:
        s["compactor_options"] = None
    if o.get("gc"):
        s["garbage_collector_options"] = {k: (dict(v, interval="100ms", min_age="0s") if isinstance(v, dict) and "min_age" in v else v)
                                          for k, v in s["garbage_collector_options"].items()}
    else:
        s["garbage_collector_options"] = None
    if o.get("filter"):
        s["min_filter_keys"] = 1
    if "wal_enabled" in o:
        s["wal_enabled"] = o["wal_enabled"]
    return u.Settings.from_json_string(json.dumps(s))


def walstore():
    os.makedirs(os.path.join(OUT, "walstore"), exist_ok=True)
    s = folder(os.path.join(OUT, "walstore"))
    folder(OUT)
    return s


async def rows(x):
    it = await x.scan(u.KeyRange(start=None, start_inclusive=True, end=None, end_inclusive=True))
    out = []
    while (kv := await it.next()) is not None:
        out.append([kv.key.decode(), kv.value.decode()])
    return out


def wopt():
    try:
        return u.WriteOptions(await_durable=True)
    except TypeError:
        return u.WriteOptions()


async def write(kv):
    b = u.WriteBatch()
    for k, v in kv.items():
        b.put(k.encode(), v.encode())
    h = await db.write_with_options(b, wopt())
    if hasattr(h, "await_durable"):
        await h.await_durable()


async def fill(start, n):
    for lo in range(start, start + n, 10):
        await write({"key-%06d" % i: "v%d" % i for i in range(lo, min(lo + 10, start + n))})


async def reader(o):
    b = u.DbReaderBuilder(ROOT, store)
    if o.get("wal"):
        b.with_wal_object_store(walstore())
    if o.get("segments") and hasattr(b, "with_segment_extractor"):
        b.with_segment_extractor(prefix_extractor())
    return await b.build()


def l0():
    return db.flush_with_options(u.FlushOptions(flush_type=u.FlushType.MEM_TABLE))


async def do(what, *a):
    global db
    if what == "open":
        o = a[0] if a else {}
        b = u.DbBuilder(ROOT, store)
        b.with_settings(settings(o))
        if o.get("wal"):
            b.with_wal_object_store(walstore())
        if o.get("segments"):
            b.with_segment_extractor(prefix_extractor())
        db = await b.build()
    elif what == "put":
        await write(a[0])
    elif what == "fill":
        await fill(*a)
    elif what == "l0":
        await l0()
    elif what == "wal":
        await db.flush_with_options(u.FlushOptions(flush_type=u.FlushType.WAL))
    elif what == "close":
        await db.shutdown()
        db = None
    elif what == "read":
        r = await reader(a[0] if a else {})
        n = len(await rows(r))
        await r.shutdown()
        return n
    elif what == "scan":
        if db is not None:
            return await rows(db)
        r = await reader(a[0] if a else {})
        out = await rows(r)
        await r.shutdown()
        return out
    elif what == "lost":
        x = db or await reader({})
        lost = 0
        for i in range(a[0], a[0] + a[1]):
            lost += await x.get(b"key-%06d" % i) is None
        if db is None:
            await x.shutdown()
        return lost
    elif what == "compactions":
        for i in range(a[0]):
            await fill(i * 10, 10)
            await l0()
            await asyncio.sleep(.12)
        await asyncio.sleep(1)
    else:
        admin = u.AdminBuilder(ROOT, store).build()
        if what == "checkpoint":
            return (await admin.create_detached_checkpoint(u.CheckpointOptions(lifetime_ms=None, source=None, name=a[0]))).id
        if what == "churn":
            for _ in range(a[0]):
                c = await admin.create_detached_checkpoint(u.CheckpointOptions(lifetime_ms=60_000, source=None, name="churn"))
                await admin.delete_checkpoint(c.id)
        elif what == "clone":
            kid = u.AdminBuilder(a[0], store).build()
            spec = u.CloneSourceSpec(path=ROOT, checkpoint=None, projection_range=None)
            await kid.create_clone_builder_from_source(spec).build()
        elif what == "gc":
            d = u.GarbageCollectorDirectoryOptions(min_age_ms=0, dry_run=False)
            await admin.run_gc_once(u.GarbageCollectorOptions(manifest_options=d, wal_options=d, compacted_options=d, compactions_options=d))
        else:
            raise ValueError(what)
    return None


async def main():
    out = []
    for step in json.load(sys.stdin):
        try:
            out.append(await asyncio.wait_for(do(*step), 10 if step[0] not in ("compactions", "churn", "fill") else 60))
        except asyncio.TimeoutError:
            out.append({"error": "timeout"})
            break
        except BaseException as e:
            out.append({"error": str(e)[:300] or repr(e)})
    print(json.dumps(out), flush=True)
    os._exit(9)


asyncio.run(main())
