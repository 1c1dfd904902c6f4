// What clients in Go do with a server: go_redis plain PORT, go-redis; go_redis cluster PORT
// SHARD_PORT SHARD_PORT, redisc over redigo, since this go-redis can not read what Redis 7 says of a
// cluster.
package main

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	redigo "github.com/gomodule/redigo/redis"
	"github.com/mna/redisc"
	"gopkg.in/redis.v5"
)

// check ends the program when something is not as wanted; the last line says what.
func check(ok bool, what string, got ...interface{}) {
	if !ok {
		panic(fmt.Sprintf("%s: got %v", what, got))
	}
}

func must(err error, what string) {
	check(err == nil, what, err)
}

func refused(err error, prefix string) {
	check(err != nil && strings.HasPrefix(err.Error(), prefix), "refused with "+prefix, err)
}

func crud(client *redis.Client) {
	must(client.FlushAll().Err(), "FLUSHALL")
	pong, err := client.Ping().Result()
	check(err == nil && pong == "PONG", "PING", pong, err)
	must(client.Set("k", "v", 0).Err(), "SET")
	got, err := client.Get("k").Result()
	check(err == nil && got == "v", "GET", got, err)
	check(client.Get("none").Err() == redis.Nil, "GET of no key")
	set, err := client.SetNX("k", "w", 100*time.Second).Result()
	check(err == nil && !set, "SET NX of a key", set, err)
	sum, err := client.IncrBy("n", 5).Result()
	check(err == nil && sum == 5, "INCRBY", sum, err)
	half, err := client.IncrByFloat("n", 0.5).Result()
	check(err == nil && half == 5.5, "INCRBYFLOAT", half, err)
	binary := make([]byte, 100_000)
	for n := range binary {
		binary[n] = byte(n)
	}
	must(client.Set("bytes", binary, 0).Err(), "SET of bytes")
	back, err := client.Get("bytes").Bytes()
	check(err == nil && bytes.Equal(back, binary), "GET of bytes", len(back), err)
	must(client.Set("e", "1", 60*time.Millisecond).Err(), "SET PX")
	time.Sleep(120 * time.Millisecond)
	check(client.Get("e").Err() == redis.Nil, "GET after its time")
	must(client.Expire("n", time.Hour).Err(), "EXPIRE")
	left, err := client.TTL("n").Result()
	check(err == nil && left > 59*time.Minute && left <= time.Hour, "TTL", left, err)
	refused(client.Incr("k").Err(), "ERR value is not an integer")
	values, err := client.MGet("k", "none", "n").Result()
	check(err == nil && fmt.Sprint(values) == "[v <nil> 5.5]", "MGET", values, err)
	bits, err := client.SetBit("bits", 7, 1).Result()
	check(err == nil && bits == 0, "SETBIT", bits, err)
	info, err := client.Info("server").Result()
	check(err == nil && strings.Contains(info, "redis_version:"), "INFO", err)
}

func scan(client *redis.Client) {
	for n := 0; n < 500; n++ {
		must(client.Set(fmt.Sprintf("s:%d", n), n, 0).Err(), "SET")
	}
	found, keys := map[string]bool{}, client.Scan(0, "s:*", 50).Iterator()
	for keys.Next() {
		found[keys.Val()] = true
	}
	check(keys.Err() == nil && len(found) == 500, "SCAN", len(found), keys.Err())
}

func pipelines(client *redis.Client) {
	replies, err := client.Pipelined(func(pipeline *redis.Pipeline) error {
		for n := 0; n < 1000; n++ {
			key := fmt.Sprintf("p:%d", n)
			pipeline.Set(key, n, 0)
			pipeline.Get(key)
		}
		return nil
	})
	check(err == nil && len(replies) == 2000, "a pipeline", len(replies), err)
	for n := 0; n < 1000; n++ {
		got := replies[2*n+1].(*redis.StringCmd).Val()
		check(got == fmt.Sprint(n), "a reply in its place", n, got)
	}
}

func transactions(client, other *redis.Client) {
	replies, err := client.TxPipelined(func(tx *redis.Pipeline) error {
		tx.Set("{t}n", "text", 0)
		tx.Incr("{t}n")
		tx.Get("{t}n")
		return nil
	})
	refused(err, "ERR value is not an integer")
	got := replies[2].(*redis.StringCmd).Val()
	check(got == "text", "what follows an error in EXEC", got)
	attempt := func(meddle bool) error {
		return client.Watch(func(tx *redis.Tx) error {
			if meddle {
				must(other.Set("{t}n", 1, 0).Err(), "SET of a watched key")
			}
			_, err := tx.Pipelined(func(pipeline *redis.Pipeline) error {
				pipeline.Set("{t}n", 2, 0)
				return nil
			})
			return err
		}, "{t}n")
	}
	check(attempt(true) == redis.TxFailedErr, "EXEC after a watched key changed")
	kept, err := client.Get("{t}n").Result()
	check(err == nil && kept == "1", "what the other wrote", kept, err)
	must(attempt(false), "EXEC")
	kept, err = client.Get("{t}n").Result()
	check(err == nil && kept == "2", "what EXEC wrote", kept, err)
}

func pubsub(client *redis.Client) {
	listener, err := client.Subscribe("news", "other")
	must(err, "SUBSCRIBE")
	must(listener.PSubscribe("n*"), "PSUBSCRIBE")
	for n := 1; n <= 3; n++ {
		event, err := listener.Receive()
		must(err, "a confirmation")
		check(event.(*redis.Subscription).Count == n, "subscriptions", event)
	}
	publish := func(channel, text string, wanted int64) {
		heard, err := client.Publish(channel, text).Result()
		check(err == nil && heard == wanted, "PUBLISH to "+channel, heard, err)
	}
	publish("news", "one", 2)
	publish("other", "two", 1)
	heard := []string{}
	for len(heard) < 3 {
		message, err := listener.ReceiveMessage()
		must(err, "a message")
		heard = append(heard, message.Pattern+" "+message.Channel+" "+message.Payload)
	}
	sort.Strings(heard)
	wanted := " news one| other two|n* news one"
	check(strings.Join(heard, "|") == wanted, "messages", heard)
	must(listener.Ping("there"), "PING while subscribed")
	pong, err := listener.Receive()
	check(err == nil && pong.(*redis.Pong).Payload == "there", "its answer", pong, err)
	must(listener.Unsubscribe(), "UNSUBSCRIBE")
	must(listener.PUnsubscribe(), "PUNSUBSCRIBE")
	must(listener.Close(), "the end")
}

func plain(ports []string) {
	options := redis.Options{Addr: "127.0.0.1:" + ports[0]}
	client, other := redis.NewClient(&options), redis.NewClient(&options)
	crud(client)
	scan(client)
	pipelines(client)
	transactions(client, other)
	pubsub(client)
	must(client.Close(), "the end")
	must(other.Close(), "the end")
}

// do runs a command at the node that has the key.
func do(nodes *redisc.Cluster, key, command string, args ...interface{}) (interface{}, error) {
	conn := nodes.Get()
	defer conn.Close()
	must(redisc.BindConn(conn, key), "a node for "+key)
	return conn.Do(command, append([]interface{}{key}, args...)...)
}

func cluster(ports []string) {
	for _, start := range ports {
		nodes := &redisc.Cluster{
			StartupNodes: []string{"127.0.0.1:" + start},
			CreatePool: func(addr string, options ...redigo.DialOption) (*redigo.Pool, error) {
				dial := func() (redigo.Conn, error) { return redigo.Dial("tcp", addr, options...) }
				return &redigo.Pool{MaxIdle: 4, Dial: dial}, nil
			},
		}
		must(nodes.Refresh(), "CLUSTER SLOTS")
		for n := 0; n < 500; n++ {
			key := fmt.Sprintf("c:%d", n)
			said, err := do(nodes, key, "SET", n)
			check(err == nil && said == "OK", "SET "+key, said, err)
			got, err := redigo.Int(do(nodes, key, "GET"))
			check(err == nil && got == n, "GET "+key, got, err)
		}
		for _, port := range ports[1:] {
			used := nodes.Stats()["127.0.0.1:"+port].ActiveCount
			check(used > 0, "connections to "+port, used)
		}
		for _, tag := range []string{"{a}", "{b}", "{c}", "{d}"} {
			conn := nodes.Get()
			must(redisc.BindConn(conn, tag), "a node for "+tag)
			must(conn.Send("MULTI"), "MULTI")
			must(conn.Send("SET", tag, 1), "SET")
			must(conn.Send("INCR", tag), "INCR")
			replies, err := redigo.Values(conn.Do("EXEC"))
			check(err == nil && fmt.Sprint(replies) == "[OK 2]", "EXEC at "+tag, replies, err)
			values, err := redigo.Strings(conn.Do("MGET", tag+"x", tag))
			check(err == nil && fmt.Sprint(values) == "[ 2]", "MGET at "+tag, values, err)
			_, err = conn.Do("MGET", "{a}", "{b}")
			refused(err, "CROSSSLOT")
			must(conn.Close(), "the end")
		}
		wrong, err := redigo.Dial("tcp", "127.0.0.1:"+ports[1])
		must(err, "a connection")
		moved := 0
		for n := 0; n < 100; n++ {
			_, err := wrong.Do("GET", fmt.Sprintf("c:%d", n))
			if redir := redisc.ParseRedir(err); redir != nil && redir.Type == "MOVED" {
				moved++
				check(redir.Addr == "127.0.0.1:"+ports[2], "MOVED", redir.Addr)
			}
		}
		check(moved > 20 && moved < 80, "keys of the other node", moved)
		must(wrong.Close(), "the end")
		must(nodes.Close(), "the end")
	}
}

func main() {
	parts := map[string]func([]string){"plain": plain, "cluster": cluster}
	parts[os.Args[1]](os.Args[2:])
}
