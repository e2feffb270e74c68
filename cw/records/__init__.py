"""What executors wrote down of their actions, read again: as a trace, and as profiles.

Follow a record: ``actors/telemetry.py`` wrote the line, `files` finds and reads it, and then it is
counted (`timing`), turned into events of a trace (`trace`), drawn (`picture`), or it is one run of
its model (`profiles`, which `charts` draws). ``cw trace`` and ``cw profile`` are the commands.

Knows nothing of a running cluster: files are enough, also those of one that is down.
"""
