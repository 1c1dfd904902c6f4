"""What redis-py does with a server: `redis_py.py PART PORT [SHARD_PORT...]`; 77: no redis-py."""

import signal
import sys
import threading
import time

signal.alarm(60)  # Nothing here takes that long: who waits for more has found a hang.

try:
    import redis
    from redis.cluster import ClusterNode, RedisCluster

    assert int(redis.__version__.split(".")[0]) >= 7, redis.__version__
except (ImportError, AssertionError) as reason:
    print(reason)
    sys.exit(77)


def refused(error, call):
    try:
        call()
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"{call} was not refused")


def crud(client):
    client.flushall()
    assert client.ping() is True
    assert client.set("k", "v") is True and client.get("k") == b"v"
    assert client.get("none") is None and client.set("k", "w", nx=True) is None
    assert client.set("k", "w", get=True) == b"v" and client.getdel("k") == b"w"
    assert client.incr("n") == 1 and client.incrby("n", 9) == 10 and client.decr("n") == 9
    assert client.append("s", "ab") == 2 and client.strlen("s") == 2
    binary = bytes(range(256)) * 500
    assert client.set(b"\x00\r\n", binary) and client.get(b"\x00\r\n") == binary
    assert client.exists("n", "s", "none") == 2 and client.delete("n", "s", "none") == 2
    assert client.type("k") == b"none" and client.set("k", "1") and client.type("k") == b"string"
    assert "not an integer" in refused(redis.ResponseError, lambda: client.set("t", "x") and client.incr("t"))


def expiry(client):
    client.set("e", "1", px=80)
    assert 0 < client.pttl("e") <= 80
    time.sleep(0.15)
    assert client.get("e") is None and client.ttl("e") == -2
    client.set("e", "2")
    assert client.ttl("e") == -1 and client.expire("e", 100) and 98 <= client.ttl("e") <= 100
    assert client.persist("e") and client.ttl("e") == -1


def pipelines(client):
    with client.pipeline(transaction=False) as pipe:
        for n in range(2000):
            pipe.set(f"p:{n}", n)
            pipe.get(f"p:{n}")
        replies = pipe.execute()
    assert replies == [reply for n in range(2000) for reply in (True, b"%d" % n)]


def transactions(client):
    with client.pipeline() as pipe:
        pipe.set("{t}n", 1).incr("{t}n").get("{t}n")
        assert pipe.execute() == [True, 2, b"2"]
        pipe.set("{t}s", "text").incr("{t}s").set("{t}n", 0)
        replies = pipe.execute(raise_on_error=False)
        assert isinstance(replies[1], redis.ResponseError) and client.get("{t}n") == b"0", replies
        pipe.set("{t}n", 1).execute_command("SET", "{t}n")
        assert "wrong number of arguments" in refused(redis.ResponseError, pipe.execute)
        spread = [f"x:{n}" for n in range(64)]
        for key in spread:
            pipe.set(key, 1)
        assert pipe.execute() == [True] * 64
        pipe.watch(*spread)
        pipe.multi()
        pipe.delete(*spread)
        refused(redis.exceptions.ClusterCrossSlotError, pipe.execute)
    assert client.exists(*spread) == 64 and client.get("{t}n") == b"0"


def retries(client):
    """Everybody adds to one counter by WATCH, GET, MULTI, SET, EXEC, and none of it is lost."""
    seen = []

    def disturbed(pipe):
        seen.append(int(pipe.get("{w}n") or 0))
        if len(seen) == 1:
            client.set("{w}n", 10)
        pipe.multi()
        pipe.set("{w}n", seen[-1] + 1)

    assert client.transaction(disturbed, "{w}n") == [True] and seen == [0, 10], seen

    def add(pipe):
        value = int(pipe.get("{w}n"))
        pipe.multi()
        pipe.set("{w}n", value + 1)

    def adds():
        for _ in range(25):
            client.transaction(add, "{w}n")

    threads = [threading.Thread(target=adds) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("{w}n") == b"111", client.get("{w}n")


def messages(subscriber, count, get="get_message"):
    got, end = [], time.monotonic() + 5
    while len(got) < count:
        assert time.monotonic() < end, f"only {got}"
        message = getattr(subscriber, get)(timeout=1)
        if message:
            got.append((message["type"], message["pattern"], message["channel"], message["data"]))
    return sorted(got, key=str)


def pubsub(client):
    with client.pubsub() as listener:
        listener.subscribe("news")
        assert messages(listener, 1) == [("subscribe", None, b"news", 1)]
        listener.psubscribe("n?ws", "other*")
        assert len(messages(listener, 2)) == 2
        assert client.publish("news", "one") == 2 and client.publish("nobody", "two") == 0
        assert messages(listener, 2) == [("message", None, b"news", b"one"), ("pmessage", b"n?ws", b"news", b"one")]
        assert client.pubsub_channels() == [b"news"] and client.pubsub_numpat() == 2
        assert client.pubsub_numsub("news") == [(b"news", 1)]
        listener.ping()
        assert messages(listener, 1)[0][0] == "pong"
        listener.unsubscribe()
        listener.punsubscribe()
        assert len(messages(listener, 3)) == 3
        assert client.publish("news", "three") == 0


def events(port):
    """Keyspace notifications: each change once, to both channels, by the names of Redis."""
    for protocol in (2, 3):
        client = redis.Redis(port=port, protocol=protocol, db=2)
        client.flushall()
        assert client.config_set("notify-keyspace-events", "KEA")
        with client.pubsub() as listener:
            listener.psubscribe("__keyspace@2__:*", "__keyevent@2__:*")
            assert len(messages(listener, 2)) == 2

            def heard(*pairs):
                got = [(channel.decode(), data.decode()) for _, _, channel, data in messages(listener, 2 * len(pairs))]
                wanted = [(f"__keyspace@2__:{key}", event) for event, key in pairs]
                wanted += [(f"__keyevent@2__:{event}", key) for event, key in pairs]
                assert sorted(got) == sorted(wanted), (got, wanted)

            client.set("a", 1)
            heard(("set", "a"))
            client.set("a", 1, ex=100)
            heard(("set", "a"), ("expire", "a"))
            client.append("a", "")
            heard(("append", "a"))
            client.rename("a", "{a}b")
            heard(("rename_from", "a"), ("rename_to", "{a}b"))
            with client.pipeline() as pipe:
                pipe.incr("{n}1").incr("{n}1").delete("{n}1", "{n}2").execute()
            heard(("incrby", "{n}1"), ("incrby", "{n}1"), ("del", "{n}1"))
            client.mset({f"k{n}": n for n in range(16)})  # Of all cores.
            heard(*[("set", f"k{n}") for n in range(16)])
            client.set("short", 1, px=30)
            heard(("set", "short"), ("expire", "short"))
            heard(("expired", "short"))
            redis.Redis(port=port, db=3).set("elsewhere", 1)
            client.get("none")
            assert listener.get_message(timeout=0.2) is None
            assert client.config_set("notify-keyspace-events", "")
            client.set("a", 2)
            assert listener.get_message(timeout=0.2) is None


def cache(port):
    """The cache of redis-py: what it holds is given up when anybody changes it, and not before."""
    from redis.cache import CacheConfig, CacheKey

    cached = redis.Redis(port=port, protocol=3, cache_config=CacheConfig(max_size=1000))
    other = redis.Redis(port=port)
    other.flushall()

    def is_held(key):
        entry = cached.get_cache().get(CacheKey(command="GET", redis_keys=(key,), redis_args=("GET", key)))
        return entry is not None

    def settled(key, value):
        end = time.monotonic() + 5
        while cached.get(key) != value:  # An invalidation is on its way, not late.
            assert time.monotonic() < end, (key, value, cached.get(key))
            time.sleep(0.001)

    keys = [f"c:{n}" for n in range(64)]  # Of all cores.
    for key in keys:
        other.set(key, "old")
        assert cached.get(key) == b"old" and is_held(key)
    reads = other.info("commandstats")["cmdstat_get"]["calls"]
    assert [cached.get(key) for key in keys] == [b"old"] * 64
    assert other.info("commandstats")["cmdstat_get"]["calls"] == reads, "they were read from the cache"
    for key in keys[:32]:
        other.set(key, "new")
    for key in keys[:32]:
        settled(key, b"new")
    assert all(is_held(key) for key in keys), "the others stay"
    with other.pipeline() as pipe:
        pipe.set("{c:1}x", 1).delete("c:1").execute()
    settled("c:1", None)
    cached.set("c:2", "own")
    settled("c:2", b"own")
    assert cached.mget("c:3", "c:4") == [b"new", b"new"]
    other.mset({"c:3": "newer", "c:4": "newer"})
    end = time.monotonic() + 5
    while cached.mget("c:3", "c:4") != [b"newer", b"newer"]:
        assert time.monotonic() < end
    other.set("brief", 1, px=50)
    assert cached.get("brief") == b"1"
    settled("brief", None)
    other.flushall()
    for key in keys:
        settled(key, None)

    # Writers and a reader of the cache: it sees each value, or a newer one, in the end the last.
    def writes():
        writer = redis.Redis(port=port)
        for n in range(500):
            writer.set(f"c:{n % 8}", n)

    writer = threading.Thread(target=writes)
    writer.start()
    last = {}
    while writer.is_alive():
        for n in range(8):
            value = int(cached.get(f"c:{n}") or -1)
            assert value >= last.get(n, -1), "a cache that goes back"
            last[n] = value
    writer.join()
    for n in range(8):
        settled(f"c:{n}", b"%d" % max(range(n, 500, 8)))


def plain(port):
    for protocol in (2, 3):
        client = redis.Redis(port=port, protocol=protocol)
        crud(client)
        expiry(client)
        pipelines(client)
        transactions(client)
        retries(client)
        pubsub(client)
        assert client.mset({f"m:{n}": n for n in range(1000)})
        assert client.mget([f"m:{n}" for n in range(1000)]) == [b"%d" % n for n in range(1000)]
        assert client.config_get("maxmemory").keys() == {"maxmemory"}
        assert client.info()["redis_version"] and client.info("keyspace")["db0"]["keys"] > 0
        assert client.client_setname("me") and client.client_getname() in ("me", b"me")
        assert client.client_id() > 0 and len(client.command_count().__str__()) > 0
        listed = [entry for entry in client.client_list() if entry["name"] == "me"]
        assert listed and listed[0]["lib-name"] == "redis-py", listed
        decoding = redis.Redis(port=port, protocol=protocol, decode_responses=True, db=3)
        assert decoding.set("k", "gr\u00fc\u00df") and decoding.get("k") == "gr\u00fc\u00df"
        assert client.get("k") == b"1" or client.get("k") is None


def cluster(port, *shard_ports):
    for start in (port, *shard_ports):
        for protocol in (2, 3):
            nodes = [ClusterNode("127.0.0.1", start)]
            client = RedisCluster(startup_nodes=nodes, protocol=protocol)
            assert {node.port for node in client.get_nodes()} == set(shard_ports), client.get_nodes()
            for n in range(100):
                assert client.set(f"c:{n}", n)
            assert [client.get(f"c:{n}") for n in range(100)] == [b"%d" % n for n in range(100)]
            assert client.mset_nonatomic({f"c:{n}": n for n in range(100)})
            assert client.mget("{tag}a", "{tag}b") == [None, None]
            with client.pipeline() as pipe:
                for n in range(100):
                    pipe.incr(f"c:{n}")
                assert pipe.execute() == [n + 1 for n in range(100)]
            assert client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 100
            cluster_transactions(client)
            cluster_pubsub(client)
            client.flushall()
            client.close()


def replicas(*ports):
    """Three nodes of two cores: each port leads some slots of its core and follows in the others."""
    begun = time.monotonic()
    while True:
        assert time.monotonic() - begun < 30, "not all slots are told of with their replicas"
        try:
            client = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", ports[0])], read_from_replicas=True)
        except redis.exceptions.RedisClusterException:  # Some have no leader yet.
            time.sleep(0.1)
            continue
        owners = client.nodes_manager.slots_cache
        # Of each leader one slot stands for itself.
        alone = [slot for slot in range(16384) if len(owners.get(slot, [])) != 3]
        if len(alone) == len(ports):
            break
        client.close()
        time.sleep(0.1)
    for slot, own in owners.items():
        expected = 1 if slot in alone else 3
        assert len({node.port for node in own}) == expected and {node.port for node in own} <= set(ports), own
    # Each leads: all are to be asked for what goes to primaries.
    assert {node.port for node in client.get_primaries()} == set(ports)
    values = {f"r:{n}": str(n).encode() for n in range(100)}
    for key, value in values.items():
        assert client.set(key, value) is True
    # Leadership may move between the questions to two nodes: what each says is true, the sum not.
    while client.dbsize(target_nodes=RedisCluster.PRIMARIES) != 100:
        assert time.monotonic() - begun < 30, "the primaries together have another number of keys"
        # After a MOVED the client takes who led that slot for a replica of all.
        client.nodes_manager.initialize()
        time.sleep(0.1)

    def read():
        told = client.info("stave", target_nodes=[client.get_node("127.0.0.1", port) for port in ports[::2]])
        return sum(info["stave_follower_reads"] for info in told.values())

    before = read()
    while read() < before + 100:
        assert all(client.get(key) == value for key, value in values.items())
        assert time.monotonic() - begun < 30, "little is read from replicas"
    client.close()


def cluster_transactions(client):
    for tag in ("{a}", "{b}", "{c}", "{d}"):
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(tag)
            pipe.multi()
            pipe.set(tag, 1).incr(tag).get(tag)
            replies = pipe.execute()
            assert replies[1:] == [2, b"2"], replies
    with client.pipeline(transaction=True) as pipe:
        pipe.set("{a}", 5).set("{b}", 5)
        refused(redis.exceptions.RedisClusterException, pipe.execute)
    assert client.get("{a}") == b"2"


def cluster_pubsub(client):
    with client.pubsub() as listener:
        listener.subscribe("news")
        assert messages(listener, 1)[0][0] == "subscribe"
        for node in client.get_primaries():  # Said at any node, heard at all.
            assert client.execute_command("PUBLISH", "news", node.port, target_nodes=node) == 1
            assert messages(listener, 1) == [("message", None, b"news", b"%d" % node.port)]
    with client.pubsub() as listener:
        channels = [f"shard:{n}" for n in range(8)]
        for channel in channels:
            listener.ssubscribe(channel)
            assert messages(listener, 1, "get_sharded_message")[0][0] == "ssubscribe"
        for channel in channels:
            assert client.spublish(channel, "one") == 1
            got = messages(listener, 1, "get_sharded_message")
            assert got == [("smessage", None, channel.encode(), b"one")], got


def password(port):
    for protocol in (2, 3):
        client = redis.Redis(port=port, protocol=protocol, password="hunter2")
        assert client.set("k", "v") and client.get("k") == b"v"
        wrong = redis.Redis(port=port, protocol=protocol, password="wrong")
        refused(redis.AuthenticationError, wrong.ping)
        without = redis.Redis(port=port, protocol=protocol)
        refused(redis.AuthenticationError, without.ping)


alone = {"plain": plain, "password": password, "events": events, "cache": cache}
name, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
if name in alone:
    alone[name](ports[0])
else:
    {"cluster": cluster, "replicas": replicas}[name](*ports)
