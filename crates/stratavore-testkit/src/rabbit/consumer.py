"""A consumer that knows nothing of Stratavore but docs/events.md.

It takes messages from a queue, tells repeated ones by their id, writes a line of JSON for each message
to a file, and acknowledges a message once its line is written. It connects again whenever it has to, and
ends with its standard input.

An event takes effect once, however often it comes: its id goes into an inbox in the transaction of the
effect, which is to count it.

Settings come as one line of JSON on standard input: host, port, vhost, user, password, exchange, queue,
keys, file.
"""

import json
import os
import sqlite3
import sys
import threading
import time

import pika

settings = json.loads(sys.stdin.readline())
inbox = sqlite3.connect(settings["file"] + ".inbox", isolation_level=None)
inbox.executescript(
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
    "CREATE TABLE IF NOT EXISTS inbox (consumer TEXT, event_id TEXT, PRIMARY KEY (consumer, event_id));"
    "CREATE TABLE IF NOT EXISTS effects (count INTEGER);"
    "INSERT INTO effects SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM effects)"
)
ready = threading.Event()
file = open(settings["file"], "a", encoding="utf-8")


def end_with_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()


def takes_effect(event_id):
    """False, and nothing done, if it took effect before."""
    inbox.execute("BEGIN IMMEDIATE")
    row = (settings["queue"], event_id)
    is_new = inbox.execute("INSERT OR IGNORE INTO inbox VALUES (?, ?)", row).rowcount == 1
    if is_new:
        inbox.execute("UPDATE effects SET count = count + 1")
    inbox.execute("COMMIT")
    return is_new


def take(channel, method, properties, body):
    envelope = json.loads(body)
    line = {
        "id": properties.message_id,
        "repeated": not takes_effect(properties.message_id),
        "effects": inbox.execute("SELECT count FROM effects").fetchone()[0],
        "received": time.time(),
        "routing_key": method.routing_key,
        "properties": {
            "type": properties.type,
            "app_id": properties.app_id,
            "timestamp": properties.timestamp,
            "delivery_mode": properties.delivery_mode,
            "content_type": properties.content_type,
        },
        "envelope": envelope,
    }
    file.write(json.dumps(line) + "\n")
    file.flush()
    channel.basic_ack(method.delivery_tag)


def consume():
    parameters = pika.ConnectionParameters(
        host=settings["host"],
        port=settings["port"],
        virtual_host=settings["vhost"],
        credentials=pika.PlainCredentials(settings["user"], settings["password"]),
        heartbeat=10,
    )
    channel = pika.BlockingConnection(parameters).channel()
    channel.exchange_declare(
        settings["exchange"],
        "topic",
        durable=True,
        arguments={"alternate-exchange": "stratavore.unrouted"},
    )
    arguments = {"x-queue-type": "quorum"}
    channel.queue_declare(settings["queue"], durable=True, arguments=arguments)
    for key in settings["keys"]:
        channel.queue_bind(settings["queue"], settings["exchange"], key)
    channel.basic_qos(prefetch_count=200)
    channel.basic_consume(settings["queue"], take)
    if not ready.is_set():
        # Nobody listens the next time.
        print("ready", flush=True)
        ready.set()
    channel.start_consuming()


while True:
    try:
        consume()
    except (pika.exceptions.AMQPError, OSError):
        time.sleep(0.2)
