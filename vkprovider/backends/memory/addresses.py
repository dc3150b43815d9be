"""Addresses of simulated pods: handed out in turn, each to one sandbox at a time."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from vkprovider.errors import ConfigurationError, PodSyncError


class AddressPool:
    """Gives out addresses of one range, the longest unused first.

    Args:
        cidr: The range, e.g. ``10.88.0.0/16``; its first two and its last address are left out.

    Raises:
        ConfigurationError: Not a range, or too small.
    """

    def __init__(self, cidr: str) -> None:
        try:
            network: IPv4Network | IPv6Network = ip_network(cidr)
        except ValueError as error:
            raise ConfigurationError(
                f"pod_cidr: {cidr!r} is not a range of addresses such as 10.88.0.0/16: {error}"
            ) from error
        if network.num_addresses < 4:
            raise ConfigurationError(f"pod_cidr: {cidr!r} holds no address for a pod; use a /29 or larger")
        self.cidr = str(network)
        self._make = type(network.network_address)
        self._first = int(network.network_address) + 2
        self._size = network.num_addresses - 3
        self._next = 0
        self._used: set[int] = set()

    def __len__(self) -> int:
        """How many addresses are in use."""
        return len(self._used)

    def take(self) -> str:
        """An address that nobody has.

        Raises:
            PodSyncError: All are in use.
        """
        if len(self._used) >= self._size:
            raise PodSyncError(
                f"no address left in {self.cidr}: {self._size} pods have one", reason="CreatePodSandboxError"
            )
        while self._next in self._used:
            self._next = (self._next + 1) % self._size
        offset = self._next
        self._used.add(offset)
        self._next = (offset + 1) % self._size
        return str(self._make(self._first + offset))

    def release(self, address: str) -> None:
        """Take an address back; one that is not in use is ignored."""
        self._used.discard(int(ip_address(address)) - self._first)
