"""What redis-py does with a server: `redis_py.py PART PORT [SHARD_PORT...]`; 77: no redis-py."""

import sys
import time

try:
    import redis
    from redis.cluster import ClusterNode, RedisCluster

    assert int(redis.__version__.split(".")[0]) >= 5, redis.__version__
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


def plain(port):
    for protocol in (2, 3):
        client = redis.Redis(port=port, protocol=protocol)
        crud(client)
        expiry(client)
        pipelines(client)
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
            for n in range(500):
                assert client.set(f"c:{n}", n)
            assert [client.get(f"c:{n}") for n in range(500)] == [b"%d" % n for n in range(500)]
            assert client.mset_nonatomic({f"c:{n}": n for n in range(100)})
            assert client.mget("{tag}a", "{tag}b") == [None, None]
            with client.pipeline() as pipe:
                for n in range(500):
                    pipe.incr(f"c:{n}")
                assert pipe.execute() == [n + 1 for n in range(500)]
            assert client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 500
            client.flushall()
            client.close()


def password(port):
    for protocol in (2, 3):
        client = redis.Redis(port=port, protocol=protocol, password="hunter2")
        assert client.set("k", "v") and client.get("k") == b"v"
        wrong = redis.Redis(port=port, protocol=protocol, password="wrong")
        refused(redis.AuthenticationError, wrong.ping)
        without = redis.Redis(port=port, protocol=protocol)
        refused(redis.AuthenticationError, without.ping)


part = {"plain": lambda port, *_: plain(port), "cluster": cluster, "password": lambda port, *_: password(port)}
part[sys.argv[1]](*map(int, sys.argv[2:]))
