"""Messages to wire structs and back: one module for each of `cw.messages`, total both ways.

``X_to_wire(message, builder)`` fills a struct's builder, ``X_from_wire(reader)`` returns a message
that keeps nothing of the reader. What a peer may have got wrong (a union's or an enum's member
that is `unset` or unknown, an empty window) raises `ProtocolViolation` and says what came; wrap a
reader in `binding.checked` at the door to have damaged messages renamed, too.

Knows nothing of calls or connections; `client` and `server` are its only users.
"""
