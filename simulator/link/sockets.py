"""How both ends set their sockets."""

HEARTBEAT_MS, SILENCE_MS = 1000, 5000
"""How often each end says that it is there, and after what silence the other one takes the connection for lost."""
BUFFER_BYTES = 4 << 20
"""Buffers of the connection; shorter frames are copied, which costs less than keeping track of who still reads them."""
