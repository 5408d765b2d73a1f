"""A real SlateDB process, driven by one JSON object a line on standard input; it answers one a line.

    python slatedb_peer.py       (an environment with slatedb==X; X from 0.12.1 on)

The store comes from the environment: PEER_STORE=az://BUCKET (with the AZURE_ variables), else what
CLOUD_PROVIDER says (local with LOCAL_PATH, or aws with the AWS_ variables).

Operations ("op", "root" = path in the store, default "db"):
  open [compact] [big] [gc] [poll]  a writer, default settings with small tables unless big; its compactor only with compact; its collector,
                           minimum age 1 s, only with gc; poll = how often it looks at the manifest, "1s"
  put rows={hex: hex|null} [ttl={hex: ms}]  one durable batch      l0, wal   flush      close
  scan [checkpoint=id]     of the writer, else of a reader      get keys=[hex]   the same; null where there is none
  read                     a managed reader, left open      unread     shuts it down
  checkpoint name [lifetime_ms], checkpoints       from 0.14.1 on      gc    one pass with no minimum age, from 0.15.0 on
  kill                     exits at once, as a crash does
An answer with "error" carries the core's own text. To crash it from outside: SIGKILL."""
import asyncio, json, os, sys
import slatedb.uniffi as u

if os.environ.get("PEER_STORE"):
    store = u.ObjectStore.resolve(os.environ["PEER_STORE"])
else:
    store = u.ObjectStore.from_env(None)
dbs, readers = {}, {}


def settings(compact, big, gc, poll):
    s = json.loads(u.Settings.default().to_json_string())
    if gc:
        # Folders have no conditional update, which the boundary files need.
        for o in s["garbage_collector_options"].values():
            if isinstance(o, dict):
                o.update({k: v for k, v in {"interval": "300ms", "min_age": "1s"}.items() if k in o})
        if "boundary_files_enabled" in s["garbage_collector_options"]:
            s["garbage_collector_options"]["boundary_files_enabled"] = False
    else:
        s["garbage_collector_options"] = None
    if poll:
        s["manifest_poll_interval"] = poll
    if not big:
        s["l0_sst_size_bytes"] = 16384
    if not compact:
        s["compactor_options"] = None
    else:
        fast = {"poll_interval": "50ms", "commit_compacted_interval": "50ms", "checkpoint_lifetime": "1s"}
        s["compactor_options"].update({k: v for k, v in fast.items() if k in s["compactor_options"]})
        if "worker" in s["compactor_options"]:
            s["compactor_options"]["worker"]["compactions_poll_interval"] = "50ms"
    return u.Settings.from_json_string(json.dumps(s))


def wopt():
    try:
        return u.WriteOptions(await_durable=True)
    except TypeError:
        return u.WriteOptions()


async def rows(x):
    it = await x.scan(u.KeyRange(start=None, start_inclusive=True, end=None, end_inclusive=True))
    out = []
    while (kv := await it.next()) is not None:
        out.append([kv.key.hex(), kv.value.hex()])
    return out


async def look(op, c, x):
    if op == "scan":
        return {"rows": await rows(x)}
    got = [await x.get(bytes.fromhex(k)) for k in c["keys"]]
    return {"values": [None if v is None else v.hex() for v in got]}


async def do(c):
    op, root = c["op"], c.get("root", "db")
    if op == "open":
        b = u.DbBuilder(root, store)
        b.with_settings(settings(c.get("compact"), c.get("big"), c.get("gc"), c.get("poll")))
        dbs[root] = await b.build()
        return {}
    if op == "put":
        batch = u.WriteBatch()
        for k, v in c["rows"].items():
            ttl = c.get("ttl", {}).get(k)
            if v is None:
                batch.delete(bytes.fromhex(k))
            elif ttl:
                after = getattr(u.Ttl, "EXPIRE_AFTER_TICKS", None) or u.Ttl.EXPIRE_AFTER_MILLIS
                batch.put_with_options(bytes.fromhex(k), bytes.fromhex(v), u.PutOptions(ttl=after(ttl)))
            else:
                batch.put(bytes.fromhex(k), bytes.fromhex(v))
        h = await dbs[root].write_with_options(batch, wopt())
        if hasattr(h, "await_durable"):
            await h.await_durable()
        return {}
    if op in ("l0", "wal"):
        await dbs[root].flush_with_options(u.FlushOptions(flush_type=u.FlushType.MEM_TABLE if op == "l0" else u.FlushType.WAL))
        return {}
    if op == "close":
        await dbs.pop(root).shutdown()
        return {}
    if op == "read":
        readers[root] = await u.DbReaderBuilder(root, store).build()
        return {}
    if op == "unread":
        await readers.pop(root).shutdown()
        return {}
    if op in ("scan", "get") and root in dbs:
        return await look(op, c, dbs[root])
    if op in ("scan", "get"):
        b = u.DbReaderBuilder(root, store)
        if c.get("checkpoint"):
            if hasattr(b, "with_checkpoint_id"):
                b.with_checkpoint_id(c["checkpoint"])
            else:
                b.with_reader_mode(u.ReaderMode.CHECKPOINT(c["checkpoint"]))
        r = await b.build()
        out = await look(op, c, r)
        await r.shutdown()
        return out
    if op == "kill":
        os._exit(9)
    a = u.AdminBuilder(root, store).build()
    if op == "gc":
        d = u.GarbageCollectorDirectoryOptions(min_age_ms=0, dry_run=False)
        await a.run_gc_once(u.GarbageCollectorOptions(manifest_options=d, wal_options=d, compacted_options=d, compactions_options=d))
        return {}
    if op == "checkpoint":
        r = await a.create_detached_checkpoint(u.CheckpointOptions(lifetime_ms=c.get("lifetime_ms"), source=None, name=c["name"]))
        return {"id": r.id}
    if op == "checkpoints":
        return {"checkpoints": [{"id": x.id, "name": x.name, "manifest_id": x.manifest_id} for x in await a.list_checkpoints(None)]}
    return {"error": "unknown op"}


async def main():
    loop = asyncio.get_running_loop()
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            os._exit(0)
        try:
            r = await asyncio.wait_for(do(json.loads(line)), 40)
        except BaseException as e:
            r = {"error": str(e)[:300] or repr(e)}
        print(json.dumps(r), flush=True)


asyncio.run(main())
