"""Wrong variables of the environment: ``NAME=value``, several with blanks between them, and words of the refusal."""

from __future__ import annotations

PORT = "is not a port; write a whole number from 1 to 65535"
UNSET = "unset or rename it"
BROKER = "TIDEMILL_KAFKA_BOOTSTRAP_SERVERS: "
SQLITE, POSTGRESQL = "sqlite:////directory/control.sqlite", "write postgresql://user:password@host/database"
RANDOM = "write what 'openssl rand -hex 32' prints"
OBJECT = "an object, such as"
LISTS = "correct or remove it, librdkafka's CONFIGURATION.md lists the properties"

PORTS = [
    *((f"TIDEMILL_{name}_PORT={value}", f"TIDEMILL_{name}_PORT: {value!r}", PORT)
      for name in ("BROKER", "DAGSTER", "SERVING", "EXCHANGE")
      for value in ("0", "-1", "65536", "many", "")),
    *((f"TIDEMILL_SERVING_PORT={value}", "TIDEMILL_SERVING_PORT: ", PORT)
      for value in ("80.5", "8_095", "0x1f", "+80", "1e3", "٨٠", "99999999999999999999", "nan", "127.0.0.1:80")),
    *((f"TIDEMILL_{one}_PORT=7001;TIDEMILL_{other}_PORT=7001", f"TIDEMILL_{one}_PORT and TIDEMILL_{other}_PORT are both 7001",
       "give each service a port of its own")
      for one, other in (("BROKER", "DAGSTER"), ("BROKER", "SERVING"), ("DAGSTER", "SERVING"), ("SERVING", "EXCHANGE"),
                         ("DAGSTER", "EXCHANGE"), ("BROKER", "EXCHANGE"))),
    ("TIDEMILL_SERVING_PORT=3000", "TIDEMILL_DAGSTER_PORT and TIDEMILL_SERVING_PORT are both 3000", "give each service"),
]  # fmt: skip

URLS = [
    ("TIDEMILL_CONTROL_URL=nonsense", "TIDEMILL_CONTROL_URL: is not a database's URL", SQLITE),
    ("TIDEMILL_CONTROL_URL=/var/control.sqlite", "TIDEMILL_CONTROL_URL: is not a database's URL", SQLITE),
    ("TIDEMILL_CONTROL_URL=mysql://mill:s3cret@db/mill", "TIDEMILL_CONTROL_URL: 'mysql'", SQLITE),
    ("TIDEMILL_CONTROL_URL=oracle://db", "TIDEMILL_CONTROL_URL: 'oracle'", SQLITE),
    ("TIDEMILL_CONTROL_URL=http://db/mill", "TIDEMILL_CONTROL_URL: 'http'", SQLITE),
    ("TIDEMILL_CONTROL_URL=://db", "TIDEMILL_CONTROL_URL: ''", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite+aiosqlite:////usr/x", "TIDEMILL_CONTROL_URL: 'sqlite+aiosqlite'", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite://", "TIDEMILL_CONTROL_URL: is a SQLite in memory", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite:///", "TIDEMILL_CONTROL_URL: is a SQLite in memory", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite:///:memory:", "TIDEMILL_CONTROL_URL: is a SQLite in memory", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite:///file:x?mode=memory&uri=true", "TIDEMILL_CONTROL_URL: is a SQLite in memory", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite://host/x.sqlite", "TIDEMILL_CONTROL_URL: names a host", SQLITE),
    ("TIDEMILL_CONTROL_URL=sqlite:///x.sqlite", "TIDEMILL_CONTROL_URL: is a relative path", "write four slashes"),
    ("TIDEMILL_CONTROL_URL=sqlite:////x.sqlite?timeout=5", "TIDEMILL_CONTROL_URL: has options", "remove them"),
    (f"TIDEMILL_CONTROL_URL=sqlite:////{'x' * 600}", "TIDEMILL_CONTROL_URL: is a path that SQLite cannot open", "at most"),
    ("TIDEMILL_CONTROL_URL=postgresql://", "TIDEMILL_CONTROL_URL: names no host", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql:///mill", "TIDEMILL_CONTROL_URL: names no host", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:s3cret@/mill", "TIDEMILL_CONTROL_URL: names no host", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:s3cret@db:0/mill", "TIDEMILL_CONTROL_URL: names a port", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:s3cret@db:99999/mill", "TIDEMILL_CONTROL_URL: names a port", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:s3cret@db:x/mill", "TIDEMILL_CONTROL_URL: names a port", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:s3cret@db:/mill", "TIDEMILL_CONTROL_URL: names a port", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://db/mill?port=70000", "TIDEMILL_CONTROL_URL: names a port", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://d b/mill", "TIDEMILL_CONTROL_URL: cannot be read as a URL", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://[::1/mill", "TIDEMILL_CONTROL_URL: cannot be read as a URL", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:s3@cret@db/mill", "TIDEMILL_CONTROL_URL: names a port", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql+asyncpg://db/mill", "TIDEMILL_CONTROL_URL: 'postgresql+asyncpg'", POSTGRESQL),
    ("TIDEMILL_CONTROL_URL=postgresql://db/mill?sslmod=require", "has the option 'sslmod'", "did you mean 'sslmode'?"),
    ("TIDEMILL_CONTROL_URL=postgresql://db/mill?colour=blue", "has the option 'colour'", "remove it or correct"),
    ("TIDEMILL_DAGSTER_URL=nonsense", "TIDEMILL_DAGSTER_URL: is not a database's URL", POSTGRESQL),
    ("TIDEMILL_DAGSTER_URL=sqlite:////usr/x", "TIDEMILL_DAGSTER_URL: 'sqlite' is not PostgreSQL", POSTGRESQL),
    ("TIDEMILL_DAGSTER_URL=mysql://mill:s3cret@db/mill", "TIDEMILL_DAGSTER_URL: 'mysql' is not PostgreSQL", POSTGRESQL),
    ("TIDEMILL_DAGSTER_URL=postgresql://", "TIDEMILL_DAGSTER_URL: names no host", POSTGRESQL),
    ("TIDEMILL_DAGSTER_URL=postgresql://mill:s3cret@db:70000/mill", "TIDEMILL_DAGSTER_URL: names a port", POSTGRESQL),
    ("TIDEMILL_DAGSTER_URL=mill:s3cret@db://mill", "TIDEMILL_DAGSTER_URL: is not PostgreSQL", POSTGRESQL),
    ("TIDEMILL_DAGSTER_URL=postgresql://mill:p@ss?s3cret@db/mill", "DAGSTER_URL: cannot be read as a URL", "%3F"),
    ("TIDEMILL_CONTROL_URL=postgresql://mill:p\udce4ss@db/mill", "TIDEMILL_CONTROL_URL is not UTF-8", "UTF-8"),
    ("TIDEMILL_DAGSTER_URL=postgresql://db/mill?conect_timeout=1", "'conect_timeout'", "did you mean 'connect_timeout'?"),
]  # fmt: skip

BROKERS = [
    (f"{BROKER[:-2]}=kafka", f"{BROKER}'kafka' has no port", "write kafka:9092"),
    (f"{BROKER[:-2]}=kafka:", f"{BROKER}'kafka:' has no port", "write host:port"),
    (f"{BROKER[:-2]}=kafka:0", f"{BROKER}'kafka:0' has no port", "write host:port"),
    (f"{BROKER[:-2]}=kafka:65536", f"{BROKER}'kafka:65536' has no port", "write host:port"),
    (f"{BROKER[:-2]}=kafka:nine", f"{BROKER}'kafka:nine' has no port", "write host:port"),
    (f"{BROKER[:-2]}=kafka:-1", f"{BROKER}'kafka:-1' has no port", "write host:port"),
    (f"{BROKER[:-2]}=:9092", f"{BROKER}':9092' is not a broker", "write host:port"),
    (f"{BROKER[:-2]}=http://kafka:9092", f"{BROKER}'http://kafka:9092' has a scheme", "write host:port"),
    (f"{BROKER[:-2]}=SASL_SSL://kafka:9092", f"{BROKER}'SASL_SSL://kafka:9092' has a scheme", "security.protocol"),
    (f"{BROKER[:-2]}=a:9092,", f"{BROKER}'' is not a broker", "write host:port"),
    (f"{BROKER[:-2]}=,a:9092", f"{BROKER}'' is not a broker", "write host:port"),
    (f"{BROKER[:-2]}=a:9092,,b:9092", f"{BROKER}'' is not a broker", "no blanks"),
    (f"{BROKER[:-2]}=a:9092, b:9092", f"{BROKER}' b:9092' is not a broker", "no blanks"),
    (f"{BROKER[:-2]}= ", f"{BROKER}' ' is not a broker", "no blanks"),
    (f"{BROKER[:-2]}=a:9092 b:9092", f"{BROKER}'a:9092 b:9092' has no port", "write host:port"),
    (f"{BROKER[:-2]}=a:9092,a:9092", f"{BROKER}'a:9092' comes twice", "remove one"),
    (f"{BROKER[:-2]}=[::1]", f"{BROKER}'[::1]' has no port", "write [::1]:9092"),
    (f"{BROKER[:-2]}=mill@kafka:9092", f"{BROKER}'kafka:9092' is not a broker", "write host:port"),
    (f"{BROKER[:-2]}=SASL://mill:s3cret@kafka:1", f"{BROKER}'kafka:1' has a scheme", "security.protocol"),
    (f"{BROKER[:-2]}=kafka:9092/topic", f"{BROKER}'kafka:9092/topic' has no port", "write host:port"),
    ("TIDEMILL_KAFKA_TOPIC_PREFIX=two words", "TIDEMILL_KAFKA_TOPIC_PREFIX: 'two words'", "write what fits"),
    ("TIDEMILL_KAFKA_TOPIC_PREFIX=a/b", "TIDEMILL_KAFKA_TOPIC_PREFIX: 'a/b'", "write what fits"),
    ("TIDEMILL_KAFKA_TOPIC_PREFIX=é", "TIDEMILL_KAFKA_TOPIC_PREFIX: 'é'", "write what fits"),
    (f"TIDEMILL_KAFKA_TOPIC_PREFIX={'x' * 201}", "TIDEMILL_KAFKA_TOPIC_PREFIX: it has 201", "at most 200"),
    ("TIDEMILL_KAFKA=", "TIDEMILL_KAFKA: is not JSON", OBJECT),
    ("TIDEMILL_KAFKA=security.protocol=ssl", "TIDEMILL_KAFKA: is not JSON", OBJECT),
    ("TIDEMILL_KAFKA={'security.protocol': 'ssl'}", "TIDEMILL_KAFKA: is not JSON", OBJECT),
    ('TIDEMILL_KAFKA={"security.protocol": "ssl"', "TIDEMILL_KAFKA: is not JSON", OBJECT),
    ("TIDEMILL_KAFKA=" + "[" * 100_000, "TIDEMILL_KAFKA: is not JSON", OBJECT),
    ("TIDEMILL_KAFKA=[]", "TIDEMILL_KAFKA: is not an object", "write such as"),
    ("TIDEMILL_KAFKA=5", "TIDEMILL_KAFKA: is not an object", "write such as"),
    ('TIDEMILL_KAFKA="ssl"', "TIDEMILL_KAFKA: is not an object", "write such as"),
    ("TIDEMILL_KAFKA=null", "TIDEMILL_KAFKA: is not an object", "write such as"),
    (
        'TIDEMILL_KAFKA={"security": {"protocol": "ssl"}}',
        "TIDEMILL_KAFKA: the value of 'security'",
        "not a text or a number; write",
    ),
    (
        'TIDEMILL_KAFKA={"ssl.ca.location": ["a"]}',
        "TIDEMILL_KAFKA: the value of 'ssl.ca.location'",
        "not a text or a number; write",
    ),
    ('TIDEMILL_KAFKA={"client.id": null}', "TIDEMILL_KAFKA: the value of 'client.id'", "not a text or a number; write"),
]

DOOR = [
    ("TIDEMILL_DAGSTER_HOST=0.0.0.0", "TIDEMILL_DAGSTER_HOST is 0.0.0.0", "set TIDEMILL_DAGSTER_TOKEN"),
    (
        "TIDEMILL_DAGSTER_HOST=::;TIDEMILL_DAGSTER_PUBLIC=https://mill.example",
        "TIDEMILL_DAGSTER_HOST is ::",
        "DAGSTER_PROXY",
    ),
    ("TIDEMILL_DAGSTER_HOST=example", "TIDEMILL_DAGSTER_HOST: 'example' is not an IP address", "write 127.0.0.1"),
    ("TIDEMILL_DAGSTER_TOKEN=short", "TIDEMILL_DAGSTER_TOKEN: a token has at least 32", "openssl rand -hex 32"),
    ("TIDEMILL_DAGSTER_PUBLIC=mill.example/path", "'mill.example/path' is not an origin", "write scheme and host"),
    ("TIDEMILL_DAGSTER_PROXY=10.0.0", "'10.0.0' is not an address or network", "write such as 10.0.0.5"),
]

OTHERS = [
    ("TIDEMILL_HOMME=/usr/x", "TIDEMILL_HOMME is not a setting, did you mean 'TIDEMILL_HOME'?", UNSET),
    ("TIDEMILL_PORT=80", "TIDEMILL_PORT is not a setting", UNSET),
    ("TIDEMILL_BROKER=a:1", "TIDEMILL_BROKER is not a setting", UNSET),
    ("TIDEMILL_KAFKA_BOOTSTRAP_SERVER=a:1", "did you mean 'TIDEMILL_KAFKA_BOOTSTRAP_SERVERS'?", UNSET),
    ("TIDEMILL_DATABASE_URL=x", "TIDEMILL_DATABASE_URL is not a setting", UNSET),
    ("TIDEMILL_DAGSTERPORT=3001", "did you mean 'TIDEMILL_DAGSTER_PORT'?", UNSET),
    ("TIDEMILL_CONFIGURATION=x.toml", "TIDEMILL_CONFIGURATION is not a setting", UNSET),
    ("tidemill_home=/usr/x", "tidemill_home is not a setting, did you mean 'TIDEMILL_HOME'?", UNSET),
    ("TIDEMILL_=x", "TIDEMILL_ is not a setting", UNSET),
    ("TIDEMILL_MARKET=nasdaq", "TIDEMILL_MARKET: 'nasdaq' is not a market", "write auto, binance"),
    ("TIDEMILL_MARKET=krakn", "TIDEMILL_MARKET: 'krakn'", "did you mean 'kraken'?"),
    ("TIDEMILL_MARKET=BOX", "TIDEMILL_MARKET: 'BOX'", "did you mean 'box'?"),
    ("TIDEMILL_MARKET= box", "TIDEMILL_MARKET: ' box'", "did you mean 'box'?"),
    ("TIDEMILL_MARKET=ccxt:", "TIDEMILL_MARKET: 'ccxt:'", "such as ccxt:okx"),
    ("TIDEMILL_MARKET=recorded", "instruments.0: 'BTC-USD' is not an instrument", "or with its venue"),
    ("TIDEMILL_MODEL_KEY=short", "TIDEMILL_MODEL_KEY: has 5 characters", RANDOM),
    (f"TIDEMILL_MODEL_KEY={'0123456789abcdef' * 2}"[:-1], "TIDEMILL_MODEL_KEY: has 31 characters", RANDOM),
    (f"TIDEMILL_MODEL_KEY={' ' * 40}", "TIDEMILL_MODEL_KEY: begins or ends with a blank", RANDOM),
    (f"TIDEMILL_MODEL_KEY= {'0123456789abcdef' * 4}", "TIDEMILL_MODEL_KEY: begins or ends with a blank", RANDOM),
    (f"TIDEMILL_MODEL_KEY={'0123456789abcdef' * 4}\n", "TIDEMILL_MODEL_KEY: begins or ends with a blank", RANDOM),
    (f"TIDEMILL_MODEL_KEY={'x' * 64}", "TIDEMILL_MODEL_KEY: repeats 1 different characters", RANDOM),
    (f"TIDEMILL_MODEL_KEY={'abc' * 30}", "TIDEMILL_MODEL_KEY: repeats 3 different characters", RANDOM),
    ("TIDEMILL_LAKE_CATALOG=postgres:x", "TIDEMILL_LAKE_CATALOG: only the SQLite catalog", "unset it"),
    ("TIDEMILL_HOME=", "TIDEMILL_HOME: '' is not a path", "unset it"),
    ("TIDEMILL_HOME=/", "TIDEMILL_HOME: / is the root", "name a directory of its own"),
    ("TIDEMILL_HOME=/usr/..", "TIDEMILL_HOME: /usr/.. is the root", "name a directory of its own"),
    (f"TIDEMILL_HOME={'../' * 40}", "is the root", "name a directory of its own"),
    ("TIDEMILL_HOME=~/mill", "TIDEMILL_HOME: '~/mill' begins with ~", "write the whole path"),
    (f"TIDEMILL_HOME=/usr/{'x' * 300}", "TIDEMILL_HOME: /usr/xxx", "name another one"),
    (f"TIDEMILL_HOME=/usr{'/x' * 2_500}", "TIDEMILL_HOME: /usr/x", "name a"),
    (f"TIDEMILL_HOME=/usr{'/xxxxxxxxx' * 41}", "is longer than 400 characters", "name a shorter one"),
    ("TIDEMILL_HOME=/dev/null", "TIDEMILL_HOME: /dev/null is not a directory", "name a directory"),
    ("TIDEMILL_HOME=/dev/null/mill", "TIDEMILL_HOME: /dev/null is not a directory", "name a directory"),
    ("TIDEMILL_CONFIG=", "TIDEMILL_CONFIG: '' is not a path", "unset it"),
    ("TIDEMILL_CONFIG=~/tidemill.toml", "TIDEMILL_CONFIG: '~/tidemill.toml' begins with ~", "write the whole path"),
    ("TIDEMILL_CONFIG=/nowhere/tidemill.toml", "/nowhere/tidemill.toml does not exist", "set TIDEMILL_CONFIG"),
    ("TIDEMILL_CONFIG=/usr", "/usr is not a file", "set TIDEMILL_CONFIG"),
    ("TIDEMILL_CONFIG=/dev/zero", "/dev/zero is not a file", "set TIDEMILL_CONFIG"),
    (f"TIDEMILL_CONFIG=/usr/{'x' * 300}", "/usr/xxx", "set TIDEMILL_CONFIG"),
    ("TIDEMILL_CONFIG=/dev/null/tidemill.toml", "/dev/null/tidemill.toml", "set TIDEMILL_CONFIG"),
]

STATIC = {"ports": PORTS, "database URLs": URLS, "Kafka": BROKERS, "Dagster's pages": DOOR, "other variables": OTHERS}
"""What reading the environment shows, in any command."""

TRIED = [
    ('TIDEMILL_KAFKA={"fooo": "1"}', 'No such configuration property: "fooo"', LISTS),
    ('TIDEMILL_KAFKA={"": "1"}', "No such configuration property", LISTS),
    ('TIDEMILL_KAFKA={"security.protocl": "ssl"}', "did you mean 'security.protocol'?", LISTS),
    ('TIDEMILL_KAFKA={"sasl.user": "x"}', '"sasl.user"', "did you mean 'sasl.username'?", LISTS),
    ('TIDEMILL_KAFKA={"SSL.CA.LOCATION": "x"}', "did you mean 'ssl.ca.location'?", LISTS),
    ('TIDEMILL_KAFKA={"socket.timeout.ms": "-5"}', '"socket.timeout.ms" value -5 is outside allowed range', LISTS),
    ('TIDEMILL_KAFKA={"socket.timeout.ms": "soon"}', '"socket.timeout.ms"', LISTS),
    ('TIDEMILL_KAFKA={"socket.timeout.ms": 999999999999}', '"socket.timeout.ms"', LISTS),
    ('TIDEMILL_KAFKA={"security.protocol": "tls"}', '"security.protocol"', LISTS),
    ('TIDEMILL_KAFKA={"security.protocol": "ssl", "ssl.ca.location": "/nowhere"}', "ssl.ca.location", LISTS),
    ('TIDEMILL_KAFKA={"security.protocol": "sasl_plaintext", "sasl.mechanism": "NOPE"}', "NOPE", LISTS),
    ('TIDEMILL_KAFKA={"socket.keepalive.enable": "maybe"}', '"socket.keepalive.enable"', LISTS),
    ('TIDEMILL_KAFKA={"error_cb": "x"}', "error_cb", LISTS),
    ('TIDEMILL_KAFKA={"default.topic.config": "x"}', "TIDEMILL_KAFKA: ", LISTS),
    ('TIDEMILL_KAFKA={"plugin.library.paths": "/nowhere.so"}', "/nowhere.so", LISTS),
    ('TIDEMILL_KAFKA={"bootstrap.servers": "a:1"}', "bootstrap.servers", "set TIDEMILL_KAFKA_BOOTSTRAP_SERVERS instead"),
    ('TIDEMILL_KAFKA={"metadata.broker.list": "a:1"}', "metadata.broker.list", "set TIDEMILL_KAFKA_BOOTSTRAP_SERVERS"),
    *((f'TIDEMILL_KAFKA={{"{name}": "{value}"}}', f"TIDEMILL_KAFKA: {name} is Tidemill's", "remove it")
      for name, value in (("group.id", "x"), ("enable.auto.commit", "true"), ("acks", "0"),
                          ("request.required.acks", "0"), ("enable.idempotence", "false"),
                          ("auto.offset.reset", "latest"), ("transactional.id", "x"), ("linger.ms", "5"),
                          ("compression.type", "none"), ("isolation.level", "read_uncommitted"))),
    ("TIDEMILL_CONTROL_URL=sqlite:////nowhere/x.sqlite", "the directory /nowhere does not exist", "make it"),
    ("TIDEMILL_CONTROL_URL=sqlite:////usr", "/usr is a directory", "name a file in it"),
    ("TIDEMILL_CONTROL_URL=sqlite:////dev/null/x.sqlite", "the directory /dev/null does not exist", "make it"),
    ("TIDEMILL_HOME=/proc/tidemill", "TIDEMILL_HOME: /proc cannot be written", "name a directory of your own"),
    ("TIDEMILL_HOME=/sys/tidemill/x", "TIDEMILL_HOME: /sys cannot be written", "name a directory of your own"),
]  # fmt: skip
"""What only trying shows: in ``up``, and at the start of a service."""
