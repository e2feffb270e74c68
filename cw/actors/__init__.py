"""The doing half of cw: Trio tasks, bounded mailboxes and timeouts; no policy (design/0001)."""
