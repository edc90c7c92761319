"""Statements on host, device and setting: what the vault knows about itself."""

from megafs.index.database import Database
from megafs.model import DeviceId, HostId, HostSpec, Policy

HOST = "id, url, label, operator, region, price_storage, price_egress, limit_bytes, state, append_only"


class Vault:
    """Hosts, devices and settings as rows."""

    def __init__(self, database: Database) -> None:
        self._execute = database.connection.cursor().execute
        self._connection = database.connection

    def hosts(self) -> list[HostSpec]:
        """Every host, in the order of their labels."""
        return [
            HostSpec(
                id=HostId(row[0]),
                url=row[1],
                label=row[2],
                operator=row[3],
                region=row[4],
                price_storage=row[5],
                price_egress=row[6],
                limit_bytes=row[7],
                state=row[8],
                append_only=bool(row[9]),
            )
            for row in self._connection.execute(f"SELECT {HOST} FROM host ORDER BY label")
        ]

    def put_host(self, host: HostSpec) -> None:
        """Add or change a host."""
        self._execute(
            f"INSERT INTO host ({HOST}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET url = ?2, "
            "label = ?3, operator = ?4, region = ?5, price_storage = ?6, price_egress = ?7, limit_bytes = ?8, "
            "state = ?9, append_only = ?10",
            (
                host.id,
                host.url,
                host.label,
                host.operator,
                host.region,
                host.price_storage,
                host.price_egress,
                host.limit_bytes,
                host.state,
                int(host.append_only),
            ),
        )

    def delete_host(self, host: HostId) -> None:
        self._execute("DELETE FROM host WHERE id = ?", (host,))

    def forget_debts(self, host: HostId) -> None:
        """The host left the vault: nothing is owed to it, nothing is to be deleted there."""
        for table in ("owed", "expired", "host_head", "acknowledged", "witness", "damaged", "scrub", "absent"):
            self._execute(f"DELETE FROM {table} WHERE host = ?", (host,))

    def add_device(self, number: int, ident: DeviceId, public: bytes, certificate: bytes) -> None:
        self._execute("INSERT INTO device VALUES (?, ?, ?, ?, 0)", (number, ident, public, certificate))

    def set_certificate(self, number: int, certificate: bytes) -> None:
        """Of a device that was certified anew."""
        self._execute("UPDATE device SET certificate = ?2 WHERE number = ?1", (number, certificate))

    def devices(self) -> list[tuple[int, DeviceId, bytes, bytes]]:
        """(number, id, public key, certificate) of every device."""
        return list(self._connection.execute("SELECT number, id, public, certificate FROM device ORDER BY number"))

    def setting(self, key: str) -> bytes | None:
        value = self._execute("SELECT value FROM setting WHERE key = ?", (key,)).get
        assert value is None or isinstance(value, bytes)
        return value

    def set_setting(self, key: str, value: bytes) -> None:
        self._execute("INSERT INTO setting VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", (key, value))

    def boot(self, host: HostId) -> tuple[str, bytes] | None:
        """Name and sealed bytes of the boot object that the host was given."""
        name, _, sealed = (self.setting(f"boot.{host.hex()}") or b"").partition(b" ")
        return (name.decode(), sealed) if sealed else None

    def set_boot(self, host: HostId, name: str, sealed: bytes) -> None:
        """It was given this one."""
        self.set_setting(f"boot.{host.hex()}", b"%s %s" % (name.encode(), sealed))

    def policy(self) -> Policy:
        """What the owner wants; the default when nothing was set."""
        values = {key: int(self.setting(key) or 0) for key in ("copies", "k", "m")}
        return Policy(copies=values["copies"] or 2, k=values["k"], m=values["m"])

    def set_policy(self, policy: Policy) -> None:
        for key, value in (("copies", policy.copies), ("k", policy.k), ("m", policy.m)):
            self.set_setting(key, str(value).encode())
