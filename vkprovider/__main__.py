"""``python -m vkprovider``."""

from vkprovider.cli import main

main()
