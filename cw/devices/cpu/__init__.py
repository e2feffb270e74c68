"""The CPU as a device: real torch inference on one thread, and pages that are pages.

`device.py` is the `Device`; `lane.py` its thread; `pages.py` the memory, `address_space.py` the
system calls below it; `program.py` the exported programs and `inputs.py` their input buffers.
"""
