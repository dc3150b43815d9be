"""The state file: an SQLite database that a restarted local cluster goes on from.

Writes are gathered and committed together in a thread, at most ``FLUSH_S`` after the change. A request is answered
before its commit, so a crash may lose that last moment; versions are skipped on the next start so that none comes
twice, and watches from before get 410 and list again.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any, Final

from vkprovider.errors import ConfigurationError
from vkprovider.localcluster.store import Change, Store

FLUSH_S: Final = 0.05
SKIPPED_VERSIONS: Final = 10_000
FORMAT: Final = 1
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    collection TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (collection, namespace, name)
) WITHOUT ROWID;
"""


class StateFile:
    """Keeps a store in a file.

    Args:
        path: The database; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: dict[tuple[str, str, str], bytes | None] = {}
        self._version = 0
        self._wakeup = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None

    async def load(self, store: Store) -> bool:
        """Fill the store from the file.

        Returns:
            Whether there was a state to go on from.

        Raises:
            ConfigurationError: The file is not a state file of ours.
        """
        version, rows = await asyncio.to_thread(self._read)
        for collection, body in rows:
            store.collection(collection).restore(json.loads(body))
        if version:
            store.start_after(version + SKIPPED_VERSIONS)
            self._version = store.version
        return bool(version)

    def changed(self, collection: str, change: Change) -> None:
        """Note a change to be written; called by the store."""
        namespace, name = change.stored.key
        self._pending[(collection, namespace, name)] = None if change.removed else change.stored.json
        self._version = change.version
        self._wakeup.set()

    async def run(self) -> None:
        """Write changes until cancelled; what is pending then is left to ``flush``."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending now.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        if self._writing is not None:
            # A caller that was cancelled left its write to end by itself.
            await asyncio.wait({self._writing})
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, pending, self._version))
        await asyncio.shield(self._writing)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _read(self) -> tuple[int, list[tuple[str, bytes]]]:
        try:
            connection = self._connect()
            try:
                connection.executescript(_TABLES)
                meta: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta"))
                rows = connection.execute("SELECT collection, body FROM objects").fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"{self._path} cannot be used as the state file of a local cluster: {error}; remove it or name another"
            ) from error
        if meta and int(meta.get("format", 0)) != FORMAT:
            raise ConfigurationError(
                f"{self._path} has format {meta.get('format')}, not {FORMAT}; remove it or name another"
            )
        return int(meta.get("version", 0)), rows

    def _write(self, pending: dict[tuple[str, str, str], bytes | None], version: int) -> None:
        gone = [key for key, body in pending.items() if body is None]
        kept = [(*key, body) for key, body in pending.items() if body is not None]
        try:
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                connection.executemany("DELETE FROM objects WHERE collection=? AND namespace=? AND name=?", gone)
                connection.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", kept)
                connection.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)", [("version", str(version)), ("format", str(FORMAT))]
                )
                connection.execute("COMMIT")
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise ConfigurationError(f"the state file {self._path} cannot be written: {error}") from error
