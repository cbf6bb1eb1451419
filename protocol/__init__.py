"""Bytes to objects and back, for both wires of Evenly.

Pure: no I/O, no asyncio, no clock, no randomness. Everything that enters from a socket is validated
here, once; what passes is typed, and what does not ends in one `ProtocolError` that says why.

    frames, messages     node <-> load balancer: length-prefixed MessagePack
    lines, dialogue,     client <-> node: lines of UTF-8, text or JSON replies
    replies
    job                  what a job and a result are, on both wires
    limits               every bound, with its reason
"""
