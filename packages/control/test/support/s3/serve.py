"""OpenStack Swift with its S3 interface, for tests: all of its servers in this process, one replica, on loopback.

    serve.py DIRECTORY

Prints `ready PORT` once it serves. Its one account has the access key `test:tester` and the secret `testing`; it checks signatures
(version 4, region us-east-1). Ends when standard input ends.
"""

import os
import sys

import eventlet
import eventlet.wsgi
from swift.common import utils

eventlet.patcher.monkey_patch()

from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

SERVERS = ("account", "container", "object")

STORAGE = """
[DEFAULT]
devices = {directory}/devices
mount_check = false
swift_dir = {directory}
bind_port = {port}
log_level = CRITICAL
[app:main]
use = egg:swift#{server}
"""

PROXY = """
[DEFAULT]
swift_dir = {directory}
bind_port = {port}
log_level = CRITICAL
[pipeline:main]
pipeline = catch_errors s3api tempauth proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


class MemoryCache:
    """What Swift else asks a memcached for."""

    def __init__(self):
        self._values = {}

    def get(self, key, *_args, **_options):
        return self._values.get(key)

    def set(self, key, value, *_args, **_options):
        self._values[key] = value

    def incr(self, key, delta=1, **_options):
        self._values[key] = self._values.get(key, 0) + delta
        return self._values[key]

    def decr(self, key, delta=1, **_options):
        return self.incr(key, -delta)

    def delete(self, key, *_args, **_options):
        self._values.pop(key, None)


def start(directory, server, port_text, listener):
    path = os.path.join(directory, server + ".conf")
    with open(path, "w", encoding="utf8") as file:
        file.write(port_text.format(directory=directory, server=server, port=listener.getsockname()[1]))
    app = loadapp(path)
    if server == "proxy":
        inner, cache = app, MemoryCache()

        def app(environ, start_response):
            environ["swift.cache"] = cache
            return inner(environ, start_response)

    eventlet.spawn(eventlet.wsgi.server, listener, app, log=utils.NullLogger(), socket_timeout=60)


def main():
    directory = os.path.abspath(sys.argv[1])
    os.makedirs(os.path.join(directory, "devices", "one"))
    with open(os.path.join(directory, "swift.conf"), "w", encoding="utf8") as file:
        file.write("[swift-hash]\nswift_hash_path_suffix = test\n[storage-policy:0]\nname = one\ndefault = yes\n")
    utils.SWIFT_CONF_FILE = os.path.join(directory, "swift.conf")
    utils.validate_hash_conf()
    listeners = {server: eventlet.listen(("127.0.0.1", 0)) for server in (*SERVERS, "proxy")}
    for server in SERVERS:
        port = listeners[server].getsockname()[1]
        builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
        builder.add_dev(
            {"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": port, "device": "one"}
        )
        builder.rebalance()
        builder.get_ring().save(os.path.join(directory, server + ".ring.gz"))
    for server in SERVERS:
        start(directory, server, STORAGE, listeners[server])
    start(directory, "proxy", PROXY, listeners["proxy"])
    print("ready", listeners["proxy"].getsockname()[1], flush=True)
    eventlet.tpool.execute(sys.stdin.read)


main()
