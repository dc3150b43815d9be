"""What every test has: the parts of the machine it may need, names of its own, and the duty to leave nothing behind.

Virtual time: mark an async test with ``@pytest.mark.looptime``; ``asyncio.sleep(300)`` then takes no time, and
``asyncio.get_running_loop().time()`` starts at 0 and tells exactly what passed. Only the test's own loop is sped up, not its
fixtures, nor threads, sockets and processes: a test that waits for one of those does not belong there.
"""

pytest_plugins = ("support.pytest_parts", "support.pytest_hygiene", "support.pytest_cluster", "pytester")
