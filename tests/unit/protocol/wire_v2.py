"""Version 2: the first messages on the wire, which a later version refuses.

Nothing here changes when the code does.
"""

#: HELLO and WELCOME of version 2.
GREETINGS = [
    b"\x00\x00\x00A\x93\xa5HELLO\xcc\xc8\x98\x02\xa2n1\xa2i1\xa5alpha\x02\x91\x92\xb0ABCDE"
    b"FGHIJKLMNOP\x01\x91\x92\xb00123456789ABCDEF\x02\x90",
    b"\x00\x00\x00\x1a\x93\xa7WELCOME\xcc\xc8\x94\x02\xa2b1\x07\xcb@\x08\x00\x00\x00\x00\x00\x00",
]
