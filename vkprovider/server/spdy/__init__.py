"""SPDY/3.1, as far as exec, attach and port-forward need it: a codec without I/O, and connections with streams over it.

No Python library speaks it. Source: https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/ and, for what the
peers really do, github.com/moby/spdystream.
"""
